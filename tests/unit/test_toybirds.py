from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from genaug.data.toybirds import HABITATS, SPECIES, ToyBirds, render
from genaug.data.toybirds_art.bird import Pose, bird_shapes
from genaug.data.toybirds_art.canvas import Canvas, ellipse, fractal
from genaug.data.toybirds_art.composition import compose
from genaug.data.toybirds_art.scene import paint


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def birds(root: Path, **changes: object) -> ToyBirds:
    return ToyBirds(root, **{"image_size": 32, "train_per_class": 1, "test_per_class": 0, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ToyBirds:
    """A finished cache of one training picture a species, which tests leave as it is."""
    data = birds(tmp_path_factory.mktemp("toybirds"))
    data.splits()
    return data


# Canvas: answers known by hand


def test_fill_covers_the_area_of_the_shape():
    canvas = Canvas(200)
    canvas.fill([ellipse((0.5, 0.5), (0.2, 0.1), steps=200)], (255, 0, 0), opacity=0.5)
    # OpenCV's anti-aliased edge reaches a fraction of a pixel outwards.
    assert canvas.alpha.mean() == pytest.approx(0.5 * np.pi * 0.2 * 0.1, rel=0.06)
    assert canvas.alpha[100, 100] == pytest.approx(0.5, abs=0.01)
    assert canvas.over(np.zeros((3, 200, 200)))[:, 100, 100] == pytest.approx([127.5, 0, 0], abs=1)


def test_noise_is_the_same_picture_at_every_size():
    small, large = fractal(rng(1), 64), fractal(rng(1), 192)
    assert cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA) == pytest.approx(small, abs=0.06)


# One picture


@pytest.mark.parametrize("sketch", [False, True])
def test_same_seed_same_bytes_other_seed_other_picture(sketch: bool):
    first, again, other = (render(3, 5, rng(seed), 40, sketch) for seed in (7, 7, 8))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.caption == again.caption
    assert np.abs(first.image.astype(int) - other.image).mean() > 3


def test_size_changes_the_pixels_not_the_picture():
    small, large = render(8, 1, rng(3), 48), render(8, 1, rng(3), 144)
    reduced = cv2.resize(large.image, (48, 48), interpolation=cv2.INTER_AREA)
    assert small.caption == large.caption
    assert np.abs(reduced.astype(int) - small.image).mean() < 8
    assert (small.mask > 0).mean() == pytest.approx((large.mask > 0).mean(), rel=0.12)


@pytest.mark.parametrize("habitat", range(len(HABITATS)))
def test_mask_is_where_the_bird_is(habitat: int):
    """Without the bird nothing changes outside the mask and its soft rim, and nearly everything inside."""
    for seed in range(3):
        composition = compose(seed * 6, habitat, rng(seed, habitat))
        whole, empty = (paint(composition, 64, bird=shown) for shown in (True, False))
        changed = np.abs(whole.image.astype(int) - empty.image).max(axis=2)
        rim = cv2.dilate(whole.mask, np.ones((3, 3), np.uint8)) > 0
        thin = changed[~rim]  # legs and twigs thinner than half a pixel
        assert (thin > 0).mean() < 0.03
        assert (changed[whole.mask > 0] > 4).mean() > 0.75
        assert (whole.mask == empty.mask).all()


def test_plants_in_front_are_not_in_the_mask():
    composition = replace(compose(0, 5, rng(2)), cover=True)
    hidden = paint(composition, 96).mask
    bare = paint(replace(composition, cover=False), 96).mask
    assert not (hidden & ~bare).any()
    assert 0.65 < (hidden > 0).sum() / (bare > 0).sum() < 1


def test_bird_fills_the_promised_part_of_the_frame():
    for seed in range(12):
        composition = replace(compose(seed, 6, rng(seed)), cover=False)
        y, x = np.nonzero(paint(composition, 128).mask)
        long_side = max(np.ptp(y), np.ptp(x)) / 128
        assert long_side == pytest.approx(composition.size, abs=0.06)
        assert 0.4 <= composition.size <= 0.75


def test_species_of_one_genus_differ_only_in_their_parts():
    """Two look-alikes in one pose: the same size, and a difference on a part of the bird only."""
    pose = Pose("standing", False, 0.0, 0.0, 0.0, 0.5, 0.0)
    base = replace(compose(1, 6, rng(4)), cover=False, pose=pose, support="ground", size=0.7)
    finches = [paint(replace(base, species=index), 64).image.astype(int) for index in (1, 3)]
    differs = np.abs(finches[0] - finches[1]).max(axis=2) > 40
    assert 0.01 < differs.mean() < 0.15


def test_every_pair_of_species_has_other_shapes_or_colours():
    pose = Pose("standing", False, 0.0, 0.0, 0.0, 0.5, 0.0)
    looks = set()
    for species in SPECIES:
        palette = {part: np.asarray(rgb) for part, rgb in species.palette().items()}
        shapes = bird_shapes(species, palette, pose)
        looks.add(tuple((shape.name, tuple(np.round(shape.colour)), len(shape.polygons)) for shape in shapes))
    assert len(looks) == 20


@pytest.mark.parametrize("habitat", range(len(HABITATS)))
def test_no_background_is_flat(habitat: int):
    for seed in range(4):
        image = paint(compose(0, habitat, rng(seed)), 64, bird=False).image.astype(float)
        thirds = [part.std() for part in np.array_split(image.mean(axis=2), 3)]
        assert min(thirds) > 4
        assert image.std() > 15


def test_sketches_are_nearly_grey_on_light_paper():
    for seed in range(4):
        scene = render(4 * seed, 0, rng(seed), 64, sketch=True)
        spread = np.ptp(scene.image.astype(int), axis=2)
        assert spread.max() <= 20
        assert scene.image[scene.mask == 0].mean() > 215
        assert scene.image[scene.mask > 0].mean() < 200
        assert scene.composition.group is None
        assert scene.caption.startswith("a pencil sketch of a")


@pytest.mark.parametrize(("species", "habitat", "group"), [(0, 5, 0), (0, 2, 1), (1, 6, 2), (1, 1, 3)])
def test_groups(species: int, habitat: int, group: int):
    # Species 0 lives in the forest, species 1 at the seashore.
    composition = compose(species, habitat, rng(0))
    assert composition.group == group
    assert ToyBirds("unused").groups[group] == [
        "landbird on land", "landbird on water", "waterbird on land", "waterbird on water"
    ][group]  # fmt: skip


def test_captions_say_what_is_shown():
    captions = {compose(0, 4, rng(seed)).caption for seed in range(200)}
    assert all(caption.startswith("a photo of an amber-crested finch ") for caption in captions)
    assert all(" in a forest at " in caption for caption in captions)
    assert {caption.split()[-1] for caption in captions} == {"spring", "summer", "autumn", "winter"}
    assert any(" perched on a branch " in caption for caption in captions)
    assert compose(12, 0, rng(0)).caption.startswith("a photo of an emerald-headed teal")
    assert compose(9, 0, rng(0)).caption.startswith("a photo of a rufous-necked stilt")


def test_only_swimmers_swim_and_only_on_water():
    for seed in range(300):
        composition = compose(seed % 20, seed % 8, rng(seed))
        if composition.pose.kind == "swimming":
            assert SPECIES[composition.species].genus.name == "Teal"
            assert HABITATS[composition.habitat].water


def test_lookalikes_live_apart_and_every_habitat_is_a_home():
    for genus in {species.genus.name for species in SPECIES}:
        homes = [species.home for species in SPECIES if species.genus.name == genus]
        assert len(homes) == len(set(homes)) == 4
        assert sum(HABITATS[home].water for home in homes) == 2
    assert {species.home for species in SPECIES} == set(range(len(HABITATS)))


# The splits


@pytest.mark.parametrize("correlation", [0.95, 0.5])
@pytest.mark.parametrize("split", ["train", "test"])
def test_correlation_is_realised(correlation: float, split: str):
    data = ToyBirds("unused", correlation=correlation)
    count = 40
    shown = [data.compose(split, species, k) for species in range(20) for k in range(count)]
    at_home = sum(composition.habitat == SPECIES[composition.species].home for composition in shown)
    n = 20 * count
    bound = 4 * np.sqrt(n * correlation * (1 - correlation))
    assert abs(at_home - n * correlation) < bound


def test_ood_habitat_is_never_home_and_everywhere_else_equally():
    data = ToyBirds("unused", correlation=1.0)
    for species in (0, 7, 19):
        seen = np.bincount([data.compose("ood_habitat", species, k).habitat for k in range(420)], minlength=8)
        assert seen[SPECIES[species].home] == 0
        others = np.delete(seen, SPECIES[species].home)
        assert others.min() > 60 - 4 * np.sqrt(60)
        assert others.max() < 60 + 4 * np.sqrt(60)


def test_a_picture_depends_on_neither_order_nor_counts(made: ToyBirds, tmp_path: Path):
    first, second = made.splits()["train"], birds(tmp_path, train_per_class=2).splits()["train"]
    assert len(first) == 20
    assert len(second) == 40
    same = {sample.id: sample for sample in second}
    for sample in first:
        assert sample.path != same[sample.id].path
        assert sample.path.read_bytes() == same[sample.id].path.read_bytes()
        assert sample.caption == same[sample.id].caption
    other = birds(tmp_path, data_seed=1)
    assert all(other.compose("train", s, 0).seeds != made.compose("train", s, 0).seeds for s in range(20))


def test_samples_and_manifest(tmp_path: Path):
    data = birds(tmp_path, test_per_class=1)
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 20, "test": 20, "ood_habitat": 20, "ood_sketch": 20
    }  # fmt: skip
    for split in splits.values():
        assert [sample.id for sample in split] == sorted(sample.id for sample in split)
        assert sorted(sample.label for sample in split) == list(range(20))
    sample = splits["test"][0]
    assert sample.id == "test/amber-crested-finch/0000.png"
    assert data.classes[sample.label] == "Amber-crested Finch"
    image, mask = cv2.imread(str(sample.path)), cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED)
    assert image.shape == (32, 32, 3)
    assert set(np.unique(mask)) == {0, 255}
    expected = paint(data.compose("test", 0, 0), 32)
    assert (image[..., ::-1] == expected.image).all()
    assert (mask == expected.mask).all()
    assert all(sample.group is None for sample in splits["ood_sketch"])
    records = [json.loads(line) for line in (data.root / "metadata.jsonl").read_text().splitlines()]
    assert len(records) == 80
    assert {record["file_name"] for record in records} == {sample.id for split in splits.values() for sample in split}


