from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d
from torch import Tensor

from genaug.metrics import information_curves, reconstruction
from genaug.metrics.information_curves import (
    SKIPPED,
    InformationCurves,
    area,
    information_curve,
    predictions_told,
    skip_reason,
    summarize_curves,
)
from genaug.metrics.reconstruction import Revealed, random_mask, reveal

LOW, INFORMATION, PREDICTION = SKIPPED

# --- one curve -----------------------------------------------------------------------------------------------------


def curve(entropies: Sequence[float], predictions: Sequence[float], **settings) -> list[float]:
    return information_curve(np.array(entropies), np.array(predictions), points=4, **settings).tolist()


@pytest.mark.parametrize(
    ("entropies", "predictions", "monotone", "expected"),
    [
        ([0, 25, 75, 100], [0.0, 0.8, 0.6, 1.0], True, [0, 0.8, 0.8, 0.8, 1]),
        ([0, 25, 75, 100], [0.0, 0.8, 0.6, 1.0], False, [0, 0.8, 0.7, 0.6, 1]),
        # Scaled to the ends: (0.25, (0.4 - 0.2) / 0.5), (0.75, (0.5 - 0.2) / 0.5).
        ([100, 150, 250, 300], [0.2, 0.4, 0.5, 0.7], True, [0, 0.4, 0.5, 0.6, 1]),
        # Less and more than the ends: cut off.
        ([10, 5, 40, 30], [0.2, 0.1, 1.0, 0.7], True, [0, 0.25, 0.5, 0.75, 1]),
        ([10, 5, 40, 30], [0.2, 1.0, 0.1, 0.7], False, [0, 0, 0, 0, 1]),  # from the last at 0 to the first at 1
        # Equal information: the last counts.
        ([0, 50, 50, 100], [0.0, 0.2, 0.6, 1.0], True, [0, 0.1, 0.6, 0.8, 1]),
        ([0, 50, 50, 100], [0.0, 0.6, 0.2, 1.0], False, [0, 0.3, 0.2, 0.6, 1]),
        # Less information at a later threshold: the running maximum follows the thresholds, the curve the information.
        ([0, 75, 25, 100], [0.0, 0.4, 0.6, 1.0], True, [0, 0.6, 0.5, 0.4, 1]),
        ([0, 75, 25, 100], [0.0, 0.6, 0.4, 1.0], True, [0, 0.6, 0.6, 0.6, 1]),
        ([0, 75, 25, 100], [0.0, 0.6, 0.4, 1.0], False, [0, 0.4, 0.5, 0.6, 1]),
    ],
)
def test_curves_by_hand(entropies, predictions, monotone, expected):
    assert curve(entropies, predictions, monotone=monotone) == pytest.approx(expected)


def test_the_usual_curve_has_1001_points_and_never_falls():
    found = information_curve(np.array([0, 25, 75, 100]), np.array([0.0, 0.8, 0.6, 1.0]))
    assert len(found) == 1001
    assert found[[0, 125, 250, 600, 750, 875, 1000]].tolist() == pytest.approx([0, 0.4, 0.8, 0.8, 0.8, 0.9, 1])


def as_pair_does(entropies: np.ndarray, predictions: np.ndarray, monotone: bool) -> list[float]:
    """PAIR's ``compute_pic_metric`` from its bytes and predictions on, point by point."""
    points, highest = [], 0.0
    for size, prediction in zip(entropies[1:-1], predictions[1:-1], strict=True):
        x = min(1.0, max(0.0, (size - entropies[0]) / (entropies[-1] - entropies[0])))
        y = min(1.0, max(0.0, (prediction - predictions[0]) / (predictions[-1] - predictions[0])))
        highest = max(highest, y)
        points.append((x, highest if monotone else y))
    x, y = zip(*points, (0.0, 0.0), (1.0, 1.0), strict=True)
    line = interp1d(x, y)
    return [float(line(at)) for at in np.linspace(0, 1, 1000, endpoint=False)] + [1.0]


