"""``stage=assess``: what finished runs made, measured on the same sources and shown side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from genaug.assessing.assessor import MEASURES, Assessor, Judge
from genaug.assessing.examples import Example, choose_sources, examples_of
from genaug.data.base import Dataset, Sample
from genaug.data.building import build_dataset
from genaug.data.images import RealImages
from genaug.data.reading import read_image
from genaug.experiment import split
from genaug.explaining.finished import CONFIG, WEIGHTS, FinishedRun, find_finished, short_names
from genaug.explaining.judge import Network
from genaug.launch import input_checks
from genaug.methods.base import Method
from genaug.pictures import save_sheet
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import write_atomically

RESULTS, SHEET = "assess.json", "assess.png"
#: Name of the real images among the runs.
REAL = "real images"
#: Images that a judge sees at once.
BATCH = 64
#: Of the table, where it goes to a file.
WIDTH = 120
#: Sources on the sheet.
SHOWN = 12
LEGEND = (
    "Fidelity: label, the judge's agreement with it; IoU, of the subject before and after. Diversity: PSNR in dB; "
    "spread, mean distance of features within a class; backgr., mean change of its colour. Denoiser steps and seconds "
    "an image."
)


@dataclass
class AssessedRun:
    """A run whose method made something.

    Attributes:
        folder: Where it is.
        cfg: What it ran with.
        dataset: Its data.
        method: What made the images.
        samples: Its training images.
    """

    folder: Path
    cfg: DictConfig
    dataset: Dataset
    method: Method
    samples: Sequence[Sample]

    @classmethod
    def load(cls, folder: Path) -> AssessedRun:
        """Build what a run was made of from its configuration.

        Raises:
            ValueError: its method makes nothing offline, or its data are not there.
        """
        cfg: Any = OmegaConf.load(folder / CONFIG)
        dataset, method = build_dataset(cfg), instantiate(cfg.method)
        if method.synthesis is None:
            raise ValueError(f"{folder}: method={method.name} makes no images offline: there is nothing to assess.")
        return cls(folder, cfg, dataset, method, split(cfg, dataset)["train"])

    def examples(self, sources: Sequence[Sample], runner: Runner, folder: Path, seed: int) -> tuple[list[Example], Any]:
        """Made images of ``sources``, and what the method reports; what is missing of its store is made first."""
        assert self.method.synthesis is not None
        stores, side = Path(self.cfg.paths.stores), instantiate(self.cfg.crop).side
        made = self.method.synthesis.make(self.samples, self.dataset, stores, side, runner)
        real = RealImages(self.samples, len(self.dataset.classes), self.dataset.channels)
        return examples_of(made, self.method.view, real, sources, folder, seed), made.report()


def assess_runs(cfg: DictConfig) -> None:
    """Measure what the runs of ``cfg.runs`` made, print it, and keep it in the folder of the assessment.

    A run has to have come as far as ``stage=synthesize``.

    Raises:
        WrongValue: a run is not there, makes nothing, or is of other data than the first.
    """
    output = Path(cfg.paths.output)
    with input_checks():
        assessor: Assessor = instantiate(cfg.assess)
        runs = [AssessedRun.load(folder) for folder in find_finished(cfg.runs, "assess", [CONFIG])]
        sources = choose_sources(shared_samples(runs), assessor.images, assessor.seed)
        judging = None if assessor.judge_run is None else load_judge(assessor.judge_run, runs[0].dataset)
    trainer = instantiate(cfg.trainer, max_epochs=1, max_steps=-1, logger=False, enable_checkpointing=False)
    device, stores = str(trainer.strategy.root_device), Path(cfg.paths.stores)
    judge = None if judging is None else judge_of(judging, device)
    numbers: dict[str, dict[str, Any]] = {}
    shown: dict[str, list[Example]] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, run in zip(short_names([run.folder for run in runs]), runs, strict=True):
        drawn = output / "drawn" / name.replace("/", "-")
        shown[name], report = run.examples(sources, Runner(trainer, Path(run.cfg.paths.stores)), drawn, assessor.seed)
        numbers[name], rows[name] = assessor.measure(shown[name], run.dataset, stores, device, judge)
        numbers[name] |= {"images": len(shown[name]), "cost": cost_of_all(report)}
    real, _ = assessor.measure_images(sources, runs[0].dataset, device, judge)
    numbers = {REAL: {**real, "images": len(sources)}} | numbers
    record = {
        "runs": {name: str(run.folder) for name, run in zip(shown, runs, strict=True)},
        "settings": assessor.settings(),
        "numbers": numbers,
        "images": rows,
    }
    write_atomically(output / RESULTS, json.dumps(record, indent=1).encode())
    save_examples(sources, shown, output / SHEET)
    show(numbers, runs[0].dataset.name, output)


def show(numbers: Mapping[str, Mapping[str, Any]], dataset: str, output: Path) -> None:
    """Print the table, what its columns mean, and how far the segmenter can be trusted where that is known."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    console.print(table_of(numbers, dataset))
    overlaps = [found["segmenter_iou"] for found in numbers.values() if found.get("segmenter_iou") is not None]
    trust = (
        f" The segmenter's masks of the sources: IoU {max(overlaps):.2f} with the annotated ones." if overlaps else ""
    )
    console.print(f"{LEGEND}{trust} {SHEET} shows sources and results: {output}", highlight=False, soft_wrap=True)


