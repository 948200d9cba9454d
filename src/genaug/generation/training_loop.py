"""A training loop for the parts of a generator: averaged weights, previews, and resuming to the same numbers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from genaug.console import track
from genaug.seeding import derive
from genaug.synthesis.store import write_atomically

log = logging.getLogger(__name__)


class Objective(nn.Module, ABC):
    """What is trained: networks, their data and a loss.

    A loss depends on the weights and the step alone, so that a run that was killed goes on as if it had not been.
    """

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """Loss of the batch of ``step``, a scalar."""

    @abstractmethod
    def preview(self) -> np.ndarray:
        """A picture of what the networks can do, ``(H, W, 3)`` uint8 RGB."""

    @abstractmethod
    def score(self) -> dict[str, float]:
        """What the networks can do, in numbers, on pictures that they are not trained on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an objective is minimised.

    Attributes:
        steps: Optimizer steps.
        optimizer: From parameters to an optimizer.
        schedule: Multiplier of the learning rate at ``(step, steps)``.
        ema_decay: Of the averaged weights, which are the result.
        looks: How often in the training a checkpoint, a preview and the scores are written.
        gradient_clip: Largest norm of the gradient.
        bfloat16: Whether to compute in bfloat16 where it is safe; weights stay float32.
    """

    steps: int
    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[[int, int], float]
    ema_decay: float = 0.999
    looks: int = 10
    gradient_clip: float = 1.0
    bfloat16: bool = True


class Average:
    """Exponential moving average of the weights of a module.

    Early steps weigh less than ``decay`` says, so that the first weights, which are noise, are soon forgotten.

    Args:
        module: Its trainable parameters are averaged.
        decay: Share of the average that a step keeps, at most.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.mean = [parameter.detach().clone() for parameter in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, list(self.live), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the module and the average."""
        for live, mean in zip(self.live, self.mean, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside, ``module`` has the averaged weights and is in evaluation mode."""
        self.swap()
        module.eval()
        try:
            yield
        finally:
            module.train()
            self.swap()


def fit(objective: Objective, settings: Settings, folder: Path, name: str) -> None:
    """Train ``objective`` on its device; afterwards it holds the averaged weights.

    A checkpoint in ``folder`` is gone on from. Files: ``<name>.pt``, ``<name>.jsonl`` and ``<name>_<step>.png``.

    Args:
        objective: Networks, data and loss.
        settings: How.
        folder: Where the files go.
        name: First part of their names, and of the progress bar.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    optimizer = settings.optimizer([one for one in objective.parameters() if one.requires_grad])
    rates = [group["lr"] for group in optimizer.param_groups]
    average, checkpoint = Average(objective, settings.ema_decay), folder / f"{name}.pt"
    start = _resume(objective, optimizer, average, checkpoint)
    every, losses, began = max(1, settings.steps // settings.looks), [], time.monotonic()
    objective.train()
    for step in track(range(start, settings.steps), settings.steps - start, name):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * settings.schedule(step, settings.steps)
        losses.append(_step(objective, optimizer, settings, step))
        average.update(step)
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            seconds = time.monotonic() - began
            with average.applied(objective):
                _look(objective, folder, name, {"step": step + 1, "loss": _mean(losses), "seconds": round(seconds, 1)})
            _save(objective, optimizer, average, step + 1, checkpoint)
            losses.clear()
    average.swap()
    objective.eval()


def _step(objective: Objective, optimizer: torch.optim.Optimizer, settings: Settings, step: int) -> Tensor:
    """One update; its loss, still on the device."""
    device = next(objective.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=settings.bfloat16):
        loss = objective.loss(step)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(objective.parameters(), settings.gradient_clip)
    optimizer.step()
    return loss.detach()


def _mean(losses: list[Tensor]) -> float:
    mean = float(torch.stack(losses).mean())
    if not np.isfinite(mean):
        raise FloatingPointError("the loss is not finite: lower the learning rate, or set bfloat16=false")
    return mean


def _look(objective: Objective, folder: Path, name: str, record: dict[str, Any]) -> None:
    """Write down how far the training is."""
    with torch.no_grad():
        record |= objective.score()
        picture = objective.preview()
    log.info("%s %s", name, ", ".join(f"{key} {value:.5g}" for key, value in record.items()))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    write_atomically(folder / f"{name}_{record['step']:06d}.png", bytes(data))


def _save(
    objective: Objective, optimizer: torch.optim.Optimizer, average: Average, step: int, checkpoint: Path
) -> None:
    buffer = io.BytesIO()
    state = {"step": step, "weights": objective.state_dict(), "average": average.mean}
    torch.save(state | {"optimizer": optimizer.state_dict()}, buffer)
    write_atomically(checkpoint, buffer.getvalue())


def _resume(objective: Objective, optimizer: torch.optim.Optimizer, average: Average, checkpoint: Path) -> int:
    """Load the checkpoint if there is one; the next step."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location=average.mean[0].device, weights_only=True)
    objective.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    for mean, saved in zip(average.mean, state["average"], strict=True):
        mean.copy_(saved)
    log.info("going on from step %d of %s", state["step"], checkpoint)
    return int(state["step"])


def step_generator(seed: int, *names: int | str) -> torch.Generator:
    """A generator of the CPU, for the random numbers of one step: the same on every device."""
    return torch.Generator().manual_seed(derive(seed, *names))


def grid(rows: list[Tensor]) -> np.ndarray:
    """Rows of pictures ``(N, 3, H, W)`` in -1..1 as one ``(H, W, 3)`` uint8 picture."""
    lines = [torch.cat(list(row), dim=2) for row in rows]
    picture = ((torch.cat(lines, dim=1).float().cpu() + 1) * 127.5).round().clamp(0, 255)
    return picture.permute(1, 2, 0).to(torch.uint8).numpy()
