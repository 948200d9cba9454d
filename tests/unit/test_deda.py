from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from renderers import runner_in
from torch import nn

from genaug.data.base import Sample
from genaug.data.images import ImageDataset, one_hot
from genaug.data.reading import read_image
from genaug.methods.deda import Combined, Decouple, OnlineCombination, Parts
from genaug.segmentation.annotated import Annotated
from genaug.synthesis.store import Store

ROOT = Path(__file__).parents[2]
BIRDS = SimpleNamespace(superclass="bird", superclasses=("bird",) * 4, channels=3, classes=("a", "b", "c", "d"))
RUNNER = runner_in(Path("stores"))

# --- decoupling: green objects on scenes without any green ---------------------------------------------------------


def scene(height: int, width: int) -> np.ndarray:
    """Red grows to the right, blue downwards; there is no green."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([255 * x / (width - 1), 0 * x, 255 * y / (height - 1)]).astype(np.uint8)


def planted(height: int, width: int, mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """The scene with green texture, and neither red nor blue, inside the mask."""
    image = scene(height, width)
    image[mask] = 0
    image[mask, 1] = np.random.default_rng(seed).integers(128, 256, mask.sum())
    return image


def blob(height: int, width: int) -> np.ndarray:
    """An ellipse with a hole, off the centre."""
    y, x = np.mgrid[:height, :width]
    y, x = (y / height - 0.45) / 0.3, (x / width - 0.6) / 0.2
    return (y**2 + x**2 <= 1) & (y**2 + x**2 > 0.05)


def decouple(image: np.ndarray, mask: np.ndarray, side: int, **settings: float):
    return Decouple(Annotated(), **settings).decouple(image, mask, side)


def test_the_object_is_exact_inside_its_mask():
    mask = blob(80, 100)
    image = planted(80, 100, mask)
    files, record = decouple(image, mask, side=80)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cutout = files["cdp-0.npy"]
    assert ((cutout[..., 3] == 255) == mask[box]).all()
    assert ((cutout[..., 3] == 0) == ~mask[box]).all()
    assert (cutout[mask[box], :3] == image[box][mask[box]]).all()
    # y from 13 to 60 and x from 40 to 79: centre (60, 36), long side 48 of a short side of 80.
    assert record["place"] == [
        (columns[0] + columns[-1] + 1) / 200,
        (rows[0] + rows[-1] + 1) / 160,
        max(len(rows), len(columns)) / 80,
    ]
    assert (record["cdp"], record["cip"]) == (True, True)
    assert (record["box"], record["size"]) == ((columns[0], rows[0], len(columns), len(rows)), [80, 100])


@pytest.mark.parametrize("side", [20, 37, 80, 200])
def test_no_colour_of_the_background_is_left_around_the_object(side):
    mask = blob(80, 100)
    cutout = decouple(planted(80, 100, mask), mask, side)[0]["cdp-0.npy"]
    assert cutout[..., [0, 2]].max() == 0
    assert cutout[..., 1].min() >= 120


@pytest.mark.parametrize("side", [20, 40, 160])
def test_a_stored_object_is_no_larger_than_training_needs(side):
    mask = blob(80, 100)  # 47 x 40
    shape = decouple(planted(80, 100, mask), mask, side)[0]["cdp-0.npy"].shape
    whole = np.array([np.count_nonzero(mask.any(1)), np.count_nonzero(mask.any(0))])
    assert shape[:2] == tuple(np.round(whole * min(1, side / whole.max())).astype(int))


@pytest.mark.parametrize("side", [20, 40, 80, 160])
def test_the_scene_has_no_colour_of_the_object(side):
    mask = blob(80, 100)
    cip = decouple(planted(80, 100, mask), mask, side)[0]["cip.npy"]
    assert cip.shape == (side, round(side * 1.25), 3)
    assert cip[..., 1].max() == 0


def test_thin_parts_of_the_object_leave_the_scene_too():
    mask = blob(400, 500)
    mask[300:390, 300] = True  # a leg of one pixel, of which shrinking leaves a quarter
    cip = decouple(planted(400, 500, mask), mask, side=100)[0]["cip.npy"]
    assert cip[..., 1].max() == 0


def test_the_scene_keeps_what_is_known_and_continues_it():
    mask = blob(80, 100)
    files, _ = decouple(planted(80, 100, mask), mask, side=80, dilation=0.05)
    y, x = np.mgrid[:80, :100]
    points = np.argwhere(mask)
    distance = np.sqrt(((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).min(axis=-1))
    known = distance > 4  # 5 % of 80
    whole = scene(80, 100)
    assert (files["cip.npy"][known] == whole[known]).all()
    assert (files["cip.npy"][~known] != whole[~known]).any()  # the hole was filled, not remembered
    # A smooth scene is continued smoothly.
    assert np.abs(files["cip.npy"].astype(int) - whole).mean(axis=(0, 1)).max() < 10


def test_a_photograph_is_brought_to_the_training_size_by_its_short_side():
    image = np.full((50, 200, 3), 9, np.uint8)
    files, record = decouple(image, np.zeros((50, 200), bool), side=32)
    assert files["cip.npy"].shape == (32, 128, 3)
    assert (files["cip.npy"] == 9).all()


def test_an_empty_mask_gives_the_image_as_scene_and_no_object():
    image = planted(40, 60, blob(40, 60))
    files, record = decouple(image, np.zeros((40, 60), bool), side=40)
    assert (record["cdp"], record["cip"]) == (False, True)
    assert list(files) == ["cip.npy"]
    assert (files["cip.npy"] == image).all()


def test_an_object_that_fills_the_frame_gives_no_scene():
    mask = np.ones((40, 60), bool)
    image = planted(40, 60, mask)
    files, record = decouple(image, mask, side=40)
    assert (record["cdp"], record["cip"]) == (True, False)
    assert list(files) == ["cdp-0.npy"]
    assert (files["cdp-0.npy"][..., :3] == resized(image, 40)).all()
    assert record["place"] == [0.5, 0.5, 1.5]


def resized(image: np.ndarray, long_side: int) -> np.ndarray:
    import cv2

    scale = long_side / max(image.shape)
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def test_min_scene_is_the_share_left_around_the_grown_hole():
    mask = np.zeros((100, 100), bool)
    mask[:, :69] = True  # grown by one pixel: 30 columns are left
    image = planted(100, 100, mask)
    assert decouple(image, mask, side=100, dilation=0.0, min_scene=0.30)[1]["cip"]
    assert not decouple(image, mask, side=100, dilation=0.0, min_scene=0.31)[1]["cip"]
    assert not decouple(image, mask, side=100, dilation=0.02, min_scene=0.30)[1]["cip"]


def test_min_object_is_the_share_of_the_image():
    mask = np.zeros((100, 100), bool)
    mask[10:15, 10:20] = True  # 50 of 10,000
    image = planted(100, 100, mask)
    assert decouple(image, mask, side=100, min_object=0.005)[1]["cdp"]
    files, record = decouple(image, mask, side=100, min_object=0.0051)
    assert (record["cdp"], record["cip"]) == (False, True)
    assert "cdp-0.npy" not in files
    assert files["cip.npy"][..., 1].max() == 0  # too small to be used, and still no part of the scene


@pytest.mark.parametrize("name", ["dilation", "min_object", "min_scene"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2])
def test_decouple_refuses_what_is_no_fraction(name, value):
    with pytest.raises(ValueError, match=rf"method.synthesis.{name}={value} is not a fraction.*\[0, 1\)"):
        Decouple(Annotated(), **{name: value})


# --- decoupling many images ----------------------------------------------------------------------------------------


def photographs(folder: Path, count: int = 4, size: tuple[int, int] = (40, 50)) -> list[Sample]:
    samples = []
    for number in range(count):
        mask = np.roll(blob(*size), number, axis=1)
        Image.fromarray(planted(*size, mask, seed=number)).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"mask-{number}.png")
        path, mask_path = folder / f"{number}.png", folder / f"mask-{number}.png"
        samples.append(Sample(f"{number}.png", path, number % 2, mask=mask_path))
    return samples


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Sides that images are decoupled at, one for each image."""
    seen, original = [], Decouple.decouple

    def spy(self, image, mask, side):
        seen.append(side)
        return original(self, image, mask, side)

    monkeypatch.setattr(Decouple, "decouple", spy)
    return seen


