"""Every method that makes something offline keeps what the engine promises. Adding one changes nothing here.

Each yaml in conf/method with a synthesis slot is carried out on three small photographs, by the shipped generator.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY, TinyFolder, run_cli
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from renderers import runner_in

from genaug.clip.model import Clip
from genaug.data.base import Dataset, Sample
from genaug.experiment import split
from genaug.filtering.base import VERDICTS
from genaug.generation.diffusion import Diffusion
from genaug.methods.base import Made, Synthesis
from genaug.synthesis import runner
from genaug.synthesis.image_store import METADATA, VARYING
from genaug.synthesis.jobs import Job
from genaug.synthesis.store import Store

METHODS = REPOSITORY / "conf" / "method"
SIDE = 32
#: Of each setting that a slot has, a value that makes less work.
SMALL: dict[str, Any] = {
    "scale": 2,
    "captions": 4,
    "foregrounds": 1,
    "scenes": ["forest", "empty lake"],
    "scenes_each": 2,
    "templates": ["a photo of {a_name}", "{a_name} in a white background"],
    "strengths": [0.5, 1.0],
    # Objects of a few steps need not look like their sources.
    "edit.min_iou": 0.0,
    "edit.area": [0, 99],
    "edit.min_change": 0.0,
    "min_subject": 0.0,
    "max_subject": 1.0,
}
TINY = [
    "subset.shots=1",
    "protocol=last",
    f"dataset.image_size={SIDE}",
    "generator=tiny",
    "generator.steps=2",
    f"generator.size={SIDE}",
    "generator.batch_size=3",
    "inversion.steps=2",
    "finetuning.steps=2",
    "finetuning.batch_size=2",
    "captioner=template",
    "clip=tiny",
]
#: The least that two steps can start from.
LEAST_STRENGTH = 0.5
#: Settings of which another value makes other images; the first that a slot has is changed.
OTHER = {"seed": 1, "edit.seed": 1, "dilation": 0.1}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Hydra started once, weights read once."""
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        pipelines: dict[str, Any] = {}
        read = Diffusion._from_pretrained

        def once(self: Diffusion) -> Any:
            if self.model not in pipelines:
                pipelines[self.model] = read(self)
            return copy.deepcopy(pipelines[self.model])

        patch.setattr(Diffusion, "_from_pretrained", once)
        patch.setattr(Clip, "unload", lambda self: None)
        yield


def methods() -> list[str]:
    """Those with a synthesis slot of their own or of the yaml they start from."""

    def has_slot(name: str) -> bool:
        yaml = OmegaConf.load(METHODS / f"{name}.yaml")
        parents = [one for one in yaml.get("defaults", []) if isinstance(one, str) and not one.startswith("_")]
        return "synthesis" in yaml or any(has_slot(parent) for parent in parents)

    return [name for name in sorted(path.stem for path in METHODS.glob("*.yaml")) if has_slot(name)]


class Killed(BaseException):
    """A process that ends at once."""


class Slot:
    """A method's offline stage on a photograph of each of three classes.

    Args:
        method: Its yaml.
        folder: The photographs.

    Attributes:
        command: ``key=value`` that configure it.
    """

    def __init__(self, method: str, folder: TinyFolder) -> None:
        self.method, self.command = method, [*folder.overrides(), *TINY, f"method={method}"]
        self.cfg = compose("config", self.command)
        small = {key: value for key, value in SMALL.items() if self._knows(key)}
        if (self.cfg.method.synthesis.get("strength") or 1) < LEAST_STRENGTH:
            small["strength"] = LEAST_STRENGTH
        names = {key: "method.scale" if key == "scale" else f"method.synthesis.{key}" for key in small}
        self.command += [f"{names[key]}={json.dumps(value)}" for key, value in small.items()]
        for key, value in small.items():
            OmegaConf.update(self.cfg, names[key], value)

    def _knows(self, key: str) -> bool:
        parent, _, last = f"method.synthesis.{key}".rpartition(".")
        return last in (OmegaConf.select(self.cfg, parent) or ())

    def changes(self) -> list[dict[str, Any]]:
        """One setting each that makes other images."""
        own = [{f"method.synthesis.{key}": value} for key, value in OTHER.items() if self._knows(key)]
        return [own[0], {"generator.guidance": 3.0}]

    def build(self, change: Mapping[str, Any] | None = None) -> tuple[Synthesis, Sequence[Sample], Dataset]:
        """The stage, its samples and their data set."""
        cfg = copy.deepcopy(self.cfg)
        for key, value in (change or {}).items():
            OmegaConf.update(cfg, key, value)
        dataset = instantiate(cfg.dataset)
        return instantiate(cfg.method).synthesis, split(cfg, dataset)["train"], dataset

    def plan(self, stores: Path, change: Mapping[str, Any] | None = None) -> list[Job]:
        """The images that are planned."""
        synthesis, samples, dataset = self.build(change)
        jobs = [stage.jobs for stage in synthesis.plan(samples, dataset, stores) if stage.jobs]
        return list(jobs[-1]) if jobs else []

    def make(self, stores: Path, change: Mapping[str, Any] | None = None) -> Made:
        """Carry it out, as a process of its own would."""
        synthesis, samples, dataset = self.build(change)
        return synthesis.make(samples, dataset, stores, SIDE, runner_in(stores))