@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_curves_are_pairs(seed, monotone):
    rng = np.random.default_rng(seed)
    entropies = np.concatenate([[1000], rng.integers(950, 1100, 13), [1080]])  # some equal, some beyond the ends
    predictions = np.concatenate([[0.1], rng.random(13), [0.9]])
    expected = as_pair_does(entropies, predictions, monotone)
    assert information_curve(entropies, predictions, monotone) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.8, 0.8, 0.8, 1.0], 0.725), ([0.0, 0.8, 0.7, 0.6, 1.0], 0.65), ([1.0, 1.0], 1.0), ([0.0, 0.0, 1.0], 0.25)],
)
def test_areas_by_hand(values, expected):
    assert area(np.array(values)) == pytest.approx(expected)


# --- images without a curve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entropies", "predictions", "expected"),
    [
        ([10, 20, 30], [0.1, 0.9, 0.5], None),  # 0.5 is enough
        ([10, 20, 30], [0.1, 0.9, 0.49], LOW),
        ([30, 20, 30], [0.1, 0.2, 0.9], INFORMATION),
        ([31, 20, 30], [0.1, 0.2, 0.9], INFORMATION),
        ([10, 20, 30], [0.9, 0.2, 0.9], PREDICTION),
        ([10, 20, 30], [0.95, 0.2, 0.9], PREDICTION),
        ([30, 20, 10], [0.9, 0.9, 0.4], LOW),  # for all three reasons
        ([30, 20, 10], [0.9, 0.9, 0.8], INFORMATION),  # for two
    ],
)
def test_reasons_and_their_order(entropies, predictions, expected):
    assert skip_reason(np.array(entropies), np.array(predictions)) == expected


def test_the_least_prediction_can_be_chosen():
    entropies, predictions = np.array([10, 20, 30]), np.array([0.1, 0.2, 0.6])
    assert skip_reason(entropies, predictions, min_prediction=0.8) == LOW
    assert skip_reason(entropies, predictions, min_prediction=0.6) is None
    # The answers of a network that is wrong about the original: AIC.
    assert skip_reason(entropies, np.array([0.0, 1.0, 0.0]), min_prediction=0.0) == PREDICTION


# --- several curves ------------------------------------------------------------------------------------------------


def test_the_mean_of_areas_is_not_the_area_of_the_median():
    # From (0, 0) over (1/2, height) to (1, 1): area = height / 2 + 1/4.
    curves = [information_curve(np.array([0, 50, 100]), np.array([0.0, height, 1.0])) for height in (0.1, 0.2, 0.9)]
    assert [area(one) for one in curves] == pytest.approx([0.3, 0.35, 0.7])
    found = summarize_curves(curves)
    assert (found["n"], found["mean"], found["median_curve"]) == (3, pytest.approx(0.45), pytest.approx(0.35))
    assert found["curves"]["mean"][[0, 250, 500, 1000]].tolist() == pytest.approx([0, 0.2, 0.4, 1])
    assert found["curves"]["median"][[0, 250, 500, 1000]].tolist() == pytest.approx([0, 0.1, 0.2, 1])


def test_the_median_curve_is_that_of_each_point():
    found = summarize_curves([np.array([0.0, 0.9, 0.1]), np.array([0.0, 0.1, 0.9]), np.array([0.0, 0.5, 0.5])])
    assert found["curves"]["median"].tolist() == [0.0, 0.5, 0.5]
    assert found["median_curve"] == pytest.approx(0.375)


def test_nothing_to_summarize():
    assert summarize_curves([]) == {"n": 0, "mean": None, "median_curve": None, "curves": None}


# --- predictions ---------------------------------------------------------------------------------------------------