def test_parts_are_those_of_their_samples(tmp_path):
    samples = photographs(tmp_path)
    parts = Decouple(Annotated()).make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    for index, sample in enumerate(samples):
        mask = np.roll(blob(40, 50), index, axis=1)
        image = read_image(sample.path)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (parts.cdp(index)[mask[box], :3] == image[mask]).all()
        assert parts.cip(index).shape == image.shape
    report = parts.report()
    assert (report["images"], report["objects"], report["scenes"]) == (4, 4, 4)
    assert (report["masks"]["n"], report["masks"]["iou"]) == (4, 1.0)


def test_what_is_there_is_not_made_again(tmp_path, calls):
    samples = photographs(tmp_path)
    Decouple(Annotated()).make(samples[:3], BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    assert len(calls) == 3
    Decouple(Annotated(), workers=3).make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    assert len(calls) == 4


def test_after_a_kill_only_the_entries_without_record_are_made(tmp_path, calls):
    samples = photographs(tmp_path)
    first = Decouple(Annotated()).make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    before = [(first.cdp(i), first.cip(i)) for i in range(4)]
    for file in (first.store.root / "records").glob("*.jsonl"):
        lines = [line for line in file.read_text().splitlines() if line]
        kept = [line for line in lines if json.loads(line)["key"] not in (first.keys[1], first.keys[2])]
        torn = next(line for line in lines if json.loads(line)["key"] == first.keys[1])[:20]
        file.write_text("\n".join([*kept, torn]))
    del calls[:]
    second = Decouple(Annotated()).make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    assert len(calls) == 2
    for index, (cdp, cip) in enumerate(before):
        assert (second.cdp(index) == cdp).all()
        assert (second.cip(index) == cip).all()


@pytest.mark.parametrize(
    ("settings", "side"), [({}, 20), ({"dilation": 0.1}, 40), ({"min_object": 0.1}, 40), ({"min_scene": 0.1}, 40)]
)
def test_other_settings_are_another_store(tmp_path, calls, settings, side):
    samples = photographs(tmp_path)
    Decouple(Annotated()).make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    Decouple(Annotated(), **settings).make(samples, BIRDS, tmp_path / "stores", side=side, runner=RUNNER)
    assert len(calls) == 8


def test_images_that_nobody_annotated_stay_as_they_are(tmp_path, caplog):
    samples = photographs(tmp_path)
    some = [samples[0], replace(samples[1], mask=None), *samples[2:]]
    parts = Decouple(Annotated()).make(some, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    assert parts.has_cdp.tolist() == parts.has_cip.tolist() == [True, False, True, True]
    assert (parts.report()["images"], parts.report()["without_mask"], parts.report()["masks"]["n"]) == (4, 1, 3)
    assert "1 of 4 images have no mask" in caplog.text
    assert [stage.count for stage in Decouple(Annotated()).plan(some, BIRDS, tmp_path)] == [3, 3]
    none = [replace(sample, mask=None) for sample in samples]
    with pytest.raises(RuntimeError, match=r"(?s)4 of 4 images .*segmenter=annotated needs"):
        Decouple(Annotated()).make(none, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)


def test_masks_that_give_nothing_are_refused_with_their_count(tmp_path):
    samples = photographs(tmp_path, count=2)
    with pytest.raises(ValueError, match=r"masks of 2 images gave 0 objects and 2 scenes.*stores"):
        Decouple(Annotated(), min_object=0.9).make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    with pytest.raises(ValueError, match=r"masks of 2 images gave 2 objects and 0 scenes"):
        Decouple(Annotated(), min_scene=0.99).make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)


def test_grey_images_are_refused_before_anything_is_made(tmp_path, calls):
    grey = SimpleNamespace(superclass="bird", channels=1, classes=BIRDS.classes)
    with pytest.raises(ValueError, match="dataset.channels=1.*dataset.channels=3"):
        Decouple(Annotated()).make(photographs(tmp_path), grey, tmp_path / "stores", side=40, runner=RUNNER)
    assert not calls
    assert not (tmp_path / "stores").exists()


# --- online combination: every scene, object and synthetic object has a colour of its own --------------------------

SIDE = 32
REAL = 255


class Real:
    """White images."""

    def __init__(self, samples, num_classes):
        self.samples, self.num_classes = samples, num_classes

    def __len__(self):
        return len(self.samples)

    def draw(self, index, rng):
        return np.full((SIDE, SIDE, 3), REAL, np.uint8), one_hot(self.samples[index].label, self.num_classes)


def block(colour: tuple[int, int, int], height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, 4), (*colour, 255), np.uint8)


