from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_judge import CROP, MEASURES, Colours, Maps, Pictures, draw, mask_of, network
from torch import Tensor

from genaug.explaining import comparison
from genaug.explaining.comparison import ROWS, compare, pair, save_galleries
from genaug.explaining.finished import find_finished, short_names
from genaug.explaining.judge import Judge, Look

# --- pairs ---------------------------------------------------------------------------------------------------------


def test_pairs_by_hand():
    found = pair({"a": [0.1, 0.2, 0.3, None, 0.5], "b": [0.2, 0.5, 0.4, 0.9, None]})
    assert found.n == 3
    assert found.means == {"a": pytest.approx(0.2), "b": pytest.approx(1.1 / 3)}
    # Differences 0.1, 0.3, 0.1: mean 1/6, standard deviation 0.2 / sqrt(3); t(0.975, 2) = 4.302653.
    half = 4.302653 * 0.2 / math.sqrt(3) / math.sqrt(3)
    assert found.differences == {
        "b": {
            "mean": pytest.approx(1 / 6),
            "low": pytest.approx(1 / 6 - half, rel=1e-6),
            "high": pytest.approx(1 / 6 + half, rel=1e-6),
        }
    }


def test_every_network_must_have_the_image():
    found = pair({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 2.0, None, 4.0], "c": [5.0, None, 1.0, 2.0]})
    assert (found.n, found.means) == (2, {"a": 1.5, "b": 2.5, "c": 3.5})
    assert list(found.differences) == ["b", "c"]
    assert found.differences["b"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found.differences["c"]["mean"] == 2.0  # to the first, not to the one before
    assert found.differences["c"]["high"] == pytest.approx(2 + 12.7062 * 3, rel=1e-5)  # 5, -1; t(0.975, 1) = 12.7062


def test_a_zero_is_a_value():
    assert pair({"a": [0.0, 0.0], "b": [0.0, 1.0]}).n == 2


@pytest.mark.parametrize("values", [{"a": [0.25, None], "b": [0.75, 0.5]}, {"a": [0.25], "b": [0.75]}])
def test_one_image_has_no_interval(values):
    found = pair(values)
    assert (found.n, found.means, found.differences) == (1, {"a": 0.25, "b": 0.75}, {"b": None})


@pytest.mark.parametrize("values", [{"a": [None, 1.0], "b": [2.0, None]}, {"a": [], "b": []}])
def test_no_image(values):
    found = pair(values)
    assert (found.n, found.means, found.differences) == (0, {"a": None, "b": None}, {"b": None})


def test_one_network_has_nothing_to_differ_from():
    found = pair({"a": [1.0, None, 2.0]})
    assert (found.n, found.means, found.differences) == (2, {"a": 1.5}, {})


def test_networks_that_saw_other_images_are_refused():
    with pytest.raises(ValueError, match="shorter|longer"):
        pair({"a": [1.0, 2.0], "b": [1.0]})


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["runs/birds/vanilla/ab", "runs/birds/deda/ab"], ["vanilla", "deda"]),
        (["runs/birds/deda/ab", "runs/birds/deda/cd"], ["deda/ab", "deda/cd"]),
        (["runs/birds/deda/ab", "runs/birds/deda/cd", "runs/birds/aga/ab"], ["deda/ab", "deda/cd", "aga/ab"]),
        (["runs/birds/deda/ab", "old/birds/deda/ab"], ["runs/birds/deda/ab", "old/birds/deda/ab"]),
        (["runs/birds/deda/ab"], ["deda"]),
    ],
)
def test_short_names(folders, expected):
    assert short_names([Path(one) for one in folders]) == expected


def finish(root: Path, *names: str) -> None:
    for name in names:
        (root / name / "checkpoints").mkdir(parents=True)
        (root / name / "config.yaml").touch()
        (root / name / "checkpoints" / "final.ckpt").touch()


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    finish(tmp_path, "runs/birds/deda/ab", "runs/birds/deda/cd", "runs/birds/vanilla/ef")
    (tmp_path / "runs/birds/aga/gh/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/birds/aga/gh/config.yaml").touch()  # still training
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("runs/birds/deda/ab", ["deda/ab"]),
        (["runs/birds/vanilla/ef", "runs/birds/deda/cd"], ["vanilla/ef", "deda/cd"]),  # in the order given
        ("runs/birds/deda/*", ["deda/ab", "deda/cd"]),
        ("runs/*/*/*", ["deda/ab", "deda/cd", "vanilla/ef"]),  # the one in training is none
        (["runs/birds/vanilla/*", "runs/birds/*/*"], ["vanilla/ef", "deda/ab", "deda/cd"]),  # each once
        (["runs/birds/deda/ab/", "./runs/birds/deda/ab"], ["deda/ab"]),
    ],
)
def test_finished_runs(runs, asked, expected):
    assert find_finished(asked) == [Path("runs/birds") / one for one in expected]


