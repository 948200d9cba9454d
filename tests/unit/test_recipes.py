"""The recipes as published: every value, and each learning rate and picture against torch's and torchvision's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torchvision import transforms

from genaug.classifier import IMAGENET_MEAN, IMAGENET_STD, Normalize

CONF = Path(__file__).parents[2] / "conf"
STEPS = 7  # of an epoch


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def composed(command: str) -> DictConfig:
    return compose("config", command.split())


# --- values --------------------------------------------------------------------------------------------------------

COMMANDS = (
    "recipe=fgvc_scratch",
    "recipe=fgvc_scratch model=resnet50",
    "recipe=fgvc_scratch_densenet",
    "recipe=vit_finetune",
    "recipe=torchvision_scratch",
    "recipe=alia_finetune",
    "recipe=alia_iwildcam",
)


@pytest.mark.parametrize(
    ("command", "network", "lr", "epochs", "batch"),
    [
        (COMMANDS[0], "resnet18", 0.01, 300, 16),
        (COMMANDS[1], "resnet50", 0.01, 300, 16),
        (COMMANDS[2], "densenet121", 0.01, 300, 8),
        (COMMANDS[3], "vit_b_16", 0.001, 120, 32),
    ],
)
def test_table_7_of_deda(command, network, lr, epochs, batch):
    cfg = composed(command)
    assert cfg.model.name == network
    assert (cfg.recipe.optimizer.lr, cfg.recipe.epochs, cfg.recipe.batch_size) == (lr, epochs, batch)


@pytest.mark.parametrize(
    ("command", "network", "lr", "epochs", "batch"),
    [
        (COMMANDS[4], "resnet50", 0.1, 90, 32),
        (COMMANDS[5], "resnet50", 0.01, 100, 128),
        (COMMANDS[6], "resnet50", 0.001, 100, 128),
    ],
)
def test_the_other_recipes(command, network, lr, epochs, batch):
    test_table_7_of_deda(command, network, lr, epochs, batch)


@pytest.mark.parametrize(
    ("command", "weight_decay", "nesterov"),
    zip(COMMANDS, (5e-4, 5e-4, 5e-4, 5e-4, 1e-4, 1e-4, 1e-4), (True, True, True, *[False] * 4), strict=True),
)
def test_all_use_sgd_with_momentum(command, weight_decay, nesterov):
    optimizer = instantiate(composed(command).recipe.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.SGD
    [group] = optimizer.param_groups
    assert (group["momentum"], group["dampening"]) == (0.9, 0)
    assert (group["weight_decay"], group["nesterov"]) == (weight_decay, nesterov)
    assert composed(command).recipe.gradient_clip is None


def test_only_alia_weighs_classes_and_only_its_iwildcam_is_not_normalised():
    assert [composed(command).recipe.class_weights for command in COMMANDS] == [None] * 5 + ["inverse"] * 2
    assert [composed(command).recipe.normalize for command in COMMANDS] == [True] * 6 + [False]


# --- learning rates ------------------------------------------------------------------------------------------------


def trained_with(command: str) -> list[float]:
    """The rate of every update, as the classifier sets it."""
    recipe = composed(command).recipe
    total, schedule = recipe.epochs * STEPS, instantiate(recipe.schedule)
    optimizer = instantiate(recipe.optimizer)([torch.zeros(1, requires_grad=True)])
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, total))
    return [rate for _ in range(total) for rate in updated(optimizer, scheduler)]


def updated(optimizer: torch.optim.Optimizer, *schedulers: lr_scheduler.LRScheduler) -> list[float]:
    """Make one update and let the schedulers step; the rate that it was made with."""
    rate = optimizer.param_groups[0]["lr"]
    optimizer.step()
    for scheduler in schedulers:
        scheduler.step()
    return [rate]


def stepped_by_epoch(lr: float, epochs: int, kind: type[lr_scheduler.LRScheduler], **arguments) -> list[float]:
    """The rate of every update with one of torch's schedulers that steps when an epoch ends."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = kind(optimizer, **arguments)
    rates = []
    for _ in range(epochs):
        for _ in range(STEPS):
            rates += updated(optimizer)
        scheduler.step()
    return rates


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_guidedmixup_drops_twice(command):
    expected = stepped_by_epoch(0.01, 300, lr_scheduler.MultiStepLR, milestones=[150, 225], gamma=0.1)
    came = trained_with(command)
    assert came == pytest.approx(expected)
    named = [150 * STEPS - 1, 150 * STEPS, 225 * STEPS - 1, 225 * STEPS, 300 * STEPS - 1]
    assert [came[step] for step in named] == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