class Keys:
    """Masks of which only the keys are asked for: that of "3.png" is "k3"."""

    def key(self, sample_id: str) -> str:
        return f"k{Path(sample_id).stem}"

    def __contains__(self, sample_id: str) -> bool:
        return True


class Copies:
    """Synthetic objects of one colour each, at the place of the real ones."""

    def __init__(self, kept: dict[str, tuple[int, ...]], places: list[list[float]]) -> None:
        self.kept, self.places = kept, places

    def part(self, sample_id: str, copy: int):
        index = int(Path(sample_id).stem)
        return block((0, 0, 200 + 10 * copy + index)), self.places[index]


def world(
    folder: Path,
    labels: tuple = (0, 1, 2, 0, 1, 2),
    synthetic: int | dict[int, tuple[int, ...]] = 0,
    scene_size: tuple[int, int] = (SIDE, SIDE),
    objects: dict[int, np.ndarray] | None = None,
    places: dict[int, list[float]] | None = None,
    no_cdp: tuple[int, ...] = (),
    no_cip: tuple[int, ...] = (),
) -> tuple[Real, Parts]:
    """Scene i is red (i + 1), object i green (100 + i), its synthetic copies blue (200 + 10 copy + i).

    ``synthetic`` is how many copies each object has, or which ones those named have.
    """
    store, keys = Store(folder), [f"k{number}" for number in range(len(labels))]
    for i, key in enumerate(keys):
        files = {"cip.npy": np.full((*scene_size, 3), (i + 1, 0, 0), np.uint8)}
        files["cdp-0.npy"] = (objects or {}).get(i, block((0, 100 + i, 0)))
        record = {"cdp": i not in no_cdp, "cip": i not in no_cip}
        store.add(key, files, record | {"place": (places or {}).get(i, [0.5, 0.5, 0.25])})
    samples = [Sample(f"{i}.png", Path(f"{i}.png"), label) for i, label in enumerate(labels)]
    flat = [one for label in labels for one in (label if isinstance(label, tuple) else (label,))]
    edited = None
    if synthetic:
        every = {i: tuple(range(1, synthetic + 1)) for i in range(len(labels))} if type(synthetic) is int else synthetic
        kept = {f"{i}.png": copies for i, copies in every.items()}
        edited = Copies(kept, [store[key]["place"] for key in keys])
    return Real(samples, max(flat) + 1), Parts(store, samples, Keys(), edited)


