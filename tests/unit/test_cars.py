"""The official layout in small, read as torchvision reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import StanfordCars

from genaug.data.cars import Cars
from genaug.data.reading import read_image

CLASSES = ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "BMW X5 SUV 2007", "smart fortwo 2012")

#: Class, from 1, and corners, from 1, of the images 00001.jpg and so on of each split.
TRAIN = [(2, 1, 1, 24, 16), (4, 3, 2, 10, 9), (1, 5, 6, 5, 6), (3, 2, 2, 20, 12), (1, 1, 2, 3, 4), (4, 2, 3, 9, 9)]
TEST = [(3, 4, 4, 12, 12), (1, 1, 1, 8, 8), (2, 2, 5, 18, 16), (4, 7, 1, 24, 3)]
GREY, CMYK = "cars_train/00002.jpg", "cars_test/00003.jpg"


def colour(label: int) -> tuple[int, int, int]:
    return 60 * label + 20, 255 - 60 * label, 90


def write_annotations(path: Path, rows: list[tuple[int, ...]], labels: bool = True) -> None:
    """As the development kit has them: 1 x N structs whose fields are numbers and texts."""
    names = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if labels else []), "fname"]
    array = np.empty((1, len(rows)), [(name, "O") for name in names])
    for index, (label, *corners) in enumerate(rows):
        values = [*corners, *([label] if labels else [])]
        # The official files use the smallest type that holds a number.
        array[0, index] = (*map(np.uint8, values), f"{index + 1:05}.jpg")
    savemat(path, {"annotations": array})


def write_cars(folder: Path) -> Path:
    """``stanford_cars`` as torchvision wants it."""
    root = folder / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(CLASSES, object)[None]})
    write_annotations(root / "devkit" / "cars_train_annos.mat", TRAIN)
    write_annotations(root / "devkit" / "cars_test_annos.mat", TEST, labels=False)
    write_annotations(root / "cars_test_annos_withlabels.mat", TEST)
    for part, rows in (("cars_train", TRAIN), ("cars_test", TEST)):
        (root / part).mkdir()
        for index, (label, *_) in enumerate(rows):
            name = f"{part}/{index + 1:05}.jpg"
            mode = {GREY: "L", CMYK: "CMYK"}.get(name, "RGB")
            Image.new("RGB", (24, 16), colour(label - 1)).convert(mode).save(root / name, quality=95)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cars(tmp_path)


def test_it_agrees_with_torchvision(root: Path) -> None:
    cars = Cars(root)
    for split, samples in cars.splits().items():
        theirs = StanfordCars(root.parent, split=split)
        assert list(cars.classes) == theirs.classes == list(CLASSES)
        assert [(str(sample.path), sample.label) for sample in samples] == theirs._samples
        for sample in samples:
            assert sample.path == root / sample.id
    ids = [sample.id for samples in cars.splits().values() for sample in samples]
    assert len(set(ids)) == len(ids) == 10  # though both splits have a 00001.jpg


def test_each_path_leads_to_its_own_pixels_in_rgb(root: Path) -> None:
    for samples in Cars(root).splits().values():
        for sample in samples:
            pixels = read_image(sample.path)
            assert pixels.shape == (16, 24, 3)
            expected = np.array(colour(sample.label), float)
            if sample.id == GREY:
                expected[:] = expected @ (0.299, 0.587, 0.114)
            assert np.abs(pixels.mean(axis=(0, 1)) - expected).max() < 4


def test_boxes_begin_at_one_and_hold_their_last_pixel(root: Path) -> None:
    boxes = [sample.box for sample in Cars(root).splits()["train"]]
    assert boxes == [(0, 0, 24, 16), (2, 1, 8, 8), (4, 5, 1, 1), (1, 1, 19, 11), (0, 1, 3, 3), (1, 2, 8, 7)]


def test_labels_of_the_test_may_lie_in_the_development_kit(root: Path) -> None:
    before = Cars(root).splits()
    (root / "cars_test_annos_withlabels.mat").rename(root / "devkit" / "cars_test_annos_withlabels.mat")
    assert Cars(root).splits() == before
    assert Cars(root.parent).splits() == before


def test_annotations_without_labels_are_no_substitute(root: Path) -> None:
    (root / "cars_test_annos_withlabels.mat").unlink()
    needed = (
        r"(?s)cars_test_annos_withlabels\.mat is missing: devkit/cars_test_annos\.mat has no labels.*dataset=folder"
    )
    with pytest.raises(FileNotFoundError, match=needed):
        Cars(root).splits()
    unlabelled = root / "devkit" / "cars_test_annos.mat"
    unlabelled.rename(root / "cars_test_annos_withlabels.mat")  # nor under the name of those with labels
    with pytest.raises(ValueError, match=r"cars_test_annos_withlabels\.mat: annotations has no field class"):
        Cars(root).splits()


def test_published_counts_and_names(root: Path) -> None:
    cars = Cars(root)
    assert cars.published == {"train": 8144, "test": 8041, "classes": 196}
    assert (cars.name, cars.superclass) == ("cars", "car")
    with pytest.raises(ValueError, match="image_size=0 is not possible"):
        Cars(root, image_size=0)


def test_missing_root_says_what_is_expected_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*cars_meta\.mat.*7545.*dataset=folder"):
        Cars(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "devkit", "cars_test/00002.jpg", "cars_train"],
)
def test_what_is_missing_is_named(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"(?s){name}\S* is missing.*7545"):
        Cars(root).splits()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0, 1, 1, 9, 9), "class is '0', expected 1 to 4"),
        ((5, 1, 1, 9, 9), "class is '5', expected 1 to 4"),
        ((1, 0, 1, 9, 9), "bbox_x1 is '0'"),
        ((1, 5, 1, 4, 9), "bbox_x2 is '4', expected 5 to"),
        ((1, 5, 6, 7, 5), "bbox_y2 is '5', expected 6 to"),
    ],
)
def test_numbers_that_make_no_sense_are_named(root: Path, row: tuple[int, ...], words: str) -> None:
    write_annotations(root / "devkit" / "cars_train_annos.mat", [TRAIN[0], row])
    with pytest.raises(ValueError, match=rf"cars_train_annos\.mat, annotations\(2\): {words}"):
        Cars(root).splits()


@pytest.mark.cli
def test_it_trains_from_the_command_line(root: Path, tmp_path: Path) -> None:
    done = run_cli(
        "dataset=cars", f"dataset.root={root}", "dataset.image_size=32", "model=tiny", "model.width=8",
        "recipe=demo", "recipe.batch_size=4", "trainer=cpu", "loader.num_workers=0", "trainer.max_steps=1",
        "protocol=last", "logger=none", cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/cars/vanilla/*/results.json")
    results = json.loads(file.read_text())
    assert (results["dataset"], results["classes"]) == ("cars", 4)
    assert results["scores"]["test"]["n"] == 4
