"""The contract of a batch mixer, and the draws that several mixers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from genaug.saliency.base import Saliency

Pairing = Literal["permutation", "roll", "flip"]
PAIRINGS = ("permutation", "roll", "flip")


@dataclass(frozen=True, slots=True)
class Context:
    """What a mixer may ask for besides the batch; nothing here costs anything until it is used.

    Attributes:
        model: The network in training, for mixers that need its features or gradients.
        loss: What it is trained with: ``(logits, targets (B, K)) -> scalar``, a mean over the batch.
        masks: ``(B, H, W)`` bool, the ground-truth masks of the images; there when :attr:`Mixer.needs_masks` says so.
        extra_losses: Scalars that are added to the loss of the mixed batch, see :meth:`add_loss`.
        notes: How the batch was mixed, see :meth:`note`; None where nobody asks.
    """

    model: nn.Module | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    masks: Tensor | None = None
    extra_losses: list[Tensor] = field(default_factory=list)
    notes: dict[str, Tensor] | None = None

    def of(self, indices: Tensor) -> Context:
        """The context of some images of the batch.

        Args:
            indices: ``(N,)`` on the images' device.
        """
        return self if self.masks is None else replace(self, masks=self.masks[indices])

    def add_loss(self, loss: Tensor) -> None:
        """Add a scalar with its graph to the loss that is trained on, in the one backward pass of the step."""
        self.extra_losses.append(loss)

    def note(self, **how: Tensor) -> None:
        """Say how the batch was mixed, to whoever looks: a preview does, training does not.

        Args:
            how: ``partners``, ``(B,)`` or ``(B, N)`` indices of the images that went into each; and what came from
                where, either ``own``, ``(B, H, W)`` share of each pixel that is the image's own, or ``boxes``,
                ``(B, 4)`` or ``(1, 4)`` integers y1, x1, y2, x2 of what was pasted over it.
        """
        if self.notes is not None:
            self.notes.update(how)


class Mixer(ABC):
    """Makes new training samples out of a batch.

    Subclasses call :func:`check_batch` first, draw every random number next, and then apply a pure function.

    Attributes:
        saliency: Where the images show what they are about, for mixers that look at it.
    """

    saliency: Saliency | None = None

    @property
    def needs_masks(self) -> bool:
        """Whether ``context.masks`` must be there: the saliency looks at masks."""
        return self.saliency is not None and self.saliency.needs_masks

    @abstractmethod
    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch; the arguments are never changed in place.

        Args:
            images: ``(B, C, H, W)``, floating point.
            targets: ``(B, K)``, floating point: one-hot, multi-hot or soft rows, NaN for a class that is unknown.
            generator: CPU generator, the only source of randomness, so that CPU and GPU runs draw the same mixtures.
            context: What else is on offer.

        Returns:
            Images and targets of the same shapes, types and devices. A row of targets is a convex combination of
            rows that came in, and unknown where one with a share in it is; the result may be the arguments themselves
            where nothing was mixed.
        """


class Identity(Mixer):
    """Leaves the batch as it is: training without mixing."""

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Return the arguments."""
        check_batch(images, targets)
        return images, targets


def check_batch(images: Tensor, targets: Tensor) -> None:
    """Refuse a batch that is not ``(B, C, H, W)`` float images with ``(B, K)`` float targets.

    Raises:
        ValueError: Wrong number of dimensions, or different batch sizes.
        TypeError: Integer images or targets.
    """
    if images.ndim != 4 or targets.ndim != 2 or len(images) != len(targets):
        raise ValueError(
            "a mixer expects images (B, C, H, W) and targets (B, K) of the same B, but came "
            f"{tuple(images.shape)} and {tuple(targets.shape)}; turn class indices into rows with "
            "torch.nn.functional.one_hot(labels, K).float()"
        )
    if not (images.is_floating_point() and targets.is_floating_point()):
        raise TypeError(
            f"a mixer expects floating point images and targets, but came {images.dtype} and {targets.dtype}; "
            "convert with .float() before mixing"
        )


def check_mixing_arguments(alpha: float, p: float, pairing: str) -> None:
    """Refuse values that no mixer of pairs can work with.

    Raises:
        ValueError: ``alpha`` is not positive, ``p`` is not a probability, or ``pairing`` is unknown.
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(
            f"alpha is the parameter of Beta(alpha, alpha): expected a positive number, came {alpha}; "
            "to train without mixing choose mixer=none or p=0"
        )
    if not 0 <= p <= 1:
        raise ValueError(f"p is the probability of mixing: expected a number in [0, 1], came {p}")
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing: expected one of {', '.join(PAIRINGS)}, came {pairing!r}")