def view(real_and_parts: tuple[Real, Parts], **settings) -> Combined:
    return OnlineCombination(**settings)(*real_and_parts)


def colours(image: np.ndarray) -> Counter:
    packed, counts = np.unique(image.astype(np.int64) @ (1 << 16, 1 << 8, 1), return_counts=True)
    return Counter({(c >> 16, c >> 8 & 255, c & 255): n for c, n in zip(packed.tolist(), counts.tolist(), strict=True)})


def scene_of(image: np.ndarray) -> int | None:
    """Index of the scene, None for a real image."""
    (red,) = {red for red, green, blue in colours(image) if green == blue == 0} or {0}
    return red - 1 if red else None


def objects_of(image: np.ndarray) -> list[tuple[int, int]]:
    """Index and copy (0: the real one) of every object that can be seen."""
    found = {(green - 100, 0) for red, green, blue in colours(image) if red == 0 and green >= 100}
    found |= {(blue % 10, blue // 10 - 20) for red, green, blue in colours(image) if red == 0 and blue >= 200}
    return sorted(found)


def draws(combined: Combined, count: int, index: int = 0):
    for seed in range(count):
        yield combined.draw(index, np.random.default_rng(seed))


def within(observed: int, n: int, p: float) -> bool:
    """Whether a count lies within 4 standard deviations of a binomial's mean."""
    return abs(observed - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def test_never_replaced_with_p_aug_0(tmp_path):
    combined = view(world(tmp_path), p_aug=0.0)
    assert len(combined) == 6
    for index in range(6):
        for image, label in draws(combined, 50, index):
            assert (image == REAL).all()
            assert label.tolist() == one_hot(index % 3, 3).tolist()


def test_always_its_own_object_on_another_scene_with_p_aug_1(tmp_path):
    combined = view(world(tmp_path), p_aug=1.0, p_mix=0.0)
    for index in range(6):
        scenes = Counter()
        for image, label in draws(combined, 100, index):
            assert objects_of(image) == [(index, 0)]
            assert label.dtype == np.float32
            assert label.tolist() == one_hot(index % 3, 3).tolist()
            scenes[scene_of(image)] += 1
        assert sorted(scenes) == [other for other in range(6) if other != index]


def test_scenes_are_drawn_evenly(tmp_path):
    combined = view(world(tmp_path), p_aug=1.0, p_mix=0.0)
    scenes = Counter(scene_of(image) for image, _ in draws(combined, 1000, 2))
    assert len(scenes) == 5
    assert all(within(count, 1000, 1 / 5) for count in scenes.values())


def test_cip_other_class_is_never_of_the_same_class(tmp_path):
    combined = view(world(tmp_path), p_aug=1.0, p_mix=0.0, cip="other_class")
    scenes = Counter(scene_of(image) for image, _ in draws(combined, 400, 0))
    assert sorted(scenes) == [1, 2, 4, 5]  # 0 and 3 are of class 0
    assert all(within(count, 400, 1 / 4) for count in scenes.values())


def test_cip_own_is_its_own(tmp_path):
    combined = view(world(tmp_path), p_aug=1.0, p_mix=0.0, cip="own")
    assert {scene_of(image) for image, _ in draws(combined, 50, 4)} == {4}


def test_frequencies_are_the_probabilities(tmp_path):
    n = 3000
    combined = view(world(tmp_path, synthetic=2), p_aug=0.5, p_mix=0.5, p_syn=0.25)
    drawn = list(draws(combined, n, 1))
    augmented = [(image, label) for image, label in drawn if scene_of(image) is not None]
    assert within(len(augmented), n, 0.5)
    mixed = [image for image, label in augmented if label[1] != 1]
    assert within(len(mixed), len(augmented), 0.5)
    single = [objects_of(image) for image, label in augmented if label[1] == 1]
    assert {len(objects) for objects in single} == {1}
    copies = Counter(objects[0][1] for objects in single)
    assert within(len(single) - copies[0], len(single), 0.25)
    assert within(copies[1], copies[1] + copies[2], 0.5)
    second = Counter(one for image in mixed for one in objects_of(image) if one[0] != 1)
    assert {index for index, _ in second} == {0, 2, 3, 5}  # 1 and 4 are of class 1
    assert within(sum(count for (_, copy), count in second.items() if copy), sum(second.values()), 0.25)


def test_without_synthetic_objects_the_real_ones_are_used(tmp_path):
    combined = view(world(tmp_path), p_aug=1.0, p_syn=1.0, p_mix=0.0)
    assert all(objects_of(image) == [(0, 0)] for image, _ in draws(combined, 20))


def test_p_syn_1_uses_synthetic_objects_only(tmp_path):
    combined = view(world(tmp_path, synthetic=1), p_aug=1.0, p_syn=1.0, p_mix=0.0)
    assert all(objects_of(image) == [(0, 1)] for image, _ in draws(combined, 20))


def test_a_copy_that_failed_is_never_drawn_and_shifts_no_other(tmp_path):
    combined = view(world(tmp_path, synthetic={0: (1, 3), 2: (2,)}), p_aug=1.0, p_syn=1.0, p_mix=0.0)
    seen = Counter(copy for image, _ in draws(combined, 400) for _, copy in objects_of(image))
    assert set(seen) == {1, 3}
    assert within(seen[1], 400, 0.5)
    assert {copy for image, _ in draws(combined, 20, 2) for _, copy in objects_of(image)} == {2}
    assert {copy for image, _ in draws(combined, 20, 1) for _, copy in objects_of(image)} == {0}
    with pytest.raises(KeyError, match=r"0.png has the synthetic objects \(1, 3\), not 2"):
        combined.parts.cdp(0, 2)


def test_without_synthetic_objects_p_syn_changes_nothing_and_says_so_once(tmp_path, caplog):
    built = world(tmp_path)
    with caplog.at_level("INFO", logger="genaug.methods.deda"):
        never, always = view(built, p_aug=1.0, p_syn=0.0), view(built, p_aug=1.0, p_syn=1.0)
        pairs = zip(draws(never, 60), draws(always, 60), strict=True)
        assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in pairs)
    (message,) = caplog.messages
    assert message == "method.view.p_syn=1 has no effect: there are no synthetic objects"


def test_an_image_without_object_stays_real(tmp_path):
    combined = view(world(tmp_path, no_cdp=(0,)), p_aug=1.0)
    assert all((image == REAL).all() for image, _ in draws(combined, 20, 0))
    others = {one for image, _ in draws(combined, 200, 1) for one in objects_of(image)}
    assert (0, 0) not in others
    assert (3, 0) in others


def test_an_image_without_scene_is_used_for_its_object_only(tmp_path):
    combined = view(world(tmp_path, no_cip=(0, 1)), p_aug=1.0, p_mix=0.0)
    images = [image for index in range(6) for image, _ in draws(combined, 60, index)]
    assert {scene_of(image) for image in images} == {2, 3, 4, 5}
    assert {objects_of(image)[0][0] for image in images} == set(range(6))
    own = view(world(tmp_path / "own", no_cip=(0,)), p_aug=1.0, p_mix=0.0, cip="own")
    assert all((image == REAL).all() for image, _ in draws(own, 20, 0))
    assert all(scene_of(image) == 1 for image, _ in draws(own, 20, 1))


# --- mixed labels --------------------------------------------------------------------------------------------------

# On 32 x 32: 10 x 10 at (2, 3), and 8 x 8 at (6, 6). They share 6 columns and 7 rows.
TWO = {
    "labels": (0, 1),
    "objects": {0: block((0, 100, 0), 10, 10), 1: block((0, 101, 0), 8, 8)},
    "places": {0: [7 / 32, 8 / 32, 10 / 32], 1: [10 / 32, 10 / 32, 8 / 32]},
}


@pytest.mark.parametrize(
    ("index", "label_area", "expected"),
    [
        (0, "visible", [58 / 122, 64 / 122]),  # object 1 lies over object 0: 100 - 42 and 64
        (1, "visible", [100 / 122, 22 / 122]),  # the other way round: 64 - 42 and 100
        (0, "full", [100 / 164, 64 / 164]),
        (1, "full", [100 / 164, 64 / 164]),
    ],
)
def test_mixed_label_of_two_rectangles_by_hand(tmp_path, index, label_area, expected):
    combined = view(world(tmp_path, **TWO), p_aug=1.0, p_mix=1.0, placement="original", label_area=label_area)
    image, label = combined.draw(index, np.random.default_rng(0))
    assert label.tolist() == pytest.approx(expected)
    seen = np.zeros((SIDE, SIDE), int)
    for one in (index, 1 - index):
        rows, columns = ((3, 13), (2, 12)) if one == 0 else ((6, 14), (6, 14))
        seen[rows[0] : rows[1], columns[0] : columns[1]] = 100 + one
    assert (image[..., 1] == seen).all()


def test_mixed_labels_follow_the_pixels_that_can_be_seen(tmp_path):
    combined = view(world(tmp_path), p_aug=1.0, p_mix=1.0, size=(0.2, 1.0))
    overlaps = 0
    for image, label in draws(combined, 300, 0):
        pixels = Counter()
        for (_red, green, _blue), count in colours(image).items():
            if green:
                pixels[(green - 100) % 3] += count
        total = sum(pixels.values())
        assert label.dtype == np.float32
        assert label.sum() == pytest.approx(1, abs=1e-6)
        assert label.tolist() == pytest.approx([pixels[k] / total for k in range(3)], abs=1e-6)
        overlaps += round(math.sqrt(max(pixels.values()))) ** 2 != max(pixels.values())
    assert overlaps > 30  # squares that are no longer square: hidden parts did occur


def test_labels_with_several_classes_are_mixed_by_area(tmp_path):
    labels = ((0, 1), (2,), (0,))
    real_and_parts = world(tmp_path, **(TWO | {"labels": labels, "objects": {}, "places": {2: [0.1, 0.1, 0.25]}}))
    combined = view(real_and_parts, p_aug=1.0, p_mix=1.0, placement="original", label_area="full")
    for _, label in draws(combined, 20, 0):
        assert label.tolist() == [0.5, 0.5, 0.5]  # only sample 1 has a class that sample 0 has not


def partners(combined: Combined, index: int) -> set[int]:
    """Whose objects are put beside that of image ``index``."""
    seen = {number for image, _ in draws(combined, 100, index) for number, _ in objects_of(image)}
    return seen - {index}


def test_a_second_object_brings_a_class_that_the_first_lacks(tmp_path):
    labels = ((0, 1), (0, 2), (0,), (0, 1, 2))
    combined = view(world(tmp_path, labels=labels), p_aug=1.0, p_mix=1.0, size=(0.25, 0.25))
    assert [partners(combined, index) for index in range(4)] == [{1, 3}, {0, 3}, {0, 1, 3}, set()]


def test_an_image_of_no_class_stays_as_it_is_and_gives_its_scene(tmp_path):
    combined = view(world(tmp_path, labels=((0,), (), (1,))), p_aug=1.0, p_mix=1.0)
    for image, label in draws(combined, 20, 1):
        assert (image == REAL).all()
        assert label.tolist() == [0, 0]
    drawn = list(draws(combined, 50, 0))
    assert {scene_of(image) for image, _ in drawn} == {1, 2}
    assert {number for image, _ in drawn for number, _ in objects_of(image)} == {0, 2}


def with_unknown(real_and_parts: tuple[Real, Parts], unknown: dict[int, tuple[int, ...]]) -> tuple[Real, Parts]:
    real, parts = real_and_parts
    real.samples = [replace(one, unknown=unknown.get(i, ())) for i, one in enumerate(real.samples)]
    return real, parts


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        ({0: (2,)}, [0.5, 0.5, None, 0]),  # of the object
        ({1: (2,)}, [0.5, 0.5, None, 0]),  # of the other object
        ({2: (2,)}, [0.5, 0.5, None, 0]),  # of the scene
        ({2: (0, 3)}, [0.5, 0.5, 0, None]),  # what an object shows is there whatever the scene has
        ({1: (0,)}, [None, 0.5, 0, 0]),
    ],
)
def test_what_is_unknown_stays_so(tmp_path, unknown, expected):
    far = {0: [0.2, 0.2, 0.25], 1: [0.8, 0.8, 0.25]}
    labels = ((0,), (1,), (), (3,))
    made = world(tmp_path, labels=labels, places=far, no_cip=(0, 1, 3), no_cdp=(3,))
    combined = view(with_unknown(made, unknown), p_aug=1.0, p_mix=1.0, cip="other_class", placement="original")
    label = combined.draw(0, np.random.default_rng(0))[1].tolist()
    assert [None if math.isnan(one) else one for one in label] == expected


