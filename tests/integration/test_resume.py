"""Killed at any moment and started again with the same command, a run ends in the same result."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from conftest import REPOSITORY, TinyFolder, run_cli, started, write_folder
from hydra import compose, initialize_config_dir

from genaug import experiment
from genaug.launch import WrongValue
from genaug.reports.failures import failures

HAS_SUBMITIT = importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is not None


@pytest.fixture(scope="module", autouse=True)
def _spies_can_be_named() -> Iterator[None]:
    """In the processes that are started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield


def weights(run: Path, name: str = "final") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def results(run: Path) -> dict:
    """What is recorded of a run, less times and what names the command."""
    found = json.loads((run / "results.json").read_text())
    return {key: found[key] for key in ("config", "selection", "scores", "images", "steps", "parameters")}


def assert_same_run(run: Path, undisturbed: Path) -> None:
    for name in ("final", "last"):
        torch.testing.assert_close(weights(run, name), weights(undisturbed, name), rtol=1e-5, atol=1e-6)
    assert results(run) == results(undisturbed)


def only_run(folder: Path) -> Path:
    """The folder of the one run in ``folder/runs``."""
    (found,) = folder.glob("runs/*/*/*/config.yaml")
    return found.parent


# --- the offline stage ---------------------------------------------------------------------------------------------


def store_files(stores: Path) -> dict[str, bytes]:
    """Finished files of all stores; a killed process may leave hidden ones with temporary names."""
    files = [path for path in stores.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return {str(path.relative_to(stores)): path.read_bytes() for path in files if not path.name.startswith(".")}


def store_records(stores: Path, kind: str = "*") -> list[str]:
    """Lines of all processes that filled stores of a kind."""
    files = stores.glob(f"{kind}/*/records/*.jsonl")
    return [line for file in files for line in file.read_text().splitlines() if line]


def without_seconds(records: list[str]) -> list[str]:
    """When an entry was made and how long it took may differ."""
    return sorted(
        json.dumps(json.loads(record) | {"seconds": None, "time": None}, sort_keys=True) for record in records
    )


def kill_when(enough: Callable[[], bool], *overrides: str, cwd: Path) -> None:
    """Start ``run.py`` and kill it with all its processes as soon as ``enough``."""
    with started(str(REPOSITORY / "run.py"), *overrides, cwd=cwd) as process:
        while not enough():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.001)


@pytest.mark.cli
def test_decoupling_goes_on_where_it_was_killed(tmp_path):
    data = write_folder(tmp_path, side=160)  # large enough that making an entry takes a while
    command = data.overrides(
        method="deda_mixing", segmenter="grabcut", dataset__image_size=160, recipe__epochs=1, recipe__batch_size=12
    )
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    killed.mkdir()
    undisturbed.mkdir()
    for kind in ("masks", "parts"):  # first the masks are made, then the parts
        kill_when(lambda kind=kind: len(store_records(killed / "stores", kind)) >= 4, *command, cwd=killed)
        assert 4 <= len(store_records(killed / "stores", kind)) < 33
    for folder in (killed, undisturbed):
        done = run_cli(*command, cwd=folder)
        assert done.rc == 0, done.stderr
    assert store_files(killed / "stores") == store_files(undisturbed / "stores")
    records, expected = store_records(killed / "stores"), store_records(undisturbed / "stores")
    assert without_seconds(records) == without_seconds(expected)
    assert len(records) == 66  # of 33 images, three having been held out: nothing was made twice
    assert_same_run(only_run(killed), only_run(undisturbed))


# --- training ------------------------------------------------------------------------------------------------------


def overrides(data: TinyFolder, **changes: object) -> list[str]:
    """Six epochs of four steps, a checkpoint after each."""
    return data.overrides(recipe__epochs=6, **changes)


def run_here(data: TinyFolder, output: Path, **changes: object) -> Path:
    """Run an experiment in this process, its files in ``output``."""
    here = {"paths__output": output, "paths__stores": output / "stores"}
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        experiment.run(compose("config", overrides(data, **here, **changes)))
    return output