def test_predictions_are_asked_in_parts_of_several_images():
    values = torch.tensor([0.1, 0.6, 0.3, 0.9, 0.5])
    revealed = Revealed(np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1), np.array([4, 5, 6, 7, 8]))
    sizes: list[int] = []

    def predict(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return torch.stack([values, 1 - values], dim=1)[images.flatten().long()]

    found = list(predictions_told(predict, iter([revealed, revealed]), [0, 1], batch_size=2))
    assert sizes == [2, 2, 1] * 2
    assert [one[0].tolist() for one in found] == [[4, 5, 6, 7, 8]] * 2
    assert found[0][1].tolist() == pytest.approx(values.tolist())
    assert found[1][1].tolist() == pytest.approx((1 - values).tolist())
    assert found[0][2].tolist() == [False, True, False, True, True]  # of two equal the first is the answer
    assert found[1][2].tolist() == [True, False, True, False, False]


# --- the metric, its images told by hand ---------------------------------------------------------------------------

#: Of an image by its first pixel: bytes and the prediction of class 1; blurred, half told, original.
TOLD = {
    1: ([0, 50, 100], [0.0, 0.1, 1.0]),  # SIC 0.3; AIC: wrong, wrong, right: height 0, area 1/4
    2: ([0, 50, 100], [0.0, 0.9, 1.0]),  # SIC 0.7; AIC: height 1, area 3/4
    3: ([0, 50, 100], [0.0, 0.2, 1.0]),  # SIC 0.35; AIC 1/4
    4: ([0, 50, 100], [0.0, 0.9, 0.45]),  # SIC low; AIC as well: the answer is another class
    5: ([9, 50, 9], [0.0, 0.9, 1.0]),  # no information lost
    6: ([0, 50, 100], [0.9, 0.3, 0.8]),  # SIC, AIC: no prediction lost
    7: ([0, 50, 100], [0.51, 0.58, 0.65]),  # SIC: height 1/2, area 1/2; AIC: right even when blurred
}


@pytest.fixture
def told(monkeypatch):
    """A metric of one threshold whose images are told as the table says; and how many images each call saw."""

    def from_table(image, saliency, mask, thresholds, exact, blurred) -> Revealed:
        number = image[0, 0, 0]
        steps = np.stack([np.full_like(image, number) for _ in range(3)])
        steps[:, 0, 1, 0] = range(3)
        return Revealed(steps, np.array(TOLD[int(number)][0]))

    monkeypatch.setattr(information_curves, "reveal", from_table)
    return lambda **settings: InformationCurves(thresholds=[0.5], **settings)


def from_table(images: Tensor) -> Tensor:
    """Classes 1 and 0 (or 2 where class 1 is nothing)."""
    values = torch.tensor([TOLD[int(image[0, 0, 0])][1][int(image[0, 1, 0])] for image in images])
    return torch.stack([1 - values, values, torch.zeros_like(values)], dim=1)


def add(metric: InformationCurves, *numbers: int, maps: Tensor | None = None, predict=from_table, **given) -> None:
    images = torch.tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, 2, 1)
    maps = torch.arange(4.0).view(1, 2, 2).repeat(len(numbers), 1, 1) if maps is None else maps
    metric.update(predict, images, maps, [1] * len(numbers), seeds=[0] * len(numbers), **given)


def plain(found: dict) -> dict:
    """What can be compared: curves as lists."""
    both = {name: {**found[name]} for name in ("sic", "aic")}
    for one in both.values():
        one["curves"] = one["curves"] and {key: value.tolist() for key, value in one["curves"].items()}
    return {**found, **both}


