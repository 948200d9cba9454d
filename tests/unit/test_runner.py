"""Plans carried out: every job once, whatever happens in between."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from renderers import Noise, noise_jobs, runner_in

from genaug.data.reading import read_image
from genaug.seeding import derive
from genaug.synthesis.gates import verdict
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.jobs import Job, chunks
from genaug.synthesis.speeds import known_speed

WORKER = Path(__file__).parents[1] / "noise_worker.py"


@pytest.fixture
def store(tmp_path) -> ImageStore:
    return ImageStore(tmp_path / "images" / "noise", {"made_by": "noise"})


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store but records and locks, by name."""
    kept = [path for path in folder.rglob("*") if path.is_file() and path.parent.name not in ("records", "locks")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


# --- jobs ----------------------------------------------------------------------------------------------------------


def test_everything_an_image_depends_on_is_in_its_name():
    plain = dict(maker="m", seed=1, copy=1, label=0, sources=("a",), inputs=("i",), prompt="p", shape=(8,), facts={})
    other = dict(maker="n", seed=2, copy=2, label=1, sources=("b",), inputs=("j",), prompt="q", shape=(9,))
    keys = {Job(**plain).key, Job(**{**plain, "facts": {"strength": 0.4}}).key}
    keys |= {Job(**{**plain, name: value}).key for name, value in other.items()}
    assert len(keys) == 2 + len(other)
    assert Job(**plain, steps=50).key == Job(**plain).key  # a cost, no cause


def test_batches_are_of_one_shape_and_cost_and_dear_ones_come_first():
    jobs = [Job("m", seed, shape=(8 + 8 * (seed % 2),), steps=25 if seed < 4 else 50) for seed in range(8)]
    made = chunks(jobs, 2)
    assert [[job.seed for job in chunk] for chunk in made] == [[5, 7], [4, 6], [1, 3], [0, 2]]
    assert chunks([*jobs, jobs[0]], 2) == made  # asked for twice, made once


# --- gates ---------------------------------------------------------------------------------------------------------


def test_gates():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    assert verdict(image) == "ok"
    assert verdict(image, (4, 6)) == "ok"
    assert verdict(image, (6, 4)) == "size 6x4"
    assert verdict(None) == "not finite"
    assert verdict(np.full((4, 4, 3), 8, np.uint8)) == "black"
    flat = np.zeros((4, 4, 3), np.uint8) + np.array([200, 10, 90], np.uint8)
    assert verdict(flat) == "constant"  # one colour, though its channels differ
    flat[0, 0] = 255
    assert verdict(flat) == "ok"
    with pytest.raises(TypeError, match="float64"):
        verdict(image / 255)


# --- runs ----------------------------------------------------------------------------------------------------------


def test_each_image_is_made_once_and_found_again(store, tmp_path):
    jobs, first = noise_jobs(10), Noise(batch_size=4)
    ledger = runner_in(tmp_path).run(jobs, first, store, "noise")
    assert [len(batch) for batch in first.batches] == [4, 4, 2]
    assert (ledger.images, ledger.failed) == (10, 0)
    assert first.loaded == ["cpu", "nowhere"]  # its memory is given back
    again = Noise()
    assert runner_in(tmp_path).run(jobs, again, ImageStore(store.root, {"made_by": "noise"}), "noise").images == 0
    assert (again.batches, again.loaded) == ([], [])  # nothing missing: nothing loaded
    for job in jobs:
        expected = np.random.default_rng(job.seed).integers(0, 256, (8, 8, 3))
        assert (store.image(job.key) == expected).all()


def test_a_larger_scale_makes_only_what_is_new(store, tmp_path):
    runner_in(tmp_path).run(noise_jobs(5, copies=1), Noise(), store, "noise")
    more = Noise()
    runner_in(tmp_path).run(noise_jobs(5, copies=3), more, store, "noise")
    assert sorted(seed for batch in more.batches for seed in batch) == [
        200,
        201,
        202,
        203,
        204,
        300,
        301,
        302,
        303,
        304,
    ]


def test_a_smaller_batch_makes_the_same_store(store, tmp_path):
    other = ImageStore(tmp_path / "other", {"made_by": "noise"})
    runner_in(tmp_path).run(noise_jobs(7), Noise(batch_size=1), store, "noise")
    runner_in(tmp_path).run(noise_jobs(7), Noise(batch_size=5), other, "noise")
    assert content(store.root) == content(other.root)


def test_what_cannot_be_used_is_tried_again_with_another_seed(store, tmp_path):
    # 101 is black once; 103 is black, and so are its two other seeds; the method itself refuses 104 always.
    bad = {101: "black", 103: "black", 104: "ugly"} | {derive(103, "retry", n): "not finite" for n in (1, 2)}
    ledger = runner_in(tmp_path).run(noise_jobs(6), Noise(bad=bad), store, "noise")
    by_seed = {record["seed"]: record for _, record in ((key, store[key]) for key in store)}
    assert (by_seed[100]["verdict"], by_seed[100]["attempts"]) == ("ok", 1)
    assert (by_seed[101]["verdict"], by_seed[101]["attempts"]) == ("ok", 2)
    assert (by_seed[103]["verdict"], by_seed[103]["attempts"]) == ("not finite", 3)
    assert (by_seed[104]["verdict"], by_seed[104]["attempts"]) == ("ugly", 3)
    assert (ledger.images, ledger.failed) == (4, 2)
    assert ledger.rejected == {"black": 2, "not finite": 2, "ugly": 3}
    assert {json.loads(line)["seed"] for line in (store.root / "metadata.jsonl").open()} == {100, 101, 102, 105}
    again = Noise(bad=bad)
    runner_in(tmp_path).run(noise_jobs(6), again, store, "noise")
    assert again.batches == []  # given up for good


def test_a_generator_that_gives_nothing_is_not_run_for_hours(store, tmp_path):
    bad = Noise(batch_size=4)
    bad._one = lambda seed: None
    with pytest.raises(RuntimeError, match=r"None of the first 8 images of noise .*24 x not finite.*dtype"):
        runner_in(tmp_path).run(noise_jobs(100), bad, store, "noise")
    assert len(bad.batches) == 6  # two batches, three attempts each


def test_the_ledger_counts_denoiser_steps_of_retries_too(store, tmp_path):
    jobs = [Job("m", seed, steps=25) for seed in range(3)]
    ledger = runner_in(tmp_path).run(jobs, Noise(bad={1: "constant"}), store, "noise")
    assert ledger.denoiser_steps == 100
    report = ledger.report()
    assert report["images"] == 3
    assert report["images_per_second"] == pytest.approx(3 / ledger.wall_seconds, rel=0.01)
    assert known_speed(tmp_path, "noise") == pytest.approx(ledger.render_seconds / 3, abs=1e-5)


# --- damage --------------------------------------------------------------------------------------------------------


def test_a_cut_or_lost_image_is_made_again(store, tmp_path, caplog):
    jobs = noise_jobs(4)
    runner_in(tmp_path).run(jobs, Noise(), store, "noise")
    whole = content(store.root)
    lost, cut = (store.image_path(job.key) for job in jobs[:2])
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        renderer = Noise()
        runner_in(tmp_path).run(jobs, renderer, ImageStore(store.root), "noise")
    assert "2 images" in caplog.text
    assert sorted(seed for batch in renderer.batches for seed in batch) == [100, 101]
    assert content(store.root) == whole


def test_verify_finds_every_kind_of_damage_and_repair_lets_it_be_made_again(store, tmp_path):
    jobs = noise_jobs(6)
    runner_in(tmp_path).run(jobs, Noise(), store, "noise")
    whole = content(store.root)
    paths = [store.image_path(job.key) for job in jobs]
    paths[0].unlink()
    paths[1].write_bytes(paths[2].read_bytes())  # an image, but another one
    paths[3].write_bytes(b"\0" * paths[3].stat().st_size)  # its size is right
    (paths[4].parent / "0123.png").write_bytes(paths[4].read_bytes())
    (paths[4].parent / ".x.png.77.tmp").write_bytes(b"half")
    problems = store.problems()
    assert sorted(problem.kind for problem in problems) == ["changed", "left over", "missing", "not an image", "orphan"]
    store.repair(problems)
    assert ImageStore(store.root).problems() == []
    renderer = Noise()
    runner_in(tmp_path).run(jobs, renderer, ImageStore(store.root), "noise")
    assert sorted(seed for batch in renderer.batches for seed in batch) == [100, 101, 103]
    assert content(store.root) == whole


def test_a_store_that_is_being_worked_on_is_not_repaired(store, tmp_path):
    runner_in(tmp_path).run(noise_jobs(2), Noise(), store, "noise")
    claim = store.claim("somebody")
    with pytest.raises(RuntimeError, match="being worked on"):
        ImageStore(store.root).repair([])
    claim.release()
    ImageStore(store.root).repair([])
    assert len(ImageStore(store.root)) == 2


def test_a_changed_configuration_does_not_mix_with_an_old_store(store):
    with pytest.raises(ValueError, match=r"noise was made with other settings \(made_by differ"):
        ImageStore(store.root, {"made_by": "something else"})
    description = store.root / "store.json"
    description.write_text(description.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ValueError, match="layout 9"):
        ImageStore(store.root, {"made_by": "noise"})
    with pytest.raises(FileNotFoundError, match="no store of images"):
        ImageStore(store.root.parent)


def test_a_full_disk_loses_nothing_and_says_what_to_do(store, tmp_path, monkeypatch):
    """The third image meets a full disk: a real write that the system refuses."""
    jobs = noise_jobs(6)
    real, count = Path.replace, iter(range(100))

    def replace(self, target):
        if Path(target).suffix == ".png" and next(count) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match=r"the disk is full\. What was made is kept"):
        runner_in(tmp_path).run(jobs, Noise(batch_size=1), store, "noise")
    monkeypatch.undo()
    assert not list(store.root.rglob("*.tmp"))
    again, renderer = ImageStore(store.root), Noise(batch_size=1)
    already = {again[key]["seed"] for key in again}
    assert {100, 101} <= already
    runner_in(tmp_path).run(jobs, renderer, again, "noise")
    assert {seed for batch in renderer.batches for seed in batch} == {job.seed for job in jobs} - already
    assert ImageStore(store.root).problems() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_loading(store, tmp_path):
    store.root.chmod(0o500)
    renderer = Noise()
    with pytest.raises(OSError, match="cannot be written to"):
        runner_in(tmp_path).run(noise_jobs(1), renderer, store, "noise")
    assert renderer.loaded == []


