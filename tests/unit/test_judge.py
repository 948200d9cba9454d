from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import Tensor, nn

from genaug.classifier import Normalize
from genaug.data.base import Dataset, Sample
from genaug.data.transforms import ResizeCrop
from genaug.explaining.base import Explainer
from genaug.explaining.gradcam import GradCAM
from genaug.explaining.judge import GROUP, MEASURES, Judge, Look, Network, Share
from genaug.explaining.random import RandomMap
from genaug.metrics.information_curves import SKIPPED
from genaug.seeding import derive

COLOURS = ("red", "green", "blue")
SIDE = 32
#: Pictures of 40 pixels are not resized: the middle 32 are cut out.
CROP, MIDDLE = ResizeCrop(SIDE), slice(4, 36)
RED, GREEN, BLUE = range(3)


class Pictures(Dataset):
    """Squares of a colour on dark noise."""

    name, superclass, image_size = "pictures", "square", SIDE

    def __init__(self, multilabel: bool = False) -> None:
        self.multilabel = multilabel

    @property
    def classes(self) -> Sequence[str]:
        return COLOURS

    def splits(self) -> dict[str, Sequence[Sample]]:
        return {}


def draw(
    folder: Path, name: str, label: int | tuple[int, ...], colour: int, masked: bool = True, size: tuple = (40, 40)
) -> Sample:
    """A square of a colour somewhere inside, which need not be the one of the label."""
    rng = np.random.default_rng(derive(0, name))
    pixels, mask = rng.integers(0, 40, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint8)
    y, x = rng.integers(8, 20, 2)
    pixels[y : y + 12, x : x + 12, colour] = rng.integers(180, 256, (12, 12))
    mask[y : y + 12, x : x + 12] = 255
    Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return Sample(name, folder / f"{name}.png", label, mask=folder / f"{name}_mask.png" if masked else None)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Nine pictures, the last of them of another colour than their label."""
    folder = tmp_path_factory.mktemp("pictures")
    right = [draw(folder, f"right_{i}", i % 3, i % 3) for i in range(6)]
    return right + [draw(folder, f"wrong_{i}", i, (i + 1) % 3) for i in range(3)]


class Colours(nn.Module):
    """Says which colour an image has more of, by as much as the weight says."""

    def __init__(self, weight: float = 8.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * images.mean(dim=(2, 3))


def network(model: nn.Module | None = None, multilabel: bool = False) -> Network:
    return Network(model or Colours(), Normalize(3), multilabel)


class Maps(Explainer):
    """Gives each image the map that a function makes of its sample; notes for which class it was asked."""

    def __init__(self, samples: Sequence[Sample], make: Callable[[Sample], Tensor], seed: int = 0) -> None:
        self.by_seed = {derive(seed, "explain", sample.id): sample for sample in samples}
        self.make, self.asked = make, {}

    def explain(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        self.asked |= {self.by_seed[seed].id: int(label) for seed, label in zip(seeds, classes, strict=True)}
        return torch.stack([self.make(self.by_seed[seed]) for seed in seeds])


def pixels_of(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(sample.path))[MIDDLE, MIDDLE]


def mask_of(sample: Sample) -> Tensor:
    """The mask as the network sees it, and with it a map whose energy is all on the object."""
    file = sample.path.with_name(f"{sample.path.stem}_mask.png")
    return torch.from_numpy(np.asarray(Image.open(file))[MIDDLE, MIDDLE] / 255).float()


def believed(sample: Sample, weight: float = 8.0) -> np.ndarray:
    """Logits of :class:`Colours` by hand."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return weight * ((pixels_of(sample) / 255 - mean) / std).mean(axis=(0, 1))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def look(
    samples: Sequence[Sample],
    explainer: Explainer | None = None,
    given: Network | None = None,
    pictures: int = 0,
    **settings,
) -> Look:
    """Judge the maps (of the objects) of all samples."""
    judge, given = Judge(explainer or Maps(samples, mask_of), **settings), given or network()
    return judge.look(given, samples, Pictures(given.multilabel), CROP, pictures=pictures)


