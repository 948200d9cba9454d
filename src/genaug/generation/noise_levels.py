"""Where image-to-image starts: noise levels of a scheduler, and the number of steps that begins at the wanted one.

SDEdit (Meng et al. 2022, arXiv:2108.01073) noises an image to a level and denoises it from there. diffusers' argument
``strength`` is no such level but a share of the number of steps: the same 0.4 of 25 steps starts at timestep 400 of
1000 with DPM-Solver++, at 207 once the same solver spaces its steps after Karras. Here a strength is the level itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, slots=True)
class Start:
    """Where a denoising begins.

    Attributes:
        timestep: Noise level in training timesteps; with flow matching, sigma times their number.
        steps: Steps that are run, the last ones of the schedule.
        calls: Denoiser calls of these steps: some schedulers need more than one a step.
        argument: What a diffusers pipeline takes as ``strength`` to run exactly these steps. A fraction, because some
            pipelines round its product with the number of steps down and others up, and a float is rarely exact.
    """

    timestep: float
    steps: int
    calls: int
    argument: Fraction


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise levels that a scheduler visits.

    Attributes:
        timesteps: One a denoiser call, the noisiest first.
        steps: Number of inference steps.
        order: Denoiser calls a step, after the first.
        train_timesteps: Number of timesteps the model was trained with.

    Example:
        >>> schedule = Schedule((999.0, 749.0, 500.0, 250.0), steps=4, order=1, train_timesteps=1000)
        >>> schedule.nearest(0.7).timestep, schedule.nearest(0.7).steps
        (749.0, 3)
        >>> schedule.diffusers(0.7).timestep  # int(4 * 0.7) = 2 steps
        500.0
    """

    timesteps: tuple[float, ...]
    steps: int
    order: int
    train_timesteps: int

    @classmethod
    def of(cls, scheduler: Any, steps: int, **arguments: Any) -> Schedule:
        """The schedule of a diffusers scheduler, whose timesteps are set.

        Args:
            scheduler: Any scheduler of diffusers whose timesteps are noise levels.
            steps: Number of inference steps.
            arguments: What the pipeline hands to ``set_timesteps`` besides ("sigmas", "mu").

        Raises:
            ValueError: the scheduler numbers its timesteps in another way.
        """
        if "sigmas" in arguments:  # the two exclude each other
            scheduler.set_timesteps(**arguments)
        else:
            scheduler.set_timesteps(steps, **arguments)
        timesteps = tuple(float(timestep) for timestep in scheduler.timesteps)
        train_timesteps = scheduler.config.get("num_train_timesteps", 1000)
        if not all(0 <= timestep <= train_timesteps for timestep in timesteps):
            raise ValueError(
                f"{type(scheduler).__name__} has timesteps from {timesteps[0]:g} to {timesteps[-1]:g}, which are no "
                f"noise levels between 0 and {train_timesteps}: choose another one with generator.scheduler."
            )
        return cls(timesteps, steps, scheduler.order, train_timesteps)

    def start(self, steps: int) -> Start:
        """The start that leaves the last ``steps`` steps to be run, 1 to all of them."""
        first = (self.steps - steps) * self.order
        return Start(self.timesteps[first], steps, len(self.timesteps) - first, Fraction(steps, self.steps))

    def nearest(self, strength: float) -> Start:
        """The start whose noise level is the nearest to ``strength``; of two as near the one with fewer steps.

        Args:
            strength: Share of the training timesteps, in (0, 1].

        Raises:
            ValueError: ``strength`` is out of range, or nearer to no noise at all than to the weakest level.
        """
        wanted = check_strength(strength) * self.train_timesteps
        levels = [0.0] + [self.start(steps).timestep for steps in range(1, self.steps + 1)]
        steps = min(range(self.steps + 1), key=lambda steps: (abs(levels[steps] - wanted), steps))
        if steps == 0:
            raise ValueError(
                f"strength={strength} gives no denoising step: of {self.steps} steps the last one starts at timestep "
                f"{levels[1]:g} of {self.train_timesteps}. Raise the strength or the number of steps."
            )
        return self.start(steps)

    def diffusers(self, strength: float) -> Start:
        """The start by the rule of diffusers' Stable Diffusion pipelines, ``int(steps * strength)`` steps.

        For comparison with published code; the pipelines of SD 3 and later round up instead of down.

        Raises:
            ValueError: ``strength`` is out of range or gives no step.
        """
        steps = int(self.steps * check_strength(strength))
        if steps == 0:
            raise ValueError(f"strength={strength} gives int({self.steps} * {strength}) = 0 steps: raise either.")
        return self.start(steps)


def check_strength(strength: float) -> float:
    """``strength`` itself.

    Raises:
        ValueError: it lies outside (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be a noise level above 0 and at most 1, got {strength}")
    return strength


def build_scheduler(
    config: Mapping[str, Any], name: str | None = None, arguments: Mapping[str, Any] | None = None
) -> Any:
    """A scheduler of diffusers.

    Args:
        config: Content of a model's ``scheduler_config.json``.
        name: Class to build instead of the model's own ("DPMSolverMultistepScheduler").
        arguments: Its arguments in place of those in ``config`` ("use_karras_sigmas").

    Raises:
        ValueError: diffusers has no such scheduler.
    """
    import diffusers

    name = name or config["_class_name"]
    kind: Any = getattr(diffusers, name, None)
    if diffusers.SchedulerMixin not in getattr(kind, "__mro__", ()):
        raise ValueError(
            f"generator.scheduler={name!r} is no scheduler of diffusers {diffusers.__version__}: give the name of a "
            "class such as DPMSolverMultistepScheduler, or null for the model's own."
        )
    return kind.from_config(dict(config), **(arguments or {}))


def size_shift(config: Mapping[str, Any], tokens: int) -> float:
    """``mu``, by which a flow-matching model shifts its noise levels in a picture of ``tokens`` latent patches.

    A line through two points that the scheduler's configuration names (Esser et al. 2024, arXiv:2403.03206, 5.3.2).

    >>> size_shift({}, 256), round(size_shift({}, 4096), 6)
    (0.5, 1.15)
    """
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    lowest, highest = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return lowest + (highest - lowest) * (tokens - fewest) / (most - fewest)