@pytest.mark.parametrize("pattern", ["runs/birds/deda/*", "runs/birds/deda/ab"])
def test_finished_runs_by_their_whole_path(runs, pattern):
    assert runs / "runs/birds/deda/ab" in find_finished(str(runs / pattern))


@pytest.mark.parametrize("asked", ["runs/birds/aga/gh", "runs/birds/aga/*", "nowhere", "runs/birds/nowhere/*", "runs"])
def test_what_is_no_finished_run_is_named(runs, asked):
    with pytest.raises(ValueError, match=r"is no finished run: expected a folder with .*final.ckpt") as caught:
        find_finished(["runs/birds/deda/ab", asked])
    assert f"runs: {asked} is" in str(caught.value)


@pytest.mark.parametrize("asked", [None, [], ""])
def test_no_runs(runs, asked):
    with pytest.raises(ValueError, match="stage=explain needs runs=|is no finished run"):
        find_finished(asked)


# --- galleries -----------------------------------------------------------------------------------------------------


def look(*right: bool) -> Look:
    """What a network that is right about these images left; class 0 is shown, class 1 said where it is wrong."""
    records = [
        {"label": 0, "predicted": 0 if one else 1, "right": one, "confidence": 0.5 + i / 100}
        for i, one in enumerate(right)
    ]
    maps = torch.rand(len(right), 8, 8, generator=torch.Generator().manual_seed(len(right)))
    pictures = [(np.full((8, 8, 3), 40 + i, np.uint8), one.numpy()) for i, one in enumerate(maps)]
    return Look(summary={}, curves={}, records=records, pictures=pictures)


def squares(path: Path) -> int:
    """How many squares of a sheet show something."""
    sheet = np.asarray(Image.open(path))
    rows, columns = (sheet.shape[0] - 6) // 196, (sheet.shape[1] - 6) // 166
    places = [(6 + 196 * row + 80, 6 + 166 * column + 80) for row in range(rows) for column in range(columns)]
    return sum(tuple(sheet[place]) != (250, 250, 248) for place in places)


def size(path: Path) -> tuple[int, int]:
    """Squares beside and below each other."""
    with Image.open(path) as image:
        assert (image.width - 6) % 166 == (image.height - 6) % 196 == 0
        return (image.width - 6) // 166, (image.height - 6) // 196


def test_galleries_by_who_is_right(tmp_path):
    one, other = look(True, True, False, False, True, True), look(True, False, True, False, False, True)
    save_galleries({"a": one, "b": other}, ["crow", "gull"], tmp_path, "test")
    # Two of the six are right for both, three for one; the one that neither knows is in no gallery. Three squares each.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_all_right.png", "test_not_all_right.png"]
    assert (size(tmp_path / "test_all_right.png"), squares(tmp_path / "test_all_right.png")) == ((6, 1), 6)
    assert (size(tmp_path / "test_not_all_right.png"), squares(tmp_path / "test_not_all_right.png")) == ((6, 2), 9)


@pytest.mark.parametrize(("networks", "wide"), [(1, 8), (2, 6), (3, 8), (4, 5), (9, 10)])
def test_an_image_and_its_maps_stand_in_one_row(tmp_path, networks, wide):
    looks = {f"{i}": look(*[True] * 12) for i in range(networks)}
    save_galleries(looks, ["crow", "gull"], tmp_path, "test")
    assert size(tmp_path / "test_all_right.png")[0] == wide
    assert squares(tmp_path / "test_all_right.png") == 12 * (networks + 1)
    assert not (tmp_path / "test_not_all_right.png").exists()


def test_a_gallery_has_no_more_rows_than_anybody_looks_at(tmp_path):
    looks = {"a": look(*[True] * 30), "b": look(*[False] * 30)}
    save_galleries(looks, ["crow", "gull"], tmp_path, "test")
    assert squares(tmp_path / "test_not_all_right.png") == ROWS * 3


def test_the_gallery_of_an_earlier_comparison_goes(tmp_path):
    save_galleries({"a": look(True), "b": look(False)}, ["crow", "gull"], tmp_path, "test")
    save_galleries({"a": look(True), "b": look(True)}, ["crow", "gull"], tmp_path, "test")
    assert [path.name for path in tmp_path.iterdir()] == ["test_all_right.png"]


