from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from genaug.functional.maps import blur, gaussian_kernel, grey, sum_to_one
from genaug.losses import SoftBCE, SoftCrossEntropy
from genaug.mixing.base import Context
from genaug.models.tiny import tiny
from genaug.saliency.base import Saliency
from genaug.saliency.cam import ClassActivation
from genaug.saliency.fine_grained import FineGrained
from genaug.saliency.gradient import GradientSaliency
from genaug.saliency.mask import StoredMask
from genaug.saliency.spectral_residual import SpectralResidual, spectral_residual

CONF = Path(__file__).parents[2] / "conf"
CLASSES = 5

# --- every saliency ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(path.stem for path in (CONF / "saliency").glob("*.yaml")))
def saliency(request) -> Saliency:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", [f"saliency={request.param}"]).saliency)


def batch(size: int = 4, height: int = 32, width: int = 32, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Smooth blobs, normalised, with one-hot labels in turn."""
    generator = torch.Generator().manual_seed(size)
    images = F.interpolate(torch.randn(size, channels, 4, 4, generator=generator), (height, width), mode="bilinear")
    return images, F.one_hot(torch.arange(size) % CLASSES, CLASSES).float()


def context_for(images: Tensor, **more) -> Context:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny(num_classes=CLASSES, channels=images.shape[1], width=8)
    return Context(model, masks=torch.rand(len(images), *images.shape[2:]) > 0.5, **more)


@pytest.mark.parametrize(("size", "height", "width", "channels"), [(4, 32, 32, 3), (1, 33, 47, 3), (3, 40, 24, 1)])
def test_maps_are_finite_and_not_negative(saliency, size, height, width, channels):
    images, targets = batch(size, height, width, channels)
    maps = saliency(images, targets, context_for(images))
    assert maps.shape == (size, height, width)
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()
    assert (maps >= 0).all()
    assert maps.amax() > 0
    assert not maps.requires_grad


def test_an_even_image_is_no_error(saliency):
    images, targets = torch.full((2, 3, 32, 32), 0.7), torch.zeros(2, CLASSES)
    assert torch.isfinite(saliency(images, targets, context_for(images))).all()


class Failing(nn.Module):
    """Fails behind everything else."""

    def forward(self, x):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(saliency, fails):
    images, targets = batch()
    context = context_for(images)
    model = context.model
    if fails:
        model.head = nn.Sequential(model.head, Failing())
    model.train()
    model.features[0].norm1.eval()  # frozen by somebody
    model.features[1].conv1.weight.requires_grad_(False)
    model.head.register_buffer("counter", torch.zeros(()))

    def state():
        return (
            [module.training for module in model.modules()],
            [parameter.requires_grad for parameter in model.parameters()],
            [id(buffer) for buffer in model.buffers()],
        )

    before, values = state(), {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    looks = isinstance(saliency, GradientSaliency | ClassActivation)
    if fails and looks:
        with pytest.raises(RuntimeError, match="out of memory"):
            saliency(images, targets, context)
    else:
        saliency(images, targets, context)
    assert state() == before
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())
    assert images.grad is None
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), random)


def test_autocast_rounds_nothing(saliency):
    if isinstance(saliency, GradientSaliency) and saliency.clean_lam:
        pytest.skip("a pass that trains has the precision of training")
    images, targets = batch()
    context = context_for(images)
    expected = saliency(images, targets, context)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(saliency(images, targets, context), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_of_half_precision(saliency, dtype):
    images, targets = batch()
    context = context_for(images)
    maps = saliency(images.to(dtype), targets, context)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, saliency(images.to(dtype).float(), targets, context))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_it_computes_where_the_images_are(saliency):
    images, targets = batch()
    context = context_for(images)
    expected = saliency(images, targets, context)
    context.model.cuda()
    maps = saliency(images.cuda(), targets.cuda(), Context(context.model, masks=context.masks.cuda()))
    assert maps.is_cuda
    torch.testing.assert_close(maps.cpu(), expected, rtol=1e-2, atol=1e-3 * expected.max().item())


def test_profilers_name_it(saliency):
    images, targets = batch()
    context = context_for(images)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        saliency(images, targets, context)
    name = type(saliency).__module__.rpartition(".")[2]
    assert f"saliency/{name}" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("kind", [GradientSaliency, ClassActivation])
def test_without_a_network_it_says_what_it_needs(kind):
    with pytest.raises(ValueError, match=r"saliency=\w+ looks at the network, but there is none: expected Context"):
        kind()(*batch(), Context())


# --- gradients -----------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """Two logits: 0, and the weights times the pixels."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_gradients_by_hand():
    # At an image of zeros both classes have probability 1/2: the gradient is half the weights, whatever the label.
    model = Line(torch.tensor([[[6.0, 0.0]], [[8.0, 2.0]]]))
    maps = GradientSaliency()(torch.zeros(2, 2, 1, 2), torch.eye(2), Context(model))
    expected = torch.tensor([[((3**2 + 4**2) / 2) ** 0.5, (1 / 2) ** 0.5]])
    torch.testing.assert_close(maps, expected.expand(2, 1, 2))


def test_gradients_are_those_of_one_image_at_a_time():
    images, targets = batch(3, 24, 40)
    context = context_for(images)
    maps = GradientSaliency()(images, targets, context)
    model = context.model.eval()
    for image, target, found in zip(images, targets, maps, strict=True):
        pixels = image[None].clone().requires_grad_()
        (-(target * F.log_softmax(model(pixels), dim=1)).sum()).backward()
        torch.testing.assert_close(found, pixels.grad[0].square().mean(dim=0).sqrt(), rtol=1e-3, atol=1e-6)


def test_the_loss_of_training_is_used():
    model, targets = Line(torch.full((1, 1, 1), 4.0)), torch.tensor([[0.0, 1.0]])
    # d BCE / d score = sigmoid(0) - 1 for class 1, averaged over the two classes.
    maps = GradientSaliency()(torch.zeros(1, 1, 1, 1), targets, Context(model, SoftBCE()))
    assert maps.item() == pytest.approx(4 * 0.5 / 2)


def test_what_is_unknown_does_not_count_in_the_gradient():
    nan, model = float("nan"), Line(torch.full((1, 1, 1), 4.0))
    targets = torch.tensor([[0.0, 1.0], [nan, 1.0], [nan, nan]])
    maps = GradientSaliency()(torch.zeros(3, 1, 1, 1), targets, Context(model, SoftBCE()))
    # The score is that of class 1, and three labels are known.
    assert maps.flatten().tolist() == pytest.approx([3 * 4 * 0.5 / 3] * 2 + [0])


def test_training_mode_takes_the_statistics_of_the_batch():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.0)

        def forward(self, images):
            score = self.drop(self.norm(images)).sum(dim=(1, 2, 3))
            return torch.stack([torch.zeros_like(score), score], dim=1)

    model, targets = Normed().train(), torch.eye(2)
    images = torch.tensor([-3.0, -1.0, 1.0, 3.0]).view(2, 1, 1, 2)

    def by_hand(normalise):
        pixels = images.clone().requires_grad_()
        score = normalise(pixels).sum(dim=(1, 2, 3))
        loss = F.cross_entropy(torch.stack([torch.zeros_like(score), score], dim=1), targets)
        return 2 * torch.autograd.grad(loss, pixels)[0][:, 0].abs()

    running = by_hand(lambda x: x / (1 + 1e-5) ** 0.5)  # mean 0 and variance 1, as at the start
    own = by_hand(lambda x: (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(GradientSaliency()(images, targets, Context(model)), running)
    torch.testing.assert_close(GradientSaliency(mode="train")(images, targets, Context(model)), own)
    assert model.norm.running_mean.item() == 0
    assert model.norm.num_batches_tracked.item() == 0


def test_a_clean_loss_is_added_with_its_weight_and_graph():
    images, targets = batch()
    context = context_for(images, loss=SoftCrossEntropy())
    model = context.model.train()
    GradientSaliency(clean_lam=0.25)(images, targets, context)
    assert all(parameter.grad is None for parameter in model.parameters())
    [extra] = context.extra_losses
    extra.backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (0.25 * F.cross_entropy(model(images), targets)).backward()
    for one, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_no_clean_loss_without_its_weight():
    images, targets = batch()
    context = context_for(images)
    GradientSaliency()(images, targets, context)
    assert context.extra_losses == []


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="mode: expected eval or train, came 'test'"):
        GradientSaliency(mode="test")
    with pytest.raises(ValueError, match=r"clean_lam.*came -1"):
        GradientSaliency(clean_lam=-1)
    with pytest.raises(ValueError, match=r"side.*came 2"):
        SpectralResidual(side=2)
    with pytest.raises(ValueError, match=r"scales.*came \[0, 3\]"):
        FineGrained(scales=[0, 3])


# --- spectral residual ---------------------------------------------------------------------------------------------


def naive_spectral_residual(grey_image: np.ndarray) -> np.ndarray:
    """The formula with loops, in double precision."""
    spectrum = np.fft.fft2(grey_image)
    log, phase = np.log(np.abs(spectrum)), np.angle(spectrum)
    height, width = log.shape
    mean = np.zeros_like(log)
    for y in range(height):
        for x in range(width):
            rows = [min(max(y + dy, 0), height - 1) for dy in (-1, 0, 1)]
            columns = [min(max(x + dx, 0), width - 1) for dx in (-1, 0, 1)]
            mean[y, x] = np.mean([log[i, j] for i in rows for j in columns])
    return np.abs(np.fft.ifft2(np.exp(log - mean + 1j * phase)))


def naive_blur(image: np.ndarray, size: int, sigma: float) -> np.ndarray:
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    padded = np.pad(image, size // 2, mode="reflect")
    out = np.zeros_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x] = weights @ padded[y : y + size, x : x + size] @ weights
    return out


def test_spectral_residual_is_the_formula():
    images, targets = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(0)), torch.eye(2)
    maps = SpectralResidual()(images, targets, Context())
    for image, found in zip(images.double().numpy(), maps, strict=True):
        brightness = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        expected = naive_blur(naive_spectral_residual(brightness), 7, 3.0)
        np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_what_stands_out_of_a_pattern_is_found():
    # The same stripes everywhere, and a blot in one place of each image.
    stripes = torch.arange(64.0).mul(0.8).sin().expand(3, 3, 64, 64).clone()
    places = [(10, 50), (40, 12), (30, 30)]
    for image, (y, x) in zip(stripes, places, strict=True):
        image[:, y - 1 : y + 2, x - 1 : x + 2] = 3
    maps = SpectralResidual()(stripes, torch.eye(3), Context())
    for found, (y, x) in zip(maps, places, strict=True):
        at_y, at_x = divmod(found.argmax().item(), 64)
        assert abs(at_y - y) <= 2
        assert abs(at_x - x) <= 2


