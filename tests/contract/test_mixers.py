"""Every yaml in conf/mixer keeps the contract of genaug.mixing.base.Mixer. Adding a mixer changes nothing here."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional as F

from genaug.losses import SoftBCE, SoftCrossEntropy
from genaug.mixing.base import Context, Identity, Mixer
from genaug.models.tiny import tiny

CONF = Path(__file__).parents[2] / "conf"
CLASSES = 5


@pytest.fixture(scope="module", params=sorted(path.stem for path in (CONF / "mixer").glob("*.yaml")))
def mixer(request) -> Mixer:
    """As a command line builds it: a mixer brings its saliency."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", [f"mixer={request.param}"]).mixer)


@pytest.fixture
def context() -> Context:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Context(model=tiny(num_classes=CLASSES, width=8), loss=SoftCrossEntropy())


def batch(size: int, height: int = 32, width: int = 32) -> tuple[Tensor, Tensor]:
    """Smooth blobs, normalised, with one-hot labels in turn: saliency of noise would say nothing."""
    generator = torch.Generator().manual_seed(size)
    images = F.interpolate(torch.randn(size, 3, 4, 4, generator=generator), (height, width), mode="bilinear")
    return images, F.one_hot(torch.arange(size) % CLASSES, CLASSES).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sums_to_one(mixer: Mixer) -> bool:
    """Whether the mixer's docstring leaves the general rule in force."""
    return "do not sum to 1" not in (type(mixer).__doc__ or "")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(32, 32), (32, 48)])
def test_shapes_types_and_rows(mixer, context, size, shape):
    images, targets = batch(size, *shape)
    for seed in range(3):
        mixed, labels = mixer(images, targets, generator(seed), context)
        assert mixed.shape == images.shape
        assert labels.shape == targets.shape
        assert mixed.dtype == images.dtype
        assert labels.dtype == targets.dtype
        assert torch.isfinite(mixed).all()
        assert not mixed.requires_grad
        assert not labels.requires_grad
        assert (labels >= 0).all()
        if sums_to_one(mixer):
            torch.testing.assert_close(labels.sum(dim=1), torch.ones(size))


def test_a_batch_of_one_class_keeps_its_labels(mixer, context):
    if not sums_to_one(mixer):
        pytest.skip("the rows of this mixer do not sum to 1")
    images, _ = batch(6)
    targets = F.one_hot(torch.full((6,), 2), CLASSES).float()
    for seed in range(3):
        torch.testing.assert_close(mixer(images, targets, generator(seed), context)[1], targets)


def test_multi_hot_labels_stay_between_those_that_came_in(mixer, context):
    if not sums_to_one(mixer):
        pytest.skip("the rows of this mixer are no averages")
    images, targets = batch(6)
    targets[:, 0] = 1
    mixed = mixer(images, targets, generator(), context)[1]
    torch.testing.assert_close(mixed[:, 0], torch.ones(6))
    assert (mixed <= targets.max(dim=0).values + 1e-6).all()