@pytest.mark.filterwarnings("ignore")  # the published code's way to step is deprecated
def test_guidedmixups_code_drops_an_epoch_earlier():
    """What the recipe's comment says of it: milestones in updates, an epoch counter from 1, a step after the update."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = lr_scheduler.MultiStepLR(optimizer, milestones=[150 * STEPS, 225 * STEPS], gamma=0.1)
    rates = []
    for epoch in range(1, 301):
        for batch in range(STEPS):
            rates += updated(optimizer)
            scheduler.step(epoch * STEPS + batch)
    drops = [step for step in range(1, len(rates)) if rates[step] < rates[step - 1]]
    assert drops == [149 * STEPS + 1, 224 * STEPS + 1]


def test_diff_mix_dampens_a_cosine_over_all_steps():
    """As pytorch_warmup does: the scheduler goes on from the undamped rate, whose product with the rise is used."""
    total = 120 * STEPS
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.001)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    period = max(int(0.1 * total), 1)
    expected = []
    for step in range(total):
        undamped = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = undamped * min(1.0, (step + 1) / period)
        expected += updated(optimizer)
        optimizer.param_groups[0]["lr"] = undamped
        scheduler.step()
    came = trained_with("recipe=vit_finetune")
    assert came == pytest.approx(expected, abs=1e-12)
    # 840 steps, 84 of them rising: the first, the middle of the rise, its last, the middle, three quarters.
    by_hand = [
        0.001 / 84,
        0.001 * 42 / 84 * (1 + math.cos(math.pi * 41 / 840)) / 2,
        0.001 * (1 + math.cos(math.pi * 83 / 840)) / 2,
        0.0005,
        0.001 * (1 - math.sqrt(0.5)) / 2,
    ]
    assert [came[step] for step in (0, 41, 83, 420, 630)] == pytest.approx(by_hand)


@pytest.mark.parametrize(("command", "lr"), [("recipe=alia_finetune", 0.01), ("recipe=alia_iwildcam", 0.001)])
def test_alia_anneals_by_epoch(command, lr):
    expected = stepped_by_epoch(lr, 100, lr_scheduler.CosineAnnealingLR, T_max=100)
    came = trained_with(command)
    assert came == pytest.approx(expected, abs=1e-12)
    last = lr * (1 + math.cos(math.pi * 0.99)) / 2
    named = [0, STEPS - 1, 50 * STEPS - 1, 50 * STEPS, 100 * STEPS - 1]
    assert [came[step] for step in named] == pytest.approx(
        [lr, lr, lr * (1 + math.cos(math.pi * 0.49)) / 2, lr / 2, last]
    )


def test_torchvision_drops_every_thirty_epochs():
    expected = stepped_by_epoch(0.1, 90, lr_scheduler.StepLR, step_size=30, gamma=0.1)
    came = trained_with("recipe=torchvision_scratch")
    assert came == pytest.approx(expected)
    named = [30 * STEPS - 1, 30 * STEPS, 60 * STEPS - 1, 60 * STEPS, 90 * STEPS - 1]
    assert [came[step] for step in named] == pytest.approx([0.1, 0.01, 0.01, 0.001, 0.001])


# --- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [one for one in COMMANDS if one != "recipe=vit_finetune"])
def test_plain_cross_entropy(command):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 9, generator=generator), torch.arange(6)
    came = instantiate(composed(command).recipe.loss)(logits, F.one_hot(labels, 9).float())
    torch.testing.assert_close(came, F.cross_entropy(logits, labels))


def test_diff_mix_smooths_labels_a_little_beyond_one():
    loss = instantiate(composed("recipe=vit_finetune").recipe.loss)
    logits = torch.zeros(1, 200)
    logits[0, 7] = math.log(2)  # probabilities 2/201 and 1/201
    smoothed = [0.1 / 199] * 200
    smoothed[7] += 0.9
    expected = sum(share * math.log(201 / (2 if k == 7 else 1)) for k, share in enumerate(smoothed))
    assert loss(logits, F.one_hot(torch.tensor([7]), 200).float()).item() == pytest.approx(expected)
    assert sum(smoothed) == pytest.approx(1 + 0.1 / 199)


# --- pictures ------------------------------------------------------------------------------------------------------

NORMALIZED = (transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD))


def from_scratch_fgvc() -> tuple[list, list]:
    """GuidedMixup's: short side 512, a crop of 448."""
    test = [transforms.Resize(512), transforms.CenterCrop(448), *NORMALIZED]
    return [transforms.Resize(512), transforms.RandomCrop(448), transforms.RandomHorizontalFlip(), *NORMALIZED], test