def test_large_images_are_shrunk_and_small_ones_not():
    images = batch(1, 100, 200)[0]
    small = F.interpolate(grey(images)[:, None], (32, 64), mode="bilinear", antialias=True)[:, 0]
    expected = blur(spectral_residual(small), gaussian_kernel(7, 3.0))
    expected = F.interpolate(expected[:, None], (100, 200), mode="bilinear")[:, 0]
    torch.testing.assert_close(SpectralResidual(side=64)(images, torch.eye(1), Context()), expected)
    unshrunk = blur(spectral_residual(grey(images)), gaussian_kernel(7, 3.0))
    torch.testing.assert_close(SpectralResidual(side=200)(images, torch.eye(1), Context()), unshrunk)


# --- fine-grained --------------------------------------------------------------------------------------------------


def naive_fine_grained(brightness: np.ndarray, scales: list[int], stretch: bool) -> np.ndarray:
    """Centre against surround, pixel by pixel, in double precision."""
    twice = np.array([1, 4, 6, 4, 1]) / 16  # OpenCV's weights for 3 pixels, 1 2 1, twice
    padded = np.pad(brightness, 2, mode="reflect")
    height, width = brightness.shape
    centre = np.array([[twice @ padded[y : y + 5, x : x + 5] @ twice for x in range(width)] for y in range(height)])
    on, off = np.zeros_like(centre), np.zeros_like(centre)
    for scale in scales:
        for y in range(height):
            for x in range(width):
                square = centre[max(y - scale, 0) : y + scale + 1, max(x - scale, 0) : x + scale + 1]
                surround = (square.sum() - centre[y, x]) / (square.size - 1)
                on[y, x] += max(centre[y, x] - surround, 0)
                off[y, x] += max(surround - centre[y, x], 0)
    return on / on.max() + off / off.max() if stretch else on + off


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("scales", [[2, 5], [3, 9, 30]])
def test_fine_grained_is_the_formula(stretch, scales):
    images = torch.randn(2, 3, 14, 19, generator=torch.Generator().manual_seed(0))
    maps = FineGrained(scales, stretch)(images, torch.eye(2), Context())
    for image, found in zip(images.double().numpy(), maps, strict=True):
        brightness = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        np.testing.assert_allclose(found, naive_fine_grained(brightness, scales, stretch), rtol=1e-3, atol=1e-4)