def plain(found: Look) -> tuple:
    """What can be compared."""
    curves = {name: {kind: curve.tolist() for kind, curve in both.items()} for name, both in found.curves.items()}
    return found.summary, curves, found.records, [[one.tolist() for one in pair] for pair in found.pictures]


# --- the choice of images ------------------------------------------------------------------------------------------


def many(*counts: int) -> list[Sample]:
    """So many images of each class, which nobody reads."""
    return [Sample(f"{label}/{i:02}", Path("nowhere"), label) for label, n in enumerate(counts) for i in range(n)]


def choose(samples: Sequence[Sample], images: int, seed: int = 0) -> list[str]:
    return [one.id for one in Judge(RandomMap(), images=images, seed=seed).choose(samples)]


def by_class(ids: Sequence[str]) -> dict[str, int]:
    return dict(Counter(one.split("/")[0] for one in ids))


@pytest.mark.parametrize(("images", "expected"), [(3, [1, 1, 1]), (8, [2, 3, 3]), (9, [3, 3, 3]), (28, [9, 9, 10])])
def test_the_choice_is_balanced(images, expected):
    chosen = choose(many(20, 20, 20), images)
    assert sorted(by_class(chosen).values()) == expected
    assert len(set(chosen)) == images


def test_classes_with_few_images_give_what_they_have():
    assert by_class(choose(many(1, 20, 3), 12)) == {"0": 1, "1": 8, "2": 3}
    assert by_class(choose(many(1, 2), 12)) == {"0": 1, "1": 2}
    assert choose([], 4) == []


def test_more_images_contain_fewer():
    samples = many(7, 5, 9)
    longest = choose(samples, 21)
    for images in range(1, 21):
        assert choose(samples, images) == longest[:images]


def test_the_seed_names_the_choice_and_nothing_else_does():
    samples = many(20, 20, 20)
    assert choose(samples, 6) == choose(samples[::-1], 6)
    drawn = [choose(samples, 6, seed) for seed in range(10)]
    assert len({tuple(one) for one in drawn}) == 10
    assert len({one[0].split("/")[0] for one in drawn}) == 3  # any class may come first
    assert len({image for one in drawn for image in one}) > 30


def test_an_image_of_several_classes_stands_for_the_first():
    several = [
        Sample(f"{label[0]}/{i}", Path("nowhere"), label) for label in ((0, 1), (2, 0), (1, 2)) for i in range(4)
    ]
    assert by_class(choose(several, 6)) == {"0": 2, "1": 2, "2": 2}


# --- shares of processes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "world"), [(0, 1), (5, 2), (8, 2), (17, 2), (64, 3), (65, 4)])
def test_shares_are_whole_groups_and_together_all_images(count, world):
    groups = [group for rank in range(world) for group in Share(rank, world).of(count)]
    assert sorted(groups) == Share().of(count)
    assert [i for group in Share().of(count) for i in group] == list(range(count))
    assert all(len(group) == GROUP for group in Share().of(count)[:-1])


def test_shares_by_hand():
    assert Share(0, 2).of(20) == [list(range(8)), [16, 17, 18, 19]]
    assert Share(1, 2).of(20) == [list(range(8, 16))]
    assert Share(1, 2).of(8) == []
    assert Share().gather([3, 1]) == [3, 1]


# --- networks ------------------------------------------------------------------------------------------------------


def test_probabilities_by_hand(samples):
    pixels = torch.from_numpy(pixels_of(samples[0]).copy())[None]
    logits = believed(samples[0])
    assert network().of_pixels(pixels)[0].numpy() == pytest.approx(softmax(logits), rel=1e-4)
    several = network(multilabel=True).of_pixels(pixels)[0].numpy()
    assert several == pytest.approx(1 / (1 + np.exp(-logits)), rel=1e-4)
    assert not network().of_pixels(pixels).requires_grad


# --- energy and degenerate maps ------------------------------------------------------------------------------------