def test_what_is_unknown_of_a_hidden_object_does_not_matter(tmp_path):
    there = {0: [0.5, 0.5, 0.25], 1: [0.5, 0.5, 0.25]}
    made = with_unknown(world(tmp_path, labels=((0,), (1,), (2,)), places=there, no_cdp=(2,)), {0: (2,)})
    combined = view(made, p_aug=1.0, p_mix=1.0, placement="original")
    assert combined.draw(0, np.random.default_rng(0))[1].tolist() == [0, 1, 0]


# --- placement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 50), (50, 40), (45, 45)])
def test_original_placement_on_its_own_scene_gives_the_image_back(tmp_path, size):
    samples = photographs(tmp_path, size=size)
    parts = Decouple(Annotated()).make(samples, BIRDS, tmp_path / "stores", side=min(size), runner=RUNNER)
    combined = view((Real(samples, 2), parts), p_aug=1.0, p_mix=0.0, cip="own", placement="original")
    for index, sample in enumerate(samples):
        image, _ = combined.draw(index, np.random.default_rng(0))
        mask = np.roll(blob(*size), index, axis=1)
        original = read_image(sample.path)
        assert (image[mask] == original[mask]).all()
        assert image[~mask][:, 1].max() == 0
        far = ~mask & (np.abs(image.astype(int) - original).max(axis=-1) > 0)
        assert far.sum() < 0.25 * (~mask).sum()  # what differs is the rim of the filled hole