def multi_hot(mixer: Mixer, unknown: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mix five images of several labels each.

    Returns:
        Labels of the mixed images, of which the first five columns are what share of each image is in them, and the
        last is unknown in image ``unknown``; the labels that came in; and the network's classes that there are.
    """
    images, own = batch(CLASSES)
    several = (torch.rand(CLASSES, 3, generator=generator(seed)) < 0.5).float()
    several[1] = 0  # an image without any
    last = torch.zeros(CLASSES, 1)
    last[unknown] = float("nan")
    targets = torch.cat([own, several, last], dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        context = Context(tiny(num_classes=targets.shape[1], width=8), SoftBCE())
    mixed, labels = mixer(images, targets, generator(seed), context)
    assert torch.isfinite(mixed).all()
    assert all(torch.isfinite(loss) for loss in context.extra_losses)
    assert torch.isfinite(SoftBCE()(torch.zeros_like(labels), labels))
    return labels, targets, labels[:, :CLASSES]


@pytest.mark.parametrize("unknown", range(CLASSES))
def test_what_is_unknown_in_an_image_is_so_where_it_has_a_share(mixer, unknown):
    kept = 0
    for seed in range(6):
        labels, _, shares = multi_hot(mixer, unknown, seed)
        assert torch.equal(labels[:, -1].isnan(), shares[:, unknown] > 0)
        assert (labels[~labels[:, -1].isnan(), -1] == 0).all()
        assert torch.isfinite(labels[:, :-1]).all()
        kept += int((~labels[:, -1].isnan()).sum())
    assert kept  # not everything has become unknown


def test_several_labels_an_image_are_weighted_by_its_share(mixer):
    for seed in range(4):
        labels, targets, shares = multi_hot(mixer, 0, seed)
        torch.testing.assert_close(labels[:, :-1], shares @ targets[:, :-1])


def test_arguments_are_not_changed(mixer, context):
    images, targets = batch(6)
    kept = images.clone(), targets.clone()
    for seed in range(3):
        mixer(images, targets, generator(seed), context)
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])


def test_the_generator_decides_everything(mixer, context):
    images, targets = batch(6)
    first = mixer(images, targets, generator(1), context)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
    random.seed(99)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    second = mixer(images, targets, generator(1), context)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


def test_it_mixes(mixer, context):
    images, targets = batch(6)
    changed = sum(not torch.equal(mixer(images, targets, generator(seed), context)[0], images) for seed in range(10))
    assert (changed == 0) == isinstance(mixer, Identity)


def test_the_network_is_left_alone(mixer, context):
    images, targets = batch(6)
    kept = {name: value.clone() for name, value in context.model.state_dict().items()}
    context.model.train()
    context.model.features[0].norm1.eval()  # frozen by somebody
    modes = [module.training for module in context.model.modules()]
    for seed in range(3):
        mixer(images, targets, generator(seed), context)
    assert [module.training for module in context.model.modules()] == modes
    assert all(torch.equal(value, kept[name]) for name, value in context.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in context.model.parameters())


def test_mixed_precision(mixer, context):
    images, targets = batch(4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, labels = mixer(images, targets, generator(), context)
    assert mixed.dtype == torch.float32
    assert labels.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_of_half_precision(mixer, context, dtype):
    for size in (1, 5):
        images, targets = batch(size)
        mixed, labels = mixer(images.to(dtype), targets, generator(), context)
        assert (mixed.dtype, labels.dtype) == (dtype, torch.float32)
        assert torch.isfinite(mixed).all()
        if sums_to_one(mixer):
            torch.testing.assert_close(labels.sum(dim=1), torch.ones(size))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_another_device_draws_the_same_mixtures(mixer, context):
    images, targets = batch(6)
    context.model.eval()  # the same saliency, rounding apart
    expected = mixer(images, targets, generator(), context)
    context.model.cuda()
    mixed, labels = mixer(images.cuda(), targets.cuda(), generator(), context)
    assert mixed.is_cuda
    assert labels.is_cuda
    torch.testing.assert_close(labels.cpu(), expected[1], rtol=1e-2, atol=1e-2)


def test_soft_labels_are_mixed_too(mixer, context):
    images, targets = batch(6)
    soft = 0.9 * targets + 0.1 / CLASSES
    labels = mixer(images, soft, generator(), context)[1]
    assert (labels >= 0).all()
    if sums_to_one(mixer):
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(6))
        assert (labels >= 0.1 / CLASSES - 1e-6).all()
    else:
        assert (labels.sum(dim=1) <= 4 + 1e-6).all()


def test_class_indices_are_refused(mixer, context):
    images, _ = batch(4)
    with pytest.raises(ValueError, match=r"expects .* came .*one_hot"):
        mixer(images, torch.arange(4), generator(), context)
    with pytest.raises(TypeError, match=r"expects .* came"):
        mixer(images.byte(), torch.eye(4), generator(), context)
