"""Can AIC, SIC, insertion and deletion tell an explanation from noise?

    python experiments/explain_check/check.py --out results.csv --picture gradcam.jpg
    python experiments/explain_check/check.py --out results.csv --ecssd /data/ecssd --tolerance 0.01

EfficientNet-Lite0 explains the class it predicts, by every explainer and by random numbers, on scikit-image's
photographs, or on those of a folder with masks: ``images/*.jpg`` and ``masks/*.png`` of the same names, as ECSSD has
them. One row an image and explainer goes to ``--out``, where a killed run goes on; the table has means, and the mean
difference to random numbers on the same images with its 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import csv
import logging
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import torch
from photographs import FREE, Photographs, crop, lite0, skimage_photographs
from PIL import Image
from rich.console import Console
from rich.table import Table

from genaug.data.base import Sample
from genaug.explaining.base import Explainer
from genaug.explaining.comparison import pair
from genaug.explaining.gradcam import GradCAM
from genaug.explaining.integrated_gradients import IntegratedGradients
from genaug.explaining.judge import MEASURES, Judge, Look
from genaug.explaining.occlusion import Occlusion
from genaug.explaining.pictures import overlay
from genaug.explaining.random import RandomMap
from genaug.explaining.saliency import Saliency
from genaug.metrics.reconstruction import Blurred
from genaug.pictures import save_sheet

log = logging.getLogger(__name__)

CONTROL = "random"
EXPLAINERS: dict[str, type[Explainer]] = {
    CONTROL: RandomMap,
    "gradcam": GradCAM,
    "saliency": Saliency,
    "integrated_gradients": IntegratedGradients,
    "occlusion": Occlusion,
}
COLUMNS = ("set", "explainer", "image", "predicted", "confidence", "map", *MEASURES)


def masked_photographs(root: Path, count: int) -> Photographs:
    """Photographs with masks of their objects, evenly spread over the folder."""
    files = sorted((root / "images").glob("*.jpg"))
    if not files:
        raise SystemExit(f"--ecssd: expected {root / 'images'}/*.jpg and masks/*.png of the same names, found none")
    chosen = [files[number * len(files) // count] for number in range(min(count, len(files)))]
    samples = [Sample(file.stem, file, 0, mask=root / "masks" / f"{file.stem}.png") for file in chosen]
    return Photographs("ecssd", samples)


def judge_all(photographs: Photographs, asked: argparse.Namespace) -> list[dict[str, str]]:
    """Judge the maps of every explainer that ``--out`` has no rows of; all rows of these photographs."""
    samples, network = photographs.splits()["test"], lite0()
    known: MutableMapping[str, Blurred] = {}
    for name, explainer in EXPLAINERS.items():
        if any(row["explainer"] == name for row in read_rows(asked.out, photographs.name)):
            continue
        judge = Judge(
            explainer(), images=len(samples), target="predicted", tolerance=asked.tolerance, batch_size=4,
            workers=asked.workers,
        )  # fmt: skip
        judge.known = known
        started = time.monotonic()
        with judge.pool() as pool:
            look = judge.look(network, samples, photographs, crop(), pool, pictures=len(samples))
        save_rows(photographs, name, look, asked.out)
        describe(photographs, name, look, time.monotonic() - started)
        if name == "gradcam" and asked.picture is not None:
            save_picture(photographs, look, asked.picture)
    return read_rows(asked.out, photographs.name)


def read_rows(path: Path, name: str | None = None) -> list[dict[str, str]]:
    """The rows that are there, of one set or of all."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if name in (None, row["set"])]


def save_rows(photographs: Photographs, name: str, look: Look, path: Path) -> None:
    """Add one row an image, scores with four digits."""
    rows = [
        {
            "set": photographs.name,
            "explainer": name,
            "image": record["id"],
            "predicted": photographs.classes[record["predicted"]],
            "confidence": f"{record['confidence']:.4f}",
            "map": record["map"],
            **{measure: "" if record[measure] is None else f"{record[measure]:.4f}" for measure in MEASURES},
        }
        for record in look.records
    ]
    before = read_rows(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*before, *rows])


