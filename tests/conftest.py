"""What tests share: one thread, no network, a few pictures that are quickly made, and ``run.py`` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"

# Before torch and OpenCV are imported, and inherited by every process a test starts.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENCV_FOR_THREADS_NUM="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    WANDB_MODE="offline",
    http_proxy=NOWHERE,
    https_proxy=NOWHERE,
    no_proxy="localhost,127.0.0.1",
)
for _name in [name for name in os.environ if name.startswith("GENAUG_") or name == "WANDB_API_KEY"]:
    del os.environ[_name]

CLASSES = ("blue", "green", "red")
TRAIN_PER_CLASS, TEST_PER_CLASS = 12, (6, 6, 5)  # an odd number of test images cannot be shared out evenly


@dataclass(frozen=True)
class Finished:
    """What a process left behind."""

    rc: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class TinyFolder:
    """A dataset on disk, and the overrides that train a tiny network on it."""

    root: Path
    masks: Path
    train: int = TRAIN_PER_CLASS * len(CLASSES)
    test: int = sum(TEST_PER_CLASS)

    def overrides(self, **changes: object) -> list[str]:
        """For the command line; ``changes`` are further ``key=value`` with ``__`` for a dot."""
        return [
            "dataset=folder",
            f"dataset.root={self.root}",
            f"dataset.masks={self.masks}",
            "dataset.image_size=32",
            "model=tiny",
            "model.width=8",
            "recipe=demo",
            "recipe.batch_size=8",
            "segmenter=annotated",
            "trainer=cpu",
            "loader.num_workers=0",
            *(f"{key.replace('__', '.')}={value}" for key, value in changes.items()),
        ]


def blob_picture(side: int, colour: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A coloured ellipse on grey noise, ``(side, side, 3)`` uint8, and its mask ``(side, side)`` bool."""
    pixels = rng.integers(60, 160, (side, side, 1)).repeat(3, axis=2)
    y, x = np.mgrid[:side, :side] / side
    (cy, cx), (ry, rx) = rng.uniform(0.4, 0.6, 2), rng.uniform(0.2, 0.3, 2)
    mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    pixels[mask] = rng.integers(0, 60, 3)
    pixels[mask, colour] = rng.integers(180, 256)
    return pixels.astype(np.uint8), mask


def write_folder(folder: Path, side: int) -> TinyFolder:
    """Write ``data/{train,test}/<class>/*.png``, whose class is the colour of the object, and the masks beside it."""
    rng, made = np.random.default_rng(0), TinyFolder(folder / "data", folder / "masks")
    for colour, name in enumerate(CLASSES):
        for split, count in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS[colour])):
            for index in range(count):
                pixels, mask = blob_picture(side, 2 - colour, rng)
                for root, picture in ((made.root, pixels), (made.masks, mask.astype(np.uint8) * 255)):
                    path = root / split / name / f"{index:02}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path)
    return made


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> TinyFolder:
    """36 + 17 pictures of 40 pixels in three classes."""
    return write_folder(tmp_path_factory.mktemp("tiny_folder"), side=40)


@contextmanager
def started(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Python at work in ``cwd``; at the end the process is killed with all that it has started."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_python(*arguments: str, cwd: Path, timeout: float = 180) -> Finished:
    """Run Python in ``cwd`` to its end."""
    begun = time.monotonic()
    with started(*arguments, cwd=cwd) as process:
        stdout, stderr = process.communicate(timeout=timeout)
        return Finished(process.returncode, stdout, stderr, time.monotonic() - begun)


def run_cli(*overrides: str, cwd: Path, timeout: float = 180) -> Finished:
    """Run ``run.py`` in ``cwd``, where its ``runs`` and ``stores`` then lie."""
    return run_python(str(REPOSITORY / "run.py"), *overrides, cwd=cwd, timeout=timeout)


def untrained_model(stem: str) -> DictConfig:
    """What ``model=stem`` composes to, less the published weights: there is no network in tests."""
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("config", [f"model={stem}"]).model
    if "pretrained" in cfg:
        cfg.pretrained = False
    return cfg
