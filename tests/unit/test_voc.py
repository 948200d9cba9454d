"""The official layout in small: lists of twenty classes, difficult objects, masks of some images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image

from genaug.data.images import target_of
from genaug.data.reading import read_mask
from genaug.data.voc import CLASSES, VOC

NAMES = [name.replace(" ", "") for name in CLASSES]
BIRD, BOTTLE, CAR, CAT, TABLE, PERSON, TRAIN = (NAMES.index(name) for name in
    ("bird", "bottle", "car", "cat", "diningtable", "person", "train"))  # fmt: skip
SIZE = (30, 24)  # width and height

#: By list: image, the classes it shows, the classes of which it shows difficult objects only.
LISTS: dict[str, list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = {
    "trainval": [
        ("000012", (CAR,), ()),
        ("000005", (PERSON, CAT), (BOTTLE,)),
        ("000017", (PERSON, TABLE), ()),
        ("000023", (), (PERSON, CAR)),  # only difficult objects
        ("000026", (TRAIN,), (PERSON,)),
        ("000032", (BIRD,), ()),
    ],
    "test": [
        ("000001", (PERSON,), (CAR,)),
        ("000002", (TRAIN,), ()),
        ("000003", (CAR, CAT), ()),
        ("000004", (BIRD,), ()),
    ],
}


def segmentation(classes: tuple[int, ...]) -> np.ndarray:
    """An object of each class beside the other, with a border (255)."""
    pixels = np.zeros(SIZE[::-1], np.uint8)
    for number, label in enumerate(classes):
        left = 2 + 9 * number
        pixels[4:20, left : left + 8] = 255
        pixels[6:18, left + 1 : left + 7] = label + 1
    return pixels


def write_voc(root: Path, year: int = 2007, lists=LISTS, masked: bool = True) -> Path:
    """Write ``root/VOC<year>``; images without an object have an empty mask."""
    folder = root / f"VOC{year}"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    palette = [value for index in range(256) for value in (index, 255 - index, 7 * index % 256)]
    rng = np.random.default_rng(0)
    for split, images in lists.items():
        main = folder / "ImageSets" / "Main"
        (main / f"{split}.txt").write_text("".join(f"{image}\n" for image, _, _ in images))
        for label, name in enumerate(NAMES):
            flags = [1 if label in shown else 0 if label in unclear else -1 for _, shown, unclear in images]
            lines = [f"{image} {flag:2d}\n" for (image, _, _), flag in zip(images, flags, strict=True)]
            (main / f"{name}_{split}.txt").write_text("".join(lines))
        for image, shown, _ in images:
            pixels = rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{image}.jpg")
            (folder / "Annotations" / f"{image}.xml").write_text("<annotation/>")
            if masked:
                mask = Image.fromarray(segmentation(shown), "P")
                mask.putpalette(palette)
                mask.save(folder / "SegmentationClass" / f"{image}.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "VOCdevkit")


def test_labels_and_what_is_difficult(root: Path) -> None:
    voc = VOC(root)
    assert (voc.name, voc.multilabel, len(voc.classes), voc.classes[TABLE]) == ("voc2007", True, 20, "dining table")
    assert list(voc.classes) == sorted(voc.classes)
    splits = voc.splits()
    for split, name in (("train", "trainval"), ("test", "test")):
        expected = {
            f"JPEGImages/{image}.jpg": (tuple(sorted(shown)), tuple(sorted(unclear)))
            for image, shown, unclear in LISTS[name]
        }
        assert {s.id: (s.label, s.unknown) for s in splits[split]} == expected
        assert [s.id for s in splits[split]] == sorted(expected)
        assert all(s.path == root / "VOC2007" / s.id for s in splits[split])
    row = target_of(next(s for s in splits["train"] if s.id.endswith("23.jpg")), 20)
    assert sorted(np.flatnonzero(np.isnan(row))) == sorted([PERSON, CAR])
    assert np.nansum(row) == 0


def test_the_year_of_2012_is_trained_on_train_and_tested_on_val(tmp_path: Path) -> None:
    lists = {"train": LISTS["trainval"], "val": LISTS["test"]}  # with a class "train" of its own: train_train.txt
    voc = VOC(write_voc(tmp_path, 2012, lists), year=2012)
    assert voc.name == "voc2012"
    assert [s.id[-10:-4] for s in voc.splits()["test"]] == ["000001", "000002", "000003", "000004"]
    assert [s.id[-10:-4] for s in voc.splits()["train"] if TRAIN in s.label] == ["000026"]
    assert voc.published == {"train": 5717, "test": 5823, "classes": 20}


def test_published_counts(root: Path) -> None:
    assert VOC(root).published == {"train": 5011, "test": 4952, "classes": 20}


def test_objects_are_the_mask_without_their_borders(root: Path) -> None:
    for sample in VOC(root).splits()["train"]:
        shown = next(shown for image, shown, _ in LISTS["trainval"] if image in sample.id)
        mask = read_mask(sample.mask, sample.mask_values)
        assert (mask == ((segmentation(shown) > 0) & (segmentation(shown) < 255))).all()
        assert mask.sum() == 72 * len(shown)
    (root / "VOC2007" / "SegmentationClass" / "000017.png").unlink()
    without = [sample.id for sample in VOC(root).splits()["train"] if sample.mask is None]
    assert without == ["JPEGImages/000017.jpg"]


def test_root_may_be_the_folder_around_it_or_the_year_in_it(root: Path) -> None:
    assert VOC(root.parent).splits() == VOC(root).splits() == VOC(root / "VOC2007").splits()


def test_lists_may_name_more_images_than_the_split(root: Path) -> None:
    main = root / "VOC2007" / "ImageSets" / "Main"
    (main / "test.txt").write_text("000003\n000001\n")
    assert [s.id for s in VOC(root).splits()["test"]] == ["JPEGImages/000001.jpg", "JPEGImages/000003.jpg"]


@pytest.mark.parametrize(("argument", "value"), [("year", 2010), ("image_size", 0)])
def test_wrong_arguments_are_refused_at_once(root: Path, argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        VOC(root, **{argument: value})


def test_missing_root_says_what_is_expected_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"(?s)nowhere is missing.*aeroplane_trainval.*VOCtest_06-Nov-2007\.tar"
    ):
        VOC(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"(?s)tvmonitor_train\.txt.* val\n?.*VOCtrainval_11-May-2012\.tar"):
        VOC(tmp_path / "nowhere", year=2012)


@pytest.mark.parametrize(
    "file",
    ["ImageSets/Main/trainval.txt", "ImageSets/Main/diningtable_test.txt", "JPEGImages/000017.jpg"],
)
def test_what_is_missing_is_named(root: Path, file: str) -> None:
    (root / "VOC2007" / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s){Path(file).name} is missing.*VOCtrainval_06-Nov-2007"):
        VOC(root).splits()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("000005  1", "000005  2", r"cat_trainval\.txt, line 2: the flag of 000005 is '[ ]*2', expected -1, 0, 1"),
        ("000005  1", "000005", r"cat_trainval\.txt, line 2: the flag of 000005 is '', expected"),
        ("000005  1\n", "", r"(?s)cat_trainval\.txt lacks 1 images of the split, such as 000005\. .*VOCdevkit"),
    ],
)
def test_a_wrong_line_is_named(root: Path, old: str, new: str, words: str) -> None:
    path = root / "VOC2007" / "ImageSets" / "Main" / "cat_trainval.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=words):
        VOC(root).splits()


TINY = [
    "dataset.image_size=32", "model=tiny", "model.width=8", "recipe=demo", "recipe.batch_size=4", "trainer=cpu",
    "loader.num_workers=0", "trainer.max_steps=2", "protocol=last", "logger=none",
]  # fmt: skip


@pytest.mark.parametrize("method", ["deda_mixing", "cutmix"])
def test_a_step_of_training(root: Path, tmp_path: Path, method: str) -> None:
    more = ("method.view.p_aug=1", "segmenter=annotated") if method == "deda_mixing" else ()
    done = run_cli("dataset=voc", f"dataset.root={root}", f"method={method}", *more, *TINY, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results.json")).read_text(), parse_constant=pytest.fail)
    scores = results["scores"]["test"]
    assert (results["dataset"], scores["metric"], scores["n"]) == ("voc2007", "map", 4)
    assert scores["score"] == scores["map"]
    assert all(0 < scores[name] <= 1 for name in ("map", "map_voc2007", "map_voc2010"))
    assert [number for number, one in enumerate(scores["by_class"]["map"]) if one is not None] == sorted(
        [BIRD, CAR, CAT, PERSON, TRAIN]
    )
    assert "map_voc2007" in done.stdout
    if method == "deda_mixing":
        made = results["made"]
        assert (made["images"], made["objects"], made["scenes"], made["masks"]["empty"]) == (6, 5, 6, 1)