def describe(photographs: Photographs, name: str, look: Look, seconds: float) -> None:
    """Say what the rows do not: why images were left out, and how good the areas are."""
    left_out = {
        f"{measure}, {reason}": count
        for measure in ("sic", "aic")
        for reason, count in look.summary[measure]["skipped"].items()
        if count
    }
    points = {measure: round(look.summary[measure]["measured"], 1) for measure in ("insertion", "deletion")}
    coverage = look.summary["energy"]["coverage"]
    log.info(
        f"{photographs.name}, {name}: {seconds / len(look.records):.1f} s an image; left out: {left_out}; maps that "
        f"say nothing: {look.summary['degenerate']}; points measured: {points}; objects cover {coverage or 0:.3f}"
    )


def tabulate(photographs: Photographs, rows: Sequence[dict[str, str]], console: Console) -> None:
    """Print means and paired differences."""
    table = Table(title=f"{photographs.name}, {len(photographs.splits()['test'])} photographs", title_justify="left")
    for column in ("", "measure", "mean", "n", "minus random", "95 % interval", "better"):
        table.add_column(column, justify="left" if column in ("", "measure") else "right")
    for measure in MEASURES:
        values: dict[str, list[float | None]] = {name: [] for name in EXPLAINERS}
        for row in rows:
            values[row["explainer"]].append(float(row[measure]) if row[measure] else None)
        if all(value is None for value in values[CONTROL]):
            continue
        for name in EXPLAINERS:
            paired = pair({CONTROL: values[CONTROL], name: values[name]})
            table.add_row(name, measure, *_cells(paired.means[name], paired.n, paired.differences.get(name), measure))
        table.add_section()
    console.print(table)


def _cells(mean: float, n: int, difference: dict[str, float] | None, measure: str) -> Sequence[str]:
    if difference is None:
        return f"{mean:.3f}", str(n), "", "", ""
    low, high = difference["low"], difference["high"]
    verdict = "not told" if low <= 0 <= high else "yes" if (low > 0) == MEASURES[measure] else "no"
    return f"{mean:.3f}", str(n), f"{difference['mean']:+.3f}", f"[{low:+.3f}, {high:+.3f}]", verdict


def save_picture(photographs: Photographs, look: Look, path: Path) -> None:
    """The photographs that anybody may show, and below each its map."""
    shown = [
        (record, *pictures)
        for record, pictures in zip(look.records, look.pictures, strict=True)
        if record["id"] in FREE
    ]
    above = [f"{photographs.classes[record['predicted']]} {record['confidence']:.2f}" for record, _, _ in shown]
    below = [
        " + ".join(f"{name} {record[name]:.2f}" for name in ("sic", "insertion") if record[name] is not None)
        for record, _, _ in shown
    ]
    tiles = [image for _, image, _ in shown] + [overlay(image, saliency) for _, image, saliency in shown]
    sheet = path.with_suffix(".png")
    save_sheet(tiles, above + below, sheet, columns=len(shown))
    if sheet != path:
        Image.open(sheet).convert("RGB").save(path, quality=85)
        sheet.unlink()


def main() -> None:
    """Judge a set, and write rows, tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV of all scores; what it has is not made again")
    parser.add_argument("--ecssd", type=Path, help="a folder with images/*.jpg and masks/*.png instead")
    parser.add_argument("--count", type=int, default=60, help="photographs of that folder")
    parser.add_argument("--tolerance", type=float, help="of insertion and deletion; default: all steps")
    parser.add_argument("--picture", type=Path, help="JPEG of scikit-image's photographs with Grad-CAM's maps")
    parser.add_argument("--workers", type=int, help="processes for the reconstructions; default: one a processor")
    asked = parser.parse_args()
    if asked.ecssd is not None and asked.picture is not None:
        parser.error("--picture is of scikit-image's photographs, which may be shown; leave out --ecssd for it")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    photographs = skimage_photographs() if asked.ecssd is None else masked_photographs(asked.ecssd, asked.count)
    tabulate(photographs, judge_all(photographs, asked), Console(width=120))


if __name__ == "__main__":
    main()