def test_original_placement_is_exact_for_every_width(tmp_path):
    for width in range(1, 101):
        x, y, height = (100 - width) // 2, 3, (width + 1) // 2
        store = Store(tmp_path / str(width))
        place = [(x + width / 2) / 100, (y + height / 2) / 100, max(width, height) / 100]
        files = {"cip.npy": np.zeros((100, 100, 3), np.uint8), "cdp-0.npy": block((0, 100, 0), height, width)}
        store.add("k0", files, {"cdp": True, "cip": True, "place": place})
        real = Real([Sample("0.png", Path("0.png"), 0)], 2)
        combined = view(
            (real, Parts(store, real.samples, Keys())), p_aug=1.0, p_mix=0.0, cip="own", placement="original"
        )
        image, _ = combined.draw(0, np.random.default_rng(0))
        expected = np.zeros((100, 100), bool)
        expected[y : y + height, x : x + width] = True
        assert ((image[..., 1] == 100) == expected).all(), width


def test_original_placement_keeps_place_and_size_as_fractions(tmp_path):
    places = {0: [0.75, 0.25, 0.5]}
    combined = view(world(tmp_path, scene_size=(32, 64), places=places), p_aug=1.0, p_mix=0.0, placement="original")
    image, _ = combined.draw(0, np.random.default_rng(0))
    rows, columns = np.nonzero(image[..., 1])
    # 16 x 16, half of the short side, around (48, 8).
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 15, 40, 55)