def test_images_in_groups_have_the_maps_that_they_have_alone(monkeypatch):
    images = torch.randn(5, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    together = FineGrained(stretch=True)(images, torch.eye(5), Context())
    for pixels in (1, 2 * 20 * 30):
        monkeypatch.setattr("genaug.saliency.fine_grained.FEW", pixels)
        assert torch.equal(FineGrained(stretch=True)(images, torch.eye(5), Context()), together)


@pytest.mark.parametrize("value", [-2.0, 2.0])
def test_a_light_and_a_dark_spot_are_found(value):
    images = torch.zeros(1, 1, 40, 30)
    images[0, 0, 31, 7] = value
    maps = FineGrained()(images, torch.eye(1), Context())
    assert divmod(maps.argmax().item(), 30) == (31, 7)


def test_an_even_image_stays_dark_when_stretched():
    assert FineGrained(stretch=True)(torch.full((1, 3, 64, 64), 0.3), torch.eye(1), Context()).max() < 0.1


# --- class activation ----------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """Two feature maps at half size, the image's channels themselves, under a linear head."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.features, self.head = nn.AvgPool2d(2), nn.Linear(2, len(weight))
        self.head.weight.data = torch.tensor(weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu().mean(dim=(2, 3)))


def test_class_activation_by_hand():
    model = Pooled([[1.0, 0.0], [-1.0, 2.0]])
    small = torch.tensor([[[1.0, 2.0], [3.0, -4.0]], [[5.0, 0.0], [0.0, 1.0]]])
    images = small.repeat_interleave(2, -1).repeat_interleave(2, -2).expand(3, 2, 4, 4)
    targets = torch.tensor([[1.0, float("nan")], [0.0, 1.0], [1.0, 1.0]])  # the last shows both classes
    maps = ClassActivation()(images, targets, Context(model))
    activations = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[9.0, -2.0], [-3.0, 2.0]], [[10.0, 0.0], [0.0, 2.0]]])
    expected = F.interpolate(activations[:, None], (4, 4), mode="bilinear")[:, 0]
    expected -= expected.amin(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
def test_class_activation_of_known_networks(name):
    """Where the head is linear in the mean of the map, the map's mean is the logit without its bias."""
    from torchvision import models

    from genaug.saliency.cam import last_feature_map

    model = models.get_model(name, weights=None, num_classes=3).eval()
    images = batch(2, 64, 64)[0]
    with torch.no_grad():
        features, head = last_feature_map(model, images, "eval")
        torch.testing.assert_close(head(features.relu().mean(dim=(2, 3))), model(images))


@pytest.mark.parametrize("name", ["vit_b_16", "vgg11", "mobilenet_v3_small"])
def test_networks_without_such_a_map_are_refused(name):
    from torchvision import models

    options = {"image_size": 32} if name.startswith("vit") else {}
    model = models.get_model(name, weights=None, num_classes=3, **options)
    with pytest.raises(ValueError, match=r"saliency=cam expects .* no vision transformer.* another saliency"):
        ClassActivation()(batch(2)[0], torch.eye(3)[:2], Context(model))


# --- masks ---------------------------------------------------------------------------------------------------------


def test_masks_are_handed_on():
    masks = torch.tensor([[[0, 255], [1, 0]]], dtype=torch.uint8)
    maps = StoredMask()(torch.zeros(1, 3, 2, 2), torch.eye(1), Context(masks=masks))
    assert maps.tolist() == [[[0, 1], [1, 0]]]
    assert StoredMask.needs_masks


@pytest.mark.parametrize("masks", [None, torch.zeros(1, 2, 3), torch.zeros(2, 2, 2)])
def test_missing_masks_are_named(masks):
    with pytest.raises(ValueError, match=r"saliency=mask expects .*\(1, 2, 2\); came"):
        StoredMask()(torch.zeros(1, 3, 2, 2), torch.eye(1), Context(masks=masks))


# --- maps ----------------------------------------------------------------------------------------------------------


def test_blur_is_the_formula():
    maps = torch.rand(2, 9, 13, generator=torch.Generator().manual_seed(0))
    for one, found in zip(maps.double().numpy(), blur(maps, gaussian_kernel(7, 3.0)), strict=True):
        np.testing.assert_allclose(found, naive_blur(one, 7, 3.0), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
def test_blur_of_an_even_map_changes_nothing(shape):
    maps = torch.full((2, *shape), 0.5)
    torch.testing.assert_close(blur(maps, gaussian_kernel(7, 3.0)), maps)


def test_tiny_sums_are_divided_and_zero_stays_zero():
    maps = torch.stack([torch.full((2, 2), 1e-30), torch.zeros(2, 2), torch.full((2, 2), 1e-42)])
    sums = sum_to_one(maps).sum(dim=(1, 2))
    assert sums.tolist() == pytest.approx([1, 0, 0])


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
