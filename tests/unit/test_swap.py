from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TinyFolder, run_cli

from genaug.data.base import Dataset, Sample
from genaug.data.folder import Folder
from genaug.data.reading import read_image, read_mask
from genaug.ood.swap import Swap
from genaug.segmentation.annotated import Annotated

SCENES = {"sea": (0, 0, 200), "lake": (0, 0, 100), "wood": (0, 100, 0)}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Six pictures of one colour for each of three kinds."""
    folder = tmp_path_factory.mktemp("scenes")
    for kind, colour in SCENES.items():
        (folder / kind).mkdir()
        for number in range(6):
            Image.new("RGB", (50 + number, 30), colour).save(folder / kind / f"{number}.png")
    return folder


def swap(tiny_folder: TinyFolder, scenes: Path, folder: Path, **changes) -> Swap:
    dataset = Folder(tiny_folder.root, "blob", image_size=32, name="blobs", masks=tiny_folder.masks)
    settings = {"places": {"water": ["sea", "lake"], "land": ["wood"]}, "softness": 0.0}
    return Swap(dataset, scenes, Annotated(), folder, **settings | changes)


def place_of(sample: Sample) -> int:
    """What is behind the object: 0 where it is blue, 1 where it is green."""
    image, mask = read_image(sample.path).astype(int), read_mask(sample.mask)
    return int(np.median(image[~mask][:, 1]) > np.median(image[~mask][:, 2]))


def test_objects_stay_and_backgrounds_are_scenes(tiny_folder, scenes, tmp_path):
    made = swap(tiny_folder, scenes, tmp_path)
    before = {sample.id: sample for sample in made.dataset.splits()["test"]}
    after = made.splits()["ood_swap"]
    assert len(after) == tiny_folder.test
    for sample in after:
        source = before[sample.id.removeprefix("swap/ood_swap/")]
        mask, image = read_mask(source.mask), read_image(sample.path).astype(int)
        assert np.array_equal(read_mask(sample.mask), mask)
        assert sample.label == source.label
        assert abs(image[mask] - read_image(source.path)[mask]).mean() < 6  # JPEG at a hard edge
        assert abs(image[~mask] - np.median(image[~mask], axis=0)).mean() < 6  # one colour: a scene


def test_groups_are_home_and_place(tiny_folder, scenes, tmp_path):
    made = swap(tiny_folder, scenes, tmp_path, correlation=0.9)
    assert made.groups == ("home water, on water", "home water, on land", "home land, on water", "home land, on land")
    assert sorted(made.homes) == [0, 0, 1]  # shared out evenly
    for samples in made.splits().values():
        assert [sample.group for sample in samples] == [2 * made.homes[s.label] + place_of(s) for s in samples]


def test_without_a_correlation_photographs_stay(tiny_folder, scenes, tmp_path):
    made = swap(tiny_folder, scenes, tmp_path)
    assert [sample.path for sample in made.splits()["train"]] == [s.path for s in made.dataset.splits()["train"]]
    assert set(made.splits()) == {"train", "test", "ood_swap"}


class Many(Dataset):
    """One picture, two thousand times."""

    name, superclass, image_size = "many", "blob", 8
    classes = ("a", "b")

    def __init__(self, picture: Path, mask: Path) -> None:
        self.picture, self.mask = picture, mask

    def splits(self):
        samples = [Sample(f"{i:04}.png", self.picture, i % 2, mask=self.mask) for i in range(1000)]
        return {"train": samples, "test": samples}


@pytest.mark.parametrize("correlation", [0.0, 0.9, 1.0])
def test_the_correlation_is_the_one_asked_for(tiny_folder, scenes, tmp_path, correlation):
    sample = swap(tiny_folder, scenes, tmp_path).dataset.splits()["train"][0]
    made = Swap(Many(sample.path, sample.mask), scenes, Annotated(), tmp_path, correlation=correlation)
    jobs = [made._job("train", sample, correlation) for sample in made.dataset.splits()["train"]]
    at_home = np.mean([job.place == made.homes[job.sample.label] for job in jobs])
    assert at_home == pytest.approx(correlation, abs=0.03)
    anywhere = [made._job("ood_swap", sample, None).place for sample in made.dataset.splits()["test"]]
    assert np.bincount(anywhere) / 1000 == pytest.approx(np.full(3, 1 / 3), abs=0.05)


def test_a_scene_is_seen_in_training_or_in_tests(tiny_folder, scenes, tmp_path):
    made = swap(tiny_folder, scenes, tmp_path)
    for place, pictures in made.places.items():
        training, tests = made._sides[place, True], made._sides[place, False]
        assert not set(training) & set(tests)
        assert sorted(training + tests) == sorted(pictures)
        assert abs(len(training) - len(tests)) <= 1


def content(samples) -> list[tuple[str, bytes, int | None]]:
    return [(sample.id, sample.path.read_bytes(), sample.group) for sample in samples]


def test_the_same_again_and_another_seed_differs(tiny_folder, scenes, tmp_path):
    one, two, other = (
        swap(tiny_folder, scenes, tmp_path / name, seed=seed, correlation=0.5).splits()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for split in ("train", "test", "ood_swap"):
        assert content(one[split]) == content(two[split])
        assert content(one[split]) != content(other[split])


def test_what_is_there_is_not_made_again(tiny_folder, scenes, tmp_path, monkeypatch):
    first = swap(tiny_folder, scenes, tmp_path).splits()["ood_swap"]
    monkeypatch.setattr(Swap, "_compose", lambda *_: pytest.fail("made again"))
    assert swap(tiny_folder, scenes, tmp_path).splits()["ood_swap"] == first


def test_objects_that_cannot_be_used_are_left_out_and_said(tiny_folder, scenes, tmp_path, caplog):
    made = swap(tiny_folder, scenes, tmp_path)
    areas = sorted(read_mask(sample.mask).mean() for sample in made.dataset.splits()["test"])
    with caplog.at_level(logging.WARNING):
        some = swap(tiny_folder, scenes, tmp_path, min_object=areas[4]).splits()["ood_swap"]
    assert len(some) == tiny_folder.test - 4
    assert f"leaves out 4 of {tiny_folder.test}" in caplog.text
    with pytest.raises(ValueError, match="no object that can be used"):
        swap(tiny_folder, scenes, tmp_path, min_object=0.9).splits()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"correlation": 1.5}, ValueError, "ood.correlation=1.5"),
        ({"softness": 0.5}, ValueError, "ood.softness=0.5"),
        ({"min_object": 0.5, "max_object": 0.4}, ValueError, "in order"),
        ({"places": {"water": ["sea"], "land": ["steppe"]}}, FileNotFoundError, "names steppe, but .* holds lake, sea"),
        ({"places": {"water": ["sea"]}}, ValueError, "two places or more"),
        ({"places": {"water": ["sea"], "blue": ["sea"]}}, ValueError, "to two places: sea"),
        ({"places": {"water": ["sea"], "none": []}}, ValueError, "none has 0 pictures"),
    ],
)
def test_wrong_arguments(tiny_folder, scenes, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        swap(tiny_folder, scenes, tmp_path, **changes)


def test_a_folder_that_is_not_there(tiny_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder. Expected <scenes>/<kind>/\*.jpg"):
        swap(tiny_folder, tmp_path / "nowhere", tmp_path)


def test_from_the_command_line_to_groups_in_the_results(tiny_folder, scenes, tmp_path):
    done = run_cli(
        *tiny_folder.overrides(trainer__max_steps=2, protocol="last", logger="none", method="deda_mixing"),
        "ood=swap", f"ood.scenes={scenes}", "ood.places={water:[sea,lake],land:[wood]}", "ood.correlation=0.95",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    [file] = tmp_path.rglob("results.json")
    results = json.loads(file.read_text())
    assert results["dataset"] == "data_swap"
    scores = results["scores"]["ood_swap"]
    assert scores["n"] == sum(group["n"] for group in scores["groups"].values()) == tiny_folder.test
    assert scores["worst_group"] in scores["groups"]
    assert "home water, on land" in done.stdout
