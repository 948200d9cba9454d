from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from genaug import threads as threads_module
from genaug.data.base import Sample
from genaug.functional.masks import box_slices, coverage, dilate, iou, keep_inside, mask_box
from genaug.segmentation import masks as masks_module
from genaug.segmentation.base import Segmentation, Segmenter, Words
from genaug.segmentation.masks import decode_mask, encode_mask, inside_box, make_masks, mask_key, questions, union

# --- arithmetic ---------------------------------------------------------------------------------------------------


def rectangle(shape, x, y, width, height):
    mask = np.zeros(shape, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def test_mask_box_is_tight_and_absent_for_an_empty_mask():
    assert mask_box(rectangle((9, 12), 3, 2, 5, 4)) == (3, 2, 5, 4)
    two = rectangle((9, 12), 0, 8, 1, 1) | rectangle((9, 12), 11, 0, 1, 1)
    assert mask_box(two) == (0, 0, 12, 9)
    assert mask_box(np.zeros((3, 3), bool)) is None


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((2, 1, 3, 2), (1, 3), (2, 5)),
        ((2.5, 1.5, 3, 2), (1, 4), (2, 6)),
        ((-4, -4, 100, 100), (0, 6), (0, 8)),
        ((7.5, 5.9, 5, 5), (5, 6), (7, 8)),
    ],
)
def test_box_slices_take_every_pixel_touched(box, rows, columns):
    assert box_slices(box, (6, 8)) == (slice(*rows), slice(*columns))


@pytest.mark.parametrize("box", [(20, 20, 3, 3), (-9, 1, 3, 3), (8, 0, 1, 1)])
def test_nothing_lies_inside_a_box_outside_the_image(box):
    assert not keep_inside(np.ones((6, 8), bool), box).any()


def test_box_without_area_is_refused():
    with pytest.raises(ValueError, match="positive width and height"):
        box_slices((1, 1, 0, 4), (6, 8))


def test_keep_inside_by_hand_and_without_touching_the_mask():
    mask = np.ones((4, 5), bool)
    kept = keep_inside(mask, (1, 2, 3, 1))
    assert np.argwhere(kept).tolist() == [[2, 1], [2, 2], [2, 3]]
    assert mask.all()


@pytest.mark.parametrize("pixels", [0, 1, 2.5, 6])
def test_dilate_is_a_disc_around_every_pixel(pixels):
    mask = np.random.default_rng(1).random((23, 31)) < 0.02
    y, x = np.mgrid[:23, :31]
    expected = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        expected |= (y - row) ** 2 + (x - column) ** 2 <= pixels**2
    assert (dilate(mask, pixels) == expected).all()


def test_dilate_of_nothing_and_of_everything():
    assert not dilate(np.zeros((5, 5), bool), 3).any()
    assert dilate(np.ones((5, 5), bool), 3).all()
    with pytest.raises(ValueError, match="negative"):
        dilate(np.ones((5, 5), bool), -1)


def test_iou_and_coverage_by_hand():
    a, b = rectangle((10, 10), 0, 0, 4, 4), rectangle((10, 10), 2, 2, 4, 4)
    assert iou(a, b) == pytest.approx(4 / 28)
    assert iou(a, a) == 1
    assert iou(a, ~a) == 0
    assert iou(a & ~a, a & ~a) == 1
    assert coverage(a) == pytest.approx(0.16)
    with pytest.raises(ValueError, match="one size"):
        iou(a, a[:5])


# --- making and keeping ----------------------------------------------------------------------------------------------


def showing(*superclasses, classes=("tern", "gull")):
    """What masks need to know of a dataset; with one superclass for all classes or one for each."""
    each = superclasses * len(classes) if len(superclasses) == 1 else superclasses
    return SimpleNamespace(
        superclass=superclasses[0] if len(superclasses) == 1 else "object", superclasses=each, classes=classes
    )


BIRDS, PLANES = showing("bird"), showing("plane")


