from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from conftest import untrained_model
from hydra.utils import instantiate
from torch import Tensor, nn
from torchvision import models

from genaug.explaining.layers import as_maps, default_layer

CONF = Path(__file__).parents[2] / "conf" / "model"

#: Read off each network's forward method, for images of 64 pixels.
OF_YAML = {
    "tiny": "features",
    "resnet18": "layer4",
    "resnet34": "layer4",
    "resnet50": "layer4",
    "resnet101": "layer4",
    "resnet152": "layer4",
    "densenet121": "features",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    "timm": "stages",  # convnext_atto
}
OF_TORCHVISION = {
    "efficientnet_b0": "features",
    "mobilenet_v3_small": "features",
    "convnext_tiny": "features",
    "swin_t": "permute",  # to (B, C, H, W), after the last norm
    "vgg11": "features",  # not avgpool, which stretches 2 x 2 places to 7 x 7
    "squeezenet1_1": "classifier.2",  # one map a class, and its ReLU
}
OF_TIMM = {
    "resnet18": "layer4",
    "efficientnet_lite0": "bn2",  # with the activation in it
    "swin_tiny_patch4_window7_224": "norm",  # (B, H, W, C)
    "resnet50_clip": "stages",  # then attention pools it
    "mobilevit_xxs": "final_conv",  # has blocks of tokens, but does not end in them
    "vit_tiny_patch16_224": "blocks.11.norm1",
    "mixer_s32_224": "blocks.7.norm1",
}


def images(side: int = 64, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stem", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_yaml_has_a_default_layer(stem):
    # Shapes without numbers: the largest network costs no more than the smallest.
    with torch.device("meta"):
        model = instantiate(untrained_model(stem), num_classes=7, image_size=64, channels=3)
        name = default_layer(model, torch.zeros(2, 3, 64, 64))
    assert name in dict(model.named_modules())
    assert name == OF_YAML.get(stem, name)


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_networks_of_torchvision(name):
    with torch.device("meta"):
        model = models.get_model(name, weights=None, num_classes=7)
        assert default_layer(model, torch.zeros(1, 3, 96, 96)) == OF_TORCHVISION[name]


@pytest.mark.parametrize("name", OF_TIMM)
def test_networks_of_timm(name):
    # swin computes its attention mask from numbers as it is built, so not on the meta device
    model = timm.create_model(name, num_classes=7)
    side = 224 if "224" in name else 64
    assert default_layer(model, images(side, 1)) == OF_TIMM[name]


def test_attention_heads_are_no_feature_map():
    model = timm.models.vision_transformer.VisionTransformer(
        64, 16, num_classes=7, global_pool="map", class_token=False, embed_dim=32, depth=2, num_heads=2, qk_norm=True
    )
    assert default_layer(model, images()) == "blocks.1.norm1"


def test_the_last_map_of_more_than_one_place():
    with torch.device("meta"):
        model = models.resnet18()
        assert default_layer(model, torch.zeros(1, 3, 33, 33)) == "layer4"
        assert default_layer(model, torch.zeros(1, 3, 32, 32)) == "layer3"  # of layer4 one place is left


class Shared(nn.Module):
    """Convolution, activation, convolution, the same activation again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.activation, self.head = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x))
        return self.head(self.activation(self.second(x)).mean((2, 3)))


def test_a_module_called_twice_is_not_chosen():
    assert default_layer(Shared(), images(8)) == "second"


class InPlace(nn.Module):
    """An activation that works in place on what the convolution returned, then what does nothing in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.activation, self.nothing = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Identity()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.nothing(self.activation(self.convolution(x))).mean((2, 3)))


def test_the_same_tensor_is_another_one_after_work_in_place():
    assert default_layer(InPlace(), images(8)) == "activation"


def test_the_outermost_of_names_for_one_tensor():
    network = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3))), nn.Identity(), nn.Flatten())
    assert default_layer(network, images(8)) == "0"


def test_probing_leaves_nothing_behind():
    model = InPlace().train()
    with torch.inference_mode():
        default_layer(model, images(8))
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_a_network_without_a_map_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(ValueError, match=r"no module of Sequential .* \(8, 8\) pixels; name a layer"):
        default_layer(model, images(8))


# --- layouts -------------------------------------------------------------------------------------------------------


class Named(nn.Module):
    """Tells its grid as timm's networks do."""

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.num_prefix_tokens, self.patch_embed, self.norm = prefix, nn.Module(), nn.LayerNorm(2)
        self.patch_embed.grid_size = grid


def numbered(prefix: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Tokens ``(1, N, 2)``, the prefix -1 and patches numbered row by row, and the map they should make."""
    patches = torch.arange(2.0 * rows * columns).view(1, -1, 2)
    return torch.cat([-torch.ones(1, prefix, 2), patches], dim=1), patches[0].T.reshape(1, 2, rows, columns)


@pytest.mark.parametrize(
    ("prefix", "rows", "columns", "size"),
    [
        (0, 4, 4, (64, 64)),
        (1, 14, 14, (224, 224)),
        (2, 14, 14, (224, 224)),
        (5, 16, 16, (224, 224)),
        (1, 14, 7, (448, 224)),
        (1, 3, 6, (96, 192)),
    ],
)
def test_a_grid_is_inferred_from_the_number_of_tokens(prefix, rows, columns, size):
    tokens, expected = numbered(prefix, rows, columns)
    assert torch.equal(as_maps(nn.Identity(), "", tokens, size), expected)


@pytest.mark.parametrize("layer", ["norm", "0.norm"])
def test_a_grid_that_the_network_tells(layer):
    model: nn.Module = Named((2, 8), prefix=9)  # 25 tokens, which alone would be taken for 5 x 5
    if layer != "norm":
        model = nn.Sequential(model)
    tokens, expected = numbered(9, 2, 8)
    assert torch.equal(as_maps(model, layer, tokens, (64, 64)), expected)


def test_a_grid_told_for_images_of_another_size():
    tokens, expected = numbered(4, 4, 4)
    assert torch.equal(as_maps(Named((14, 14), prefix=4), "norm", tokens, (64, 64)), expected)


def test_tokens_on_no_grid_are_refused():
    with pytest.raises(ValueError, match="came 29 from 'a.b'"):
        as_maps(nn.Identity(), "a.b", torch.zeros(1, 1 + 7 * 4, 2), (200, 100))
    with pytest.raises(ValueError, match="came 3 from"):
        as_maps(nn.Identity(), "a.b", torch.zeros(1, 3, 2), (64, 48))  # 2 x 1.5 places


@pytest.mark.parametrize(
    ("shape", "size", "last"),
    [
        ((512, 7, 7), (224, 224), False),
        ((7, 7, 768), (224, 224), True),
        ((7, 7, 7), (224, 224), False),
        ((512, 7, 4), (200, 100), False),
        ((7, 4, 512), (200, 100), True),
        ((4, 4, 8), (32, 64), False),
        ((1, 7, 7), (224, 224), False),
    ],
)
def test_where_the_channels_are(shape, size, last):
    features = torch.randn(2, *shape)
    expected = features.permute(0, 3, 1, 2) if last else features
    assert torch.equal(as_maps(nn.Identity(), "", features, size), expected)


def test_pooled_features_are_refused():
    with pytest.raises(ValueError, match=r"came \(2, 512\) from 'pool'; name a layer before pooling"):
        as_maps(nn.Identity(), "pool", torch.zeros(2, 512), (64, 64))
