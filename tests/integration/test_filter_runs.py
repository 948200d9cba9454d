"""Filters from the command line to the record, and a finished run as the network that judges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TinyFolder, run_cli

from genaug.explaining.finished import FinishedRun
from genaug.filtering.base import Candidate, Circumstances
from genaug.filtering.confidence import MISLABELLED, TOO_EASY, Confidence, confident_thresholds

pytestmark = pytest.mark.cli


@pytest.fixture(scope="module")
def base(tiny_folder, tmp_path_factory) -> Path:
    """The folder of a plain run."""
    folder = tmp_path_factory.mktemp("base")
    done = run_cli(*tiny_folder.overrides(protocol="last", recipe__epochs=15, logger="none"), cwd=folder)
    assert done.rc == 0, done.stderr
    (results,) = folder.glob("runs/*/vanilla/*/results.json")
    return results.parent


def test_a_finished_run_sees_any_image_as_it_saw_its_test(base):
    run = FinishedRun.load(base)
    samples = run.splits["test"]
    found = run.probabilities([sample.path for sample in samples], "cpu", batch_size=7)
    assert found.shape == (17, 3)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(17))
    right = float((found.argmax(dim=1) == torch.tensor([sample.label for sample in samples])).float().mean())
    results = json.loads((base / "results.json").read_text())
    assert right == pytest.approx(results["scores"]["test"]["accuracy"])
    assert right > 0.6


def test_unchanged_images_are_too_easy_and_those_of_another_class_are_mislabelled(base, tiny_folder, tmp_path):
    dataset = FinishedRun.load(base).dataset
    real = dataset.splits()["train"]
    own = FinishedRun.load(base).probabilities([sample.path for sample in real], "cpu", 64)
    labels = [sample.label for sample in real]
    limits = confident_thresholds(own[torch.arange(36), torch.tensor(labels)].tolist(), labels, 3)
    sure = own.max(dim=1).values.numpy() > limits[own.argmax(dim=1).numpy()]
    right = own.argmax(dim=1).numpy() == np.array(labels)
    assert 10 < (sure & right).sum() < 36
    about = Circumstances(real, dataset, tmp_path / "stores")
    for shift, reason in ((0, TOO_EASY), (1, MISLABELLED)):
        copies = [Candidate(f"{n:02}", one.path, (one.label + shift) % 3) for n, one in enumerate(real)]
        said = Confidence(base).judge(copies, about)
        assert [not one.keep for one in said] == sure.tolist()
        assert {one.reason for one, correct in zip(said, right, strict=True) if correct} == {"", reason}


def filtered(folder: TinyFolder, stores: Path, base: Path, factor: float) -> list[str]:
    clip = f"{{_target_:genaug.filtering.clip_class.ClipClass,clip:${{clip}},factor:{factor}}}"
    sure = f"{{_target_:genaug.filtering.confidence.Confidence,run:{base}}}"
    return [
        "method=image2image", "generator=tiny", "generator.steps=2", "subset.shots=2", "trainer.max_steps=1",
        *folder.overrides(protocol="last", logger="none"), f"paths.stores={stores}",
        f"+method.synthesis.filters=[{clip},{sure}]",
    ]  # fmt: skip


@pytest.mark.slow
def test_another_threshold_is_another_run_of_the_same_images(base, tiny_folder, tmp_path):
    made = []
    for factor in (0, 1000):
        done = run_cli(*filtered(tiny_folder, tmp_path / "stores", base, factor), cwd=tmp_path)
        assert done.rc == 0, done.stderr
        assert ("comparing with words" in done.stderr) == (factor == 0)  # the scores are kept
        runs = sorted(tmp_path.glob("runs/*/image2image/*/results.json"), key=lambda path: path.stat().st_mtime)
        made.append(json.loads(runs[-1].read_text())["made"])
    assert len(runs) == 2
    assert [one["ledger"]["images"]["images"] for one in made] == [6, 0]
    assert made[0]["filters"]["clip_class"] == {"seen": 6, "dropped": 0, "reasons": {}}
    assert made[0]["filters"]["confidence"]["seen"] == 6
    assert made[0]["images"] == 6 - made[0]["filters"]["confidence"]["dropped"]
    assert made[1]["filters"]["clip_class"]["reasons"] == {"not seen as its class": 6}
    assert made[1]["images"] == 0
    assert len(list((tmp_path / "stores" / "images").iterdir())) == 1