class Red(Segmenter):
    """The red pixels; remembers which samples it was asked for."""

    def __init__(self, wait=0.0):
        self.asked, self.wait = [], wait

    @property
    def settings(self):
        return {}

    def segment(self, image, sample, prompt):
        self.asked.append(sample.id)
        time.sleep(self.wait)
        return Segmentation(image[..., 0] > 128, score=np.float32(0.5), note="red")


def planted(folder, number, mask, truth=None, box=None):
    """A sample whose red pixels are ``mask``; the blue channel makes every file another."""
    image = np.zeros((*mask.shape, 3), np.uint8)
    image[mask, 0] = 255
    image[..., 2] = number
    path = folder / f"{number}.png"
    Image.fromarray(image).save(path)
    truth_path = None
    if truth is not None:
        truth_path = folder / f"{number}-truth.png"
        Image.fromarray(truth.astype(np.uint8) * 255).save(truth_path)
    return Sample(f"a/{number}.png", path, 0, mask=truth_path, box=box)


@pytest.fixture
def samples(tmp_path):
    return [planted(tmp_path, n, rectangle((12, 17), n, 2, 4, 5)) for n in range(6)]


def test_masks_come_back_as_found(samples, tmp_path):
    masks = make_masks(samples, Red(), BIRDS, tmp_path / "store", workers=2)
    assert list(masks) == [sample.id for sample in samples]
    for n, sample in enumerate(samples):
        assert masks[sample.id].dtype == bool
        assert (masks[sample.id] == rectangle((12, 17), n, 2, 4, 5)).all()
        assert masks.record(sample.id)["score"] == 0.5


def test_files_have_one_bit_a_pixel():
    mask = np.random.default_rng(0).random((64, 61)) < 0.5
    data = encode_mask(mask)
    assert data[24] == 1  # bit depth in the PNG header
    assert (decode_mask(data) == mask).all()


def test_only_what_is_missing_is_made_again(samples, tmp_path):
    segmenter = Red()
    before = make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=1)
    (records,) = (tmp_path / "store" / segmenter.fingerprint / "records").glob("*.jsonl")
    lines = records.read_text().splitlines()
    lost = json.loads(lines.pop(3))["id"]
    records.write_text("\n".join(lines) + "\n")
    segmenter.asked.clear()
    after = make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=1)
    assert segmenter.asked == [lost]
    assert all((after[name] == before[name]).all() for name in before)


def test_prompt_box_and_contents_make_a_new_mask(samples, tmp_path):
    segmenter = Red()
    make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=1)
    segmenter.asked.clear()
    boxed = [replace(samples[0], box=(0.0, 0.0, 5.0, 5.0)), *samples[1:]]
    samples[4].path.write_bytes(planted(tmp_path, 77, rectangle((12, 17), 0, 0, 1, 1)).path.read_bytes())
    make_masks(boxed, segmenter, BIRDS, tmp_path / "store", workers=1)
    assert segmenter.asked == ["a/0.png", "a/4.png"]
    segmenter.asked.clear()
    make_masks(boxed, segmenter, PLANES, tmp_path / "store", workers=1)
    assert len(segmenter.asked) == 6


def stored_masks(root):
    return {path.name: path.read_bytes() for path in root.rglob("*.png")}


def test_the_number_of_workers_changes_nothing(samples, tmp_path):
    one = make_masks(samples, Red(), BIRDS, tmp_path / "one", workers=1)
    two = make_masks(samples, Red(wait=0.005), BIRDS, tmp_path / "two", workers=2)
    assert len(stored_masks(tmp_path / "one")) == 6
    assert stored_masks(tmp_path / "one") == stored_masks(tmp_path / "two")
    assert {**one.report(), "seconds": 0} == {**two.report(), "seconds": 0}
    with pytest.raises(ValueError, match="workers"):
        make_masks(samples, Red(), BIRDS, tmp_path / "none", workers=0)


def test_many_threads_lose_no_record(tmp_path):
    samples = [planted(tmp_path, n, rectangle((4, 4), 0, 0, 2, 2)) for n in range(200)]
    make_masks(samples, Red(), BIRDS, tmp_path / "store", workers=16)
    segmenter = Red()
    make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=1)
    assert segmenter.asked == []


