"""PuzzleMix (Kim, Choo and Song, 2020): arXiv 2009.06962."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb, gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaug.functional.blocks import mix_blocks, pool_blocks
from genaug.functional.graph_cut import GridEnergy, Solver, check_solver, minimise
from genaug.functional.maps import sum_to_one
from genaug.mixing.base import (
    Context,
    Mixer,
    Pairing,
    check_batch,
    check_mixing_arguments,
    draw_lam,
    draw_pairing,
    mix_targets,
)
from genaug.saliency.base import Saliency

Floats = NDArray[np.float64]
#: Of the network's input, channel by channel (ImageNet's).
STD = (0.229, 0.224, 0.225)


class PuzzleMix(Mixer):
    """Puts two images together block by block so that both keep what is salient, and moves blocks that would be lost.

    Each block is the image's own, its partner's, or a mixture. The mask minimises the saliency that is lost, with
    neighbours alike (``beta``), seams where colours go together (``gamma``) and as much of each image as ``lam`` asks
    for (``eta``). Then salient blocks that the mask hides move to where it shows their image. The label's weight is the
    mean of the mask.

    Args:
        saliency: Where the images show what they are about; the paper takes the gradient of the loss.
        alpha: Parameter of ``Beta(alpha, alpha)``, from which ``lam`` is drawn; 1 is uniform.
        p: Probability that a batch is mixed.
        pairing: How partners are chosen, see :func:`genaug.mixing.base.draw_pairing`.
        block_nums: Blocks along a side: each batch draws one of those that divide its images' sides.
        n_labels: Values of the mask, evenly from 0 to 1.
        eta: Weight of the prior.
        beta: Weight of neighbours being alike.
        gamma: Weight of the colours at seams, relative to ``beta``.
        neigh_size: Pixels along the side of the patches whose colours are compared at seams; the largest number up to
            this one that divides the block is taken.
        std: What the images' channels were divided by, so that colours are compared in [0, 1]; channels of another
            number get the average. The published code for fine-grained data compares normalised colours: 1.
        transport: Whether blocks move.
        t_eps: Cost of moving a block across the image, in shares of the image's saliency.
        solver: Of the mask, see :func:`genaug.functional.graph_cut.minimise`.

    Example:
        >>> from genaug.saliency.spectral_residual import SpectralResidual
        >>> mixer = PuzzleMix(SpectralResidual())
        >>> images, targets = mixer(torch.rand(4, 3, 32, 32), torch.eye(4), torch.Generator().manual_seed(0), Context())
        >>> images.shape, targets.sum(dim=1)
        (torch.Size([4, 3, 32, 32]), tensor([1., 1., 1., 1.]))
    """

    def __init__(
        self,
        saliency: Saliency,
        alpha: float = 1.0,
        p: float = 1.0,
        pairing: Pairing = "permutation",
        block_nums: Sequence[int] = (2, 4, 8, 16),
        n_labels: int = 3,
        eta: float = 0.2,
        beta: float = 1.2,
        gamma: float = 0.5,
        neigh_size: int = 4,
        std: Sequence[float] = STD,
        transport: bool = True,
        t_eps: float = 0.8,
        solver: Solver = "vectorised",
    ) -> None:
        check_mixing_arguments(alpha, p, pairing)
        check_solver(solver)
        if not block_nums or min(block_nums) < 2:
            raise ValueError(f"block_nums: expected numbers of blocks along a side, each 2 or more, came {block_nums}")
        if n_labels < 2 or neigh_size < 1 or min(eta, beta, gamma, t_eps) < 0 or not std:
            raise ValueError(
                "expected n_labels of 2 or more, neigh_size of 1 or more, and eta, beta, gamma and t_eps not negative, "
                f"came {n_labels=}, {neigh_size=}, {eta=}, {beta=}, {gamma=}, {t_eps=}, {std=}"
            )
        self.saliency: Saliency = saliency
        self.alpha, self.p, self.pairing = alpha, p, pairing
        self.block_nums, self.n_labels = tuple(block_nums), n_labels
        self.eta, self.beta, self.gamma, self.neigh_size, self.std = eta, beta, gamma, neigh_size, tuple(std)
        self.transport, self.t_eps, self.solver = transport, t_eps, solver

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, see :class:`genaug.mixing.base.Mixer`.

        Raises:
            ValueError: No number of blocks divides the images.
        """
        check_batch(images, targets)
        pairing, lam, blocks = self.draw(images.shape, generator)
        if lam == 1:
            return images, targets
        maps = sum_to_one(pool_blocks(self.saliency(images, targets, context), blocks))
        here = pairing.to(images.device, non_blocking=True)
        seams = colours_at_seams(images.detach(), here, blocks, self.neigh_size, self.std)
        # The only waits for the device: small tables, once a batch.
        shares, down, right = (table.cpu().double().numpy() for table in (maps, *seams))
        mask = self.mask(shares, pairing.numpy(), down, right, lam)
        mixed, own = self.assemble(images, shares, pairing, mask)
        if context.notes is not None:
            side = images.shape[2] // blocks, images.shape[3] // blocks
            context.note(partners=pairing, own=own.repeat_interleave(side[0], 1).repeat_interleave(side[1], 2))
        return mixed, mix_targets(targets, here, own.mean(dim=(1, 2)))

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, float, int]:
        """Draw the partners ``(B,)``, ``lam``, and the number of blocks for images ``(B, C, H, W)``."""
        height, width = shape[2:]
        fitting = [blocks for blocks in self.block_nums if height % blocks == 0 and width % blocks == 0]
        if not fitting:
            raise ValueError(
                f"PuzzleMix cuts images into blocks: expected sides that one of block_nums {list(self.block_nums)} "
                f"divides, came {height} x {width}; choose another crop size, or mixer.block_nums"
            )
        pairing = draw_pairing(self.pairing, shape[0], generator)
        lam = float(draw_lam(self.alpha, self.p, 1, generator))
        return pairing, lam, fitting[int(torch.randint(len(fitting), (), generator=generator))]

    def mask(self, shares: Floats, pairing: NDArray[np.int64], down: Floats, right: Floats, lam: float) -> Floats:
        """How much each block is the image's own: ``(B, n, n)`` in ``[0, 1]``, see :func:`mask_energy`."""
        energy = mask_energy(shares, shares[pairing], down, right, lam, self.n_labels, self.eta, self.beta, self.gamma)
        return 1 - minimise(energy, self.solver) / (self.n_labels - 1)

    def assemble(self, images: Tensor, shares: Floats, pairing: Tensor, mask: Floats) -> tuple[Tensor, Tensor]:
        """Move blocks and mix: images ``(B, C, H, W)``, and the mask ``(B, n, n)`` as a tensor on the CPU."""
        size, blocks = mask.shape[:2]
        sources = np.broadcast_to(np.arange(blocks**2).reshape(blocks, blocks), (2 * size, blocks, blocks))
        if self.transport:
            both = np.concatenate([shares, shares[pairing.numpy()]])
            sources = transport_sources(both, np.concatenate([mask > 0, mask < 1]), self.t_eps)
        own, other = torch.from_numpy(sources.copy()).split(size)
        first = own + torch.arange(size).view(-1, 1, 1) * blocks**2
        second = other + pairing.view(-1, 1, 1) * blocks**2
        share = torch.from_numpy(mask).float()
        return mix_blocks(images, first, second, share), share