def draw_pairing(pairing: Pairing, batch_size: int, generator: torch.Generator) -> Tensor:
    """Choose each sample's partner.

    ``permutation`` is the papers' uniformly random permutation (a sample can meet itself), ``roll`` pairs with the
    previous sample (torchvision), ``flip`` with the mirror position (timm). The last two need a shuffled batch.

    Returns:
        ``(B,)`` indices on the CPU.

    >>> draw_pairing("roll", 4, torch.Generator())
    tensor([3, 0, 1, 2])
    """
    if pairing == "permutation":
        return torch.randperm(batch_size, generator=generator)
    indices = torch.arange(batch_size)
    return indices.roll(1) if pairing == "roll" else indices.flip(0)


def draw_beta(alpha: float, size: int, generator: torch.Generator) -> Tensor:
    """Draw ``(size,)`` numbers in ``[0, 1]`` from ``Beta(alpha, alpha)``, in double precision on the CPU."""
    # torch's Beta takes no generator and divides 0 by 0 for small alpha; NumPy's does neither.
    seed = torch.randint(2**63 - 1, (), generator=generator).item()
    return torch.from_numpy(np.random.default_rng(int(seed)).beta(alpha, alpha, size))


def draw_lam(alpha: float, p: float, size: int, generator: torch.Generator) -> Tensor:
    """Draw the share that each sample keeps of itself: ``Beta(alpha, alpha)`` with probability ``p``, otherwise 1.

    As many numbers are drawn whatever ``p`` is, so two runs that differ only in ``p`` see the same mixtures.

    Returns:
        ``(size,)`` numbers in ``[0, 1]``, in double precision on the CPU.
    """
    lam = draw_beta(alpha, size, generator)
    mixed = torch.rand(size, generator=generator) < p
    return torch.where(mixed, lam, 1.0)


def mix_targets(targets: Tensor, pairing: Tensor, lam: Tensor) -> Tensor:
    """Compute ``lam * targets + (1 - lam) * targets[pairing]``.

    What is unknown (NaN) in one of the two is unknown in the mixture, unless that one has no share in it.

    Args:
        targets: ``(B, K)``.
        pairing: ``(B,)`` indices on the targets' device.
        lam: ``(B,)``, or ``(1,)`` for one share for all, in ``[0, 1]``, on any device.

    >>> mix_targets(torch.eye(2), torch.tensor([1, 0]), torch.tensor([0.75]))
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """
    share, partners = lam.to(targets, non_blocking=True).view(-1, 1), targets[pairing]
    # A share of 0 times NaN would be NaN: who has no share is replaced by the other one.
    return torch.where(share == 1, targets, partners).lerp_(torch.where(share == 0, partners, targets), share)


def add_targets(one: Tensor, share: Tensor, other: Tensor, other_share: Tensor) -> Tensor:
    """Compute ``share * one + other_share * other`` where shares need not sum to 1.

    Unknown is what is so in a row with a share, as in :func:`mix_targets`.

    Args:
        one: ``(B, K)`` targets.
        share: ``(B,)``, 0 or more, on the targets' device.
        other: ``(B, K)``.
        other_share: ``(B,)``.

    >>> unknown = torch.tensor([[float("nan"), 1.0]])
    >>> add_targets(torch.eye(2)[:1], torch.tensor([0.5]), unknown, torch.tensor([0.0]))
    tensor([[0.5000, 0.0000]])
    """
    shares = share.to(one)[:, None], other_share.to(one)[:, None]
    rows = (torch.where(weight > 0, row, 0) * weight for row, weight in zip((one, other), shares, strict=True))
    return sum(rows, torch.zeros_like(one))


def combine_targets(targets: Tensor, shares: Tensor) -> Tensor:
    """Compute ``shares @ targets``; unknown is what is so in a row with a share, as in :func:`mix_targets`.

    Args:
        targets: ``(B, K)``.
        shares: ``(N, B)``, 0 or more, on any device.

    Returns:
        ``(N, K)``.

    >>> combine_targets(torch.tensor([[1.0, 0.0], [0.0, float("nan")]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([[1.0000, 0.0000],
            [0.5000,    nan]])
    """
    unknown, shares = targets.isnan(), shares.to(targets, non_blocking=True)
    with torch.autocast(targets.device.type, enabled=False):
        combined = shares @ torch.where(unknown, 0, targets)
        return combined.masked_fill(shares @ unknown.to(targets) > 0, torch.nan)
