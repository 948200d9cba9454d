from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TinyFolder, run_cli

from genaug.data.base import Dataset, Sample
from genaug.data.checking import FILE, check, look_at, report, thumbnail


def picture(seed: int, side: int = 48) -> np.ndarray:
    """Smooth colours, as a photograph has them."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


class Listed(Dataset):
    """Pictures by split, as told."""

    name, superclass, image_size = "listed", "thing", 32
    classes = ("a", "b")
    groups: tuple[str, ...] = ()
    published: dict[str, int] = {}

    def __init__(self, folder: Path, splits: dict[str, list[tuple[str, int]]]) -> None:
        self._splits = {
            split: [Sample(f"{split}/{name}", folder / name, label) for name, label in names]
            for split, names in splits.items()
        }

    def splits(self):
        return self._splits


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(6):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_counts_sizes_and_groups_by_hand(folder):
    Image.fromarray(picture(0, 100)[:60]).save(folder / "wide.png")
    Image.fromarray(np.eye(48, dtype=np.uint8) * 255).save(folder / "mask.png")
    Image.fromarray(np.zeros((60, 100), np.uint8)).save(folder / "empty.png")
    data = Listed(folder, {"train": [("0.png", 0), ("1.png", 1), ("wide.png", 1)], "test": [("2.png", 0)]})
    data.groups = ("x", "y")
    masks, groups = ("mask.png", None, "empty.png"), (0, 1, 1)
    data._splits["train"] = [
        Sample(one.id, one.path, one.label, mask=mask and folder / mask, group=group)
        for one, mask, group in zip(data._splits["train"], masks, groups, strict=True)
    ]
    found = check(data, workers=2)
    assert found.splits["train"] == {
        "images": 3,
        "by_class": {"a": 1, "b": 2},
        "by_group": {"x": 1, "y": 2},
        "short_side": [48, 48, 60],
        "masks": 2,
        "empty_masks": 1,
        "mean_coverage": pytest.approx(48 / 48**2 / 2),
    }
    assert found.splits["test"]["masks"] == 0
    assert not found.problems()


def test_several_labels_count_for_each_class(folder):
    data = Listed(folder, {"train": [("0.png", 0), ("1.png", 1)], "test": [("2.png", 0)]})
    data._splits["train"][0] = Sample("x", folder / "0.png", (0, 1))
    data._splits["train"][1] = Sample("y", folder / "1.png", ())
    assert check(data, 1).splits["train"]["by_class"] == {"a": 1, "b": 1}


def test_the_same_bytes_and_the_same_looks(folder):
    again = Image.fromarray(picture(1))
    again.resize((80, 80)).save(folder / "larger.jpg", quality=60)
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    Image.fromarray((picture(2) * 0.7 + 30).astype(np.uint8)).save(folder / "pale.png")
    data = Listed(
        folder,
        {
            "train": [(f"{n}.png", 0) for n in range(5)],
            "val": [("5.png", 0)],
            "test": [(name, 0) for name in ("copy.png", "larger.jpg", "pale.png")],
        },
    )
    [pair] = check(data, 1).duplicates
    assert pair["splits"] == ["train", "test"]
    assert pair["exact"] == [("train/0.png", "test/copy.png")]
    assert pair["similar"] == [("train/1.png", "test/larger.jpg"), ("train/2.png", "test/pale.png")]


def test_different_pictures_are_not_similar():
    thumbnails = np.stack([thumbnail(picture(seed)) for seed in range(60)])
    alike = thumbnails @ thumbnails.T
    assert np.diag(alike) == pytest.approx(np.ones(60), abs=1e-5)
    assert (alike - np.eye(60)).max() < 0.9


def test_a_picture_of_one_grey_is_like_no_other():
    assert thumbnail(np.full((20, 20, 3), 99, np.uint8)) is None


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"<html>", "starts with b'<html>'"), (None, "No such file")]
)
def test_what_cannot_be_read_is_a_finding(folder, content, words):
    if content is not None:
        (folder / "bad.jpg").write_bytes(content)
    image = look_at(Sample("bad", folder / "bad.jpg", 0))
    assert words in image.problem
    assert str(folder / "bad.jpg") in image.problem
    data = Listed(folder, {"train": [("0.png", 0), ("bad.jpg", 1)], "test": [("1.png", 0)]})
    [problem] = check(data, 1).problems()
    assert problem.startswith("1 files cannot be used, such as ")


def test_a_mask_of_another_size(folder):
    Image.new("L", (10, 20)).save(folder / "mask.png")
    assert (
        "is 10x20, but its image, upright, is 48x48"
        in look_at(Sample("x", folder / "0.png", 0, mask=folder / "mask.png")).problem
    )


def test_published_counts(folder, tmp_path, capsys):
    data = Listed(folder, {"train": [("0.png", 0), ("1.png", 1)], "test": [("2.png", 0)]})
    data.published = {"train": 2, "test": 1, "classes": 2}
    assert not check(data, 1).problems()
    data.published = {"train": 2, "test": 2, "ood_v2": 5, "classes": 3}
    found = check(data, 1)
    assert found.problems() == [
        "test: 1 here, 2 published", "ood_v2: 0 here, 5 published", "classes: 2 here, 3 published",
    ]  # fmt: skip
    report(data, found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / FILE).read_text())["published"]["test"] == [2, 1]
    assert "No picture is in two splits." in capsys.readouterr().out


def test_the_stage(tiny_folder: TinyFolder, tmp_path):
    done = run_cli("stage=check_data", *tiny_folder.overrides(), cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert "12 to 12" in done.stdout
    [file] = (tmp_path / "runs" / "checks").rglob(FILE)
    found = json.loads(file.read_text())
    assert found["splits"]["test"]["images"] == tiny_folder.test
    assert found["splits"]["train"]["masks"] == tiny_folder.train
