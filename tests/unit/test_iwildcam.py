"""WILDS' layout in small with ALIA's lists beside it: columns and their order as published."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cub import trained

from genaug.data.iwildcam import AliaIWildCam, IWildCam

CATEGORIES = [
    ["y", "category_id", "name"],
    ["0", "0", "empty"],
    ["1", "2", "tayassu pecari"],
    ["2", "71", "bos taurus"],
]
UNUSED = [["99999", "1", "start"], ["99999", "3", "dasyprocta punctata"]]

COLUMNS = ["split", "location_remapped", "location", "sequence_remapped", "seq_id", "y", "category_id", "datetime"]
#: split, place, y, file: in the order of the file, which is by split and not by name.
IMAGES = [
    ("id_test", 1, 2, "8f"),
    ("id_test", 0, 0, "0a"),
    ("id_val", 1, 1, "77"),
    ("test", 9, 2, "5c"),
    ("test", 9, 0, "5b"),
    ("train", 0, 1, "93"),
    ("train", 0, 0, "12"),
    ("train", 1, 2, "b4"),
    ("train", 1, 0, "aa"),
    ("val", 5, 0, "31"),
]
#: y, file of ALIA's three lists, out of the same archive.
ALIA = {
    "train": [(0, "a1"), (24, "a2"), (32, "a3"), (36, "a4"), (48, "a5"), (49, "a6"), (52, "a7"), (0, "a0")],
    "val": [(52, "c2"), (24, "c1")],
    "test": [(36, "d1"), (49, "d3"), (0, "d2")],
}
#: Grey ones come from infrared flashes.
MODES = {"12": "L", "5c": "CMYK", "a4": "L"}


def write_rows(path: Path, rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def metadata(rows: list[tuple[str, int, int, str]], header: list[str]) -> list[list[object]]:
    """Rows as the published files have them; the names of the first columns, of line numbers, are ``header``."""
    body = [
        [
            *[number] * len(header),
            split,
            place,
            place,
            1,
            "2ffda422",
            y,
            y,
            "2013-01-20 11:34:39.000",
            f"{name}.jpg",
            name,
        ]
        for number, (split, place, y, name) in enumerate(rows)
    ]
    return [[*header, *COLUMNS, "filename", "image_id"], *body]


def write_iwildcam(folder: Path) -> Path:
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(row[3] for row in IMAGES), *(name for rows in ALIA.values() for _, name in rows)]:
        pixels = rng.integers(0, 256, (24, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).convert(MODES.get(name, "RGB")).save(folder / "train" / f"{name}.jpg")
    write_rows(folder / "categories.csv", [*CATEGORIES, *UNUSED])
    write_rows(folder / "metadata.csv", metadata(IMAGES, [""]))
    return folder


def write_lists(folder: Path) -> Path:
    folder.mkdir()
    for (split, rows), header in zip(ALIA.items(), (["", "Unnamed: 0"], ["Unnamed: 0"], []), strict=True):
        full = [("id_test" if split == "val" else split, 287, y, name) for y, name in rows]
        write_rows(folder / f"{split}_subset.csv", metadata(full, header))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_iwildcam(tmp_path / "iwildcam_v2.0")


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return write_lists(tmp_path / "lists")


def rewrite(path: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    """Change a CSV file: ``change`` gets all rows, the header first."""
    write_rows(path, change(list(csv.reader(path.read_text().splitlines()))))


def set_cell(path: Path, line: int, column: str, value: str) -> None:
    def change(rows: list[list[str]]) -> list[list[str]]:
        rows[line - 1][rows[0].index(column)] = value
        return rows

    rewrite(path, change)


def listed(dataset: IWildCam | AliaIWildCam) -> dict[str, list[tuple[str, int]]]:
    return {name: [(sample.id, sample.label) for sample in split] for name, split in dataset.splits().items()}


def test_splits_by_our_names(root: Path) -> None:
    traps = IWildCam(root)
    assert traps.classes == ("empty", "tayassu pecari", "bos taurus")
    assert listed(traps) == {
        "train": [("train/12.jpg", 0), ("train/93.jpg", 1), ("train/aa.jpg", 0), ("train/b4.jpg", 2)],
        "val": [("train/31.jpg", 0)],
        "test": [("train/0a.jpg", 0), ("train/8f.jpg", 2)],
        "ood_locations": [("train/5b.jpg", 0), ("train/5c.jpg", 2)],
    }
    assert all(sample.path == root / sample.id for split in traps.splits().values() for sample in split)


def test_root_may_be_the_folder_around_it(root: Path, lists: Path) -> None:
    (root.parent / "train").mkdir()  # of another dataset
    assert IWildCam(root.parent).splits() == IWildCam(root).splits()
    assert AliaIWildCam(root.parent, lists).splits() == AliaIWildCam(root, lists).splits()


def test_columns_go_by_name(root: Path) -> None:
    before, names = IWildCam(root).splits(), IWildCam(root).classes
    for name in ("metadata.csv", "categories.csv"):
        rewrite(root / name, lambda rows: [["x", *reversed(row)] for row in rows])
    assert (IWildCam(root).splits(), IWildCam(root).classes) == (before, names)


def test_the_order_of_the_categories_does_not_count(root: Path) -> None:
    rewrite(root / "categories.csv", lambda rows: [rows[0], *reversed(rows[1:])])
    assert IWildCam(root).classes == ("empty", "tayassu pecari", "bos taurus")


@pytest.mark.parametrize(
    ("name", "column", "value", "words"),
    [
        ("metadata", "y", "3", "y is '3', expected 0 to 2"),
        ("metadata", "y", "99999", "y is '99999', expected 0 to 2"),
        ("metadata", "y", "", "y is ''"),
        ("metadata", "split", "ood", "split is 'ood', expected one of train, val, id_test, test, id_val"),
        ("categories", "y", "3", "y is '3', expected 0 to 2"),
        ("categories", "y", "0", "y=0 is that of 'empty' already"),
    ],
)
def test_a_value_out_of_range_is_named(root: Path, name: str, column: str, value: str, words: str) -> None:
    set_cell(root / f"{name}.csv", 3, column, value)
    with pytest.raises(ValueError, match=rf"{name}\.csv, line 3: {words}"):
        IWildCam(root).splits()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("metadata", lambda rows: rows[:1], "lists no image of the split train"),
        ("metadata", lambda rows: [row for row in rows if row[1] != "id_test"], "lists no image of the split id_test"),
        ("metadata", lambda rows: [row[:-2] for row in rows], "has no column filename"),
        ("categories", lambda rows: [rows[0], *rows[-2:]], "lists no category"),
        ("categories", lambda rows: [row[:2] for row in rows], "has no column name"),
    ],
)
def test_a_wrong_list_is_named_with_the_remedy(root: Path, name: str, change, words: str) -> None:
    rewrite(root / f"{name}.csv", change)
    with pytest.raises(ValueError, match=rf"(?s){name}\.csv {words}.*iwildcam_v2\.0\.tar\.gz"):
        IWildCam(root).splits()


@pytest.mark.parametrize("name", ["metadata.csv", "categories.csv", "train/5b.jpg"])
def test_what_is_missing_is_named_with_the_remedy(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"(?s){name} is missing.*iwildcam_v2\.0\.tar\.gz.*wilds\.stanford\.edu"
    ):
        IWildCam(root).splits()


def test_arguments_are_checked_at_once(root: Path, lists: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*iwildcam_v2\.0\.tar\.gz"):
        IWildCam(root / "nowhere")
    with pytest.raises(ValueError, match="image_size=0"):
        AliaIWildCam(root, lists, image_size=0)


def test_alias_seven_classes(root: Path, lists: Path) -> None:
    (root / "metadata.csv").unlink()  # not needed
    traps = AliaIWildCam(root, lists)
    names = {name: [(path, traps.classes[label]) for path, label in split] for name, split in listed(traps).items()}
    assert names == {
        "train": [
            ("train/a0.jpg", "background"),
            ("train/a1.jpg", "background"),
            ("train/a2.jpg", "cattle"),
            ("train/a3.jpg", "elephants"),
            ("train/a4.jpg", "impalas"),
            ("train/a5.jpg", "zebras"),
            ("train/a6.jpg", "giraffes"),
            ("train/a7.jpg", "dik-diks"),
        ],
        "val": [("train/c1.jpg", "cattle"), ("train/c2.jpg", "dik-diks")],
        "test": [("train/d1.jpg", "impalas"), ("train/d2.jpg", "background"), ("train/d3.jpg", "giraffes")],
    }


def test_alias_lists_are_named_with_where_to_get_them(root: Path, lists: Path) -> None:
    set_cell(lists / "test_subset.csv", 3, "y", "7")
    with pytest.raises(ValueError, match=r"test_subset\.csv, line 3: y is '7', expected 0, 24, 32, 36, 48, 49, 52"):
        AliaIWildCam(root, lists).splits()
    rewrite(lists / "val_subset.csv", lambda rows: rows[:1])
    with pytest.raises(ValueError, match=r"(?s)val_subset\.csv lists no image.*lisadunlap/ALIA"):
        AliaIWildCam(root, lists).splits()
    (root / "train" / "a3.jpg").unlink()
    (lists / "train_subset.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)train_subset\.csv is missing.*lisadunlap/ALIA"):
        AliaIWildCam(root, lists).splits()
    with pytest.raises(
        FileNotFoundError, match=r"(?s)a3\.jpg is missing, one of 1 images of 13.*iwildcam_v2\.0\.tar\.gz"
    ):
        AliaIWildCam(root, write_lists(root.parent / "again")).splits()


@pytest.mark.cli
def test_a_run_reports_macro_f1_at_known_and_new_places(root: Path, tmp_path: Path) -> None:
    results = trained("iwildcam", root, tmp_path)
    assert results["images"] == {"train": 4, "val": 1, "test": 2, "ood_locations": 2}
    assert results["classes"] == 3
    assert list(results["scores"]) == ["test", "ood_locations"]
    for scores in results["scores"].values():
        assert (scores["metric"], scores["n"]) == ("macro_f1", 2)
        assert scores["score"] == scores["macro_f1"]
        # One image of each of two classes. Both right: 1. One right: F1 is 2/3 where the other got the same answer,
        # and 1 where it got a third; 0 for the other. None right: 0.
        possible = {0.0: {0.0}, 0.5: {1 / 3, 0.5}, 1.0: {1.0}}[scores["accuracy"]]
        assert any(scores["macro_f1"] == pytest.approx(value) for value in possible)


@pytest.mark.cli
def test_a_run_on_alias_part(root: Path, lists: Path, tmp_path: Path) -> None:
    results = trained("iwildcam_alia", root, tmp_path, f"dataset.lists={lists}")
    assert results["images"] == {"train": 8, "val": 2, "test": 3}
    assert results["classes"] == 7
    scores = results["scores"]["test"]
    assert (scores["metric"], scores["n"]) == ("accuracy", 3)
    assert scores["score"] == scores["accuracy"]
    assert 0 <= scores["macro_f1"] <= 1