def colours_at_seams(
    images: Tensor, pairing: Tensor, blocks: int, neigh_size: int, std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """How far colours are apart on both sides of the borders between blocks, for each choice of the images there.

    Colours are averages of patches of at most ``neigh_size`` pixels along a side, differences averages of the channels'
    absolute ones and of the patches along a border (the paper's data local smoothness).

    Args:
        images: ``(B, C, H, W)``.
        pairing: ``(B,)`` on the images' device.
        blocks: Along a side.
        neigh_size: In pixels.
        std: Factors of the channels.

    Returns:
        ``(2, 2, B, n - 1, n)`` for blocks one above the other and ``(2, 2, B, n, n - 1)`` for blocks side by side. The
        first two indices say for the upper or left block and for the other one whether it is the partner's (0) or the
        image's own (1).
    """
    scale = torch.tensor(std if len(std) == images.shape[1] else [sum(std) / len(std)], dtype=torch.float32)
    scale = scale.to(images.device, non_blocking=True).view(-1, 1, 1)
    down = _across_borders(images, pairing, blocks, neigh_size, scale)
    right = _across_borders(images.transpose(2, 3), pairing, blocks, neigh_size, scale)
    return down, right.transpose(3, 4)


def _across_borders(images: Tensor, pairing: Tensor, blocks: int, neigh_size: int, scale: Tensor) -> Tensor:
    size, channels, height, width = images.shape
    patch = largest_patch(height // blocks, width // blocks, neigh_size)
    rows = images.unflatten(2, (blocks, -1))  # (B, C, n, rows of a block, W)

    def pooled(strips: Tensor) -> Tensor:
        return strips.float().mean(dim=3).unflatten(3, (-1, patch)).mean(dim=4) * scale

    above, below = pooled(rows[:, :, :-1, -patch:]), pooled(rows[:, :, 1:, :patch])

    def apart(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean(dim=1).unflatten(2, (blocks, -1)).mean(dim=3)

    own = apart(above, below)
    crossed = torch.stack([apart(above[pairing], below), apart(above, below[pairing])])
    return torch.stack([torch.stack([own[pairing], crossed[0]]), torch.stack([crossed[1], own])])


def largest_patch(height: int, width: int, limit: int) -> int:
    """The largest number up to ``limit`` that divides both sides of a block.

    >>> largest_patch(56, 56, 4), largest_patch(14, 14, 4), largest_patch(7, 7, 4)
    (4, 2, 1)
    """
    common = gcd(height, width)
    return max(number for number in range(1, min(limit, common) + 1) if common % number == 0)


def mask_energy(
    own: Floats,
    other: Floats,
    down: Floats,
    right: Floats,
    lam: float,
    n_labels: int,
    eta: float,
    beta: float,
    gamma: float,
) -> GridEnergy:
    """The energy of the masks, in which label l of L stands for ``1 - l / (L - 1)`` of the own image.

    Args:
        own: ``(B, n, n)`` saliency of the blocks, with the sum 1.
        other: The same of the partners.
        down: ``(2, 2, B, n - 1, n)``, see :func:`colours_at_seams`.
        right: ``(2, 2, B, n, n - 1)``.
        lam: Share of the own image that the prior asks for.
        n_labels: L.
        eta: Weight of the prior.
        beta: Weight of neighbours being alike; as in the published code for n = 16 divided by n * n, and in proportion
            to 1 / n for other grids.
        gamma: Weight of colours, relative to ``beta``.
    """
    blocks = own.shape[-1]
    beta = beta / (16 * blocks)
    down, right = beta * gamma * down, beta * gamma * right
    # A difference between two blocks is the mean of what each of them has in it, and the rest a cost of being unlike.
    lost_by_own, lost_by_other = other.copy(), own.copy()
    for (f00, f01), (f10, f11), axis in ((*down, 1), (*right, 2)):
        near, far = _all_but_last(axis), _all_but_first(axis)
        lost_by_own[near] += (f10 + f11) / 2
        lost_by_own[far] += (f01 + f11) / 2
        lost_by_other[near] += (f01 + f00) / 2
        lost_by_other[far] += (f10 + f00) / 2
    edges = [(f[0, 1] + f[1, 0] - f[0, 0] - f[1, 1]) / 2 + beta for f in (down, right)]
    levels = np.linspace(0, 1, n_labels)
    lost = np.stack([(1 - level) * lost_by_own + level * lost_by_other for level in levels], axis=1)
    lost += eta / blocks**2 * prior(lam, n_labels)[:, None, None]
    return GridEnergy(lost, edges[0], edges[1], (levels[:, None] - levels) ** 2)


def _all_but_last(axis: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(-1))


def _all_but_first(axis: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(1, None))


def prior(lam: float, n_labels: int) -> Floats:
    """Minus the logarithm of a binomial distribution with ``lam`` of the own image, label 0 being all of it.

    >>> prior(0.5, 3).round(3).tolist()
    [1.386, 0.693, 1.386]
    """
    most = n_labels - 1
    chances = [comb(most, label) * lam ** (most - label) * (1 - lam) ** label for label in range(n_labels)]
    return -np.log(np.array(chances) + 1e-8)


def transport_sources(saliency: Floats, shown: NDArray[np.bool_], t_eps: float) -> NDArray[np.int64]:
    """Choose which block of an image goes where, so that the mask shows as much of its saliency as is worth the way.

    The paper's masked transport: every block asks for the place where ``t_eps * distance^2 - saliency shown`` is
    lowest, a place keeps the block with the lowest of those that ask, and the others ask for their next best place,
    until nobody asks any more. A block whose own place is shown prefers it to all others, so the only ones that move in
    are those with more saliency than is there; only these are looked at.

    Args:
        saliency: ``(P, n, n)``, of each block.
        shown: ``(P, n, n)``, the places at which the mask shows something of the image.
        t_eps: Cost of the squared distance, of which ``(n - 1)^2`` is 1.

    Returns:
        ``(P, n, n)``: number ``row * n + column`` of the block at each place. No block is at two places that are shown;
        places that are not shown keep their own, whether or not it is shown elsewhere.

    Example:
        >>> saliency = np.array([[[0.0, 0.9], [0.1, 0.0]]])
        >>> transport_sources(saliency, np.array([[[True, False], [False, False]]]), t_eps=0.8).tolist()
        [[[1, 1], [2, 3]]]
    """
    problems, blocks = saliency.shape[:2]
    sites = blocks**2
    strength, shown = saliency.reshape(-1), shown.reshape(-1)
    wishes, costs, first, last = _wishes(strength, shown, blocks, t_eps)
    holder = np.arange(problems * sites)
    held = np.where(shown, -strength, np.inf)
    champion = np.empty(problems * sites, np.int64)
    asking = np.flatnonzero(~shown & (first < last))
    while len(asking):
        wish = first[asking]
        first[asking] += 1
        place, cost = wishes[wish], costs[wish]
        # Of several who ask for one place the last that is written stays: the lowest cost, and the lowest number.
        order = np.lexsort((-asking, -cost))
        champion[place[order]] = order
        wins = (champion[place] == np.arange(len(asking))) & (cost < held[place])
        leaving = holder[place[wins]]
        holder[place[wins]], held[place[wins]] = asking[wins], cost[wins]
        asking = np.concatenate([asking[~wins], leaving])
        asking = asking[first[asking] < last[asking]]
    return (holder % sites).reshape(saliency.shape)


def _wishes(
    strength: Floats, shown: NDArray[np.bool_], blocks: int, t_eps: float
) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64], NDArray[np.int64]]:
    """The places that each block would move to, best first, and their costs; and where each block's are in these."""
    sites = blocks**2
    places, distances = _nearest(blocks)
    movable = np.flatnonzero(strength > t_eps * distances[0, 1])
    block, start = movable % sites, movable - movable % sites
    reach = int((t_eps * distances < strength.max(initial=0)).sum(axis=1).max())
    to = places[block, 1:reach] + start[:, None]
    cost = t_eps * distances[block, 1:reach] - strength[movable, None]
    row, column = np.nonzero((cost < 0) & shown[to])
    last = np.searchsorted(movable[row], np.arange(len(strength)), side="right")
    first = np.searchsorted(movable[row], np.arange(len(strength)), side="left")
    return to[row, column], cost[row, column], first, last


@lru_cache
def _nearest(blocks: int) -> tuple[NDArray[np.int64], Floats]:
    """For each place of a grid all places, nearest first, and their squared distances: two of ``(n * n, n * n)``."""
    y, x = np.divmod(np.arange(blocks**2), blocks)
    distance = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / (blocks - 1) ** 2
    places = distance.argsort(axis=1, kind="stable")
    return places, np.take_along_axis(distance, places, axis=1)
