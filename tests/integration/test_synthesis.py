"""Offline synthesis through the command line: planned, made, shared, killed and trained on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, TinyFolder, run_cli, started
from PIL import Image

from genaug.synthesis.commands import main as genaug
from genaug.synthesis.image_store import ImageStore

pytestmark = pytest.mark.cli


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("gallery"), np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def aga(folder: TinyFolder, gallery: Path, **changes: object) -> list[str]:
    given = {"method.synthesis.captions": 20, "generator.folder": gallery, "protocol": "last", **changes}
    return ["method=aga", "generator=gallery", *folder.overrides(), *(f"{key}={value}" for key, value in given.items())]


def content(stores: Path) -> dict[str, bytes]:
    """Images and manifests of all stores of images, less what differs from one making to the next."""
    files = [*stores.glob("images/*/**/*"), *stores.glob("backgrounds/*/**/*")]
    kept = [path for path in files if path.is_file() and path.parent.name not in ("records", "locks")]
    return {str(path.relative_to(stores)): path.read_bytes() for path in kept if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, gallery, tmp_path_factory) -> Path:
    """Folder in which three synthetic images of each of 36 were made in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_cli(*aga(tiny_folder, gallery, stage="synthesize", **{"method.scale": 3}), cwd=folder)
    assert done.rc == 0, done.stderr
    return folder


def test_a_plan_says_what_will_be_made_and_makes_nothing(tiny_folder, gallery, tmp_path):
    done = run_cli(*aga(tiny_folder, gallery, plan_only=True, **{"method.scale": 3}), cwd=tmp_path)
    assert done.rc == 0, done.stderr
    rows = {line.split("│")[1].strip(): line.split("│")[2:] for line in done.stdout.splitlines() if "│" in line}
    assert [rows[name][0].strip() for name in ("masks", "captions", "backgrounds", "composites")] == [
        "36", "20", "108", "108",
    ]  # fmt: skip
    assert "x a photo of" in done.stdout
    assert not (tmp_path / "stores").exists()
    assert "What will be made" not in done.stderr
    nothing = run_cli("plan_only=true", *tiny_folder.overrides(), cwd=tmp_path)
    assert "makes nothing offline" in nothing.stdout


def test_a_store_is_whole_and_shown(undisturbed):
    (store,) = (undisturbed / "stores" / "images").iterdir()
    assert len(list(ImageStore(store).kept())) == 108
    assert genaug(["verify", str(store)]) == 0
    (sheet,) = (undisturbed / "runs").rglob("synthesis.png")
    assert Image.open(sheet).size[0] == 4 * 166 + 6


@pytest.mark.slow
def test_killed_again_and_again_it_ends_in_the_same_store(tiny_folder, gallery, undisturbed, tmp_path):
    command = aga(tiny_folder, gallery, stage="synthesize", **{"method.scale": 3})
    stores = tmp_path / "stores"
    seen = []
    for more in ("backgrounds", "backgrounds", "images"):
        before = len(list(stores.glob(f"{more}/*/??/*.png")))
        with started(str(REPOSITORY / "run.py"), *command, cwd=tmp_path) as process:
            while len(list(stores.glob(f"{more}/*/??/*.png"))) < before + 5:
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.001)
        seen.append(len(list(stores.glob("*/*/??/*.png"))))
    assert seen[0] < 108  # killed in the middle
    done = run_cli(*command, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert content(stores) == content(undisturbed / "stores")
    for store in (*(stores / "images").iterdir(), *(stores / "backgrounds").iterdir()):
        assert genaug(["verify", str(store)]) == 0
        records = [
            json.loads(line) for file in store.glob("records/*") for line in file.read_text().splitlines() if line
        ]
        assert len(records) - len({record["key"] for record in records}) == 0  # no image has two records


@pytest.mark.slow
def test_two_devices_make_the_same_store_and_share_the_work(tiny_folder, gallery, undisturbed, tmp_path):
    devices = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    done = run_cli(*aga(tiny_folder, gallery, stage="synthesize", **{"method.scale": 3}, **devices), cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert content(tmp_path / "stores") == content(undisturbed / "stores")
    (store,) = (tmp_path / "stores" / "backgrounds").iterdir()
    shares = [len([line for line in file.read_text().splitlines() if line]) for file in store.glob("records/*.jsonl")]
    assert len(shares) == 2
    assert sum(shares) == 108
    assert min(shares) > 20


@pytest.mark.slow
def test_training_on_real_and_synthetic_images_at_equal_steps(tiny_folder, gallery, undisturbed, tmp_path):
    common = {"stage": "all", "recipe.epochs": 4, "paths.stores": undisturbed / "stores", "logger": "none"}
    found = {}
    for budget in ("steps", "epochs"):
        done = run_cli(*aga(tiny_folder, gallery, **common, **{"method.scale": 3, "budget": budget}), cwd=tmp_path)
        assert done.rc == 0, done.stderr
    for file in tmp_path.glob("runs/*/aga/*/results.json"):
        results = json.loads(file.read_text())
        assert results["scale"] == 3
        assert (results["images"]["train"], results["train_images"]) == (36, 144)
        assert results["made"]["images"] == 108
        assert results["made"]["ledger"]["composites"]["images"] == 0  # all were there
        found[results["steps"]] = results
    # 36 // 8 = 4 steps an epoch of plain training, 144 // 8 = 18 of the enlarged set.
    assert set(found) == {16, 72}