class Batched(Red):
    """As Red, several images at once; notes what it was given, how it was loaded, and how many calls overlapped."""

    batch_size = 4
    serial = True

    def __init__(self, wait=0.0, chokes_on=(), reads_class=True):
        super().__init__(wait)
        self.reads_class = reads_class
        self.chokes_on, self.batches, self.words, self.loads, self.inside = chokes_on, [], [], [], 0

    def load(self, device):
        self.loads.append(device)

    def unload(self):
        self.loads.append("unloaded")

    def segment_batch(self, images, samples, words):
        self.inside += 1
        assert self.inside == 1
        self.batches.append([sample.id for sample in samples])
        self.words += words
        found = super().segment_batch(images, samples, words)
        time.sleep(0.005)
        self.inside -= 1
        if set(self.batches[-1]) & set(self.chokes_on):
            raise MemoryError("too large")
        return found


def test_batches_and_threads_change_nothing(samples, tmp_path):
    alone = make_masks(samples, Red(), BIRDS, tmp_path / "one", workers=1)
    segmenter = Batched(reads_class=False)  # or it would look for masks of other words than the first
    together = make_masks(samples, segmenter, BIRDS, tmp_path / "two", workers=3, device="cuda:7")
    assert sorted(map(len, segmenter.batches)) == [2, 4]
    assert {frozenset(batch) for batch in segmenter.batches} == {
        frozenset(f"a/{n}.png" for n in range(4)),
        frozenset(f"a/{n}.png" for n in range(4, 6)),
    }
    assert segmenter.loads == ["cuda:7", "unloaded"]
    assert stored_masks(tmp_path / "one") == stored_masks(tmp_path / "two")
    assert {**alone.report(), "seconds": 0} == {**together.report(), "seconds": 0}
    again = Batched(reads_class=False)
    make_masks(samples, again, BIRDS, tmp_path / "two", workers=3)
    assert (again.batches, again.loads) == ([], [])


def test_one_call_ends_before_the_next_begins(tmp_path):
    samples = [planted(tmp_path, n, rectangle((4, 4), 0, 0, 2, 2)) for n in range(40)]
    make_masks(samples, segmenter := Batched(), BIRDS, tmp_path / "store", workers=8)
    assert len(segmenter.batches) == 10


def test_an_image_that_fails_in_a_batch_costs_no_other(samples, tmp_path, caplog):
    segmenter = Batched(chokes_on={"a/1.png"})
    samples[2].path.write_bytes(b"no image")
    with pytest.raises(RuntimeError, match=r"2 of 6 images .*\n.*1\.png: MemoryError: too large\n.*2\.png: ImageError"):
        make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=1)
    assert segmenter.batches == [
        ["a/0.png", "a/1.png", "a/3.png"],
        ["a/0.png"],
        ["a/1.png"],
        ["a/3.png"],
        ["a/4.png", "a/5.png"],
    ]
    assert "3 images together failed" in caplog.text
    assert segmenter.loads == ["cpu", "unloaded"]
    again = Batched()
    with pytest.raises(RuntimeError, match="1 of 6"):
        make_masks(samples, again, BIRDS, tmp_path / "store", workers=1)
    assert again.batches == [["a/1.png"]]


def test_class_names_reach_those_that_read_them_and_count_for_them_alone(samples, tmp_path):
    mixed = [replace(sample, label=label) for sample, label in zip(samples, (0, 1, (0,), (0, 1), 1, 0), strict=True)]
    segmenter = Batched()
    make_masks(mixed, segmenter, BIRDS, tmp_path / "store", workers=1)
    one, both = [Words("tern")], [Words("tern"), Words("gull")]  # labels of multi-label data are the words themselves
    assert segmenter.words == [
        Words("bird", "tern"), Words("bird", "gull"), *one, *both, Words("bird", "gull"), Words("bird", "tern")
    ]  # fmt: skip
    again = Batched()
    make_masks(mixed, again, showing("bird", classes=("tern", "goose")), tmp_path / "store", workers=1)
    assert [name for batch in again.batches for name in batch] == ["a/1.png", "a/3.png", "a/3.png", "a/4.png"]
    blind = Red()
    keys = [
        make_masks(mixed, blind, showing("bird", classes=names), tmp_path / "store", 1)
        for names in (("auk", "owl"), BIRDS.classes)
    ]
    assert len(blind.asked) == 6
    assert [keys[0].key(name) for name in keys[0]] == [keys[1].key(name) for name in keys[1]]
    assert keys[0].key("a/0.png") == mask_key(mixed[0], "bird")


