"""Co-Mixup (Kim, Choo, Jeong and Song, 2021): arXiv 2102.03065."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genaug.functional.blocks import mix_blocks, pool_blocks
from genaug.functional.graph_cut import (
    Floats,
    GridEnergy,
    Labels,
    Solver,
    check_solver,
    minimise,
)
from genaug.functional.maps import peaks, sum_to_one
from genaug.mixing.base import Context, Mixer, check_batch, check_mixing_arguments, combine_targets
from genaug.saliency.base import Saliency

#: Cost of two labels side by side, of which one is a mixture with the other in it; 1 is that of labels apart.
NEAR = 0.25
#: What a mixture of two labels costs less than their mean.
BONUS = 5e-4
#: Cost of a mixture that is not on offer: more than any saliency and penalty.
NEVER = 1e3
#: Iterations of belief propagation: more lower the energy by less than a tenth of a percent.
ITERATIONS = 8


class CoMixup(Mixer):
    """Mixes a whole batch at once: each result is put together from blocks of several images.

    The results together keep as much saliency as they can (the sum over all blocks), with neighbours alike (``beta``)
    and results unlike each other: an image of which the others show more than ``tau`` already costs ``gamma`` for each
    block (a supermodular term, linear in one result while the others stand still, so the results take turns). From the
    second round on a block may be a mixture of two images, half of each. A label's weight is the image's share of the
    blocks.

    Args:
        saliency: Where the images show what they are about; the paper takes the gradient of the loss.
        alpha: Parameter of the Dirichlet distribution from which the prior of the images is drawn.
        p: Probability that a batch is mixed; the paper's code always does.
        block_num: Blocks along a side.
        part_size: At most this many images are mixed with one another; a batch is cut into parts in its order.
        eta: Weight of the prior.
        beta: Weight of neighbours being alike.
        gamma: Weight of results being unlike.
        tau: Share of an image that the others may show for nothing.
        omega: How much images count as alike whose most salient windows are far apart, so that those close together are
            rather mixed with others. From 0 to 1.
        niter: Rounds.
        window: Side of the most salient window, in pixels.
        set_resolve: Before the last round, drive apart results that are made of the same images.
        spread_penalty: As the published code, see :func:`penalties`.
        solver: Of one result given the others, see :func:`genaug.functional.graph_cut.minimise`.

    Example:
        >>> from genaug.saliency.spectral_residual import SpectralResidual
        >>> mixer = CoMixup(SpectralResidual())
        >>> images, targets = mixer(torch.rand(4, 3, 32, 32), torch.eye(4), torch.Generator().manual_seed(0), Context())
        >>> images.shape, targets.sum(dim=1)
        (torch.Size([4, 3, 32, 32]), tensor([1., 1., 1., 1.]))
    """

    def __init__(
        self,
        saliency: Saliency,
        alpha: float = 2.0,
        p: float = 1.0,
        block_num: int = 4,
        part_size: int = 20,
        eta: float = 0.05,
        beta: float = 0.32,
        gamma: float = 1.0,
        tau: float = 0.83,
        omega: float = 0.001,
        niter: int = 4,
        window: int = 8,
        set_resolve: bool = True,
        spread_penalty: bool = False,
        solver: Solver = "vectorised",
    ) -> None:
        check_mixing_arguments(alpha, p, "permutation")
        check_solver(solver)
        if min(block_num, part_size, niter, window) < 1 or min(eta, beta, gamma, tau) < 0 or not 0 <= omega <= 1:
            raise ValueError(
                "expected block_num, part_size, niter and window of 1 or more, eta, beta, gamma and tau not negative "
                f"and omega in [0, 1], came {block_num=}, {part_size=}, {niter=}, {window=}, {eta=}, {beta=}, "
                f"{gamma=}, {tau=}, {omega=}"
            )
        self.saliency: Saliency = saliency
        self.alpha, self.p, self.block_num, self.part_size, self.window = alpha, p, block_num, part_size, window
        self.eta, self.omega = eta, omega
        self.objective = Objective(beta, gamma, tau, niter, set_resolve, spread_penalty, solver)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, see :class:`genaug.mixing.base.Mixer`.

        Raises:
            ValueError: The blocks do not divide the images.
        """
        check_batch(images, targets)
        height, width = images.shape[2:]
        if height % self.block_num or width % self.block_num:
            raise ValueError(
                f"Co-Mixup cuts images into blocks: expected sides divisible by block_num {self.block_num}, came "
                f"{height} x {width}; choose another crop size, or mixer.block_num"
            )
        mixed, draws = self.draw(len(images), generator)
        if not mixed:
            return images, targets
        saliency = self.saliency(images, targets, context)
        windows = most_salient_windows(saliency, self.window)
        # The only waits for the device: two small tables, once a batch.
        shares = sum_to_one(pool_blocks(saliency, self.block_num)).cpu().double().numpy()
        first, second = self.choose(shares, windows.cpu().double().numpy(), draws)
        return mix(images, targets, torch.from_numpy(first), torch.from_numpy(second), context)

    def draw(self, size: int, generator: torch.Generator) -> tuple[bool, list[tuple[Floats, Labels]]]:
        """Draw whether the batch is mixed, and priors and starts of its parts.

        Returns:
            Whether; and for the P full parts, and for what is left over, priors ``(P, N)`` with the sum 1 and images to
            start from, ``(P, N, n, n)`` numbers in the part.
        """
        mixed = bool(torch.rand((), generator=generator) < self.p)
        # torch's Dirichlet takes no generator.
        numbers = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
        full, left = divmod(size, self.part_size)
        draws = []
        for parts, members in ((full, self.part_size), (1, left)):
            if parts and members:
                priors = numbers.dirichlet([self.alpha] * members, parts)
                grid = self.block_num, self.block_num
                draws.append((priors, numbers.integers(members, size=(parts, members, *grid))))
        return mixed, draws

    def choose(self, shares: Floats, windows: Floats, draws: list[tuple[Floats, Labels]]) -> tuple[Labels, Labels]:
        """Choose the two images, which may be one, whose mean each block of each result is.

        Args:
            shares: ``(B, n, n)`` saliency of blocks, with the sum 1.
            windows: ``(B, 2)``, see :func:`most_salient_windows`.
            draws: See :meth:`draw`.

        Returns:
            Twice ``(B, n, n)`` numbers of images in the batch.
        """
        sites, done = shares[0].size, 0
        chosen = []
        for priors, starts in draws:
            parts, members = priors.shape
            inside = slice(done, done + parts * members)
            cost = -shares[inside].reshape(starts.shape)
            cost -= self.eta / sites * np.log(priors + 1e-8)[:, :, None, None]
            alike = coupling(windows[inside].reshape(parts, members, 2), self.omega)
            pair = np.stack(assign(cost, alike, starts, self.objective))
            pair += done + members * np.arange(parts)[:, None, None, None]
            chosen.append(pair.reshape(2, -1, *shares.shape[1:]))
            done = inside.stop
        first, second = np.concatenate(chosen, axis=1)
        return first, second


