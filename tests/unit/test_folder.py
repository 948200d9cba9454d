"""Anybody's folders, tidy and untidy."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaug.data.folder import Folder
from genaug.data.reading import ImageError


def write(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


def fill(folder: Path, count: int) -> None:
    for i in range(count):
        write(folder / f"{i:02}.jpg")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Two classes, of 10 and 5 images."""
    fill(tmp_path / "pets" / "red cat", 10)
    fill(tmp_path / "pets" / "dög", 5)
    return tmp_path / "pets"


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """Splits of two classes."""
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / "set" / split / name, count)
    return tmp_path / "set"


def labels(samples: object) -> dict:
    return dict(Counter(sample.label for sample in samples))


def ids(samples: object) -> list[str]:
    return [sample.id for sample in samples]


def test_one_folder_per_class(flat: Path) -> None:
    folder = Folder(flat, "pet")
    assert (folder.name, folder.superclass) == ("pets", "pet")
    assert list(folder.classes) == ["dög", "red cat"]
    splits = folder.splits()
    assert set(splits) == {"train", "test"}
    assert labels(splits["train"]) == {0: 4, 1: 8}
    assert labels(splits["test"]) == {0: 1, 1: 2}
    everything = ids(splits["train"]) + ids(splits["test"])
    assert sorted(everything) == [f"dög/{i:02}.jpg" for i in range(5)] + [f"red cat/{i:02}.jpg" for i in range(10)]
    assert ids(splits["train"]) == sorted(ids(splits["train"]))
    for sample in [*splits["train"], *splits["test"]]:
        assert sample.path == flat / sample.id
        assert sample.label == ["dög", "red cat"].index(sample.path.parent.name)


def test_test_split_is_the_same_wherever_the_folder_lies(flat: Path, tmp_path: Path) -> None:
    first = ids(Folder(flat, "pet").splits()["test"])
    moved = flat.rename(tmp_path / "elsewhere")
    assert ids(Folder(moved, "pet").splits()["test"]) == first
    others = {tuple(ids(Folder(moved, "pet", split_seed=seed).splits()["test"])) for seed in range(1, 6)}
    assert len(others) > 1
    assert labels(Folder(moved, "pet", test_fraction=0.4).splits()["test"]) == {0: 2, 1: 4}


def test_ready_made_splits_are_kept(ready: Path) -> None:
    fill(ready / "ood_sketch" / "dog", 2)
    folder = Folder(ready, "pet")
    splits = folder.splits()
    assert list(folder.classes) == ["cat", "dog"]
    assert {name: labels(samples) for name, samples in splits.items()} == {
        "train": {0: 4, 1: 4},
        "val": {0: 2, 1: 2},
        "test": {0: 3, 1: 3},
        "ood_sketch": {1: 2},
    }
    assert ids(splits["ood_sketch"]) == ["ood_sketch/dog/00.jpg", "ood_sketch/dog/01.jpg"]


def test_folders_inside_a_class_and_files_that_are_no_images(flat: Path) -> None:
    write(flat / "dög" / "2024" / "may" / "deep.PNG")
    (flat / "dög" / "README.txt").write_text("notes")
    (flat / "dög" / ".DS_Store").write_bytes(b"\0")
    (flat / "dög" / "._00.jpg").write_bytes(b"\0")
    (flat / "__MACOSX" / "dög").mkdir(parents=True)
    (flat / "__MACOSX" / "dög" / "00.jpg").write_bytes(b"\0")
    (flat / "notes.txt").write_text("notes")
    folder = Folder(flat, "pet")
    assert list(folder.classes) == ["dög", "red cat"]
    splits = folder.splits()
    found = [*splits["train"], *splits["test"]]
    assert labels(found) == {0: 6, 1: 10}
    assert "dög/2024/may/deep.PNG" in ids(found)


def test_accents_are_spelled_one_way(tmp_path: Path) -> None:
    fill(tmp_path / unicodedata.normalize("NFD", "dög"), 2)
    fill(tmp_path / "cat", 2)
    folder = Folder(tmp_path, "pet")
    assert list(folder.classes) == ["cat", unicodedata.normalize("NFC", "dög")]
    assert all(sample.path.is_file() for sample in folder.splits()["train"])
    assert {sample.id[:-7] for sample in folder.splits()["train"]} == set(folder.classes)
    fill(tmp_path / unicodedata.normalize("NFC", "dög"), 2)
    with pytest.raises(ValueError, match="accents"):
        _ = Folder(tmp_path, "pet").classes