def test_numbers_by_hand(told):
    metric = told()
    add(metric, 1, 2, 3, 4, 5, 6, 7)
    found = metric.compute()
    sic, aic = found["sic"], found["aic"]
    assert sic["per_image"] == [pytest.approx(one) if one else None for one in (0.3, 0.7, 0.35, None, None, None, 0.5)]
    assert aic["per_image"] == [pytest.approx(one) if one else None for one in (0.25, 0.75, 0.25, *[None] * 4)]
    assert (sic["n"], aic["n"]) == (4, 3)
    assert sic["mean"] == pytest.approx((0.3 + 0.7 + 0.35 + 0.5) / 4)
    assert sic["median_curve"] == pytest.approx(0.35 / 2 + 0.25)  # heights 0.1, 0.2, 0.5, 0.9: their median is 0.35
    assert aic["mean"] == pytest.approx(1.25 / 3)
    assert aic["median_curve"] == pytest.approx(0.25)
    assert sic["skipped"] == {LOW: 1, INFORMATION: 1, PREDICTION: 1}
    assert aic["skipped"] == {LOW: 1, INFORMATION: 1, PREDICTION: 2}
    assert found["index"] == list(range(7))
    assert found["degenerate"] == {"not finite": 0, "all zero": 0, "constant": 0}
    json.dumps(plain(found), allow_nan=False)


def test_settings_reach_the_curves(told):
    metric = told(min_prediction=0.8)
    add(metric, 2, 7)
    assert metric.compute()["sic"]["skipped"] == {LOW: 1, INFORMATION: 0, PREDICTION: 0}
    metric = told(min_prediction=0.4)
    add(metric, 4)  # 0.9 on the way to 0.45: cut off, height 1
    assert metric.compute()["sic"]["mean"] == pytest.approx(0.75)


@pytest.mark.parametrize(("monotone", "expected"), [(True, [0.6, 0.6]), (False, [0.6, 0.4])])
def test_monotone_reaches_the_curves(told, monkeypatch, monotone, expected):
    steps = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    monkeypatch.setattr(information_curves, "reveal", lambda *_: Revealed(steps, np.array([0, 25, 75, 100])))
    values = torch.tensor([0.0, 0.6, 0.4, 1.0])
    metric = InformationCurves(thresholds=[0.2, 0.6], monotone=monotone)
    add(metric, 0, predict=lambda images: torch.stack([1 - values, values], 1)[images[:, 0, 0, 0].long()])
    assert metric.compute()["sic"]["curves"]["mean"][[250, 750]].tolist() == pytest.approx(expected)


def test_degenerate_maps_are_counted_by_reason_and_never_scored(told):
    asked: list[int] = []

    def predict(images: Tensor) -> Tensor:
        asked.extend({int(image[0, 0, 0]) for image in images})
        return from_table(images)

    maps = torch.arange(4.0).view(1, 2, 2).repeat(7, 1, 1)
    maps[0], maps[2], maps[3], maps[5] = 0.0, -2.0, 0.0, 2.0
    maps[4, 1, 1], maps[6, 0, 0] = torch.nan, torch.inf
    metric = told()
    add(metric, 1, 2, 3, 4, 5, 6, 7, maps=maps, predict=predict)
    found = metric.compute()
    assert set(asked) == {2}
    assert found["degenerate"] == {"not finite": 2, "all zero": 2, "constant": 2}
    assert (found["sic"]["n"], found["sic"]["per_image"], found["index"]) == (1, [pytest.approx(0.7)], [1])
    assert found["sic"]["skipped"] == {LOW: 0, INFORMATION: 0, PREDICTION: 0}


def test_only_degenerate_maps(told):
    metric = told()
    add(metric, 1, 2, maps=torch.zeros(2, 2, 2), predict=None)  # nobody to ask
    found = metric.compute()
    assert found["degenerate"]["all zero"] == 2
    assert (found["sic"]["n"], found["sic"]["mean"], found["aic"]["curves"], found["index"]) == (0, None, None, [])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen():
    found = InformationCurves().compute()
    assert found["sic"] == found["aic"]
    assert found["aic"] == {
        "n": 0,
        "mean": None,
        "median_curve": None,
        "curves": None,
        "skipped": dict.fromkeys(SKIPPED, 0),
        "per_image": [],
    }


