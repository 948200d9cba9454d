"""Features from a network of timm, its weights from a local file."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch.nn import functional

from genaug.models.features import TimmFeatures

NAME = "test_vit.r160_in1k"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """File of a network with random weights and its head, as on the hub."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(timm.create_model(NAME).state_dict(), file)
    return file


def test_features_are_those_before_the_last_layer(weights):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20 + 9 * number, 40, 3)).astype(np.uint8) for number in range(5)]
    features = TimmFeatures(NAME, weights, batch_size=2)
    found = features.images(images)
    features.unload()
    network = timm.create_model(
        NAME, num_classes=0, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}
    ).eval()
    transform = create_transform(**resolve_model_data_config(network))
    with torch.no_grad():
        expected = torch.cat([network(transform(Image.fromarray(image))[None]) for image in images])
    torch.testing.assert_close(found, functional.normalize(expected, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.images(images[2:3]), found[2:3], rtol=1e-4, atol=1e-5)
    assert features.settings["name"] == NAME


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"features\.weights: no file"):
        TimmFeatures(NAME, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="did you mean"):
        TimmFeatures("vit_smal_patch14_dinov2")
    with pytest.raises(ConnectionError, match=r"features\.weights"):
        TimmFeatures(NAME).load("cpu")
