"""The published layout in small: the binary task, and the species of CUB on the same images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cub import CLASSES, trained, write_cub

from genaug.data.reading import read_image
from genaug.data.waterbirds import Waterbirds, WaterbirdsSpecies

AUKLET, BLACKBIRD, TANAGER = CLASSES.values()
HEADER = ["img_id", "img_filename", "y", "split", "place", "place_filename"]

#: file, y, split, place: in training 4, 1, 1 and 2 images of groups 0 to 3, as skewed as the published 95 %.
IMAGES = [
    (f"{TANAGER}/b.jpg", 0, 0, 0),
    (f"{TANAGER}/a.jpg", 0, 0, 0),
    (f"{BLACKBIRD}/a.jpg", 0, 0, 0),
    (f"{BLACKBIRD}/b.jpg", 0, 0, 0),
    (f"{BLACKBIRD}/c.jpg", 0, 0, 1),
    (f"{AUKLET}/a.jpg", 1, 0, 0),
    (f"{AUKLET}/b.jpg", 1, 0, 1),
    (f"{AUKLET}/c.jpg", 1, 0, 1),
    (f"{TANAGER}/v.jpg", 0, 1, 1),
    (f"{AUKLET}/v.jpg", 1, 1, 0),
    (f"{TANAGER}/t.jpg", 0, 2, 0),
    (f"{TANAGER}/u.jpg", 0, 2, 1),
    (f"{BLACKBIRD}/t.jpg", 0, 2, 0),
    (f"{BLACKBIRD}/u.jpg", 0, 2, 1),
    (f"{AUKLET}/t.jpg", 1, 2, 0),
    (f"{AUKLET}/u.jpg", 1, 2, 1),
]
#: Among photographs there are grey ones, and some are made for print.
MODES = {f"{TANAGER}/b.jpg": "L", f"{AUKLET}/t.jpg": "CMYK"}


def write_waterbirds(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number, (name, y, split, place) in enumerate(IMAGES, start=1):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(MODES.get(name, "RGB")).save(path)
            writer.writerow([number, name, y, split, place, f"/l/lake/natural/{number:08}.jpg"])
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_waterbirds(tmp_path / "waterbird_complete95_forest2water2")


@pytest.fixture
def cub_root(tmp_path: Path) -> Path:
    return write_cub(tmp_path / "CUB_200_2011")


def rewrite(root: Path, change) -> None:
    """Change metadata.csv: ``change`` gets all rows, the header first."""
    path = root / "metadata.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))


def set_cell(root: Path, line: int, column: str, value: str) -> None:
    def change(rows: list[list[str]]) -> list[list[str]]:
        rows[line - 1][rows[0].index(column)] = value
        return rows

    rewrite(root, change)


def test_splits_labels_and_groups(root: Path) -> None:
    birds = Waterbirds(root)
    splits = birds.splits()
    assert list(splits) == ["train", "val", "test"]
    wanted = {
        name: sorted((file, y, 2 * y + place) for file, y, split, place in IMAGES if split == number)
        for number, name in enumerate(splits)
    }
    assert {name: [(s.id, s.label, s.group) for s in split] for name, split in splits.items()} == wanted
    assert all(sample.path == root / sample.id for split in splits.values() for sample in split)
    assert birds.classes[splits["val"][0].label] == "waterbird"
    assert [birds.groups[sample.group] for sample in splits["val"]] == ["waterbird on land", "landbird on water"]


def test_the_shares_are_those_of_training(root: Path) -> None:
    assert Waterbirds(root).group_shares == [4 / 8, 1 / 8, 1 / 8, 2 / 8]


def test_the_published_numbers_add_up() -> None:
    counts = Waterbirds.published
    assert counts["train"] == 3498 + 184 + 56 + 1057
    assert counts["test"] == 2255 + 2255 + 642 + 642
    assert (
        counts["train"] + counts["val"] == WaterbirdsSpecies.published["train"]
    )  # of CUB's 5,994 birds a fifth is val


def test_root_may_be_the_folder_around_it(root: Path) -> None:
    assert Waterbirds(root.parent).splits() == Waterbirds(root).splits()


def test_columns_go_by_name(root: Path) -> None:
    before = Waterbirds(root).splits()
    rewrite(root, lambda rows: [["x", *reversed(row)] for row in rows])
    assert Waterbirds(root).splits() == before


@pytest.mark.parametrize("name", MODES)
def test_files_of_other_modes_are_read(root: Path, name: str) -> None:
    with Image.open(root / name) as file:
        assert file.mode == MODES[name]
    assert read_image(root / name).shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("y", "2", r"y \(0 = landbird, 1 = waterbird\) is '2', expected 0 to 1"),
        ("place", "-1", r"place \(0 = land, 1 = water\) is '-1'"),
        ("place", "water", r"place .* is 'water'"),
        ("split", "3", r"split \(0 = train, 1 = val, 2 = test\) is '3', expected 0 to 2"),
        ("split", "", r"split .* is ''"),
    ],
)
def test_a_value_out_of_range_is_named(root: Path, column: str, value: str, words: str) -> None:
    set_cell(root, 4, column, value)
    with pytest.raises(ValueError, match=rf"metadata\.csv, line 4: {words}"):
        Waterbirds(root).splits()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:1], "lists no image of split 0"),
        (lambda rows: [], "has no column img_filename, y, place, split"),
        (lambda rows: [[*row[:4], *row[5:]] for row in rows], "has no column place;"),
        (lambda rows: [row for row in rows if row[3] != "2"], "lists no image of split 2"),
    ],
)
def test_wrong_metadata_is_named_with_the_remedy(root: Path, change, words: str) -> None:
    rewrite(root, change)
    with pytest.raises(ValueError, match=rf"(?s)metadata\.csv {words}.*waterbird_complete95_forest2water2\.tar\.gz"):
        Waterbirds(root).splits()


def test_what_is_missing_is_named_with_the_remedy(root: Path) -> None:
    (root / TANAGER / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)a\.jpg is missing, one of 1 images of 8.*group_DRO"):
        Waterbirds(root).splits()
    (root / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)metadata\.csv is missing.*group_DRO"):
        Waterbirds(root).splits()
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*metadata\.csv.*group_DRO"):
        Waterbirds(root / "nowhere")


def test_a_wrong_size_is_refused_at_once(root: Path) -> None:
    with pytest.raises(ValueError, match="image_size=0"):
        Waterbirds(root, image_size=0)


def test_species_by_the_number_of_the_folder(root: Path, cub_root: Path) -> None:
    birds = WaterbirdsSpecies(root, cub_root)
    splits = birds.splits()
    assert birds.classes == ("Parakeet Auklet", "Yellow headed Blackbird", "Summer Tanager")
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "test": 2, "ood_waterbirds": 6}
    assert {sample.group for name in ("train", "test") for sample in splits[name]} == {None}
    assert [(sample.id, sample.label, birds.groups[sample.group]) for sample in splits["ood_waterbirds"]] == [
        (f"{AUKLET}/t.jpg", 0, "Waterbird, Land"),
        (f"{AUKLET}/u.jpg", 0, "Waterbird, Water"),
        (f"{BLACKBIRD}/t.jpg", 1, "Landbird, Land"),
        (f"{BLACKBIRD}/u.jpg", 1, "Landbird, Water"),
        (f"{TANAGER}/t.jpg", 2, "Landbird, Land"),
        (f"{TANAGER}/u.jpg", 2, "Landbird, Water"),
    ]
    assert birds.group_shares is None  # the published average is plain


def test_species_need_the_images_of_the_test_split_only(root: Path, cub_root: Path) -> None:
    for file, _, split, _ in IMAGES:
        if split != 2:
            (root / file).unlink()
    assert len(WaterbirdsSpecies(root, cub_root).splits()["ood_waterbirds"]) == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "008.Rhinoceros_Auklet/t.jpg",
            r"is of species 8, of which .*CUB_200_2011 has no image: cub_root must be the whole",
        ),
        ("Parakeet_Auklet/t.jpg", "the number that img_filename begins with is 'Parakeet_Auklet/t', expected 1 to 200"),
        ("201.Dodo/t.jpg", "begins with is '201'"),
    ],
)
def test_a_species_that_is_none_of_cubs_is_named(root: Path, cub_root: Path, name: str, words: str) -> None:
    set_cell(root, len(IMAGES), "img_filename", name)
    with pytest.raises(ValueError, match=rf"metadata\.csv, line {len(IMAGES)}: .*{words}"):
        WaterbirdsSpecies(root, cub_root).splits()


def test_cub_is_looked_for_when_it_is_needed(root: Path, tmp_path: Path) -> None:
    birds = WaterbirdsSpecies(root, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*CUB's folder is CUB_200_2011.*CaltechDATA"):
        _ = birds.classes


@pytest.mark.cli
def test_a_run_reports_the_weighted_average_and_the_worst_group(root: Path, tmp_path: Path) -> None:
    results = trained("waterbirds", root, tmp_path, "protocol=last")
    assert results["images"] == {"train": 8, "test": 6}
    scores = results["scores"]["test"]
    groups = {name: (group["score"], group["n"]) for name, group in scores["groups"].items()}
    assert [n for _, n in groups.values()] == [2, 2, 1, 1]
    weighted = sum(share * score for share, (score, _) in zip((0.5, 0.125, 0.125, 0.25), groups.values(), strict=True))
    assert (scores["metric"], scores["n"]) == ("weighted_accuracy", 6)
    assert scores["score"] == scores["weighted_accuracy"] == pytest.approx(weighted)
    assert scores["accuracy"] == pytest.approx(sum(score * n for score, n in groups.values()) / 6)
    assert scores["worst_group_score"] == min(score for score, _ in groups.values())
    assert groups[scores["worst_group"]][0] == scores["worst_group_score"]


@pytest.mark.cli
def test_a_run_on_species_reports_groups_where_there_are_some(root: Path, cub_root: Path, tmp_path: Path) -> None:
    scores = trained("waterbirds_species", root, tmp_path, "protocol=last", f"dataset.cub_root={cub_root}")["scores"]
    assert list(scores) == ["test", "ood_waterbirds"]
    assert (scores["test"]["n"], scores["test"]["worst_group"]) == (2, None)
    assert scores["test"]["groups"] == dict.fromkeys(WaterbirdsSpecies.groups, {"score": None, "n": 0})
    ood = scores["ood_waterbirds"]
    assert [group["n"] for group in ood["groups"].values()] == [2, 2, 1, 1]
    assert ood["metric"] == "accuracy"
    assert ood["score"] == pytest.approx(sum(group["score"] * group["n"] for group in ood["groups"].values()) / 6)