def test_synthetic_objects_take_the_place_of_the_real_one(tmp_path):
    combined = view(world(tmp_path, synthetic=1), p_aug=1.0, p_mix=0.0, p_syn=1.0, cip="own", placement="original")
    image, _ = combined.draw(0, np.random.default_rng(0))
    assert (image[12:20, 12:20] == (0, 0, 210)).all()  # Figure 9 (b): same size, same position
    assert colours(image)[(0, 0, 210)] == 64


def test_random_placement_has_the_size_asked_for_and_reaches_every_corner(tmp_path):
    combined = view(world(tmp_path, scene_size=(32, 48)), p_aug=1.0, p_mix=0.0, size=(0.25, 0.5))
    longs, lefts, rights, tops, bottoms = [], [], [], [], []
    for image, _ in draws(combined, 600):
        rows, columns = np.nonzero(image[..., 1])
        assert rows.max() - rows.min() == columns.max() - columns.min()
        longs.append(rows.max() - rows.min() + 1)
        lefts.append(columns.min())
        rights.append(47 - columns.max())
        tops.append(rows.min())
        bottoms.append(31 - rows.max())
    assert (min(longs), max(longs)) == (8, 16)
    assert np.mean(longs) == pytest.approx(12, abs=0.5)  # uniform
    assert min(lefts) == min(rights) == min(tops) == min(bottoms) == 0
    assert np.mean(lefts) == pytest.approx(np.mean(rights), abs=2)


@pytest.mark.parametrize("shape", [(1, 80), (80, 1), (3, 200), (200, 2), (1, 1), (64, 64)])
@pytest.mark.parametrize("scene_size", [(16, 64), (64, 16), (16, 16)])
@pytest.mark.parametrize("settings", [{}, {"rotation": 45.0}, {"placement": "original"}])
def test_objects_of_any_shape_stay_inside(tmp_path, shape, scene_size, settings):
    objects = {i: block((0, 100 + i, 0), *shape) for i in range(3)}
    places = {i: [0.99 * i / 2, 0.99 - 0.99 * i / 2, 3.0] for i in range(3)}  # larger than the frame, and at its rim
    built = world(tmp_path, labels=(0, 1, 2), objects=objects, places=places, scene_size=scene_size)
    combined = view(built, p_aug=1.0, p_mix=0.5, size=(1.0, 1.0), **settings)
    for index in range(3):
        for image, label in draws(combined, 10, index):
            assert image.shape == (*scene_size, 3)
            assert label.sum() == pytest.approx(1)
            assert image[..., 1].max() > 0


def test_flips_mirror_the_object(tmp_path):
    half = np.concatenate([block((0, 110, 0), 8, 4), block((0, 200, 0), 8, 4)], axis=1)
    left_is_110 = {}
    for flip in (0.0, 0.5, 1.0):
        built = world(tmp_path / str(flip), objects={0: half})
        combined = view(built, p_aug=1.0, p_mix=0.0, size=(0.25, 0.25), flip=flip)
        left_is_110[flip] = 0
        for image, _ in draws(combined, 200):
            _, columns = np.nonzero(image[..., 1])
            row = image[..., 1].max(axis=0)
            left_is_110[flip] += row[columns.min()] == 110
    assert left_is_110[0.0] == 200
    assert left_is_110[1.0] == 0
    assert within(left_is_110[0.5], 200, 0.5)


def test_rotation_turns_objects_either_way_up_to_its_angle(tmp_path):
    objects = {0: block((0, 100, 0), 4, 60)}
    combined = view(
        world(tmp_path, objects=objects, scene_size=(128, 128)), p_aug=1.0, p_mix=0.0, size=(0.5, 0.5), rotation=30.0
    )
    angles = []
    for image, _ in draws(combined, 150):
        rows, columns = np.nonzero(image[..., 1] > 50)
        angles.append(np.degrees(np.arctan(np.polyfit(columns, -rows.astype(float), 1)[0])))
    assert -32 < min(angles) < -25
    assert 25 < max(angles) < 32
    assert np.mean(angles) == pytest.approx(0, abs=6)


# --- reproducible --------------------------------------------------------------------------------------------------


def test_a_draw_is_named_by_seed_epoch_and_index(tmp_path):
    combined = view(world(tmp_path))

    def images(seed, epoch):
        dataset = ImageDataset(combined, nn.Identity(), seed)
        return [dataset[epoch, index, True] for index in range(6)]

    def same(one, other):
        return all(
            (a["image"] == b["image"]).all() and (a["target"] == b["target"]).all()
            for a, b in zip(one, other, strict=True)
        )

    first = images(seed=0, epoch=0)
    assert same(first, images(seed=0, epoch=0))
    assert not same(first, images(seed=0, epoch=1))
    assert not same(first, images(seed=1, epoch=0))