@pytest.fixture
def records(monkeypatch) -> SimpleNamespace:
    """Counts what is recorded in stores of any kind, and kills whoever would record more than ``limit``."""
    counted, lock, write = SimpleNamespace(count=0, limit=None), Lock(), Store.record

    def record(self: Store, key: str, entry: Any) -> None:
        with lock:
            if counted.count == counted.limit:
                raise Killed
            counted.count += 1
        write(self, key, entry)

    monkeypatch.setattr(Store, "record", record)
    return counted


@pytest.fixture(scope="module", params=methods())
def slot(request, tiny_folder) -> Slot:
    return Slot(request.param, tiny_folder)


@pytest.fixture(scope="module")
def undisturbed(slot, tmp_path_factory) -> Path:
    """Stores that were filled in one go."""
    stores = tmp_path_factory.mktemp(slot.method) / "stores"
    planned = slot.plan(stores)
    assert [job.key for job in planned] == [job.key for job in slot.plan(stores)]
    assert not stores.exists()  # a plan makes nothing
    slot.make(stores)
    return stores


def content(stores: Path) -> dict[str, Any]:
    """All that is kept, less what differs from one making to the next.

    Of records, which each process writes to a file of its own, the sorted lines: an entry made twice would be there
    twice. Numbers in them and in verdicts are rounded, as the last bits of CLIP's depend on how many images it is shown
    at once.
    """
    found: dict[str, Any] = {}
    files = [path for path in stores.rglob("*") if path.is_file() and path.suffix != ".lock"]
    for path in sorted(path for path in files if not path.name.startswith(".") and path.name != "speeds.json"):
        name = path.relative_to(stores)
        if path.parent.name == "records" or path.name in ("record.json", VERDICTS):
            texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            lines = [json.loads(text, parse_float=lambda number: round(float(number), 4)) for text in texts if text]
            kept = [{key: value for key, value in line.items() if key not in VARYING} for line in lines]
            entries = found.setdefault(str(name if path.name == VERDICTS else name.parent), [])
            entries += kept
            entries.sort(key=lambda entry: entry["key"])
        else:
            found[str(name)] = path.read_bytes()
    return found


def test_made_again_nothing_is_loaded_or_made(slot, undisturbed, records, monkeypatch):
    before = content(undisturbed)
    monkeypatch.setattr(Diffusion, "load", lambda *_: pytest.fail("loaded again"))
    first, second = slot.make(undisturbed).report(), slot.make(undisturbed).report()
    assert records.count == 0
    assert content(undisturbed) == before
    assert first["cost"] == second["cost"]
    assert slot.method == "deda_mixing" or next(reversed(first["cost"].values()))["seconds"] > 0  # as they were made


def test_killed_and_helped_by_another_run_it_ends_in_the_same_stores(slot, undisturbed, records, tmp_path, monkeypatch):
    """The other begins when this one has claimed a batch, and ends when only that is missing; nothing is made twice."""
    expected, make, shares = content(undisturbed), runner._Work._make, []
    records.limit = 2
    with pytest.raises(Killed):
        slot.make(tmp_path)
    lists = [entries for name, entries in expected.items() if name.endswith("records")]
    records.limit = sum(map(len, lists)) - 1

    def wait(seconds: float) -> None:
        raise Killed

    def first_batch(self: Any, jobs: Sequence[Job]) -> Any:
        if not shares:
            before = records.count
            shares.append(len(jobs))
            with pytest.raises(Killed):
                slot.make(tmp_path)
            shares.append(records.count - before)
        return make(self, jobs)

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    monkeypatch.setattr(runner._Work, "_make", first_batch)
    with pytest.raises(Killed):  # this one, too, just before the end
        slot.make(tmp_path)
    records.limit = None
    slot.make(tmp_path)
    assert all(shares)
    assert bool(shares) == bool(slot.plan(tmp_path))  # the runner makes all that a plan lists
    assert content(tmp_path) == expected


def test_changed_settings_make_other_images(slot, undisturbed, tmp_path):
    stores = tmp_path / "stores"
    planned, changes = {job.key for job in slot.plan(stores)}, slot.changes()
    assert {job.key for job in slot.plan(stores, {"generator.batch_size": 1})} == planned  # that changes none
    for change in changes:
        assert not planned & {job.key for job in slot.plan(stores, change)}, change
    shutil.copytree(undisturbed, stores)
    before = content(stores)
    slot.make(stores, changes[0])
    after = content(stores)
    assert after.keys() > before.keys()
    for name, was in before.items():
        if name.endswith(VERDICTS):  # the last run's
            continue
        if isinstance(was, list):
            assert all(entry in after[name] for entry in was)
        elif name.endswith(METADATA):
            assert set(was.splitlines()) <= set(after[name].splitlines())
        else:
            assert after[name] == was


@pytest.mark.cli
@pytest.mark.parametrize("method", ["da_fusion", "diff_mix"])  # which learn words, and fine-tune, before they edit
def test_two_processes_learn_and_make_the_same(method, tiny_folder, tmp_path):
    slot = Slot(method, tiny_folder)
    slot.make(tmp_path / "alone")
    two = ["stage=synthesize", "trainer.devices=2", "trainer.strategy=ddp"]
    done = run_cli(*slot.command, *two, cwd=tmp_path, timeout=400)
    assert done.rc == 0, done.stderr
    assert content(tmp_path / "stores") == content(tmp_path / "alone")
    (store,) = (tmp_path / "stores" / "images").iterdir()
    assert len([file for file in store.glob("records/*.jsonl") if file.stat().st_size]) == 2
