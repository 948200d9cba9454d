from __future__ import annotations

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from genaug.generation.noise_levels import Schedule, build_scheduler, size_shift

#: Stable Diffusion 1 and XL.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SCHEDULERS = {
    "DPM++2M": {"_class_name": "DPMSolverMultistepScheduler"},
    "DPM++2M Karras": {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
    "DDIM": {"_class_name": "DDIMScheduler", "steps_offset": 1, "timestep_spacing": "leading"},
    "Euler": {"_class_name": "EulerDiscreteScheduler", "steps_offset": 1, "timestep_spacing": "leading"},
    "PNDM": {"_class_name": "PNDMScheduler", "steps_offset": 1, "skip_prk_steps": True},
}


def schedule(name, steps, **changes):
    return Schedule.of(build_scheduler(BETAS | SCHEDULERS[name] | changes), steps)


@pytest.mark.parametrize(
    ("name", "of_25", "of_50"),
    [
        ("DPM++2M", (80, 200, 400, 679), (500, 599)),
        ("DPM++2M Karras", (1, 18, 207, 687), (409, 581)),
        ("DDIM", (41, 161, 361, 641), (481, 581)),
        ("Euler", (41, 161, 361, 641), (481, 581)),
        ("PNDM", (81, 201, 401, 681), (501, 601)),
    ],
)
def test_diffusers_own_rule_starts_where_the_table_says(name, of_25, of_50):
    assert tuple(round(schedule(name, 25).diffusers(s).timestep) for s in (0.1, 0.2, 0.4, 0.7)) == of_25
    assert tuple(round(schedule(name, 50).diffusers(s).timestep) for s in (0.5, 0.6)) == of_50


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.1, 0.2, 0.4, 0.7, 1.0])
def test_a_strength_is_the_nearest_noise_level_whatever_the_spacing(name, strength):
    levels = schedule(name, 25)
    found = levels.nearest(strength).timestep
    assert abs(found - 1000 * strength) == min(abs(timestep - 1000 * strength) for timestep in levels.timesteps)


def test_the_nearest_of_karras_is_known():
    levels = schedule("DPM++2M Karras", 25)
    below, above = (min((t for t in levels.timesteps if side * (t - 400) >= 0), key=lambda t: abs(t - 400))
                    for side in (-1, 1))  # fmt: skip
    assert below < 400 < above
    assert levels.nearest(0.4).timestep == (below if 400 - below <= above - 400 else above)
    assert abs(levels.nearest(0.4).timestep - 400) < 80 < 400 - levels.diffusers(0.4).timestep


@pytest.mark.parametrize("steps", [1, 7, 22, 25, 45, 49, 50, 100])
def test_both_ways_of_rounding_run_the_steps_meant(steps):
    levels = schedule("DDIM", steps)
    for wanted in range(1, steps + 1):
        argument = levels.start(wanted).argument
        assert int(steps * argument) == wanted  # Stable Diffusion 1 to XL
        assert steps - int(steps - steps * argument) == wanted  # Stable Diffusion 3, FLUX, ...
    assert levels.start(steps).argument == 1.0


def test_calls_are_counted():
    assert schedule("DDIM", 10).start(4).calls == 4
    assert schedule("PNDM", 10).start(10).calls == 11  # it visits its second timestep twice
    heun = Schedule.of(build_scheduler(BETAS | {"_class_name": "HeunDiscreteScheduler"}), 10)
    assert [heun.start(steps).calls for steps in (10, 4, 1)] == [19, 7, 1]  # two a step but in the last


def test_flow_matching_counts_in_sigma():
    levels = Schedule.of(FlowMatchEulerDiscreteScheduler(shift=3.0), 10)
    sigma = 3 * 0.5 / (1 + 2 * 0.5)  # the shift of sigma 0.5
    assert any(abs(t / 1000 - sigma) < 0.05 for t in levels.timesteps)
    start = levels.nearest(0.4)
    assert abs(start.timestep / 1000 - 0.4) == min(abs(t / 1000 - 0.4) for t in levels.timesteps)
    assert start.steps < 4  # the shift leaves the last few steps for the lower levels


def test_a_larger_picture_is_noisier_at_the_same_step():
    assert size_shift({"base_shift": 0.0, "max_shift": 1.0, "base_image_seq_len": 0, "max_image_seq_len": 10}, 5) == 0.5
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = [1.0, 0.75, 0.5, 0.25]
    small, large = (Schedule.of(scheduler, 4, sigmas=sigmas, mu=size_shift({}, tokens)) for tokens in (256, 4096))
    assert small.timesteps[0] == large.timesteps[0] == 1000
    assert all(a < b for a, b in zip(small.timesteps[1:], large.timesteps[1:], strict=True))
    # exp(mu) / (exp(mu) + 1 / 0.5 - 1)
    assert small.timesteps[2] == pytest.approx(622.459, abs=1e-2)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match=r"strength=0\.02 gives int\(25 \* 0\.02\) = 0"):
        schedule("DDIM", 25).diffusers(0.02)
    with pytest.raises(ValueError, match="the last one starts at timestep 250 of 1000"):
        Schedule((750.0, 500.0, 250.0), 3, 1, 1000).nearest(0.125)
    assert Schedule((750.0, 500.0, 250.0), 3, 1, 1000).nearest(0.126).steps == 1
    for strength in (0, -0.1, 1.01):
        with pytest.raises(ValueError, match=f"at most 1, got {strength}"):
            schedule("DDIM", 25).nearest(strength)


def test_timesteps_that_are_no_noise_levels_and_unknown_schedulers_are_refused():
    with pytest.raises(ValueError, match="EDMEulerScheduler has timesteps from .* no noise levels"):
        Schedule.of(build_scheduler({"_class_name": "EDMEulerScheduler"}), 5)
    for name in ("NoSuchScheduler", "UNet2DConditionModel"):
        with pytest.raises(ValueError, match=f"{name}.* is no scheduler of diffusers"):
            build_scheduler(BETAS, name)
    assert build_scheduler(
        BETAS | SCHEDULERS["PNDM"], "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}
    ).config["use_karras_sigmas"]