def test_results_stand_in_the_order_of_the_index(told):
    metric = told()
    add(metric, 1, 2, index=[7, 3])
    add(metric, 3, 4, index=[5, 0])
    found = metric.compute()
    assert found["index"] == [0, 3, 5, 7]
    assert found["sic"]["per_image"] == [None, *(pytest.approx(one) for one in (0.7, 0.35, 0.3))]


@pytest.mark.parametrize("parts", [[1, 6], [3, 3, 1], [1] * 7])
def test_batches_do_not_matter(told, parts):
    whole, split = told(), told()
    maps = torch.arange(4.0).view(1, 2, 2).repeat(7, 1, 1)
    maps[0] = 0.0  # the first says nothing, and still is the first
    add(whole, 1, 2, 3, 4, 5, 6, 7, maps=maps)
    for rows in torch.arange(7).split(parts):
        add(split, *(rows + 1).tolist(), maps=maps[rows])
    assert plain(split.compute()) == plain(whole.compute())


def test_reset_forgets(told):
    metric = told()
    add(metric, 1, 2, 3)
    add(metric, 4, maps=torch.zeros(1, 2, 2))
    metric.reset()
    add(metric, 2)
    found = metric.compute()
    assert (found["sic"]["n"], found["index"], sum(found["degenerate"].values())) == (1, [0], 0)
    assert found["sic"]["mean"] == pytest.approx(0.7)


def test_a_network_that_broke_down_has_no_curve_and_spoils_none(told):
    metric = told()
    add(metric, 2)
    add(metric, 1, 3, predict=lambda images: torch.full((len(images), 3), torch.nan))  # their argmax is class 0
    metric.update(
        lambda images: torch.full((len(images), 3), torch.nan), torch.ones(1, 2, 2, 1, dtype=torch.uint8),
        torch.arange(4.0).view(1, 2, 2), classes=[0], seeds=[0]
    )  # fmt: skip
    found = metric.compute()
    for name, expected in (("aic", 0.75), ("sic", 0.7)):
        assert found[name]["skipped"] == {LOW: 3, INFORMATION: 0, PREDICTION: 0}
        assert found[name]["per_image"] == [pytest.approx(expected), None, None, None]
        assert (found[name]["n"], found[name]["mean"]) == (1, pytest.approx(expected))


def test_a_network_that_breaks_down_on_the_way_believes_nothing_there(told):
    def predict(images: Tensor) -> Tensor:
        half = images[:, 0, 1, 0] == 1
        return torch.where(half[:, None], torch.nan, from_table(images))

    metric = told()
    add(metric, 2, predict=predict)
    found = metric.compute()
    assert (found["sic"]["mean"], found["aic"]["mean"]) == (pytest.approx(0.25), pytest.approx(0.25))  # height 0


def test_a_metric_made_in_inference_mode_can_be_used_outside(told):
    with torch.inference_mode():
        metric = told()
    add(metric, 1, 2, maps=torch.stack([torch.zeros(2, 2), torch.arange(4.0).view(2, 2)]))
    assert metric.compute()["degenerate"]["all zero"] == 1
    assert metric.compute()["sic"]["mean"] == pytest.approx(0.7)


@pytest.mark.parametrize("thresholds", [[0.5, 0.1], [0.1, 0.1], [0.0, 0.5], [0.5, 1.0], [-0.1]])
def test_thresholds_that_are_not_rising_shares_are_refused(thresholds):
    with pytest.raises(ValueError, match="rising, between 0 and 1; came"):
        InformationCurves(thresholds)


# --- the metric on real reconstructions ----------------------------------------------------------------------------


def by_contrast(classes: int):
    """A network of any size and channels: class 0 to the degree that neighbours differ."""

    def predict(images: Tensor) -> Tensor:
        change = (images[:, :, 1:] - images[:, :, :-1].float()).abs().mean(dim=(1, 2, 3)) / 85
        rest = ((1 - change) / (classes - 1))[:, None].repeat(1, classes - 1)
        return torch.cat([change[:, None], rest], dim=1)

    return predict