def test_a_file_where_the_store_should_be_is_refused_before_loading(tmp_path):
    (tmp_path / "stores").write_text("in the way")
    with pytest.raises(OSError, match="stores"):
        ImageStore(tmp_path / "stores" / "noise", {"made_by": "noise"})


# --- processes -----------------------------------------------------------------------------------------------------


def start(folder: Path, log: Path, count: int, slow: float, first: int = 0) -> subprocess.Popen:
    arguments = [str(folder), str(log), str(first), str(count), str(slow)]
    return subprocess.Popen([sys.executable, str(WORKER), *arguments])


def wait_for(log: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, "the worker makes nothing"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_again_and_again_with_two_processes_the_store_is_the_same(tmp_path):
    """Kill -9 in the middle of batches: afterwards the store is bit by bit that of an undisturbed run."""
    count, batch = 60, 4
    quiet = ImageStore(tmp_path / "quiet" / "noise", {"made_by": "noise"})
    runner_in(tmp_path / "quiet").run(noise_jobs(count), Noise(batch), quiet, "noise")
    folder = tmp_path / "killed" / "noise"
    logs = [tmp_path / f"{n}.log" for n in range(6)]
    for first, second in (logs[0:2], logs[2:4]):
        both = [start(folder, log, count, 0.05) for log in (first, second)]
        for log in (first, second):
            wait_for(log, 2)
        for process in both:
            process.send_signal(signal.SIGKILL)
            process.wait()
    last = [start(folder, log, count, 0.01) for log in logs[4:]]
    assert [process.wait(timeout=120) for process in last] == [0, 0]
    assert content(folder) == content(quiet.root)
    assert ImageStore(folder).problems() == []
    made = [int(seed) for log in logs if log.exists() for seed in log.read_text().split()]
    assert set(made) == {job.seed for job in noise_jobs(count)}
    # Four kills, each losing at most the batch being made and the one being written.
    assert len(made) - count <= 4 * 2 * batch
    assert all((log.exists() and log.read_text()) for log in logs[:4])


def test_two_processes_share_the_work_and_make_nothing_twice(tmp_path):
    folder, logs = tmp_path / "shared" / "noise", [tmp_path / "a.log", tmp_path / "b.log"]
    both = [start(folder, log, 40, 0.03) for log in logs]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    made = [seed for log in logs if log.exists() for seed in log.read_text().split()]
    assert len(made) == len(set(made)) == 40
    assert ImageStore(folder).problems() == []
    assert len((folder / "metadata.jsonl").read_text().splitlines()) == 40


def test_two_plans_that_overlap_make_what_they_share_once(tmp_path):
    """As the seeds of a study do, each of which holds other images out: the borders of their batches differ."""
    folder, logs = tmp_path / "shared" / "noise", [tmp_path / "a.log", tmp_path / "b.log"]
    both = [start(folder, log, count, 0.03, first) for log, first, count in zip(logs, (0, 2), (36, 40), strict=True)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    made = [seed for log in logs if log.exists() for seed in log.read_text().split()]
    assert len(made) == len(set(made)) == 40
    assert ImageStore(folder).problems() == []
    assert len((folder / "metadata.jsonl").read_text().splitlines()) == 40


def test_an_error_leaves_no_claim_behind(store, tmp_path):
    jobs, broken = noise_jobs(4), Noise()
    broken.render = lambda jobs, seeds: 1 / 0
    with pytest.raises(ZeroDivisionError) as kept:  # and with it the frames of what failed
        runner_in(tmp_path).run(jobs, broken, store, "noise")
    again = Noise()
    assert runner_in(tmp_path).run(jobs, again, ImageStore(store.root), "noise").images == 4
    assert kept.value


# --- what others read ----------------------------------------------------------------------------------------------


def test_hugging_face_reads_the_store(store, tmp_path):
    datasets = pytest.importorskip("datasets")
    jobs = noise_jobs(3)
    runner_in(tmp_path).run(jobs, Noise(), store, "noise")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(store.root), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert loaded["label"] == [0, 1, 0]
    assert loaded["sources"] == [["s000"], ["s001"], ["s002"]]
    for row, job in zip(loaded, jobs, strict=True):
        assert (np.asarray(row["image"]) == read_image(store.image_path(job.key), 3)).all()
