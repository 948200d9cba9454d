"""What PAIR's ``pic.py`` and RISE's ``evaluation.py`` gave for eight photographs, where that is at hand."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import features
from torch import Tensor

from genaug.metrics import information_curves
from genaug.metrics.information_curves import (
    SKIPPED,
    InformationCurves,
    area,
    information_curve,
    predictions_told,
    skip_reason,
)
from genaug.metrics.insertion_deletion import causal_curve, rank_pixels, ranks_of
from genaug.metrics.reconstruction import Revealed, reveal

GOLDEN = Path(__file__).parents[2].parent / "shared" / "reference" / "explain_mini"
IMAGES = range(8)
STORED = [i for i in IMAGES if i != 2]  # which the reference skipped for SIC and for AIC

pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"needs {GOLDEN}")

#: Bytes can be compared with the libwebp that made them; with another the curves follow from the stored bytes.
SAME_WEBP = features.version("webp") == "1.6.0"

REASONS = {
    "The model prediction score on the original image is lower than `min_pred_value`": SKIPPED[0],
    "The entropy in the completely blurred image is not lower than the entropy in the original image": SKIPPED[1],
    "The model prediction score on the completely blurred image is not lower than the score on the original image": (
        SKIPPED[2]
    ),
}


@cache
def golden() -> SimpleNamespace:
    spec = importlib.util.spec_from_file_location("mini_model", GOLDEN / "mini_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return SimpleNamespace(
        inputs=dict(np.load(GOLDEN / "inputs.npz")),
        reference=json.loads((GOLDEN / "reference.json").read_text()),
        curves=dict(np.load(GOLDEN / "reference_curves.npz")),
        probs=module.probs,
    )


def of_pixels(images: Tensor) -> Tensor:
    return torch.from_numpy(golden().probs(images.numpy()))


def stored(i: int) -> dict:
    """What is stored of an image whatever the metric: bytes and hashes."""
    return next(one for one in (golden().reference[i][name] for name in ("sic", "aic")) if "skipped" not in one)


@cache
def revealed(i: int) -> Revealed:
    given = golden().inputs
    found = reveal(given["images"][i], given["saliency"][i], given["masks"][i])
    if SAME_WEBP or i not in STORED:
        return found
    return Revealed(found.images, np.array(stored(i)["entropies"]))


@cache
def asked(i: int) -> dict[str, np.ndarray]:
    [(_, confidences, hits)] = predictions_told(of_pixels, iter([revealed(i)]), [int(golden().inputs["cls"][i])], 4)
    return {"sic": confidences, "aic": hits.astype(np.float64)}


@pytest.mark.parametrize("i", STORED)
def test_images_have_the_same_bytes(i):
    images, expected = revealed(i).images, stored(i)
    assert [hashlib.sha1(image.tobytes()).hexdigest()[:16] for image in images] == expected["blurred_sha1"]
    if f"blurred_{i}" in golden().curves:
        assert np.array_equal(images, golden().curves[f"blurred_{i}"])


@pytest.mark.skipif(not SAME_WEBP, reason="stored with libwebp 1.6.0")
@pytest.mark.parametrize("i", STORED)
def test_they_hold_the_same_information(i):
    assert revealed(i).entropies.tolist() == stored(i)["entropies"]


@pytest.mark.parametrize("i", IMAGES)
@pytest.mark.parametrize("name", ["sic", "aic", "sic_nonmono", "aic_nonmono"])
def test_curves(name, i):
    expected, kind = golden().reference[i][name], name.removesuffix("_nonmono")
    entropies, predictions = revealed(i).entropies, asked(i)[kind]
    reason = skip_reason(entropies, predictions)
    if "skipped" in expected:
        assert reason == REASONS[expected["skipped"]]
        return
    assert reason is None
    assert predictions == pytest.approx(expected["predictions"], abs=1e-9)
    curve = information_curve(entropies, predictions, monotone=not name.endswith("nonmono"))
    assert curve == pytest.approx(golden().curves[f"{name}_{i}"], abs=1e-6)
    assert area(curve) == pytest.approx(expected["auc"], abs=1e-6)


def test_every_branch_is_there():
    skipped = [golden().reference[i][name].get("skipped") for name in ("sic", "aic") for i in IMAGES]
    assert {REASONS[one] for one in skipped if one} == {SKIPPED[0], SKIPPED[2]}
    assert skipped.count(None) == 10


@pytest.mark.skipif(not SAME_WEBP, reason="stored with libwebp 1.6.0")
@pytest.mark.parametrize("monotone", [True, False])
def test_the_metric(monkeypatch, monotone):
    given = golden().inputs
    monkeypatch.setattr(information_curves, "random_mask", lambda height, width, seed, fraction: given["masks"][seed])
    metric = InformationCurves(monotone=monotone)
    for rows in ([6, 7], [0, 1, 2], [5, 4, 3]):
        metric.update(
            of_pixels,
            torch.from_numpy(given["images"][rows]),
            torch.from_numpy(given["saliency"][rows]),
            classes=given["cls"][rows],
            seeds=rows,
            index=rows,
        )
    found = metric.compute()
    for kind in ("sic", "aic"):
        entries = [golden().reference[i][kind if monotone else f"{kind}_nonmono"] for i in IMAGES]
        areas = [one.get("auc") for one in entries]
        assert found[kind]["per_image"] == [one and pytest.approx(one, abs=1e-6) for one in areas]
        there = [one for one in areas if one is not None]
        assert (found[kind]["n"], found[kind]["mean"]) == (len(there), pytest.approx(np.mean(there), abs=1e-6))
        reasons = Counter(REASONS[one["skipped"]] for one in entries if "skipped" in one)
        assert found[kind]["skipped"] == {reason: reasons[reason] for reason in SKIPPED}
        name = kind if monotone else f"{kind}_nonmono"
        curves = [golden().curves[f"{name}_{i}"] for i in IMAGES if areas[i] is not None]
        assert found[kind]["curves"]["median"] == pytest.approx(np.median(curves, axis=0), abs=1e-6)


@pytest.mark.parametrize("i", IMAGES)
@pytest.mark.parametrize(("name", "mode"), [("ins", "insertion"), ("del", "deletion")])
def test_insertion_and_deletion(name, mode, i):
    given = golden().inputs
    # RISE's order: of equal pixels the one that its sort happens to put last.
    ranks = ranks_of(torch.from_numpy(np.flip(np.argsort(given["saliency"][i].ravel())).copy())).view(64, 64)
    curve = causal_curve(
        lambda images: of_pixels(images.permute(0, 2, 3, 1)),
        torch.from_numpy(given["images"][i]).permute(2, 0, 1).float(),
        ranks,
        int(given["cls"][i]),
        mode,
        step=64,
    )
    assert (curve.measured, curve.bound) == (65, 0.0)
    assert curve.scores == pytest.approx(golden().curves[f"{name}_{i}"], abs=1e-6)
    assert curve.area == pytest.approx(golden().reference[i][name]["auc"], abs=1e-6)
    assert golden().reference[i][name]["n"] == 65


@pytest.mark.parametrize("i", [i for i in IMAGES if i != 6])  # the map of 6 has two pixels of one value
def test_our_own_order_is_rises_where_no_two_pixels_are_equal(i):
    saliency = golden().inputs["saliency"][i]
    order = torch.from_numpy(np.flip(np.argsort(saliency.ravel())).copy())
    assert torch.equal(rank_pixels(torch.from_numpy(saliency)), ranks_of(order).view(64, 64))