def test_the_store_is_not_changed_by_drawing(tmp_path):
    built = world(tmp_path, synthetic=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    combined = view(built, p_aug=1.0, rotation=20.0)
    for index in range(6):
        list(draws(combined, 10, index))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("p_aug", 1.5, "method.view.p_aug=1.5 is not a probability"),
        ("p_syn", -0.1, "method.view.p_syn=-0.1 is not a probability"),
        ("p_mix", 2, "method.view.p_mix=2 is not a probability"),
        ("flip", float("nan"), "method.view.flip=nan is not a probability"),
        ("cip", "other", "method.view.cip='other' is not known: choose one of other_image, other_class, own"),
        ("placement", "middle", "method.view.placement='middle' is not known: choose one of random, original"),
        ("label_area", "half", "method.view.label_area='half' is not known: choose one of visible, full"),
        ("size", (0.9, 0.4), "must be .smallest, largest."),
        ("size", (0.0, 0.4), "must be .smallest, largest."),
        ("size", (0.5, 1.1), "must be .smallest, largest."),
        ("size", (0.5,), "must be .smallest, largest."),
        ("rotation", -1.0, "method.view.rotation=-1.0 must be an angle"),
    ],
)
def test_bad_arguments_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        OnlineCombination(**{name: value})


@pytest.mark.parametrize(
    ("made", "settings", "message"),
    [
        ({"labels": (0, 1), "no_cip": (0,)}, {}, "cip=other_image needs scenes of at least two images.*cip=own"),
        ({"labels": (0, 0, 1), "no_cip": (2,)}, {"cip": "other_class"}, "two classes. Use cip=other_image"),
        ({"labels": (0, 0, 1), "no_cdp": (2,)}, {}, "p_mix > 0 needs objects of at least two classes.*p_mix=0"),
        ({"labels": ((0, 1), (0, 1), ())}, {}, "p_mix > 0 needs objects of at least two classes.*p_mix=0"),
        ({"labels": ((0,), (1,), (0, 1))}, {"p_mix": 0, "cip": "other_class"}, "2.png.*cip=other_image"),
    ],
)
def test_impossible_combinations_are_refused_before_the_first_draw(tmp_path, made, settings, message):
    with pytest.raises(ValueError, match=message):
        view(world(tmp_path, **made), **settings)


def test_what_is_refused_above_goes_with_the_advice(tmp_path):
    view(world(tmp_path / "a", labels=(0, 1), no_cip=(0,)), cip="own")
    view(world(tmp_path / "b", labels=(0, 0, 1), no_cip=(2,)), cip="other_image")
    view(world(tmp_path / "c", labels=(0, 0, 1), no_cdp=(2,)), p_mix=0.0)
    view(world(tmp_path / "d", labels=((0, 1), (0, 1), ())), p_mix=0.0)
    view(world(tmp_path / "e", labels=((0,), (1,), (0, 1))), p_mix=0.0)


# --- Figure 9 ------------------------------------------------------------------------------------------------------

FIGURE_9 = {
    "a": "view.p_aug=0",
    "b": "view.cip=own view.placement=original view.p_aug=0.25 view.p_syn=1 view.p_mix=0",
    "c": "view.cip=own view.placement=random view.p_aug=0.25 view.p_syn=1 view.p_mix=0",
    "d": "view.p_syn=0 view.p_mix=0 view.placement=original",
    "e": "view.p_syn=0 view.p_mix=0",
    "f": "view.p_mix=0",
    "g": "",
}


@pytest.mark.parametrize("row", FIGURE_9)
def test_the_rows_of_figure_9_run(tmp_path, row):
    overrides = [f"method.{text}" for text in FIGURE_9[row].split()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", ["method=deda", "segmenter=grabcut", "method.synthesis.edit=null", *overrides])
    method = instantiate(cfg.method)
    samples = photographs(tmp_path)
    parts = method.synthesis.make(samples, BIRDS, tmp_path / "stores", side=40, runner=RUNNER)
    combined = method.view(Real(samples, 2), parts)
    assert all(image.shape[2] == 3 and label.sum() == pytest.approx(1) for image, label in draws(combined, 5))
    for text in overrides:
        name, value = text.removeprefix("method.view.").split("=")
        assert str(getattr(method.view, name)) == value
    # Not given on the command line: the paper's Table 6.
    given = {text.split("=")[0] for text in FIGURE_9[row].split()}
    for name, value in {"p_aug": 0.5, "p_syn": 0.25, "p_mix": 0.5}.items():
        assert f"view.{name}" in given or getattr(method.view, name) == value


def test_the_yaml_documents_these_rows():
    text = (ROOT / "conf" / "method" / "deda.yaml").read_text()
    for row in "abdef":
        assert f"({row}) " in text
        assert FIGURE_9[row] in text
