from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytorch_lightning as pl
import timm
import torch
from captum.attr import LayerGradCam
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from genaug.explaining import gradcam
from genaug.explaining.base import Explainer, undisturbed
from genaug.explaining.gradcam import GradCAM, features_and_gradients
from genaug.explaining.integrated_gradients import IntegratedGradients
from genaug.explaining.occlusion import Occlusion
from genaug.explaining.random import RandomMap
from genaug.explaining.saliency import Saliency
from genaug.models.timm_models import timm_model
from genaug.models.tiny import tiny
from genaug.models.torchvision_models import torchvision_model

CONF = Path(__file__).parents[2] / "conf" / "explainer"
ALL = sorted(path.stem for path in CONF.glob("*.yaml"))


def explainer(stem: str) -> Explainer:
    changes = {"n_steps": 4} if stem == "integrated_gradients" else {}
    return instantiate(OmegaConf.load(CONF / f"{stem}.yaml"), **changes)


def images(count: int = 2, side: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def seeds(count: int = 2) -> list[int]:
    return list(range(count))


def network(classes: int = 4, width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return tiny(num_classes=classes, image_size=32, width=width).eval()


CLASSES = torch.tensor([1, 3])


# --- the contract, for every explainer -----------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ALL)
class TestEvery:
    def test_maps_vary_over_the_image(self, stem):
        maps = explainer(stem)(network(), images(), CLASSES, seeds())
        assert maps.shape == (2, 32, 32)
        assert maps.dtype == torch.float32
        assert not maps.requires_grad
        assert (maps.std(dim=(1, 2)) > 0).all()

    def test_a_batch_gives_what_single_images_give(self, stem):
        model, batch, classes = network(), images(5), torch.tensor([0, 1, 2, 3, 1])
        together = explainer(stem)(model, batch, classes, [3, 1, 4, 1, 5])
        for index, seed in enumerate([3, 1, 4, 1, 5]):
            one = explainer(stem)(model, batch[index : index + 1], classes[index : index + 1], [seed])
            torch.testing.assert_close(one[0], together[index], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
    def test_anywhere(self, stem, context):
        model = network()
        expected = explainer(stem)(model, images(), CLASSES, seeds())
        with context():
            batch, classes = images() * 1, CLASSES * 1  # made in here
            maps = explainer(stem)(model, batch, classes, seeds())
            assert torch.is_grad_enabled() == (context is torch.enable_grad)
            assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
        torch.testing.assert_close(maps, expected)

    def test_arguments_are_not_changed(self, stem):
        batch, classes = images(), CLASSES.clone()
        explainer(stem)(network(), batch, classes, seeds())
        assert torch.equal(batch, images())
        assert torch.equal(classes, CLASSES)
        assert not batch.requires_grad
        assert batch.grad is None

    def test_autocast_does_not_matter(self, stem):
        model = network()
        with torch.autocast("cpu", torch.bfloat16):
            maps = explainer(stem)(model, images(), CLASSES, seeds())
            assert torch.is_autocast_enabled("cpu")
        torch.testing.assert_close(maps, explainer(stem)(model, images(), CLASSES, seeds()))

    @pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
    def test_models_of_other_precision(self, stem, precision):
        model = network()
        expected = explainer(stem)(model, images(), CLASSES, seeds())
        maps = explainer(stem)(model.to(precision), images(), CLASSES, seeds())
        assert maps.dtype == torch.float32
        both = torch.stack([maps.flatten(), expected.flatten()])
        assert both.corrcoef()[0, 1] > (0.9999 if precision == torch.float64 else 0.95)

    def test_a_frozen_network(self, stem):
        model = network()
        expected = explainer(stem)(model, images(), CLASSES, seeds())
        frozen = model.requires_grad_(False)
        assert torch.equal(explainer(stem)(frozen, images(), CLASSES, seeds()), expected)
        assert not any(parameter.requires_grad for parameter in frozen.parameters())

    def test_seeds_matter_only_to_noise(self, stem):
        model = network()
        first, second = (explainer(stem)(model, images(), CLASSES, drawn) for drawn in ([0, 1], [2, 3]))
        assert torch.equal(first, second) == (stem != "random")

    def test_global_random_numbers_are_left_alone(self, stem):
        model = network()
        before = torch.get_rng_state()
        explainer(stem)(model, images(), CLASSES, seeds())
        assert torch.equal(torch.get_rng_state(), before)

    def test_grey_and_oblong_images(self, stem):
        model = tiny(num_classes=4, channels=1, width=8)
        batch = torch.randn(2, 1, 32, 64, generator=torch.Generator().manual_seed(0))
        assert explainer(stem)(model, batch, CLASSES, seeds()).shape == (2, 32, 64)

    def test_the_network_is_given_back(self, stem):
        model = used_network()
        before = everything(model)
        explainer(stem)(model, images(), CLASSES, seeds())
        assert_same(everything(model), before)

    @pytest.mark.parametrize("loop", ["fit", "validate", "test", "predict"])
    def test_inside_lightning(self, stem, loop):
        module = Guest(network(), explainer(stem))
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_steps=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(list(zip(images(), CLASSES, strict=True)), batch_size=2)
        getattr(trainer, loop)(module, loader, *([loader] if loop == "fit" else []))
        # Training has changed the network by then, so the maps are compared with those of the network as it is.
        assert len(module.maps) == 1
        torch.testing.assert_close(module.maps[0], explainer(stem)(module.model, images(), CLASSES, seeds()))


class Guest(pl.LightningModule):
    """Explains in every loop what is not training."""

    def __init__(self, model: nn.Module, explainer: Explainer) -> None:
        super().__init__()
        self.model, self.explainer, self.maps = model, explainer, []

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.maps.append(self.explainer(self.model, *batch, seeds()))

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.01)


def used_network() -> nn.Module:
    """Half in eval mode, partly frozen, with hooks, and in the middle of accumulating gradients."""
    model = network().train()
    model(images()).sum().backward()
    model.features[1].eval()
    model.features[3].norm1.eval()
    model.stem.requires_grad_(False)
    model.stem[0].weight.grad = None
    model.head.bias.grad = None
    model.features.register_forward_hook(lambda module, inputs, output: None)
    model.head.register_full_backward_hook(lambda module, inputs, outputs: None)
    return model


def everything(model: nn.Module) -> dict[str, object]:
    parameters = dict(model.named_parameters())
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [
            [list(getattr(module, name)) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
            for module in model.modules()
        ],
        "state": copy.deepcopy(model.state_dict()),
        "objects": [id(tensor) for tensor in (*parameters.values(), *model.buffers())],
        "requires_grad": [parameter.requires_grad for parameter in parameters.values()],
        "grad_objects": [id(parameter.grad) for parameter in parameters.values()],
        "grads": {name: copy.deepcopy(parameter.grad) for name, parameter in parameters.items()},
    }


def assert_same(after: dict[str, object], before: dict[str, object]) -> None:
    for name in ("training", "hooks", "objects", "requires_grad", "grad_objects"):
        assert after[name] == before[name], name
    for name in ("state", "grads"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


@contextmanager
def out_of_order(module: nn.Module) -> Iterator[None]:
    """Within, the module's forward raises; no hook is involved."""

    def broken(*arguments: object) -> None:
        raise RuntimeError("out of order")

    module.forward = broken  # type: ignore[method-assign]
    yield
    del module.forward


@pytest.mark.parametrize("stem", sorted(set(ALL) - {"random"}))  # which does not call the network
@pytest.mark.parametrize("failing", ["stem", "features.2", "head"])
def test_the_network_is_given_back_after_an_error(stem, failing):
    model = used_network()
    before = everything(model)
    with out_of_order(model.get_submodule(failing)), pytest.raises(RuntimeError, match="out of order"):
        explainer(stem)(model, images(), CLASSES, seeds())
    assert_same(everything(model), before)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


# --- the base ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(3, 8, 8)}, r"images: expected floats \(B, C, H, W\).* came torch.float32 \(3, 8, 8\)"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "normalise uint8 images first"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "at least one"),
        ({"classes": torch.tensor([1])}, r"classes: expected 2 integers, one an image, came torch.int64 \(1,\)"),
        ({"classes": torch.zeros(2, 4)}, r"came torch.float32 \(2, 4\)"),
        ({"classes": torch.tensor([1.0, 2.0])}, "came torch.float32"),
        ({"classes": torch.tensor([1, -1])}, "from 0 on, came -1"),
        ({"seeds": [1]}, "seeds: expected 2, one an image, came 1"),
    ],
)
def test_arguments_that_do_not_fit(changes, message):
    arguments = {"images": torch.zeros(2, 3, 8, 8), "classes": CLASSES, "seeds": [1, 2]} | changes
    with pytest.raises(ValueError, match=message):
        RandomMap()(nn.Identity(), **arguments)


def test_maps_of_a_wrong_shape_are_refused():
    class PerChannel(Explainer):
        def explain(self, model, images, classes, seeds):
            return images

    with pytest.raises(ValueError, match=r"PerChannel.explain: expected .* \(2, 8, 8\), came \(2, 3, 8, 8\)"):
        PerChannel()(nn.Identity(), images(side=8), CLASSES, seeds())


def test_an_explainer_cannot_leave_gradients():
    class Careless(Explainer):
        def explain(self, model, images, classes, seeds):
            images.requires_grad_()
            model(images).sum().backward()
            assert not model.training
            return images.grad.sum(dim=1)

    model = used_network()
    before = everything(model)
    Careless()(model, images(), CLASSES, seeds())
    assert_same(everything(model), before)


def test_undisturbed_sets_flags_and_calls_nothing():
    class Counts(nn.Module):
        calls = 0

        def train(self, mode: bool = True) -> nn.Module:
            self.calls += 1
            return super().train(mode)

    model = Counts()
    with undisturbed(model):
        assert not model.training
    assert model.training
    assert model.calls == 0


def test_training_goes_on_as_if_nothing_had_been():
    def trained(explained: bool) -> dict[str, Tensor]:
        model = network().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(3):
            F.cross_entropy(model(images() + step), CLASSES).backward()
            if explained:
                GradCAM()(model, images(), CLASSES, seeds())
            if step:  # the first two steps' gradients are accumulated
                optimizer.step()
                optimizer.zero_grad()
        return model.state_dict()

    torch.testing.assert_close(trained(True), trained(False), rtol=0, atol=0)


# --- Grad-CAM ------------------------------------------------------------------------------------------------------


class ByHand(nn.Module):
    """Two channels at half the size: sums of 2 x 2 pixels, and their negatives; the head reads each place itself."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 2, stride=2, bias=False)
        self.head = nn.Linear(2 * size * size, 2, bias=False)
        with torch.no_grad():
            self.convolution.weight[0], self.convolution.weight[1] = 1.0, -1.0
            # Class 0: first channel with mean weight (1 + 2 + 3 + 6) / 4 = 3, second with -1. Class 1: 0 and 2.
            self.head.weight.copy_(torch.tensor([[1.0, 2, 3, 6, -1, -1, -1, -1], [1.0, -1, 1, -1, 2, 2, 2, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.convolution(x).flatten(1))


def picture() -> Tensor:
    """Sums of 2 x 2 pixels are [[4, 0], [-8, 2]]."""
    return torch.tensor([[1.0, 0], [-2, 0.5]]).repeat_interleave(2, 0).repeat_interleave(2, 1)[None, None]


def test_gradcam_on_paper():
    # Class 0: 3 A - 1 (-A) = 4 A; class 1: 0 A + 2 (-A) = -2 A, with A = [[4, 0], [-8, 2]].
    coarse = torch.tensor([[[16.0, 0], [-32, 8]], [[-8.0, 0], [16, -4]]])
    batch, classes = picture().repeat(2, 1, 1, 1), torch.tensor([0, 1])
    signed = GradCAM(relu=False)(ByHand(), batch, classes, seeds())
    # Bilinear with half-pixel centres: the corners keep their values, the next pixel is 3/4 one and 1/4 the other.
    torch.testing.assert_close(signed[:, ::3, ::3], coarse)
    torch.testing.assert_close(signed[0, 0], torch.tensor([16.0, 12, 4, 0]))
    torch.testing.assert_close(signed[0, :, 0], torch.tensor([16.0, 4, -20, -32]))
    rectified = GradCAM()(ByHand(), batch, classes, seeds())
    torch.testing.assert_close(rectified[:, ::3, ::3], coarse.relu())
    # First rectified, then enlarged.
    torch.testing.assert_close(rectified[0, :, 0], torch.tensor([16.0, 12, 4, 0]))


def test_gradcam_of_class_maps_is_the_class_map():
    """With global average pooling the weights are the head's, divided by the number of places (the paper's CAM)."""
    model = network()
    with torch.no_grad():
        features = model.features(model.stem(images()))
    weights = model.head.weight[CLASSES].detach()
    expected = torch.einsum("bc,bchw->bhw", weights, features) / features[0, 0].numel()
    expected = F.interpolate(expected[:, None], (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(GradCAM(relu=False)(model, images(), CLASSES, seeds()), expected)


class Split(nn.Module):
    """Sets the class token aside, and hands the patches on as a feature map, which captum understands."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.prefix = rows, None

    def forward(self, tokens: Tensor) -> Tensor:
        self.prefix = tokens[:, :1]
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (self.rows, self.rows))