@dataclass(frozen=True, slots=True)
class Objective:
    """What :func:`assign` minimises, and how long; see :class:`CoMixup`."""

    beta: float
    gamma: float
    tau: float
    niter: int
    set_resolve: bool
    spread_penalty: bool
    solver: Solver


def most_salient_windows(saliency: Tensor, window: int) -> Tensor:
    """Find the window with the most saliency in each map ``(B, H, W)``: ``(B, 2)`` y, x of its corner, in pixels.

    >>> maps = torch.zeros(1, 5, 5)
    >>> maps[0, 2:4, 1:3] = 1
    >>> most_salient_windows(maps, 2).tolist()
    [[2, 1]]
    """
    height, width = (min(window, side) for side in saliency.shape[1:])
    return peaks(_sums_along(_sums_along(saliency, width, dim=2), height, dim=1))


def _sums_along(maps: Tensor, side: int, dim: int) -> Tensor:
    """Sums of every ``side`` neighbours: those of half as many, twice."""
    if side == 1:
        return maps
    shorter = side // 2 if side % 2 == 0 else side - 1
    first = _sums_along(maps, shorter, dim)
    second = first if side % 2 == 0 else maps
    length = maps.shape[dim] - side + 1
    return first.narrow(dim, 0, length) + second.narrow(dim, shorter, length)