def test_a_map_of_the_object_and_one_of_the_rest(samples):
    for make, expected in ((mask_of, 1.0), (lambda one: 1 - mask_of(one), 0.0)):
        found = look(samples, Maps(samples, make))
        assert found.summary["energy"]["mean"] == expected
        assert [record["energy"] for record in found.records] == [expected] * 9
        assert found.summary["energy"]["n"] == 9
    assert found.summary["energy"]["coverage"] == pytest.approx(12 * 12 / SIDE**2)


def test_a_map_of_half_the_object(samples):
    def half(sample: Sample) -> Tensor:
        rows, columns = mask_of(sample).nonzero(as_tuple=True)
        values = -torch.ones(SIDE, SIDE)  # negative parts count as nothing
        values[rows[0] - 3 : rows[0] + 9, columns[0] : columns[0] + 12] = 2.0  # three rows above it, nine on it
        return values

    assert look(samples, Maps(samples, half)).summary["energy"]["mean"] == pytest.approx(0.75)


@pytest.mark.parametrize(("size", "shrunk"), [((80, 80), (40, 40)), ((40, 60), (40, 60)), ((120, 80), (60, 40))])
def test_masks_follow_the_crop(tmp_path, size, shrunk):
    # Even edges, so that half the size has them where they were.
    scale, pixels, mask = size[0] // shrunk[0], np.full((*size, 3), 30, np.uint8), np.zeros(size, np.uint8)
    square = tuple(slice(scale * (side // 2 - 10), scale * (side // 2 + 4)) for side in shrunk)
    pixels[square] = (220, 20, 20)
    mask[square] = 1  # anything that is not zero
    Image.fromarray(pixels).save(tmp_path / "x.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    sample = Sample("x", tmp_path / "x.png", RED, mask=tmp_path / "mask.png")
    expected = torch.zeros(SIDE, SIDE)
    expected[6:20, 6:20] = 1.0  # the crop takes 16 to each side of the middle
    found = look([sample], Maps([sample], lambda _: expected), pictures=1)
    assert found.records[0]["energy"] == 1.0
    assert found.summary["energy"]["coverage"] == pytest.approx(14 * 14 / SIDE**2)
    image, saliency = found.pictures[0]
    assert image.shape == (SIDE, SIDE, 3)
    assert (image[7:19, 7:19] == (220, 20, 20)).all()
    assert np.array_equal(saliency, expected.numpy())


def test_degenerate_maps_are_counted_and_in_no_measure(samples):
    makes = {
        samples[1].id: ("all zero", torch.zeros(SIDE, SIDE)),
        samples[2].id: ("not finite", torch.full((SIDE, SIDE), torch.nan)),
        samples[4].id: ("constant", torch.full((SIDE, SIDE), -3.0)),
        samples[8].id: ("not finite", mask_of(samples[8]) / 0.0),
    }
    found = look(samples, Maps(samples, lambda one: makes[one.id][1] if one.id in makes else mask_of(one)))
    assert [record["map"] for record in found.records] == [makes.get(one.id, ("",))[0] for one in samples]
    assert found.summary["degenerate"] == {"not finite": 2, "all zero": 1, "constant": 1}
    for measure in MEASURES:
        assert all(found.records[i][measure] is None for i in (1, 2, 4, 8))
        skipped = sum(found.summary[measure].get("skipped", {}).values())
        assert found.summary[measure]["n"] + skipped == 5
    assert found.summary["energy"]["mean"] == 1.0
    # The others have what they had alone.
    rest = [one for one in samples if one.id not in makes]
    alone = {record["id"]: record for record in look(rest).records}
    for record in found.records:
        if record["map"] == "":
            assert {**record, "index": None} == {**alone[record["id"]], "index": None}


def test_only_degenerate_maps(samples):
    found = look(samples, Maps(samples, lambda _: torch.zeros(SIDE, SIDE)), pictures=2)
    assert found.summary["degenerate"]["all zero"] == found.summary["images"] == 9
    assert {found.summary[one]["mean"] for one in MEASURES} == {None}
    assert {found.summary[one]["n"] for one in MEASURES} == {0}
    assert found.curves == {}
    assert len(found.pictures) == 2


def test_images_without_a_mask_are_in_no_energy(tmp_path):
    samples = [draw(tmp_path, f"{i}", i % 3, i % 3, masked=i != 1) for i in range(4)]
    found = look(samples)
    assert [record["energy"] for record in found.records] == [1.0, None, 1.0, 1.0]
    assert found.summary["energy"]["n"] == 3
    assert found.summary["insertion"]["n"] == 4
    without = look([draw(tmp_path, "x", 0, 0, masked=False)])
    assert without.summary["energy"] == {"mean": None, "coverage": None, "n": 0}


# --- which class ---------------------------------------------------------------------------------------------------


def test_the_label_or_the_prediction_is_explained(samples):
    for target in ("label", "predicted"):
        explainer = Maps(samples, mask_of)
        found = look(samples, explainer, target=target)
        for i, (record, sample) in enumerate(zip(found.records, samples, strict=True)):
            probabilities = softmax(believed(sample))
            predicted = sample.label if i < 6 else (sample.label + 1) % 3
            assert (record["id"], record["label"], record["predicted"]) == (sample.id, sample.label, predicted)
            assert predicted == probabilities.argmax()
            explained = sample.label if target == "label" else predicted
            assert record["explained"] == explainer.asked[sample.id] == explained
            assert record["confidence"] == pytest.approx(probabilities[explained], rel=1e-4)
            assert record["right"] == (i < 6)
        assert found.summary["right"] == 6
        # Of the three that are wrong the label is not believed: there is no curve.
        assert found.summary["aic"]["skipped"][SKIPPED[0]] == (3 if target == "label" else 0)
        assert found.summary["insertion"]["n"] == found.summary["deletion"]["n"] == 9


def test_several_classes(tmp_path):
    labels = [(RED, BLUE), (BLUE, GREEN), (GREEN,), (GREEN, BLUE)]
    samples = [draw(tmp_path, f"{i}", labels[i], colour) for i, colour in enumerate((RED, BLUE, GREEN, RED))]
    explainer = Maps(samples, mask_of)
    found = look(samples, explainer, network(multilabel=True))
    logits = [believed(one) for one in samples]
    # Of the labels the one that is believed most; the last image shows none of its labels.
    assert [record["explained"] for record in found.records[:3]] == [RED, BLUE, GREEN]
    assert found.records[3]["explained"] == max((GREEN, BLUE), key=lambda label: logits[3][label])
    assert list(explainer.asked.values()) == [record["explained"] for record in found.records]
    for record, row in zip(found.records, logits, strict=True):
        assert record["confidence"] == pytest.approx(1 / (1 + math.exp(-row[record["explained"]])), rel=1e-4)
    assert [record["right"] for record in found.records] == [True, True, True, False]
    assert [record["predicted"] for record in found.records] == [RED, BLUE, GREEN, RED]
    assert found.records[0]["label"] == (RED, BLUE)


def test_what_is_unknown_is_no_answer(tmp_path):
    sample = replace(draw(tmp_path, "0", (BLUE,), RED), unknown=(RED,))
    ranked = np.argsort(believed(sample))
    assert ranked[-1] == RED
    for target, explained in (("predicted", int(ranked[-2])), ("label", BLUE)):
        found = look([sample], given=network(multilabel=True), target=target)
        assert found.records[0]["predicted"] == ranked[-2]
        assert found.records[0]["explained"] == explained
        assert found.records[0]["right"] == (ranked[-2] == BLUE)


class Broken(Colours):
    def forward(self, images: Tensor) -> Tensor:
        assert len(images), "no image, and so no end"
        return super().forward(images) * torch.nan


def test_a_network_that_broke_down_is_never_right(samples):
    found = look(samples, RandomMap(), network(Broken()))
    assert found.summary["right"] == 0
    assert {record["right"] for record in found.records} == {False}
    assert {found.summary[one]["mean"] for one in ("aic", "sic", "insertion", "deletion")} == {None}


# --- insertion and deletion ----------------------------------------------------------------------------------------


def test_what_is_deleted_first_decides(samples):
    right = samples[:6]
    inside = look(right, tolerance=None).summary
    outside = look(right, Maps(right, lambda one: 1 - mask_of(one)), tolerance=None).summary
    assert inside["insertion"]["mean"] > outside["insertion"]["mean"] + 0.1
    assert inside["deletion"]["mean"] < outside["deletion"]["mean"] - 0.1
    assert inside["insertion"]["measured"] == SIDE + 1
    assert (inside["insertion"]["bound"], inside["deletion"]["bound"]) == (0.0, 0.0)


def test_the_tolerance_bounds_the_difference(samples):
    exact, fast = (look(samples, tolerance=tolerance).summary for tolerance in (None, 0.02))
    for mode in ("insertion", "deletion"):
        assert fast[mode]["bound"] <= 0.02
        assert fast[mode]["measured"] <= exact[mode]["measured"]
        assert fast[mode]["mean"] == pytest.approx(exact[mode]["mean"], abs=0.02)


# --- Grad-CAM itself -----------------------------------------------------------------------------------------------


class Detectors(nn.Module):
    """One detector a colour, 1 where a pixel has that colour; a class's logit is ten times their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.detect = nn.Conv2d(3, 3, 1)
        self.active = nn.Hardtanh(0.0, 1.0)
        with torch.no_grad():  # pixels of 180 and more are above 0.9 in normalised units, noise is below -1
            self.detect.weight.copy_(torch.eye(3)[:, :, None, None])
            self.detect.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return 10 * self.active(100 * self.detect(images)).mean(dim=(2, 3))


def test_grad_cam_of_a_network_that_sees_colours(samples):
    # The weight of a class's own detector is positive, the other two do not matter: the map is the object.
    found = look(samples[:6], GradCAM(layer="active"), network(Detectors()), pictures=6)
    assert found.summary["energy"] == {"mean": 1.0, "coverage": pytest.approx(144 / SIDE**2), "n": 6}
    for sample, (image, saliency) in zip(samples, found.pictures, strict=False):
        assert np.array_equal(image, pixels_of(sample))
        assert np.array_equal(saliency > 0, mask_of(sample).bool().numpy())
    # Where the label's colour is nowhere, its detector is silent: a map of zeros.
    wrong = look(samples[6:], GradCAM(layer="active"), network(Detectors()))
    assert wrong.summary["degenerate"]["all zero"] == 3


# --- numbers that belong together ----------------------------------------------------------------------------------


def test_records_and_summary_agree(samples):
    found = look(samples, RandomMap(), pictures=4)
    assert [record["index"] for record in found.records] == list(range(9))
    for measure in MEASURES:
        values = [record[measure] for record in found.records if record[measure] is not None]
        assert found.summary[measure]["n"] == len(values) > 0
        assert found.summary[measure]["mean"] == pytest.approx(np.mean(values))
    for name in ("aic", "sic"):
        assert found.summary[name]["n"] + sum(found.summary[name]["skipped"].values()) == 9
        assert set(found.curves[name]) == {"mean", "median"}
        assert np.trapezoid(found.curves[name]["mean"], dx=1e-3) == pytest.approx(found.summary[name]["mean"])
        assert np.trapezoid(found.curves[name]["median"], dx=1e-3) == pytest.approx(found.summary[name]["median_curve"])
    assert found.summary["images"] == 9
    assert found.summary["right"] == sum(record["right"] for record in found.records) == 6
    assert len(found.pictures) == 4


def test_random_maps_have_the_coverage_as_energy(samples):
    found = look(samples, RandomMap()).summary["energy"]
    assert found["mean"] == pytest.approx(found["coverage"], abs=0.01)


def test_the_seed_names_masks_and_maps(samples):
    first, again, other = (look(samples[:3], RandomMap(), seed=seed) for seed in (1, 1, 2))
    assert plain(first) == plain(again)
    assert first.summary["sic"]["mean"] != other.summary["sic"]["mean"]


def test_an_image_has_the_same_numbers_in_other_company(samples):
    whole = {record["id"]: record for record in look(samples, RandomMap()).records}
    for record in look(samples[::-1][:4], RandomMap()).records:
        for measure in MEASURES:
            assert record[measure] == pytest.approx(whole[record["id"]][measure], abs=1e-5)


def test_settings_reach_the_measures(samples):
    right = samples[:3]
    default = look(right).summary["sic"]
    assert look(right, min_prediction=1.0).summary["sic"]["skipped"][SKIPPED[0]] == 3
    assert look(right, thresholds=[0.5]).summary["sic"]["mean"] != default["mean"]
    few = Judge(RandomMap(), images=3, target="predicted", seed=4, thresholds=[0.5], tolerance=None, exact=False)
    assert few.settings() == {
        "explainer": "RandomMap",
        "images": 3,
        "target": "predicted",
        "seed": 4,
        "min_prediction": 0.5,
        "monotone": True,
        "exact": False,
        "thresholds": [0.5],
        "tolerance": None,
        "libwebp": features.version("webp"),
        "scipy": few.settings()["scipy"],
    }


def test_blurred_images_are_kept_for_the_next_network(samples):
    explainer = Maps(samples, mask_of)
    judge, fresh = Judge(explainer), Judge(explainer)
    given = [network(), network(Colours(weight=2.0))]
    first = judge.look(given[0], samples, Pictures(), CROP)
    assert len(judge.known) == 9
    second = judge.look(given[1], samples, Pictures(), CROP)
    assert len(judge.known) == 9
    assert plain(second) == plain(fresh.look(given[1], samples, Pictures(), CROP))
    assert first.summary["sic"]["mean"] != second.summary["sic"]["mean"]


# --- a guest in the network ----------------------------------------------------------------------------------------


class Trained(nn.Module):
    """Everything that looking could disturb: running statistics, dropout, gradients, frozen parts, flags."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout())
        self.head = nn.Linear(4, 3)
        for one in self.parameters():
            one.data = torch.randn(one.shape, generator=generator)
            one.grad = torch.randn(one.shape, generator=generator)
        self.head.bias.requires_grad_(False)
        self.body[3].eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean(dim=(2, 3)))


def state(model: nn.Module) -> tuple:
    flags = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    learning = [(one.requires_grad, one.grad.clone()) for one in model.parameters()]
    return flags, learning, {name: one.clone() for name, one in model.state_dict().items()}


@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_left_as_it_was(samples, failing):
    model = Trained().train()
    model.body[3].eval()
    before, generator = copy.deepcopy(state(model)), torch.get_rng_state()
    explainer = Maps(samples, lambda _: torch.zeros(2, 2)) if failing else GradCAM(layer="body")
    if failing:
        with pytest.raises(ValueError, match="expected maps"):
            look(samples, explainer, network(model))
    else:
        look(samples, explainer, network(model))
    flags, learning, weights = state(model)
    assert flags == before[0]
    for (needs, gradient), (needed, had) in zip(learning, before[1], strict=True):
        assert needs == needed
        assert torch.equal(gradient, had)
    for name, one in weights.items():
        assert torch.equal(one, before[2][name]), name
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_anywhere(samples, context):
    given = network(Trained())
    expected = plain(look(samples, GradCAM(layer="body"), given, pictures=2))
    with context():
        found = plain(look(samples, GradCAM(layer="body"), given, pictures=2))
    assert found == expected
    assert found[0]["sic"]["n"] + found[0]["aic"]["n"] > 0


@pytest.mark.slow
def test_workers_change_nothing(samples):
    found = []
    for workers in (1, 2):
        judge = Judge(RandomMap(), workers=workers)
        with judge.pool() as pool:
            assert (pool is None) == (workers == 1)
            found.append(plain(judge.look(network(), samples, Pictures(), CROP, pool)))
    assert found[0] == found[1]


# --- wrong arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "answer"}, r"explain.target='answer' is not known: choose one of label, predicted"),
        ({"images": 0}, "explain.images=0: at least one image"),
        ({"thresholds": [0.5, 0.1]}, "thresholds"),
        ({"thresholds": [0.5, 1.0]}, "thresholds"),
        ({"tolerance": -0.1}, "tolerance"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_trained(changes, message):
    with pytest.raises(ValueError, match=message):
        Judge(RandomMap(), **changes)