def diff_mix() -> tuple[list, list]:
    """Squashed to 440; a crop of 384 of the image padded by 8."""
    squash = transforms.Resize((440, 440))
    crop = transforms.RandomCrop(384, padding=8)
    train = [squash, crop, transforms.RandomHorizontalFlip(), *NORMALIZED]
    return train, [squash, transforms.CenterCrop(384), *NORMALIZED]


def torchvision_reference() -> tuple[list, list]:
    """A crop of any area from 8 % on; the test's is the middle of a short side of 256."""
    train = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *NORMALIZED]
    return train, [transforms.Resize(256), transforms.CenterCrop(224), *NORMALIZED]


def alia() -> tuple[list, list]:
    """Squashed, and nothing else."""
    squash = [transforms.Resize((224, 224)), *NORMALIZED]
    return squash, squash


def alia_iwildcam() -> tuple[list, list]:
    """As tensors: squashed, rows 10 to 410, squashed again; not normalised."""
    strips = transforms.Lambda(lambda image: transforms.functional.crop(image, 10, 0, 400, 448))
    squash = [transforms.ToTensor(), transforms.Resize((448, 448)), strips, transforms.Resize((224, 224))]
    return squash, squash


def picture(width: int, height: int) -> Image.Image:
    """Coloured waves with some noise, so that any shift shows."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(x / 23) + np.cos(y / 31), np.sin((x + y) / 41), np.cos(x / 67 - y / 19)]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return Image.fromarray((120 + 50 * np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("shape", [(500, 375), (333, 480)])
@pytest.mark.parametrize(
    ("command", "size", "published"),
    [
        ("recipe=fgvc_scratch", 448, from_scratch_fgvc),
        ("recipe=fgvc_scratch_densenet", 448, from_scratch_fgvc),
        ("recipe=vit_finetune", 384, diff_mix),
        ("recipe=torchvision_scratch", 224, torchvision_reference),
        ("recipe=alia_finetune", 224, alia),
        ("recipe=alia_iwildcam", 224, alia_iwildcam),
    ],
)
def test_the_network_is_fed_what_the_published_transforms_make(command, size, published, shape):
    cfg = composed(f"{command} dataset.image_size={size}")
    crop, normalize = instantiate(cfg.crop), Normalize(3, cfg.recipe.normalize)
    image = picture(*shape)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    level = 1 / 255 / (min(IMAGENET_STD) if cfg.recipe.normalize else 1)  # of 256 that a channel has
    for ours, theirs, seeds in zip((crop.train(), crop.eval()), published(), (range(6), range(1)), strict=True):
        for seed in seeds:
            torch.manual_seed(seed)
            came = normalize(ours(pixels).permute(1, 2, 0)[None])[0]
            torch.manual_seed(seed)
            expected = transforms.Compose(theirs)(image)
            assert came.shape == expected.shape == (3, size, size)
            # They resize a PIL image, or floats: at most two levels away from bytes, nearly all at most half a one.
            assert (came - expected).abs().max() < 2.1 * level
            assert (came - expected).abs().mean() < 0.5 * level