def coupling(windows: Floats, omega: float) -> Floats:
    """Compute the paper's compatibility ``(1 - omega) I + omega D`` of windows ``(P, n, 2)``: ``(P, n, n)``.

    D is the L1 distance of two images' windows, scaled to the sum n; 0 where all windows are at one place.
    """
    size = windows.shape[1]
    distance = np.abs(windows[:, :, None] - windows[:, None]).sum(axis=-1)
    total = distance.sum(axis=(1, 2), keepdims=True)
    return (1 - omega) * np.eye(size) + omega * size * distance / np.where(total == 0, 1, total)


def assign(cost: Floats, alike: Floats, start: Labels, objective: Objective) -> tuple[Labels, Labels]:
    """Choose images for the blocks of n results out of n images, one result after the other, round by round.

    The paper's iterative submodular minimisation, for several parts of one size at a time.

    Args:
        cost: ``(P, n, h, w)``, of an image at a block.
        alike: ``(P, n, n)``, how much one image shown elsewhere counts as another.
        start: ``(P, n, h, w)``, images in ``[0, n)``.
        objective: Weights and rounds.

    Returns:
        Twice ``(P, n, h, w)``: the images whose mean each block is, the same one twice where it is not mixed.
    """
    parts, size, height, width = cost.shape
    sites = height * width
    down = np.full((parts, height - 1, width), objective.beta / sites)
    right = np.full((parts, height, width - 1), objective.beta / sites)
    pair = np.stack([start, start], axis=1)  # (P, 2, n, h, w)
    counts = np.stack([_counts(pair[:, :, i], size) for i in range(size)], axis=1)
    driven = np.zeros_like(counts)
    for done in range(objective.niter):
        for i in range(size):
            others = counts.sum(axis=1) - counts[:, i]
            penalty = 2 * penalties(others, alike, objective.tau * sites, objective.spread_penalty) + driven[:, i]
            costs = cost + objective.gamma / sites * penalty[..., None, None]
            choice = _choice(costs, counts[:, i], with_mixtures=done > 0)
            labels = minimise(GridEnergy(choice.costs, down, right, choice.apart), objective.solver, ITERATIONS)
            pair[:, :, i] = _look_up(choice.images, labels)
            counts[:, i] = _counts(pair[:, :, i], size)
        if done == objective.niter - 2 and objective.set_resolve:
            driven = drive_apart(counts)
    return pair[:, 0], pair[:, 1]


def penalties(others: Floats, alike: Floats, limit: float, spread: bool) -> Floats:
    """How much an image is shown by the other results, where that is more than a limit: ``A c`` or 0.

    Args:
        others: ``(P, n)``, blocks c of the other results that show each image.
        alike: ``(P, n, n)``, the matrix A, see :func:`coupling`.
        limit: In blocks.
        spread: Compute ``A (c or 0)`` instead, under the same condition. The published code does, since Python reads
            its ``mask * A @ c`` from left to right: images whose windows are far from those of others that are shown
            too much cost something as well.

    Returns:
        ``(P, n)``.

    >>> alike = np.array([[[0.9, 0.1], [0.1, 0.9]]])
    >>> penalties(np.array([[10.0, 0.0]]), alike, 5.0, spread=False).tolist()
    [[9.0, 0.0]]
    >>> penalties(np.array([[10.0, 0.0]]), alike, 5.0, spread=True).tolist()
    [[9.0, 1.0]]
    """
    shown = (alike @ others[..., None])[..., 0]
    too_much = shown > limit
    return (alike @ (others * too_much)[..., None])[..., 0] if spread else shown * too_much


class _Choice(NamedTuple):
    """The labels on offer: images, and mixtures of those that a result is made of already.

    Attributes:
        costs: ``(P, L, h, w)``.
        apart: ``(P, L, L)`` cost of two labels side by side.
        images: ``(P, 2, L)``, the two images whose mean a label is.
    """

    costs: Floats
    apart: Floats
    images: Labels