def pictures(count: int, height: int, width: int, channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, height, width, channels), generator=generator, dtype=torch.uint8)
    return images, torch.rand(count, height, width, generator=generator)


@pytest.mark.parametrize(("height", "width", "channels", "classes"), [(16, 16, 3, 2), (12, 21, 1, 7), (15, 10, 3, 3)])
def test_any_size_channels_and_classes(height, width, channels, classes):
    images, maps = pictures(2, height, width, channels)
    predict, seeds = by_contrast(classes), [5, 6]
    metric = InformationCurves(fraction=0.05)
    metric.update(predict, images, maps, classes=[0, 0], seeds=seeds)
    expected = []
    for image, saliency, seed in zip(images.numpy(), maps.numpy(), seeds, strict=True):
        revealed = reveal(image, saliency, random_mask(height, width, seed, 0.05))
        predictions = predict(torch.from_numpy(revealed.images))[:, 0].double().numpy()
        assert skip_reason(revealed.entropies, predictions) is None
        expected.append(area(information_curve(revealed.entropies, predictions)))
    assert metric.compute()["sic"]["per_image"] == pytest.approx(expected, abs=1e-12)
    assert expected[0] != expected[1]


def test_the_size_of_the_networks_batches_changes_nothing():
    images, maps = pictures(3, 16, 16, 3)
    found = []
    for batch_size in (1, 4, 100):
        metric, sizes = InformationCurves(batch_size=batch_size), []
        metric.update(
            lambda part, sizes=sizes: sizes.append(len(part)) or by_contrast(2)(part), images, maps, [0] * 3, [0] * 3
        )
        found.append(plain(metric.compute()))
        assert sizes == {1: [1] * 45, 4: [4, 4, 4, 3] * 3, 100: [15] * 3}[batch_size]
    assert found[0] == found[1] == found[2]
    assert found[0]["sic"]["n"] == 3


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """One entry for each reconstruction that is made."""
    calls, real = [], reconstruction.reconstruct
    monkeypatch.setattr(reconstruction, "reconstruct", lambda *given: calls.append(1) or real(*given))
    return calls


def test_what_is_known_is_not_made_again(made):
    images, maps = pictures(2, 16, 16, 3)
    known: dict = {}

    def measure(saliency: Tensor, known: dict | None = None, seed: int = 0, **settings) -> tuple[dict, int]:
        made.clear()
        metric = InformationCurves(known=known, **settings)
        metric.update(by_contrast(2), images, saliency, [0, 0], [seed, seed])
        return plain(metric.compute()), len(made)

    assert measure(maps, known)[1] == 2 * 14
    assert len(known) == 2
    other, count = measure(1 - maps, known)
    assert count == 2 * 13
    assert (other, 2 * 14) == measure(1 - maps)
    assert len(known) == 2
    # Another mask, or another way to fill in, is another blurred image.
    for number, changes in enumerate(({"seed": 1}, {"fraction": 0.02}, {"exact": False}), start=2):
        found, count = measure(maps, known, **changes)
        assert (found, count) == measure(maps, **changes)
        assert count == 2 * 14
        assert len(known) == 2 * number


def test_the_pool_does_the_work_and_gives_the_same():
    class Pool:
        calls = 0

        def map(self, function, *columns):
            self.calls += 1
            return iter([function(*row) for row in zip(*columns, strict=False)])

    images, maps = pictures(3, 16, 16, 1)
    maps[1] = 0.0
    alone, shared, pool = InformationCurves(), InformationCurves(), Pool()
    alone.update(by_contrast(2), images, maps, [0] * 3, seeds=[1, 2, 3])
    shared.update(by_contrast(2), images, maps, [0] * 3, seeds=[1, 2, 3], pool=pool)
    assert pool.calls == 1
    assert plain(shared.compute()) == plain(alone.compute())
    assert alone.compute()["index"] == [0, 2]