class Join(nn.Module):
    def __init__(self, split: Split) -> None:
        super().__init__()
        self.split = [split]  # not a child

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.split[0].prefix, maps.flatten(2).transpose(1, 2)], dim=1)


def torchvision_vit() -> nn.Module:
    model = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4)
    nn.init.normal_(model.heads.head.weight)  # torchvision begins with zeros, which give no gradient
    return model


def with_split(block: nn.Module, name: str) -> nn.Module:
    """Behind a layer of tokens, a way to maps, which is returned, and back."""
    split = Split(4)
    setattr(block, name, nn.Sequential(getattr(block, name), split, Join(split)))
    return split


class Copy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def before_work_in_place(model: nn.Module) -> nn.Module:
    # DenseNet's last ReLU works in place on the very tensor that captum keeps; a copy comes between.
    model.features = nn.Sequential(model.features, Copy())
    return model.features[0]


def with_channels_first(model: nn.Module) -> nn.Module:
    model.norm = nn.Sequential(model.norm, ChannelsFirst(), ChannelsLast())
    return model.norm[1]


#: How to build a network, and in it the layer for captum.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module]]] = {
    "tiny": (network, lambda model: model.features),
    "resnet18": (lambda: torchvision_model("resnet18", num_classes=4), lambda model: model.layer4),
    "densenet121": (lambda: torchvision_model("densenet121", num_classes=4), before_work_in_place),
    "vit": (torchvision_vit, lambda model: with_split(model.encoder.layers[-1], "ln_1")),
    "timm_vit": (
        lambda: timm_model("vit_tiny_patch16_224", num_classes=4, image_size=64),
        lambda model: with_split(model.blocks[-1], "norm1"),
    ),
    "timm_swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", num_classes=4, img_size=64, window_size=2, depths=(1, 1), num_heads=(1, 2),
            embed_dim=16,
        ),
        with_channels_first,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_gradcam_agrees_with_captum(name):
    torch.manual_seed(0)
    build, find = NETWORKS[name]
    model, side = build().eval(), 32 if name in ("tiny", "vit") else 64
    ours = [GradCAM(relu=relu)(model, images(side=side), CLASSES, seeds()) for relu in (False, True)]
    layer, scale = find(model), 0.0
    for relu, maps in enumerate(ours):
        raw = LayerGradCam(model, layer).attribute(images(side=side), CLASSES, relu_attributions=bool(relu))
        expected = F.interpolate(raw.detach(), (side, side), mode="bilinear", align_corners=False)[:, 0]
        scale = scale or float(expected.std())  # of the signed map: a rectified one may be zero
        assert scale > 0
        torch.testing.assert_close(maps / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_why_a_vit_is_read_before_its_last_attention():
    """The class token alone is read: of the last block's output, patches get no gradient."""
    model = torchvision_vit().eval()
    with undisturbed(model):
        _, late = features_and_gradients(model, "encoder.layers.encoder_layer_1", images(), CLASSES)
        _, early = features_and_gradients(model, "encoder.layers.encoder_layer_1.ln_1", images(), CLASSES)
    assert late[:, 0].abs().max() > 0
    assert late[:, 1:].abs().max() == 0
    assert early[:, 1:].abs().max() > 0


class Bypassed(nn.Module):
    """After the layer an activation works in place; a shared one is called twice; an unused branch leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.in_place, self.shared = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.ReLU()
        self.unused, self.never, self.pairs = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), Pair()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        x, _ = self.pairs(self.in_place(self.layer(x)))
        return self.head(self.shared(self.shared(x)).mean(dim=(2, 3)))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_gradcam_before_an_activation_that_works_in_place():
    model = Bypassed().eval()
    with torch.no_grad():
        features = model.layer(images(side=8))
    # The head's weights where the activation lets them through, over 36 places.
    gradients = model.head.weight[CLASSES][:, :, None, None] * (features > 0) / 36
    expected = (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True)
    expected = F.interpolate(expected, (8, 8), mode="bilinear").detach()[:, 0]
    torch.testing.assert_close(GradCAM("layer", relu=False)(model, images(side=8), CLASSES, seeds()), expected)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("shared", "'shared' was called 2 times; name one around its calls"),
        ("never", "'never' was called 0 times"),
        ("unused", "logits do not depend on 'unused'"),
        ("pairs", "expected one that returns a tensor, came tuple from 'pairs'"),
        ("in_plce", r"expected a module of Bypassed, came 'in_plce'; did you mean in_place\?"),
        ("", "came ''; model.named_modules"),
        ("head", r"came \(2, 4\) from 'head'; name a layer before pooling"),
    ],
)
def test_layers_that_cannot_be_used(layer, message):
    model = Bypassed()
    with pytest.raises(ValueError, match=message):
        GradCAM(layer)(model, images(side=8), CLASSES, seeds())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_a_class_that_the_network_does_not_have():
    with pytest.raises(ValueError, match=r"came \(2, 4\) and class 4"):
        GradCAM()(network(), images(), torch.tensor([1, 4]), seeds())


def test_below_the_layer_nothing_is_recorded():
    model, seen = network(), {}
    for name in ("stem", "features", "head"):
        hook = lambda module, inputs, name=name: seen.update({name: inputs[0].requires_grad})  # noqa: E731
        model.get_submodule(name).register_forward_pre_hook(hook)
    GradCAM("features.2")(model, images(), CLASSES, seeds())
    assert seen == {"stem": False, "features": False, "head": True}


def test_a_backbone_that_runs_without_gradients():
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.backbone(x).relu()
            return self.head(x.mean(dim=(2, 3)))

    assert GradCAM("backbone", relu=False)(Probe(), images(side=8), CLASSES, seeds()).std() > 0
    assert torch.is_grad_enabled()


def test_the_default_layer_is_looked_for_once_a_network_and_size(monkeypatch):
    looked = []
    monkeypatch.setattr(gradcam, "default_layer", lambda model, batch: looked.append(batch.shape[2:]) or "features")
    explain, model = GradCAM(), network()
    for side in (32, 32, 48, 32):
        explain(model, images(side=side), CLASSES, seeds())
    explain(network(), images(), CLASSES, seeds())
    assert looked == [(32, 32), (48, 48), (32, 32)]
    del model
    gc.collect()
    assert len(explain._defaults) == 0  # networks are not kept alive


# --- the others ----------------------------------------------------------------------------------------------------


def linear() -> tuple[nn.Module, Tensor]:
    """Logits that are linear in the pixels, and the weights ``(K, C, H, W)``."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    return model, model[1].weight.detach().view(4, 3, 8, 8)


def test_saliency_is_the_largest_absolute_weight_of_a_linear_model():
    model, weights = linear()
    maps = Saliency()(model, images(side=8), CLASSES, seeds())
    torch.testing.assert_close(maps, weights[CLASSES].abs().amax(dim=1))


def test_integrated_gradients_of_a_linear_model_are_weight_times_pixel():
    model, weights = linear()
    maps = IntegratedGradients(n_steps=3)(model, images(side=8), CLASSES, seeds())
    torch.testing.assert_close(maps, (weights[CLASSES] * images(side=8)).abs().sum(dim=1))


def test_integrated_gradients_are_complete():
    """Of products of positive pixels, shares are positive: their sum is what the logit gained over the baseline's."""

    class Products(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(dim=(1, 2, 3)), (x[..., ::2] * x[..., 1::2]).sum(dim=(1, 2, 3))], dim=1)

    batch = images(side=8).abs()
    maps = IntegratedGradients(n_steps=20)(Products(), batch, torch.tensor([1, 1]), seeds())
    torch.testing.assert_close(maps.sum(dim=(1, 2)), Products()(batch)[:, 1])
    # Each of a pair gets half of the product.
    torch.testing.assert_close(maps[..., ::2], (batch[..., ::2] * batch[..., 1::2]).sum(dim=1) / 2)