def _choice(costs: Floats, counts: Floats, with_mixtures: bool) -> _Choice:
    parts, size = counts.shape
    single = np.broadcast_to(np.arange(size), (parts, 2, size))
    if not with_mixtures or size == 1:
        return _Choice(costs, 1 - np.eye(size), single)
    part = np.arange(parts)[:, None, None]
    most = np.sort((-counts).argsort(axis=1, kind="stable")[:, :3], axis=1)
    mixtures = most[:, _PAIRS[: 3 if size > 2 else 1]]  # (P, M, 2)
    mixed = costs[part, mixtures].mean(axis=2) - BONUS
    mixed[(counts[part, mixtures] == 0).any(axis=2)] = NEVER
    label = size + np.arange(mixtures.shape[1])[:, None]
    apart = np.ones((parts, size + len(label), size + len(label)))
    apart[:, np.arange(size + len(label)), np.arange(size + len(label))] = 0
    apart[part, label, mixtures] = apart[part, mixtures, label] = NEAR
    images = np.concatenate([single, mixtures.swapaxes(1, 2)], axis=2)
    return _Choice(np.concatenate([costs, mixed], axis=1), apart, images)


#: Two of the three images of which a result shows most.
_PAIRS = np.array([[0, 1], [0, 2], [1, 2]])


def _look_up(table: Labels, labels: Labels) -> Labels:
    """What a table ``(P, N, L)`` says of labels ``(P, h, w)``: ``(P, N, h, w)``."""
    parts, columns, _ = table.shape
    return table[np.arange(parts)[:, None, None, None], np.arange(columns)[:, None, None], labels[:, None]]


def _counts(pair: Labels, size: int) -> Floats:
    """How many blocks of results ``(P, 2, h, w)`` show each image, ``(P, size)``; mixtures count half."""
    parts = len(pair)
    numbered = pair.reshape(parts, -1) + size * np.arange(parts)[:, None]
    return np.bincount(numbered.ravel(), minlength=parts * size).reshape(parts, size) / 2


def drive_apart(counts: Floats) -> Floats:
    """Costs that keep results made of the same images from staying so.

    Of two such results the first is to pay for the first of their images and the second for the second.

    Args:
        counts: ``(P, n, n)`` blocks of each result that show each image.

    Returns:
        ``(P, n, n)``, 1 where a result is to pay for an image.

    >>> drive_apart(np.array([[[8.0, 8, 0], [4, 12, 0], [0, 0, 16]]])).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]
    """
    has = counts > 0
    costs = np.zeros(counts.shape)
    same = np.triu((has[:, :, None] == has[:, None]).all(axis=-1), 1)
    for part, one, other in np.argwhere(same & (has.sum(axis=-1) > 1)[:, :, None]):
        images = np.flatnonzero(has[part, one])
        costs[part, one, images[0]] = costs[part, other, images[1]] = 1
    return costs


def mix(images: Tensor, targets: Tensor, first: Tensor, second: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Put images together from blocks, and targets by each image's share of the blocks.

    Args:
        images: ``(B, C, H, W)``.
        targets: ``(B, K)``.
        first: ``(B, n, n)`` numbers of images, on the CPU.
        second: The same; a block is the mean of the two.
        context: Is told how.
    """
    blocks = first.shape[-1]
    here = torch.arange(blocks**2).view(blocks, blocks)
    share = torch.where(first == second, 1.0, 0.5)
    mixed = mix_blocks(images, first * blocks**2 + here, second * blocks**2 + here, share)
    both = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
    weights = torch.zeros(len(first), len(images)).scatter_add_(1, both, torch.full(both.shape, 0.5 / blocks**2))
    if context.notes is not None:
        own = (first == torch.arange(len(first)).view(-1, 1, 1)).float()
        own = (own + (second == torch.arange(len(first)).view(-1, 1, 1))) / 2
        side = images.shape[2] // blocks, images.shape[3] // blocks
        context.note(
            partners=weights.argsort(dim=1, descending=True, stable=True)[:, :3],
            own=own.repeat_interleave(side[0], 1).repeat_interleave(side[1], 2),
        )
    return mixed, combine_targets(targets, weights)