def test_a_killed_rendering_is_finished_and_the_same(made: ToyBirds, tmp_path: Path):
    partial, expected = birds(tmp_path), files(made.root)
    assert partial.root.name == made.root.name
    shutil.copytree(made.root, partial.root)
    gone = sorted(name for name in expected if name.endswith(".png"))[::3]
    for name in [*gone, "metadata.jsonl"]:
        (partial.root / name).unlink()
    kept = partial.root / next(name for name in expected if name.startswith("train/") and name not in gone
                               and f"masks/{name}" not in gone)  # fmt: skip
    before = kept.stat().st_mtime_ns
    birds(tmp_path).splits()
    assert files(partial.root) == expected
    assert kept.stat().st_mtime_ns == before


def test_a_finished_cache_is_only_read(made: ToyBirds, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("genaug.data.toybirds.paint", lambda *_: pytest.fail("drawn again"))
    assert len(birds(made.root.parent).splits()["train"]) == 20


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"image_size": 16}, "image_size=16.*32 to 256"),
        ({"image_size": 257}, "image_size=257"),
        ({"correlation": 2}, "correlation=2.*0 to 1"),
        ({"correlation": float("nan")}, "correlation=nan"),
        ({"train_per_class": -1}, "train_per_class=-1"),
        ({"data_seed": -3}, "data_seed=-3"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, argument: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ToyBirds(tmp_path / "cache", **argument)
    assert not (tmp_path / "cache").exists()


def test_render_refuses_unknown_species_and_habitats():
    with pytest.raises(ValueError, match="species=20.*0 to 19"):
        render(20, 0, rng(0))
    with pytest.raises(ValueError, match="habitat=-1.*0 to 7"):
        render(0, -1, rng(0))