def test_the_internal_batch_changes_nothing_and_warns_of_nothing():
    model, whole = network(), IntegratedGradients(n_steps=6, internal_batch_size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = [
            IntegratedGradients(n_steps=6, internal_batch_size=size)(model, images(), CLASSES, seeds())
            for size in (1, 3, 5)
        ]
    for one in maps:
        torch.testing.assert_close(one, whole(model, images(), CLASSES, seeds()), rtol=1e-4, atol=1e-6)


class OneBlock(nn.Module):
    """Class 0 reads the sum of pixels 2:4, 4:6 of all channels; class 1 its negative."""

    def forward(self, x: Tensor) -> Tensor:
        block = x[:, :, 2:4, 4:6].sum(dim=(1, 2, 3))
        return torch.stack([block, -block], dim=1)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_occlusion_finds_the_one_block_that_counts(batch_size):
    batch, expected = torch.ones(2, 3, 8, 8), torch.zeros(2, 8, 8)
    # All twelve numbers are hidden by one window.
    expected[0, 2:4, 4:6], expected[1, 2:4, 4:6] = 12, -12
    maps = Occlusion(0.25, 0.25, batch_size)(OneBlock(), batch, torch.tensor([0, 1]), seeds())
    torch.testing.assert_close(maps, expected)


def test_occlusion_averages_over_the_windows_that_cover_a_pixel():
    maps = Occlusion(window=0.25, stride=0.125)(OneBlock(), torch.ones(1, 3, 8, 8), torch.tensor([0]), [0])
    # Along a row, windows of two pixels hide 0, 1/2, 1, 1/2, 0 of the block; a pixel lies in two of them.
    along = torch.tensor([0, 0, 0, 0.25, 0.75, 0.75, 0.25, 0])
    down = torch.tensor([0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0])
    torch.testing.assert_close(maps[0], 12 * down[:, None] * along)


def test_occlusion_takes_windows_of_at_least_a_pixel():
    maps = Occlusion(window=0.01, stride=0.01)(OneBlock(), torch.ones(1, 3, 8, 8), torch.tensor([0]), [0])
    expected = torch.zeros(8, 8)
    expected[2:4, 4:6] = 3
    torch.testing.assert_close(maps[0], expected)


@pytest.mark.parametrize("arguments", [(0.0, 0.0), (0.1, 0.2), (1.5, 0.5), (0.5, 0.25, 0)])
def test_occlusion_refuses(arguments):
    with pytest.raises(ValueError, match=r"expected .* came"):
        Occlusion(*arguments)


@pytest.mark.parametrize("arguments", [(0,), (5, 0)])
def test_integrated_gradients_refuse(arguments):
    with pytest.raises(ValueError, match="expected 1 or more, came 0"):
        IntegratedGradients(*arguments)


def test_noise_is_named_by_its_seed():
    model, batch, classes = network(), images(3), torch.tensor([0, 1, 2])
    maps = RandomMap()(model, batch, classes, [7, 8, 7])
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], torch.rand(32, 32, generator=torch.Generator().manual_seed(7)))
    assert abs(maps.mean() - 0.5) < 0.03
