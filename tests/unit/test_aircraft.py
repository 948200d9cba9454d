"""The official layout in small, read as torchvision reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image
from torchvision.datasets import FGVCAircraft

from genaug.data.aircraft import Aircraft
from genaug.data.reading import read_image

#: Neither sorted nor in the order in which the lists name them.
VARIANTS = ("F-16A/B", "707-320", "Spitfire", "F/A-18", "DC-3", "Cessna 172")

#: Split -> image and variant, in no order.
LISTS = {
    "train": [("2000001", 5), ("0034309", 1), ("1025794", 3), ("0900002", 0), ("0900001", 2), ("0000004", 4)],
    "val": [("1500000", 3), ("0074707", 4), ("0000010", 0), ("0000011", 1), ("0000012", 2), ("0000013", 5)],
    "test": [("0000100", 0), ("0000099", 1), ("9000000", 2), ("0000200", 3), ("0000300", 4), ("0000400", 5)],
}
GREY, CMYK = "0900002", "0074707"


def colour(variant: int) -> tuple[int, int, int]:
    return 40 * variant + 20, 255 - 40 * variant, 128


def write_aircraft(folder: Path) -> Path:
    """``fgvc-aircraft-2013b`` with 24 x 16 pixels an image, of which the lowest four are a black strip."""
    data = folder / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
    boxes = []
    for split, images in LISTS.items():
        for number, (image, variant) in enumerate(images):
            picture = Image.new("RGB", (24, 16), colour(variant))
            picture.paste((0, 0, 0), (0, 12, 24, 16))
            mode = "L" if image == GREY else "CMYK" if image == CMYK else "RGB"
            picture.convert(mode).save(data / "images" / f"{image}.jpg", quality=95)
            boxes.append(f"{image} {number + 1} {number + 2} 24 {number + 8}")
        write_list(data, split, images)
    write_list(data, "trainval", LISTS["train"] + LISTS["val"])
    (data / "images_box.txt").write_text("\n".join(sorted(boxes)) + "\n")
    return data.parent


def write_list(data: Path, split: str, images: list[tuple[str, int]]) -> None:
    lines = [f"{image} {VARIANTS[variant]}" for image, variant in images]
    (data / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_aircraft(tmp_path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("train", ["trainval", "train"])
def test_it_agrees_with_torchvision(root: Path, train: str) -> None:
    aircraft = Aircraft(root, train=train)
    splits = aircraft.splits()
    assert set(splits) == ({"train", "test"} if train == "trainval" else {"train", "val", "test"})
    for split, samples in splits.items():
        theirs = FGVCAircraft(root.parent, split=train if split == "train" else split)
        assert list(aircraft.classes) == theirs.classes == list(VARIANTS)
        labels = dict(zip(map(Path, theirs._image_files), theirs._labels, strict=True))
        assert {sample.path: sample.label for sample in samples} == labels
        assert len(samples) == len(labels)
        assert [sample.id for sample in samples] == sorted(sample.id for sample in samples)
        for sample in samples:
            assert sample.path == root / sample.id


def test_each_path_leads_to_its_own_pixels_in_rgb(root: Path) -> None:
    splits = Aircraft(root).splits()
    for sample in [*splits["train"], *splits["test"]]:
        pixels = read_image(sample.path)
        assert pixels.shape == (16, 24, 3)  # the copyright strip is still there
        expected = np.array(colour(sample.label), float)
        if GREY in sample.id:
            expected[:] = expected @ (0.299, 0.587, 0.114)
        assert np.abs(pixels[2:9, 4:20].mean(axis=(0, 1)) - expected).max() < 4


def test_boxes_begin_at_one_and_hold_their_last_pixel(root: Path) -> None:
    boxes = {sample.id: sample.box for sample in Aircraft(root).splits()["train"]}
    assert boxes["data/images/2000001.jpg"] == (0, 1, 24, 7)  # 1 2 24 8
    assert boxes["data/images/0034309.jpg"] == (1, 2, 23, 7)  # 2 3 24 9
    assert None not in boxes.values()
    (root / "data" / "images_box.txt").unlink()
    assert {sample.box for sample in Aircraft(root).splits()["train"]} == {None}


def test_root_may_be_the_folder_around_it(root: Path) -> None:
    (root.parent / "data").mkdir()  # of somebody else
    assert Aircraft(root.parent).splits() == Aircraft(root).splits()


def test_published_counts_follow_the_choice_of_training_images(root: Path) -> None:
    assert Aircraft(root).published == {"train": 6667, "test": 3333, "classes": 100}
    assert Aircraft(root, train="train").published == {"train": 3334, "val": 3333, "test": 3333, "classes": 100}


@pytest.mark.parametrize(("argument", "value"), [("train", "val"), ("image_size", 0)])
def test_wrong_arguments_are_refused_at_once(root: Path, argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value!r} is not"):
        Aircraft(root, **{argument: value})


def test_missing_root_says_what_is_expected_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*variants\.txt.*fgvc-aircraft-2013b\.tar\.gz"):
        Aircraft(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"(?s)variants\.txt is missing.*fgvc-aircraft-2013b\.tar\.gz"):
        _ = Aircraft(tmp_path).classes


@pytest.mark.parametrize("name", ["variants.txt", "images_variant_trainval.txt", "images/0034309.jpg"])
def test_what_is_missing_is_named(root: Path, name: str) -> None:
    (root / "data" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s){name} is missing.*fgvc-aircraft-2013b\.tar\.gz"):
        Aircraft(root).splits()


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (
            "images_variant_test.txt",
            "Spitfire",
            "Spitfire Mk",
            r"_test\.txt, line 3: 'Spitfire Mk' is not in .*variants",
        ),
        ("images_variant_trainval.txt", "0034309 ", "0034309", r"_trainval\.txt, line 2: '' is not in"),
        ("images_box.txt", "0034309 2 ", "0034309 ", r"_box\.txt, line \d+: expected '<image> <xmin>"),
        ("images_box.txt", "0034309 2 3 24 9", "0034309 2 3 24 x", r"_box\.txt, line \d+: ymax is 'x', expected 3 to"),
        ("images_box.txt", "0034309 2 3 24 9", "0034309 2 3 1 9", r"_box\.txt, line \d+: xmax is '1', expected 2 to"),
        (
            "images_box.txt",
            "0034309 2 3 24 9",
            "0034309 0 3 24 9",
            r"_box\.txt, line \d+: a coordinate is '0', expected",
        ),
        ("images_box.txt", "0034309 ", "0034310 ", r"_box\.txt has no box of image 0034309"),
    ],
)
def test_unreadable_lines_are_named(root: Path, name: str, old: str, new: str, words: str) -> None:
    edit(root / "data" / name, old, new)
    with pytest.raises(ValueError, match=words):
        Aircraft(root).splits()


@pytest.mark.cli
def test_it_trains_from_the_command_line(root: Path, tmp_path: Path) -> None:
    done = run_cli(
        "dataset=aircraft", f"dataset.root={root}", "dataset.image_size=32", "model=tiny", "model.width=8",
        "recipe=demo", "recipe.batch_size=4", "trainer=cpu", "loader.num_workers=0", "trainer.max_steps=1",
        "protocol=last", "logger=none", cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/aircraft/vanilla/*/results.json")
    results = json.loads(file.read_text())
    assert (results["dataset"], results["classes"]) == ("aircraft", 6)
    assert results["scores"]["test"]["n"] == 6
