from __future__ import annotations

import pickle

import pytest
import torch
from torch.optim import lr_scheduler

from genaug.schedules import constant, cosine, multistep, one_cycle, step


def rates(scheduler, total: int, **arguments) -> list[float]:
    """The learning rates that one of torch's schedulers gives to an optimizer with base learning rate 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = scheduler(optimizer, **arguments)
    came = []
    for _ in range(total):
        came.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return came


def values(schedule, total: int) -> list[float]:
    return [schedule(t, total) for t in range(total)]


def test_constant():
    assert values(constant(), 3) == [1, 1, 1]


@pytest.mark.parametrize("total", [10, 97, 1200])
@pytest.mark.parametrize("pct_start", [0.3, 0.25])
@pytest.mark.parametrize(("div", "final_div"), [(25.0, 1e4), (10.0, 100.0)])
def test_one_cycle_is_torchs(total, pct_start, div, final_div):
    expected = rates(
        lr_scheduler.OneCycleLR,
        total,
        max_lr=1.0,
        total_steps=total,
        pct_start=pct_start,
        div_factor=div,
        final_div_factor=final_div,
        cycle_momentum=False,
    )
    assert values(one_cycle(pct_start, div, final_div), total) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_cycle_by_hand():
    schedule = one_cycle(pct_start=0.25, div=10.0, final_div=100.0)
    # 0.25 * 100 - 1 = 24 is the peak, 12 is half the way up: (0.1 + 1) / 2.
    assert [schedule(t, 100) for t in (0, 12, 24, 99, 100)] == pytest.approx([0.1, 0.55, 1.0, 0.001, 0.001])


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize(
    "schedule", [one_cycle(), cosine(0.5), cosine(stairs=5), multistep([0.5]), step(0.4), constant()]
)
def test_short_trainings(schedule, total):
    assert all(0 <= schedule(t, total) <= 1 for t in range(total + 1))
    assert max(values(schedule, total)) > 0.03


def test_multistep_is_torchs_at_guidedmixups_milestones():
    expected = rates(lr_scheduler.MultiStepLR, 300, milestones=[150, 225], gamma=0.1)
    assert values(multistep([0.5, 0.75], gamma=0.1), 300) == pytest.approx(expected)


def test_multistep_by_hand():
    schedule = multistep([0.07], gamma=0.5)  # 0.07 * 100 is a little more than 7 in floating point
    assert [schedule(t, 100) for t in (0, 6, 7, 100)] == [1, 1, 0.5, 0.5]


def test_step_is_torchs_at_the_torchvision_reference():
    expected = rates(lr_scheduler.StepLR, 9000, step_size=3000, gamma=0.1)
    assert values(step(every=0.333333333333, gamma=0.1), 9000) == pytest.approx(expected)


def test_step_by_hand():
    schedule = step(every=0.07, gamma=0.5)
    assert [schedule(t, 100) for t in (0, 6, 7, 14)] == [1, 1, 0.5, 0.25]


def test_step_does_not_drop_once_more_at_the_end():
    assert step(every=1 / 3, gamma=0.1)(99, 100) == pytest.approx(0.01)


def test_cosine_without_warmup_is_torchs():
    expected = rates(lr_scheduler.CosineAnnealingLR, 120, T_max=120)
    assert values(cosine(), 120) == pytest.approx(expected, abs=1e-9)


def test_cosine_with_warmup_by_hand():
    schedule = cosine(warmup=0.5)
    # A third of the way the cosine is at 3/4 and the rise, of 60 steps, at 41/60; half-way 1/2 and 1.
    assert [schedule(t, 120) for t in (0, 40, 60, 80, 120)] == pytest.approx([1 / 60, 0.75 * 41 / 60, 0.5, 0.25, 0.0])
    rise = cosine(warmup=0.07)  # 0.07 * 100 is a little more than 7 in floating point, 0.29 * 100 a little less than 29
    assert rise(5, 100) / cosine()(5, 100) == pytest.approx(6 / 7)
    assert cosine(warmup=0.29)(27, 100) / cosine()(27, 100) == pytest.approx(28 / 29)


def test_a_warmup_shorter_than_a_step_is_none():
    assert values(cosine(warmup=0.1), 9) == values(cosine(), 9)


@pytest.mark.parametrize(("stairs", "steps"), [(100, 7), (3, 11), (1, 5)])
def test_cosine_in_stairs_is_torchs_stepped_by_epoch(stairs, steps):
    by_epoch = rates(lr_scheduler.CosineAnnealingLR, stairs, T_max=stairs)
    expected = [rate for rate in by_epoch for _ in range(steps)]
    assert values(cosine(stairs=stairs), stairs * steps) == pytest.approx(expected, abs=1e-9)
    assert cosine(stairs=stairs)(stairs * steps, stairs * steps) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: multistep([150, 225]), r"milestones.*fractions.*came 150.*divide"),
        (lambda: step(every=30), r"every.*came 30"),
        (lambda: cosine(warmup=5), r"warmup.*\[0, 1\).*came 5"),
        (lambda: cosine(stairs=0), r"stairs.*1 or more, came 0"),
        (lambda: one_cycle(pct_start=0.0), r"pct_start.*came 0.0"),
        (lambda: one_cycle(div=0.0), r"div: expected a positive number, came 0.0"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_schedules_can_be_sent_to_another_process():
    schedule = pickle.loads(pickle.dumps(one_cycle(pct_start=0.25)))
    assert schedule(10, 100) == one_cycle(pct_start=0.25)(10, 100)