def killer(marks: Path, steps: list[int], violently: bool, **more: object) -> dict[str, object]:
    """Changes that put :class:`spies.Killer` into a run."""
    arguments = {"_target_": "spies.Killer", "folder": marks, "steps": steps, "violently": violently, **more}
    return {f"+callbacks__killer__{key}": value for key, value in arguments.items()}


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: TinyFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that others are compared with."""
    return run_here(tiny_folder, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.cli
def test_killed_training_ends_in_the_same_weights(tiny_folder, undisturbed, tmp_path):
    command = overrides(tiny_folder, **killer(tmp_path / "marks", [10, 17], violently=True))
    assert run_cli(*command, cwd=tmp_path).rc == -signal.SIGKILL  # in the third epoch
    at_first_kill = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert run_cli(*command, cwd=tmp_path).rc == -signal.SIGKILL  # in the fifth
    at_second_kill = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert (at_first_kill, at_second_kill) == (8, 16)
    done = run_cli(*command, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert "resuming from" in done.stderr
    assert_same_run(only_run(tmp_path), undisturbed)


@pytest.mark.cli
@pytest.mark.slow
def test_a_killed_sweep_goes_on(tiny_folder, undisturbed, tmp_path):
    """The first job is done and stays as it is, the second goes on in its third epoch."""
    sweep = ("-m", *overrides(tiny_folder, seed="1,0", **killer(tmp_path / "marks", [10], violently=True, seed=0)))
    assert run_cli(*sweep, cwd=tmp_path).rc == -signal.SIGKILL
    [first] = tmp_path.glob("runs/*/*/*/results.json")
    before = (first.stat().st_mtime_ns, first.read_bytes())
    done = run_cli(*sweep, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert done.stderr.count("resuming from") == done.stderr.count("has been run already") == 1
    assert before == (first.stat().st_mtime_ns, first.read_bytes())
    [second] = set(tmp_path.glob("runs/*/*/*/results.json")) - {first}
    assert_same_run(second.parent, undisturbed)


@pytest.mark.cli
@pytest.mark.slow
@pytest.mark.skipif(not HAS_SUBMITIT, reason="needs genaug[sweep]")
def test_a_preempted_job_is_queued_again_and_goes_on(tiny_folder, undisturbed, tmp_path):
    """The signal is SLURM's to submitit, whose local launcher queues and starts jobs in SLURM's place.

    Another job of the sweep breaks meanwhile, and does no harm.
    """
    preempted = killer(tmp_path / "marks", [10], violently=True, sign="SIGUSR2", seed=0)
    broken = {"+callbacks__breaker___target_": "spies.Breaker", "+callbacks__breaker__seed": 1}
    command = overrides(tiny_folder, seed="1,0", **preempted, **broken)
    done = run_cli("-m", "hydra/launcher=submitit_local", *command, cwd=tmp_path, timeout=400)
    assert done.rc == 1, done.stderr
    [result] = tmp_path.glob("runs/*/*/*/results.json")
    said = [file.read_text() for file in tmp_path.rglob("*_log.err")]
    assert sorted("Requeued job" in text for text in said) == [False, True]
    assert sorted(text.count("resuming from") for text in said) == [0, 1]
    assert_same_run(result.parent, undisturbed)
    assert [failure.error for failure in failures([tmp_path])] == ["spies.TwoPartsError: the job is broken at seed 1"]
    assert "1 of 2 jobs failed" in done.stderr


@pytest.mark.parametrize(
    "changes", [{"method": "cutmix", "protocol": "last"}, {"method": "deda_mixing"}, {"loader__num_workers": 1}]
)
def test_interrupted_training_draws_the_same_random_numbers(changes, tiny_folder, tmp_path):
    whole = run_here(tiny_folder, tmp_path / "whole", **changes)
    interrupted = killer(tmp_path / "marks", [10], violently=False)
    with pytest.raises(InterruptedError, match="ended at step 10"):
        run_here(tiny_folder, tmp_path / "parts", **changes, **interrupted)
    assert_same_run(run_here(tiny_folder, tmp_path / "parts", **changes), whole)


def test_checkpoints_of_other_images_are_not_gone_on_from(tiny_folder, tmp_path):
    run_here(tiny_folder, tmp_path / "run", stage="train")
    images = tmp_path / "run" / "trained_on"
    before = images.read_text()
    run_here(tiny_folder, tmp_path / "run", stage="train")
    assert images.read_text() == before
    images.write_text("of another folder")
    with pytest.raises(WrongValue, match="trained on other images"):
        run_here(tiny_folder, tmp_path / "run", stage="train")


@pytest.mark.parametrize("moment", ["selection", "final"])
def test_interrupted_after_training_nothing_is_lost(moment, tiny_folder, undisturbed, tmp_path, monkeypatch):
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    write, save = experiment.write_atomically, pl.Trainer.save_checkpoint

    def write_most(path: Path, data: bytes) -> None:
        return full_disk() if path.name == "selection.json" else write(path, data)

    def save_most(trainer: pl.Trainer, file: str | Path, *args: object, **kwargs: object) -> None:
        return full_disk() if Path(file).stem == "final" else save(trainer, file, *args, **kwargs)

    with monkeypatch.context() as patch:
        if moment == "selection":
            patch.setattr(experiment, "write_atomically", write_most)
        else:
            patch.setattr(pl.Trainer, "save_checkpoint", save_most)
        with pytest.raises(OSError, match="no space left"):
            run_here(tiny_folder, tmp_path)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert_same_run(run_here(tiny_folder, tmp_path), undisturbed)


def test_what_is_done_is_not_done_again(tiny_folder, undisturbed, tmp_path, monkeypatch):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(pl.Trainer, "fit", lambda *_, **__: pytest.fail("trained again"))
    run_here(tiny_folder, run)
    assert files == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    (run / "results.json").unlink()  # as if killed between training and the end of evaluation
    run_here(tiny_folder, run)
    final = run / "checkpoints" / "final.ckpt"
    assert files[final] == (final.stat().st_mtime_ns, final.read_bytes())
    assert_same_run(run, undisturbed)


def test_weights_do_not_depend_on_the_number_of_workers(tiny_folder, undisturbed, tmp_path):
    assert_same_run(run_here(tiny_folder, tmp_path, loader__num_workers=2), undisturbed)


def test_another_seed_gives_other_weights(tiny_folder, undisturbed, tmp_path):
    """What the tests above compare would otherwise be equal anyway."""
    other = weights(run_here(tiny_folder, tmp_path, seed=1))
    assert not torch.allclose(other["model.head.weight"], weights(undisturbed)["model.head.weight"], atol=1e-3)