def test_what_stands_below(tmp_path, monkeypatch):
    sheets: list = []
    monkeypatch.setattr(comparison, "save_sheet", lambda tiles, texts, path, columns: sheets.append((tiles, texts)))
    one, other = look(False, True, True), look(True, False, True)
    save_galleries({"a": one, "b": other}, ["crow", "gull"], tmp_path, "test")
    (tiles, texts), (_, right) = sheets
    assert texts == ["crow", "a + said gull", "b + right 0.50", "crow", "a + right 0.51", "b + said gull"]
    assert right == ["crow", "a + right 0.52", "b + right 0.52"]
    assert [int(tiles[i].mean()) for i in (0, 3)] == [40, 41]  # the images themselves


def test_grey_images(tmp_path):
    grey = look(True)
    grey.pictures = [(np.full((8, 8, 1), 90, np.uint8), grey.pictures[0][1])]
    save_galleries({"a": grey}, ["crow", "gull"], tmp_path, "test")
    assert squares(tmp_path / "test_all_right.png") == 2


# --- whole comparisons ---------------------------------------------------------------------------------------------


class Timid(Colours):
    """Is hardly sure of green images, so that these are skipped."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean(dim=(2, 3))
        return torch.where(means.argmax(dim=1) == 1, 0.05, self.weight)[:, None] * means


class Turned(Timid):
    """Takes red for blue and blue for red, besides."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flip(1)


def test_networks_are_compared_on_what_all_of_them_have(tmp_path):
    samples = [draw(tmp_path, f"{i}", i % 3, i % 3) for i in range(9)]
    networks = {"bold": network(), "timid": network(Timid()), "turned": network(Turned())}
    judge = Judge(Maps(samples, mask_of), images=9, thresholds=[0.1, 0.5])
    found = compare(networks, {"test": samples}, Pictures(), CROP, judge, None, tmp_path / "out")["test"]
    alone = {name: judge.look(one, judge.choose(samples), Pictures(), CROP) for name, one in networks.items()}
    assert found["images"] == 9
    assert found["right"] == {"bold": 9, "timid": 9, "turned": 3}
    # Who takes red for blue believes neither; who is hardly sure of green believes that as little.
    assert found["sic"]["alone"]["turned"]["n"] == found["sic"]["n"] == 0
    assert set(found["sic"]["means"].values()) == {None}
    for measure in ("insertion", "deletion", "energy"):
        assert found[measure]["n"] == 9
    for measure in MEASURES:
        for name, one in alone.items():
            assert found[measure]["alone"][name] == {key: one.summary[measure][key] for key in ("mean", "n")}
    # All are right about green; three maps and the image itself.
    assert squares(tmp_path / "out" / "test_all_right.png") == 3 * 4
    assert squares(tmp_path / "out" / "test_not_all_right.png") == 6 * 4


def test_differences_are_those_of_the_images_that_both_have(tmp_path):
    samples = [draw(tmp_path, f"{i}", i % 3, i % 3) for i in range(9)]
    networks = {"timid": network(Timid()), "bold": network()}
    judge = Judge(Maps(samples, mask_of), images=9, thresholds=[0.1, 0.5])
    splits = {"test": samples, "ood_x": samples[:4]}
    found = compare(networks, splits, Pictures(), CROP, judge, None, tmp_path / "out")
    values = {
        name: {one["id"]: one["sic"] for one in judge.look(given, samples, Pictures(), CROP).records}
        for name, given in networks.items()
    }
    for split, chosen in splits.items():
        rows = [(values["timid"][one.id], values["bold"][one.id]) for one in chosen]
        have = [row for row in rows if None not in row]
        sic = found[split]["sic"]
        assert sic["n"] == len(have) >= 2
        assert sic["means"]["timid"] == pytest.approx(np.mean([timid for timid, _ in have]))
        assert sic["means"]["bold"] == pytest.approx(np.mean([bold for _, bold in have]))
        gap = np.mean([bold - timid for timid, bold in have])
        assert sic["differences"]["bold"]["mean"] == pytest.approx(gap, abs=1e-12)
        assert found[split]["images"] == len(chosen)
    # The bold one has green images too: alone it stands on others.
    assert found["test"]["sic"]["alone"]["bold"]["n"] > found["test"]["sic"]["n"]
    assert found["test"]["sic"]["alone"]["bold"]["mean"] != pytest.approx(found["test"]["sic"]["means"]["bold"])
    assert squares(tmp_path / "out" / "test_all_right.png") == 27
    assert squares(tmp_path / "out" / "ood_x_all_right.png") == 12
    assert not (tmp_path / "out" / "test_not_all_right.png").exists()
