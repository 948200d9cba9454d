"""The network in training: normalise, mix, classify. It knows no method by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric

from genaug.mixing.base import Context, Mixer
from genaug.seeding import derive

#: Mean and standard deviation of ImageNet's RGB channels in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """``uint8`` images ``(B, H, W, C)`` to the floats ``(B, C, H, W)`` that a network is fed.

    Args:
        channels: Of the images.
        statistics: Bring them to mean 0 and standard deviation 1 with ImageNet's statistics (grey: their average);
            without, they are only scaled to [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, statistics: bool = True) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        if channels != 3:
            mean, std = mean.mean().repeat(channels), std.mean().repeat(channels)
        if not statistics:
            mean, std = torch.zeros(channels), torch.ones(channels)
        self.register_buffer("mean", 255 * mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * std.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Floats with mean about 0 and standard deviation about 1, or in [0, 1]."""
        # Contiguous: the layout that networks are written for and tested in.
        return (images.permute(0, 3, 1, 2).contiguous().float() - self.mean) / self.std

    def invert(self, images: Tensor) -> Tensor:
        """Back to ``uint8`` ``(B, H, W, C)``, for pictures of what the network was fed."""
        return (images * self.std + self.mean).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class Classifier(pl.LightningModule):
    """Trains ``model`` on soft labels and counts what it gets right on every split.

    Args:
        model: ``(B, C, H, W)`` to logits ``(B, K)``.
        mixer: Mixes a training batch.
        loss: ``(logits, targets (B, K)) -> scalar``.
        optimizer: Takes the parameters.
        schedule: ``(step, total steps) -> multiplier of the learning rate``.
        steps: Optimizer steps in all. Asking the trainer for them would set up the loaders before a resumed run knows
            its epoch.
        metric: Makes a metric that is updated with ``(logits, targets, groups, valid)`` and computes a dictionary
            with at least ``score`` and ``n``.
        test_names: Names of the test data loaders, in order.
        channels: Of the images.
        normalize: Whether images get ImageNet's statistics, see :class:`Normalize`.
        seed: Names the mixer's and the model's random numbers, step by step.
    """

    def __init__(
        self,
        model: nn.Module,
        mixer: Mixer,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[int, int], float],
        steps: int,
        metric: Callable[[], Metric],
        test_names: Sequence[str],
        channels: int,
        seed: int,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.normalize = model, Normalize(channels, normalize)
        self.mixer, self.loss, self.seed = mixer, loss, seed
        self.optimizer, self.schedule, self.steps = optimizer, schedule, steps
        self.test_names = list(test_names)
        self.val_metric = metric()
        self.test_metrics: Sequence[Metric] = nn.ModuleList(metric() for _ in self.test_names)  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """``uint8`` images ``(B, H, W, C)`` to logits ``(B, K)``."""
        return self.model(self.normalize(images))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Name the random numbers of layers like dropout by step, so that a resumed run draws the same ones."""
        torch.manual_seed(derive(self.seed, "layers", self.global_step, self.global_rank))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The loss, and what the network was fed, for callbacks to look at."""
        generator = torch.Generator().manual_seed(derive(self.seed, "mix", self.global_step, self.global_rank))
        images, targets = self.normalize(batch["image"]), batch["target"]
        context = Context(self.model, self.loss, batch.get("mask"))
        images, targets = self.mixer(images, targets, generator, context)
        loss = self.loss(self.model(images), targets)
        # A mixer may have used the network too. DDP counts a parameter as done when its gradient is accumulated, and
        # that happens once, in the one backward pass that follows this step: gradients of images, which a mixer takes
        # with torch.autograd.grad, do not reach parameters, and a loss that it adds is summed up with this one first.
        for extra in context.extra_losses:
            loss = loss + extra
        self.log("train/loss", loss)
        return {"loss": loss, "images": images.detach(), "targets": targets.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count into the validation metric."""
        self.val_metric.update(self(batch["image"]), batch["target"], batch["group"], batch["valid"])

    def on_validation_epoch_end(self) -> None:
        """Log what the checkpoint is chosen by."""
        self.log("val/score", float(self.val_metric.compute()["score"]), sync_dist=False)
        self.val_metric.reset()

    def on_test_start(self) -> None:
        """Forget an earlier test."""
        for metric in self.test_metrics:
            metric.reset()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Count into the metric of the split; the logits are for callbacks to keep."""
        logits = self(batch["image"])
        self.test_metrics[dataloader_idx].update(logits, batch["target"], batch["group"], batch["valid"])
        return {"logits": logits}

    def on_test_epoch_end(self) -> None:
        """Log every split."""
        for name, metric in zip(self.test_names, self.test_metrics, strict=True):
            self.log(f"{name}/score", float(metric.compute()["score"]), sync_dist=False)

    def results(self) -> dict[str, dict[str, Any]]:
        """Scores by split after a test: what the metric computed."""
        return {name: metric.compute() for name, metric in zip(self.test_names, self.test_metrics, strict=True)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimizer, its learning rate scheduled by optimizer step."""
        optimizer = self.optimizer(self.model.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