def test_bad_images_are_reported_from_all_splits_or_skipped(ready: Path) -> None:
    (ready / "train" / "cat" / "page.jpg").write_text("<html>")
    (ready / "test" / "dog" / "empty.jpg").touch()
    with pytest.raises(ImageError, match="2 of 20 images") as caught:
        Folder(ready, "pet").splits()
    assert "page.jpg" in str(caught.value)
    assert "empty.jpg" in str(caught.value)
    splits = Folder(ready, "pet", on_bad_image="skip").splits()
    assert (len(splits["train"]), len(splits["test"])) == (8, 6)


def test_a_class_that_is_skipped_whole_is_an_error(flat: Path) -> None:
    for path in (flat / "dög").iterdir():
        path.write_text("no image")
    with pytest.raises(ValueError, match="No image that can be read is left of: dög"):
        Folder(flat, "pet", on_bad_image="skip").splits()


def test_class_that_is_tested_but_not_trained(ready: Path) -> None:
    fill(ready / "test" / "fish", 1)
    with pytest.raises(ValueError, match="test has classes that .*train has not: fish"):
        _ = Folder(ready, "pet").classes


def test_empty_class_folder_says_what_is_in_it(flat: Path) -> None:
    (flat / "fish").mkdir()
    (flat / "fish" / "a.heic").touch()
    with pytest.raises(ValueError, match=r"fish has no images, but 1 other files \{'\.heic': 1\}"):
        Folder(flat, "pet").splits()


@pytest.mark.parametrize("names", [[], ["cat"]])
def test_two_classes_are_needed(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        fill(tmp_path / name, 3)
    with pytest.raises(ValueError, match=rf"has {len(names)} class folders .*two or more.*<root>/train/<class>"):
        _ = Folder(tmp_path, "pet").classes


def test_images_outside_class_folders_are_mentioned(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(flat / "loose.jpg")
    assert "loose.jpg" not in ids(Folder(flat, "pet").splits()["train"])
    assert "1 images such as" in caplog.text
    assert "loose.jpg" in caplog.text


@pytest.mark.parametrize("names", [["train", "val"], ["train", "test", "cat"], ["Train", "Test"], ["train", "testing"]])
def test_half_a_set_of_splits_is_not_taken_for_classes(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        fill(tmp_path / name / "cat", 2)
        fill(tmp_path / name / "dog", 2)
    with pytest.raises(ValueError, match="train and test, which must both be there"):
        _ = Folder(tmp_path, "pet").classes


def test_train_can_be_a_class(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        fill(tmp_path / name, 3)
    assert list(Folder(tmp_path, "vehicle").classes) == ["bus", "train"]


def test_masks_beside_the_images(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks = flat / "masks"  # inside root: not a class
    masks.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no mask for any image: expected files such as .*00\.png"):
        Folder(flat, "pet", masks=masks).splits()
    for image in [*flat.glob("dög/*.jpg"), *flat.glob("red cat/*.jpg")]:
        path = masks / image.relative_to(flat).with_suffix(".png")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ones((6, 8), bool)).save(path)
    folder = Folder(flat, "pet", masks=masks)
    assert list(folder.classes) == ["dög", "red cat"]
    for sample in folder.splits()["train"]:
        assert sample.mask == masks / sample.id.replace(".jpg", ".png")
    assert not caplog.text
    (masks / "dög" / "00.png").unlink()
    Folder(flat, "pet", masks=masks).splits()
    assert "1 of 15 images have no mask" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [{"image_size": 0}, {"channels": 4}, {"on_bad_image": "drop"}, {"test_fraction": 0.0}, {"test_fraction": 1.0}],
)
def test_wrong_arguments_are_refused_at_once(flat: Path, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        Folder(flat, "pet", **arguments)


def test_missing_folders_are_refused_at_once(flat: Path) -> None:
    with pytest.raises(FileNotFoundError, match="root=.*nowhere is not a folder. Expected <root>/<class>"):
        Folder(flat / "nowhere", "pet")
    with pytest.raises(FileNotFoundError, match="masks=.*nowhere is not a folder"):
        Folder(flat, "pet", masks=flat / "nowhere")