def test_each_sample_is_asked_for_the_superclass_of_its_class(samples, tmp_path):
    mixed = [replace(sample, label=number) for number, sample in enumerate(samples[:3])]
    zoo, segmenter = showing("bird", "snake", "snake", classes=("tern", "adder", "boa")), Batched()
    masks = make_masks(mixed, segmenter, zoo, tmp_path / "store", workers=1)
    assert segmenter.words == [Words("bird", "tern"), Words("snake", "adder"), Words("snake", "boa")]
    assert masks.key("a/1.png") == mask_key(mixed[1], "snake", "adder")
    # A store of birds alone is found again by the birds of a zoo.
    make_masks(mixed[:1], again := Red(), BIRDS, tmp_path / "store", workers=1)
    make_masks(mixed[:1], again, zoo, tmp_path / "store", workers=1)
    assert len(again.asked) == 1


def test_equal_images_are_segmented_once(samples, tmp_path):
    twins = [*samples, *(replace(sample, id=f"b/{n}.png") for n, sample in enumerate(samples))]
    masks = make_masks(twins, segmenter := Red(), BIRDS, tmp_path / "store", workers=4)
    assert len(segmenter.asked) == 6
    assert len(masks) == 12
    assert (masks["a/3.png"] == masks["b/3.png"]).all()


def test_runs_that_start_together_do_the_work_once(samples, tmp_path):
    segmenters = [Red(wait=0.02) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda one: make_masks(samples, one, BIRDS, tmp_path / "store", workers=2), segmenters))
    assert sorted(len(one.asked) for one in segmenters) == [0, 0, 6]
    assert all(masks["a/2.png"].sum() == 20 for masks in results)


def test_a_finished_store_is_read_where_nothing_can_be_written(samples, tmp_path, monkeypatch):
    make_masks(samples, Red(), BIRDS, tmp_path / "store", workers=1)

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(masks_module, "FileLock", refuse)
    assert len(make_masks(samples, Red(), BIRDS, tmp_path / "store", workers=1)) == 6
    with pytest.raises(PermissionError):
        make_masks(samples, Red(), PLANES, tmp_path / "store", workers=1)


def test_a_failing_image_is_named_and_costs_no_other(samples, tmp_path):
    good = samples[2].path.read_bytes()
    samples[2].path.write_bytes(b"no image")
    segmenter = Red()
    with pytest.raises(RuntimeError, match=r"1 of 6 images .*\n.*2\.png"):
        make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=2)
    assert len(segmenter.asked) == 5
    samples[2].path.write_bytes(good)
    segmenter.asked.clear()
    masks = make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=2)
    assert segmenter.asked == ["a/2.png"]
    assert len(masks) == 6


def test_an_interrupted_run_stops_soon_and_keeps_what_it_made(tmp_path, monkeypatch):
    samples = [planted(tmp_path, n, rectangle((4, 4), 0, 0, 2, 2)) for n in range(60)]

    def interrupted(items, total, description):
        for item in items:
            yield item
            if description == "segmenting":
                raise KeyboardInterrupt

    monkeypatch.setattr(threads_module, "track", interrupted)
    segmenter = Red(wait=0.02)
    with pytest.raises(KeyboardInterrupt):
        make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=2)
    monkeypatch.undo()
    made = set(segmenter.asked)
    assert 1 <= len(made) < 30
    segmenter.asked.clear()
    make_masks(samples, segmenter, BIRDS, tmp_path / "store", workers=2)
    assert set(segmenter.asked) == {sample.id for sample in samples} - made


def test_a_mask_of_the_wrong_kind_is_refused(samples, tmp_path):
    class Small(Red):
        def segment(self, image, sample, prompt):
            return Segmentation(np.ones((2, 2), bool), None, "small")

    with pytest.raises(RuntimeError, match=r"Small made a mask of bool \(2, 2\).*\(12, 17\)"):
        make_masks(samples[:1], Small(), BIRDS, tmp_path / "store", workers=1)


