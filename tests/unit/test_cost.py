"""The clock of training: it runs while batches are trained on, and at no other time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pytorch_lightning.trainer.states import TrainerFn

from genaug.callbacks import cost
from genaug.callbacks.cost import Cost, paused


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(cost.time, "monotonic", lambda: now.seconds)
    return now


def trainer(fn: TrainerFn, *callbacks) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(fn=fn), callbacks=list(callbacks), world_size=2)


def test_validation_and_pauses_do_not_count(clock):
    one = Cost()
    fitting, validating = trainer(TrainerFn.FITTING, one), trainer(TrainerFn.VALIDATING, one)
    one.on_train_start(fitting, None)
    clock.seconds += 3  # training
    one.on_validation_start(fitting, None)
    clock.seconds += 10
    one.on_validation_end(fitting, None)
    clock.seconds += 2  # training
    with paused(fitting):
        clock.seconds += 20
    clock.seconds += 1  # training
    one.on_train_batch_end(fitting, None, None, {"image": range(12)}, 0)
    one.on_train_end(fitting, None)
    clock.seconds += 30
    one.on_validation_start(validating, None)  # the look after training, at the weights that are kept
    clock.seconds += 5
    one.on_validation_end(validating, None)
    clock.seconds += 7
    one.stop()
    assert one.seconds == 6
    assert one.report()["images_per_second"] == 24 / 6  # two processes


def test_nothing_trained_nothing_told():
    assert Cost().report()["images_per_second"] is None