def shared_samples(runs: Sequence[AssessedRun]) -> list[Sample]:
    """The training images that all runs have.

    Raises:
        ValueError: there are none, or the runs are of different data sets.
    """
    first = runs[0]
    for run in runs[1:]:
        if (run.dataset.name, list(run.dataset.classes)) != (first.dataset.name, list(first.dataset.classes)):
            raise ValueError(
                f"{run.folder} is of {run.dataset.name}, {first.folder} of {first.dataset.name}, or of other classes: "
                "runs of one data set can be compared."
            )
    common = set.intersection(*({sample.id for sample in run.samples} for run in runs))
    if not common:
        raise ValueError(f"The {len(runs)} runs share no training image.")
    return [sample for sample in first.samples if sample.id in common]


def load_judge(folder: str | Path, dataset: Dataset) -> FinishedRun:
    """The run whose network says what an image shows.

    Raises:
        ValueError: it is not finished, or knows other classes.
    """
    (found, *_) = find_finished(str(folder), "assess", [CONFIG, WEIGHTS])
    judge = FinishedRun.load(found)
    if list(judge.dataset.classes) != list(dataset.classes):
        raise ValueError(f"assess.judge_run={folder} knows other classes than {dataset.name} has.")
    return judge


def judge_of(run: FinishedRun, device: str) -> Judge:
    """The likeliest class of each image, as the run's network sees it after its crop."""
    network = Network(run.model.to(device).eval(), run.normalize.to(device), run.dataset.multilabel)
    crop = run.crop.eval()

    def judge(images: Sequence[np.ndarray]) -> list[int]:
        seen: list[int] = []
        for start in range(0, len(images), BATCH):
            batch = [crop(torch.from_numpy(one).permute(2, 0, 1)) for one in images[start : start + BATCH]]
            seen += network.of_pixels(torch.stack(batch).permute(0, 2, 3, 1)).argmax(dim=1).tolist()
        return seen

    return judge


def cost_of_all(report: Mapping[str, Any]) -> dict[str, float] | None:
    """Denoiser steps and seconds of everything that a method made, and per image of training; None where not known."""
    parts, images = report.get("cost"), report.get("images")
    if not parts or not images:
        return None
    steps, seconds = (sum(part[what] for part in parts.values()) for what in ("denoiser_steps", "seconds"))
    per_image = {"steps_per_image": steps / images, "s_per_image": seconds / images}
    return {"denoiser_steps": steps, "seconds": seconds, **per_image}


def table_of(numbers: Mapping[str, Mapping[str, Any]], dataset: str) -> Table:
    """One row a run."""
    title = f"{dataset}: what was made, beside its sources"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("run", no_wrap=True)
    for heading in ("n", *(heading for heading, _ in MEASURES.values()), "steps", "s"):
        table.add_column(heading, justify="right")
    for name, found in numbers.items():
        cells = [_cell(found.get(measure), digits) for measure, (_, digits) in MEASURES.items()]
        cost = found.get("cost")
        price = ["–", "–"] if cost is None else [f"{cost['steps_per_image']:.1f}", f"{cost['s_per_image']:.2f}"]
        table.add_row(name, str(found["images"]), *cells, *price)
    return table


def _cell(found: Mapping[str, Any] | None, digits: int) -> str:
    return "–" if found is None or found["mean"] is None else f"{found['mean']:.{digits}f}"


def save_examples(sources: Sequence[Sample], shown: Mapping[str, Sequence[Example]], path: Path) -> None:
    """A row a source: the real image, then what each run made of it; only sources of which all made something.

    Runs that make images from words alone have no sources, and are left out.
    """
    by_source = {name: {one.source.id: one.made for one in examples} for name, examples in shown.items() if examples}
    complete = [sample for sample in sources if all(sample.id in made for made in by_source.values())][:SHOWN]
    images, texts = [], []
    for sample in complete:
        row = [(sample, REAL), *((made[sample.id], name) for name, made in by_source.items())]
        images += [read_image(one.path, channels=3) for one, _ in row]
        texts += [name for _, name in row]
    if images:
        save_sheet(images, texts, path, columns=1 + len(by_source))