def test_a_mask_is_cut_to_the_box_unless_nothing_would_be_left():
    mask = rectangle((6, 8), 1, 1, 4, 4)
    found = Segmentation(mask, None, "red")
    inside, note = inside_box(found, (3, 0, 5, 3))
    assert (inside == rectangle((6, 8), 3, 1, 2, 2)).all()
    assert note == "red"
    kept, note = inside_box(found, (6, 0, 2, 2))
    assert (kept == mask).all()
    assert note == "red, outside the box"
    assert inside_box(found, None)[0] is mask
    assert inside_box(Segmentation(mask & ~mask, None, "red"), (0, 0, 2, 2))[1] == "red"


def test_report_by_hand(tmp_path):
    shape = (10, 10)
    quarter, half = rectangle(shape, 0, 0, 5, 5), rectangle(shape, 0, 0, 10, 5)
    samples = [
        planted(tmp_path, 1, half, truth=quarter),  # IoU 1/2
        planted(tmp_path, 2, half, truth=quarter, box=(0, 0, 5, 10)),  # cut to the quarter: IoU 1
        planted(tmp_path, 3, np.zeros(shape, bool)),
        planted(tmp_path, 4, np.ones(shape, bool)),
        planted(tmp_path, 5, half, box=(0, 6, 3, 3)),
    ]
    report = make_masks(samples, Red(), BIRDS, tmp_path / "store", workers=2).report()
    assert report.pop("seconds") > 0
    assert report == {
        "n": 5,
        "coverage": pytest.approx((0.5 + 0.25 + 0 + 1 + 0.5) / 5),
        "empty": 1,
        "near_full": 1,
        "iou": pytest.approx(0.75),
        "iou_n": 2,
        "notes": {"red": 4, "red, outside the box": 1},
    }


def test_report_without_ground_truth_or_samples(samples, tmp_path):
    report = make_masks(samples, Red(), BIRDS, tmp_path / "store", workers=1).report()
    assert (report["iou"], report["iou_n"]) == (None, 0)
    empty = make_masks([], Red(), BIRDS, tmp_path / "store", workers=1).report()
    assert (empty["n"], empty["coverage"]) == (0, None)


def test_a_ground_truth_of_another_size_is_refused(tmp_path):
    sample = planted(tmp_path, 1, np.ones((6, 8), bool), truth=np.ones((8, 6), bool))
    with pytest.raises(RuntimeError, match=r"1\.png.*\(6, 8\) and \(8, 6\)"):
        make_masks([sample], Red(), BIRDS, tmp_path / "store", workers=1)


def test_what_is_found_of_several_labels_is_one_mask():
    left, right = rectangle((3, 4), 0, 0, 3, 1), rectangle((3, 4), 0, 3, 3, 1)
    both = union([Segmentation(left, 0.9, "box"), Segmentation(right, 0.4, "box"), Segmentation(left, 0.5, "fallback")])
    assert (both.mask == left | right).all()
    assert (both.score, both.note) == (0.4, "box, fallback")
    assert union([Segmentation(left, 0.9, "box"), Segmentation(right, None, "box")]).score is None
    assert union([one := Segmentation(left, 0.9, "box")]) is one


@pytest.mark.parametrize(
    ("label", "reading", "blind"),
    [
        (1, (Words("snake", "adder"),), "snake"),
        ((1,), (Words("adder"),), "snake"),
        ((0, 1), (Words("tern"), Words("adder")), "object"),  # a bird and a snake
        ((1, 2), (Words("adder"), Words("boa")), "snake"),
        ((), (Words("object"),), "object"),
    ],
)
def test_the_questions_of_a_sample(label, reading, blind):
    sample, zoo = (
        Sample("0.png", Path("0.png"), label),
        showing("bird", "snake", "snake", classes=("tern", "adder", "boa")),
    )
    assert questions(sample, zoo, reads_class=True) == reading
    assert questions(sample, zoo, reads_class=False) == (Words(blind),)
