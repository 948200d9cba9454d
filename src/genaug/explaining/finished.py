"""``stage=explain``: finished runs, their networks loaded again and compared by where they look."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from genaug.classifier import Normalize
from genaug.console import track
from genaug.data.base import Dataset, Sample
from genaug.data.building import build_dataset
from genaug.data.datamodule import choose_splits, test_names
from genaug.data.reading import read_image
from genaug.data.transforms import Crop
from genaug.explaining.comparison import compare
from genaug.explaining.judge import MEASURES, Judge, Network
from genaug.launch import input_checks
from genaug.synthesis.store import write_atomically

log = logging.getLogger(__name__)

#: What a finished run is known by.
CONFIG, WEIGHTS, RESULTS = "config.yaml", Path("checkpoints", "final.ckpt"), "comparison.json"


@dataclass
class FinishedRun:
    """A run as it was, its network with the weights that counted.

    Attributes:
        folder: Where it is.
        cfg: What it ran with.
        dataset: Its data.
        crop: Brings images to the network's size.
        model: The network.
        normalize: Makes of pixels what it takes.
        splits: The images it was tested on, by split.
    """

    folder: Path
    cfg: DictConfig
    dataset: Dataset
    crop: Crop
    model: nn.Module
    normalize: Normalize
    splits: dict[str, Sequence[Sample]]

    @classmethod
    def load(cls, folder: Path) -> FinishedRun:
        """Read a run's configuration and weights.

        Raises:
            ValueError: its data are not there.
        """
        cfg: Any = OmegaConf.load(folder / CONFIG)
        dataset = build_dataset(cfg)
        shape = {"num_classes": len(dataset.classes), "image_size": dataset.image_size, "channels": dataset.channels}
        # The weights it began with are of no use, and need not be there any more.
        fresh = {key: None if key == "weights" else False for key in ("weights", "pretrained") if key in cfg.model}
        model = instantiate(cfg.model, **shape, **fresh)
        state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict(
            {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        )
        splits = choose_splits(dataset.splits(), cfg.protocol, cfg.val_fraction, cfg.seed)
        tested = {name: splits[name] for name in test_names(splits)}
        # The runs of a time when there was no choice had the statistics.
        normalize = Normalize(dataset.channels, cfg.recipe.get("normalize", True))
        return cls(folder, cfg, dataset, instantiate(cfg.crop), model, normalize, tested)

    def probabilities(self, paths: Sequence[Path], device: str, batch_size: int) -> Tensor:
        """What the network makes of any images: ``(N, K)`` float32 on the CPU, as it was tested.

        Args:
            paths: Of the images.
            device: Where the network computes; it comes back to the CPU.
            batch_size: Images that go through it together.
        """
        network = Network(self.model.to(device).eval(), self.normalize.to(device), self.dataset.multilabel)
        prepare, starts, found = self.crop.eval(), range(0, len(paths), batch_size), []
        for start in track(starts, len(starts), f"classifying, {batch_size} images at once"):
            images = [read_image(path, self.dataset.channels) for path in paths[start : start + batch_size]]
            pixels = [prepare(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0) for image in images]
            found.append(network.of_pixels(torch.stack(pixels)).cpu())
        self.model.to("cpu")
        return torch.cat(found)


def explain_runs(cfg: DictConfig) -> None:
    """Compare the runs that ``cfg.runs`` names, print it, and keep it in the folder of the comparison.

    Raises:
        WrongValue: a run is not finished, or the runs were not tested on the same images.
    """
    output = Path(cfg.paths.output)
    with input_checks():
        judge: Judge = instantiate(cfg.explain)
        runs = [FinishedRun.load(folder) for folder in find_finished(cfg.runs)]
        check_comparable(runs)
    trainer = instantiate(cfg.trainer, max_epochs=1, max_steps=-1, logger=False, enable_checkpointing=False)
    device, first = trainer.strategy.root_device, runs[0]
    dataset = first.dataset
    names = short_names([run.folder for run in runs])
    networks = {
        name: Network(run.model.to(device), run.normalize.to(device), dataset.multilabel)
        for name, run in zip(names, runs, strict=True)
    }
    for name, run in zip(names, runs, strict=True):
        log.info("%s is %s", name, run.folder)
    with judge.pool() as pool:
        found = compare(networks, first.splits, dataset, first.crop, judge, pool, output)
    record = {
        "runs": {name: str(run.folder) for name, run in zip(names, runs, strict=True)},
        "settings": judge.settings(),
        "splits": found,
    }
    write_atomically(output / RESULTS, json.dumps(record, indent=1).encode())
    show(found, names, output)


def find_finished(
    runs: str | Sequence[str] | None, stage: str = "explain", needed: Sequence[str | Path] = (CONFIG, WEIGHTS)
) -> list[Path]:
    """Folders of finished runs from their names, which may be patterns (``runs/toybirds/*/*``).

    Args:
        runs: Names.
        stage: Who asks.
        needed: Files that a run must have.

    Raises:
        ValueError: fewer than one, or one that is not a finished run.
    """
    asked = [runs] if isinstance(runs, str) else list(runs or [])
    folders: dict[Path, Path] = {}
    for name in asked:
        matches = sorted(map(Path, glob.glob(name))) if glob.has_magic(name) else [Path(name)]
        finished = [folder for folder in matches if all((folder / file).exists() for file in needed)]
        if not finished:
            raise ValueError(
                f"runs: {name} is no finished run: expected a folder with {' and '.join(map(str, needed))}, as "
                "runs/<dataset>/<method>/<hash>."
            )
        folders |= {folder.resolve(): folder for folder in finished}
    if not folders:
        raise ValueError(f"stage={stage} needs runs=a,b: the folders of the runs to compare.")
    return list(folders.values())


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose networks did not see the same pictures at their test.

    Raises:
        ValueError: names the first that differs, and in what.
    """
    first = runs[0]
    for run in runs[1:]:
        ours, theirs = first.dataset, run.dataset
        same = {
            "classes": (list(ours.classes), list(theirs.classes)),
            "crop": (first.cfg.crop, run.cfg.crop),
            "channels": (ours.channels, theirs.channels),
            "recipe.normalize": (first.normalize.mean.tolist(), run.normalize.mean.tolist()),  # what a hidden pixel is
            "test images": (_ids(first), _ids(run)),
        }
        for what, (one, other) in same.items():
            if one != other:
                raise ValueError(
                    f"{run.folder} cannot be compared with {first.folder}: their {what} differ. Give runs of the same "
                    "data set at the same size."
                )


def _ids(run: FinishedRun) -> dict[str, list[str]]:
    return {name: [sample.id for sample in samples] for name, samples in run.splits.items()}


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths, from the method's folder on, that tell the runs apart.

    >>> short_names([Path("runs/birds/vanilla/ab"), Path("runs/birds/deda/cd")])
    ['vanilla', 'deda']
    >>> short_names([Path("runs/birds/deda/ab"), Path("runs/birds/deda/cd")])
    ['deda/ab', 'deda/cd']
    """
    methods = [folder.resolve().parent.name for folder in folders]
    if len(set(methods)) == len(folders):
        return methods
    names = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    return names if len(set(names)) == len(folders) else [str(folder) for folder in folders]


def show(found: dict[str, Any], names: Sequence[str], output: Path) -> None:
    """Print a table a split: each measure on the images that all networks have, and the differences to the first."""
    console = Console()
    for split, numbers in found.items():
        right = ", ".join(f"{name} {count}" for name, count in numbers["right"].items())
        table = Table(title=f"{split}: {numbers['images']} images; right: {right}", title_justify="left")
        for column in ("measure", "n", *names, *(f"{name} - {names[0]} [95 %]" for name in names[1:])):
            table.add_column(column, justify="left" if column == "measure" else "right")
        for measure, better in MEASURES.items():
            one = numbers[measure]
            means = ["–" if one["means"][name] is None else f"{one['means'][name]:.3f}" for name in names]
            gaps = [_gap(one["differences"][name]) for name in names[1:]]
            table.add_row(f"{measure} {'↑' if better else '↓'}", str(one["n"]), *means, *gaps)
        console.print(table)
    console.print(f"n: images for which every run has the measure · {output}", highlight=False, soft_wrap=True)


def _gap(difference: dict[str, float] | None) -> str:
    if difference is None:
        return "–"
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
