"""Draws De-DA's Figure 4: what editing a whole photograph does to its object, beside editing the object alone.

    python experiments/toybirds_deda/figure4.py figure4.png --rows 6 paths.stores=stores

Words are learned and one edit of each training image is made both ways, unless the stores have them; everything else on
the command line is an override of ``method=deda``, such as ``dataset.train_per_class=10``. Columns: the photograph, the
whole photograph edited, the object edited (on a checkerboard), and this object where it was, on its own scene.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from genaug.data.base import Dataset, Sample
from genaug.data.images import RealImages
from genaug.data.reading import read_image
from genaug.experiment import build_runner
from genaug.functional.composite import paste
from genaug.methods.deda import OnlineCombination, Parts
from genaug.pictures import save_sheet

CONF = Path(__file__).resolve().parents[2] / "conf"
COLUMNS = ("photograph", "whole photograph", "object alone", "on its own scene")


def make(overrides: list[str], output: Path, whole: bool) -> tuple[Parts, Dataset, list[Sample]]:
    """The training images with one synthetic object each, as ``run.py`` would make them."""
    fixed = ["method=deda", "method.synthesis.edit.copies=1", f"method.synthesis.edit.whole_image={whole}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*fixed, f"paths.output={output}", *overrides])
    dataset, decouple = instantiate(cfg.dataset), instantiate(cfg.method.synthesis)
    side = instantiate(cfg.crop).side
    samples = list(dataset.splits()["train"])
    return decouple.make(samples, dataset, Path(cfg.paths.stores), side, build_runner(cfg)), dataset, samples


def on_checkerboard(rgba: np.ndarray, squares: int = 16) -> np.ndarray:
    """``(H, W, 3)`` uint8 of an RGBA image, so that what is transparent can be told from what is white."""
    rows, columns = np.indices(rgba.shape[:2]) * squares // max(rgba.shape[:2])
    board = np.repeat(np.where((rows + columns) % 2, 200, 245).astype(np.uint8)[..., None], 3, axis=2)
    paste(board, rgba, 0, 0)
    return board


def whole_photograph(parts: Parts, index: int) -> np.ndarray:
    """The edited photograph, without what continued it to a square."""
    sample_id = parts.samples[index].id
    assert parts.edited is not None
    image = parts.edited.image(sample_id, 1)
    height, width = parts.edited.renderer.subjects[sample_id].size
    rows, columns = (round(image.shape[0] * side / max(height, width)) for side in (height, width))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns, :3]


def main() -> None:
    """Make both kinds of edits and draw the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("to", type=Path, help="the picture")
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("overrides", nargs="*", help="of the configuration")
    asked = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = asked.to.resolve().parent
    whole, _, _ = make(asked.overrides, output, whole=True)
    alone, dataset, samples = make(asked.overrides, output, whole=False)
    view = OnlineCombination(p_aug=1.0, p_syn=1.0, p_mix=0.0, cip="own", placement="original")
    combined = view(RealImages(samples, len(dataset.classes)), alone)
    shown = [i for i in range(len(samples)) if whole.synthetic[i] and alone.synthetic[i] and alone.has_cip[i]]
    images: list[np.ndarray] = []
    texts: list[str] = []
    for index in shown[:: max(1, len(shown) // asked.rows)][: asked.rows]:
        assert alone.edited is not None
        images += [
            read_image(samples[index].path),
            whole_photograph(whole, index),
            on_checkerboard(alone.edited.image(samples[index].id, 1)),
            combined.draw(index, np.random.default_rng(0))[0],
        ]
        texts += COLUMNS
    save_sheet(images, texts, asked.to, columns=len(COLUMNS))
    print(f"{len(images) // len(COLUMNS)} of {len(shown)} images that both ways gave an object for: {asked.to}")


if __name__ == "__main__":
    main()
