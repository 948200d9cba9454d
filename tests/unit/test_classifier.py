from __future__ import annotations

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor as to_image_tensor

from genaug.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, Normalize
from genaug.losses import SoftCrossEntropy
from genaug.metrics.classification import ClassificationScores
from genaug.mixing.base import Identity, Mixer

# --- normalisation -------------------------------------------------------------------------------------------------


def every_value(channels: int) -> Tensor:
    """``(1, 16, 16, channels)``: all 256 values in each channel."""
    return torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, channels).contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_comes_back(channels):
    normalize, images = Normalize(channels), every_value(channels)
    normalized = normalize(images)
    assert normalized.shape == (1, channels, 16, 16)
    assert normalized.dtype == torch.float32
    back = normalize.invert(normalized)
    assert back.dtype == torch.uint8
    assert (back == images).all()


def test_values_by_hand():
    image = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    channels = zip((0, 128, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    expected = [(value / 255 - mean) / std for value, mean, std in channels]
    assert Normalize(3)(image).flatten().tolist() == pytest.approx(expected, abs=1e-5)
    grey = (100 / 255 - sum(IMAGENET_MEAN) / 3) / (sum(IMAGENET_STD) / 3)
    assert Normalize(1)(torch.tensor([[[[100]]]], dtype=torch.uint8)).item() == pytest.approx(grey, abs=1e-5)


def test_without_statistics_images_are_scaled_as_torchvision_does():
    normalize, images = Normalize(3, statistics=False), every_value(3)
    expected = to_image_tensor(images[0].numpy())
    assert (normalize(images)[0] == expected).all()
    assert (normalize.invert(normalize(images)) == images).all()


def test_what_mixing_pushed_out_of_range_is_clipped():
    images = torch.tensor([[[[-9.0, 9.0]]] * 3]).view(1, 3, 1, 2)
    assert Normalize(3).invert(images).unique().tolist() == [0, 255]


def test_the_statistics_are_in_no_checkpoint():
    assert not Normalize(3).state_dict()


# --- steps ---------------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """Logits ``weight`` times the mean of the normalised red channel; counts what it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.25]))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0].mean(dim=(1, 2))[:, None] * self.weight


class Noting(Mixer):
    """Changes nothing, and notes a number of its generator."""

    def __init__(self) -> None:
        self.numbers: list[float] = []
        self.models: list[object] = []

    def __call__(self, images, targets, generator, context):
        self.numbers.append(torch.rand((), generator=generator).item())
        self.models.append(context.model)
        return images, targets


def classifier(mixer: Mixer | None = None, schedule=lambda step, total: 1.0, seed: int = 0, lr: float = 0.1):
    return Classifier(
        model=Line(),
        mixer=mixer or Identity(),
        loss=SoftCrossEntropy(),
        optimizer=partial(torch.optim.SGD, lr=lr),
        schedule=schedule,
        steps=6,
        metric=lambda: ClassificationScores(2, 2),
        test_names=["test", "ood_snow"],
        channels=3,
        seed=seed,
    )


def batch(*reds: int) -> dict[str, Tensor]:
    """Images of one colour each; labels 0, 1, 0, …"""
    images = torch.zeros(len(reds), 4, 4, 3, dtype=torch.uint8)
    images[..., 0] = torch.tensor(reds, dtype=torch.uint8)[:, None, None]
    return {
        "image": images,
        "target": torch.eye(2)[torch.arange(len(reds)) % 2],
        "group": torch.arange(len(reds)) % 2,
        "valid": torch.ones(len(reds), dtype=torch.bool),
        "index": torch.arange(len(reds)),
    }


class Data(pl.LightningDataModule):
    """Six training images in three batches, and tests."""

    def __init__(self) -> None:
        super().__init__()

    @staticmethod
    def loader(*batches: dict[str, Tensor]) -> DataLoader:
        items = [{key: value[i] for key, value in one.items()} for one in batches for i in range(len(one["index"]))]
        return DataLoader(items, batch_size=2)

    def train_dataloader(self):
        return self.loader(batch(0, 250), batch(40, 90), batch(130, 200))

    def val_dataloader(self):
        return self.loader(batch(250, 0, 250, 0))

    def test_dataloader(self):
        return [self.loader(batch(250, 0)), self.loader(batch(0, 0))]


def trainer(epochs: int = 2, callbacks=()) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def hand_loss(red: int, label: int, weight=(0.5, -0.25)) -> float:
    x = (red / 255 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    logits = [w * x for w in weight]
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


def test_the_loss_by_hand():
    module = classifier()
    module.log = lambda *args, **kwargs: None
    outputs = module.training_step(batch(0, 250), 0)
    assert outputs["loss"].item() == pytest.approx((hand_loss(0, 0) + hand_loss(250, 1)) / 2, abs=1e-5)
    assert (outputs["images"] == module.normalize(batch(0, 250)["image"])).all()
    assert (outputs["targets"] == torch.eye(2)).all()
    assert not outputs["images"].requires_grad


def test_what_the_mixer_makes_is_trained_on_and_handed_out():
    class Swap(Mixer):
        def __call__(self, images, targets, generator, context):
            return -images, targets.flip(1)

    module = classifier(Swap())
    module.log = lambda *args, **kwargs: None
    outputs = module.training_step(batch(0), 0)
    x = -(0 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    expected = math.log(math.exp(0.5 * x) + math.exp(-0.25 * x)) + 0.25 * x  # label 1
    assert outputs["loss"].item() == pytest.approx(expected, abs=1e-5)
    assert outputs["targets"].tolist() == [[0, 1]]
    assert (outputs["images"] == -module.normalize(batch(0)["image"])).all()


class Clean(Mixer):
    """Trains on black images, and a quarter as much on the batch as it was."""

    def __call__(self, images, targets, generator, context):
        context.add_loss(0.25 * context.loss(context.model(images), targets))
        return images * 0, targets


def test_a_clean_loss_by_hand():
    module = classifier(Clean())
    module.log = lambda *args, **kwargs: None
    loss = module.training_step(batch(0, 250), 0)["loss"]
    clean = (hand_loss(0, 0) + hand_loss(250, 1)) / 2
    assert loss.item() == pytest.approx(math.log(2) + 0.25 * clean, abs=1e-5)  # black: both logits are 0
    loss.backward()
    # Of the mixed batch nothing reaches the weights; of the clean one, (share - label) * x, averaged, times 0.25.
    expected = [0.0, 0.0]
    for red, label in ((0, 0), (250, 1)):
        x = (red / 255 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
        share = math.exp(-hand_loss(red, 0))
        expected[0] += 0.25 * (share - (label == 0)) * x / 2
        expected[1] += 0.25 * (1 - share - (label == 1)) * x / 2
    assert module.model.weight.grad.tolist() == pytest.approx(expected, abs=1e-5)


class Looking(Mixer):
    """Keeps what the context offers."""

    def __call__(self, images, targets, generator, context):
        self.context = context
        return images, targets


def test_masks_and_loss_are_on_offer_where_the_batch_has_them():
    module = classifier(Looking())
    module.log = lambda *args, **kwargs: None
    one = batch(0, 250)
    module.training_step(one, 0)
    assert module.mixer.context.masks is None
    assert module.mixer.context.loss is module.loss
    one["mask"] = torch.ones(2, 4, 4, dtype=torch.bool)
    module.training_step(one, 0)
    assert module.mixer.context.masks is one["mask"]


class Stir(pl.Callback):
    """Disturbs torch's global generator, as a resumed run finds it disturbed."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.rand(trainer.global_step + 5)


def test_the_mixers_numbers_depend_on_seed_and_step_only():
    def numbers(seed, *callbacks):
        mixer = Noting()
        module = classifier(mixer, seed=seed)
        trainer(2, callbacks).fit(module, Data())
        assert all(model is module.model for model in mixer.models)
        return mixer.numbers

    first = numbers(0)
    assert len(set(first)) == 6  # three steps in each of two epochs
    assert numbers(0, Stir()) == first
    assert not set(numbers(1)) & set(first)


def test_numbers_of_layers_depend_on_seed_and_step_only():
    class Dropping(Line):
        def forward(self, images):
            self.drawn.append(torch.rand(()).item())
            return super().forward(images)

    def numbers(seed, steps_before):
        module = classifier(seed=seed)
        module.model = Dropping()
        module.model.drawn = []
        torch.manual_seed(steps_before)
        trainer(1).fit(module, Data(), None)
        return module.model.drawn[:3]

    assert numbers(0, 1) == numbers(0, 2)
    assert len(set(numbers(0, 1))) == 3
    assert numbers(1, 1) != numbers(0, 1)


# --- the schedule --------------------------------------------------------------------------------------------------


class Rates(pl.Callback):
    """Learning rates that the optimizer steps are made with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_the_schedule_reaches_the_optimizer():
    asked, noted = [], Rates()

    def schedule(step, total):
        asked.append((step, total))
        return (step + 1) / total

    trainer(2, [noted]).fit(classifier(schedule=schedule, lr=0.6), Data())
    assert noted.rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])  # six steps: 0.6 * (step + 1) / 6
    assert {total for _, total in asked} == {6}
    assert max(step for step, _ in asked) == 6  # asked once more after the last step, as promised in schedules.py


def test_a_step_is_the_gradient_by_hand():
    module = classifier(lr=0.1)
    one = trainer(1)
    one.fit(module, DataLoader([{key: value[0] for key, value in batch(250).items()}], batch_size=1))
    x = (250 / 255 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    share = math.exp(0.5 * x) / (math.exp(0.5 * x) + math.exp(-0.25 * x))
    assert module.model.weight.tolist() == pytest.approx([0.5 - 0.1 * (share - 1) * x, -0.25 - 0.1 * (1 - share) * x])


# --- scores --------------------------------------------------------------------------------------------------------


def test_scores_of_every_split_by_hand():
    module = classifier()
    one = trainer()
    one.test(module, Data(), verbose=False)
    # A red of 250 is above the mean: class 0. 0 is below: class 1.
    results = module.results()
    assert list(results) == ["test", "ood_snow"]
    assert (results["test"]["score"], results["test"]["n"]) == (1.0, 2)  # labels 0 and 1
    assert (results["ood_snow"]["score"], results["ood_snow"]["group_score"]) == (0.5, [0.0, 1.0])
    assert (one.callback_metrics["test/score"], one.callback_metrics["ood_snow/score"]) == (1.0, 0.5)


def test_a_second_test_starts_from_nothing():
    module = classifier()
    for _ in range(2):
        trainer().test(module, Data(), verbose=False)
    assert module.results()["test"]["n"] == 2


def test_each_look_at_the_held_out_part_starts_from_nothing():
    class Scores(pl.Callback):
        seen: list[float] = []

        def on_validation_end(self, trainer, pl_module):
            self.seen.append(float(trainer.callback_metrics["val/score"]))
            with torch.no_grad():
                pl_module.model.weight.mul_(-1)  # from all right to all wrong

    trainer(2, [Scores()]).fit(classifier(lr=0.0), Data())
    assert Scores.seen == [1.0, 0.0]


def test_invalid_images_are_not_counted():
    module = classifier()
    one = batch(250, 250)
    one["valid"][1] = False
    module.test_step(one, 0, dataloader_idx=1)
    assert (module.test_metrics[1].compute()["score"], module.test_metrics[1].compute()["n"]) == (1.0, 1)
