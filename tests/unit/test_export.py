"""Copies of stores of noise, compared with the store byte by byte."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from renderers import Noise, noise_jobs, runner_in

from genaug.data.folder import Folder
from genaug.synthesis import export
from genaug.synthesis.export import to_imagefolder, to_webdataset
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.jobs import Job

CLASSES = ("Azure Jay", "Green Finch")


@pytest.fixture
def store(tmp_path) -> ImageStore:
    return ImageStore(tmp_path / "store", {"made_by": "noise"})


def jobs_of(names, count: int, copies: int = 1) -> list[Job]:
    """Noise of the classes ``names`` in turn."""
    return [replace(job, facts={"class": names[job.label]}) for job in noise_jobs(count, copies)]


def fill(store: ImageStore, jobs, **given) -> list[Job]:
    runner_in(store.root.parent).run(jobs, Noise(**given), store, "noise")
    return [job for job in jobs if store[job.key]["verdict"] == "ok"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- a folder a class ----------------------------------------------------------------------------------------------


def test_each_class_has_a_folder_of_the_same_files(store, tmp_path):
    jobs = fill(store, jobs_of(CLASSES, 5, copies=2), bad={101: "black", 203: "ugly"}, batch_size=3)
    assert len(jobs) == 9  # black is made again, ugly is not
    assert to_imagefolder(store, tmp_path / "out") == 9
    expected = {f"{CLASSES[job.label]}/{job.key}.png": store.image_path(job.key).read_bytes() for job in jobs}
    assert files(tmp_path / "out") == expected


def test_torchvision_and_this_program_read_the_folders(store, tmp_path):
    from torchvision.datasets import ImageFolder

    fill(store, jobs_of(CLASSES, 5))
    to_imagefolder(store, tmp_path / "out" / "train")
    theirs = ImageFolder(str(tmp_path / "out" / "train"))
    assert (theirs.classes, theirs.targets) == (list(CLASSES), [0, 0, 0, 1, 1])
    fill(other := ImageStore(tmp_path / "other", {"made_by": "noise"}), jobs_of(CLASSES, 2))
    to_imagefolder(other, tmp_path / "out" / "test")
    ours = Folder(tmp_path / "out", "bird", image_size=8)
    assert tuple(ours.classes) == CLASSES
    assert [one.label for one in ours.splits()["train"]] == [0, 0, 0, 1, 1]


def test_copies_are_so_many_of_each_source(store, tmp_path):
    jobs = fill(store, jobs_of(CLASSES, 3, copies=3))
    assert to_imagefolder(store, tmp_path / "two", copies=2) == 6
    names = {Path(name).stem for name in files(tmp_path / "two")}
    assert names == {job.key for job in jobs if job.copy <= 2}
    with pytest.raises(ValueError, match="copies=0 must be at least 1"):
        to_imagefolder(store, tmp_path / "none", copies=0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["../../outside", "..", ".", "/etc/passwd", "..\\outside", ""])
def test_no_class_name_leads_out_of_the_folder(name, store, tmp_path):
    fill(store, jobs_of((name, "Green Finch"), 2))
    before = set(files(tmp_path))
    assert to_imagefolder(store, tmp_path / "a" / "b" / "out") == 2
    written = {Path(one) for one in set(files(tmp_path)) - before}
    assert {one.parts[:3] for one in written} == {("a", "b", "out")}
    folders = {one.parts[3] for one in written}
    assert len(folders) == 2  # each class its own, none the target itself
    assert all(len(one.parts) == 5 and "\\" not in str(one) for one in written)


def test_classes_that_would_share_a_folder_are_refused(store, tmp_path):
    fill(store, jobs_of(("jay/blue", "jay_blue"), 2))
    with pytest.raises(ValueError, match="'jay/blue' and 'jay_blue' would share the folder 'jay_blue'.*webdataset"):
        to_imagefolder(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_classes_have_no_folder(store, tmp_path):
    many = [replace(job, label=(0, 1), facts={"class": list(CLASSES)}) for job in noise_jobs(1)]
    fill(store, [*jobs_of(CLASSES, 3)[1:], *many])
    with pytest.raises(ValueError, match=r"has \['Azure Jay', 'Green Finch'\]: export as webdataset"):
        to_imagefolder(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # found before anything is written
    fill(nameless := ImageStore(tmp_path / "nameless", {"made_by": "noise"}), noise_jobs(1))
    with pytest.raises(ValueError, match="has None: export as webdataset"):
        to_imagefolder(nameless, tmp_path / "out")


# --- tar files -----------------------------------------------------------------------------------------------------


def test_shards_hold_image_class_and_record(store, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD", 4)
    jobs = fill(store, jobs_of(CLASSES, 5, copies=2))
    assert to_webdataset(store, tmp_path / "out") == 10
    assert sorted(files(tmp_path / "out")) == ["000000.tar", "000001.tar", "000002.tar"]
    names, content = [], {}
    for path in sorted((tmp_path / "out").iterdir()):
        with tarfile.open(path) as shard:
            names.append(shard.getnames())
            content |= {entry.name: shard.extractfile(entry).read() for entry in shard}
    assert [len(one) for one in names] == [12, 12, 6]
    # What belongs together follows one another, images in the order of copies and sources.
    keys = [name.partition(".")[0] for shard in names for name in shard]
    assert keys == [job.key for job in jobs for _ in range(3)]
    for job in jobs:
        assert content[f"{job.key}.png"] == store.image_path(job.key).read_bytes()
        assert content[f"{job.key}.cls"] == str(job.label).encode()
        record = json.loads(content[f"{job.key}.json"])
        assert (record["seed"], record["class"], record["copy"]) == (job.seed, CLASSES[job.label], job.copy)
        assert not {"time", "seconds", "device"} & set(record)


def test_an_image_of_several_classes_has_no_single_one(store, tmp_path):
    (job,) = fill(store, [replace(noise_jobs(1)[0], label=(0, 1))])
    to_webdataset(store, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "000000.tar") as shard:
        assert shard.getnames() == [f"{job.key}.png", f"{job.key}.json"]
        assert json.load(shard.extractfile(f"{job.key}.json"))["label"] == [0, 1]


def test_webdataset_reads_the_shards(store, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    jobs = fill(store, jobs_of(CLASSES, 3))
    to_webdataset(store, tmp_path / "out")
    read = list(webdataset.WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False).decode("rgb8"))
    assert [one["__key__"] for one in read] == [job.key for job in jobs]
    for one, job in zip(read, jobs, strict=True):
        assert one["cls"] == job.label
        assert (one["png"] == store.image(job.key)).all()


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [to_imagefolder, to_webdataset])
def test_a_target_with_something_in_it_is_refused(layout, store, tmp_path):
    fill(store, jobs_of(CLASSES, 2))
    (tmp_path / "out").mkdir()
    assert layout(store, tmp_path / "out") == 2  # empty will do
    before = files(tmp_path / "out")
    with pytest.raises(FileExistsError, match="out is not empty"):
        layout(store, tmp_path / "out")
    assert files(tmp_path / "out") == before
    with pytest.raises(ValueError, match="empty has no images to export"):
        layout(ImageStore(tmp_path / "empty", {"made_by": "noise"}), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("layout", [to_imagefolder, to_webdataset])
@pytest.mark.parametrize("damage", ["lost", "swapped"])
def test_damage_is_not_spread(damage, layout, store, tmp_path):
    first, second = (store.image_path(job.key) for job in fill(store, jobs_of(CLASSES, 2)))
    first.unlink() if damage == "lost" else first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=rf"{first.name} is missing or damaged: genaug verify --repair"):
        layout(store, tmp_path / "out")
    assert not list(tmp_path.rglob("*.tar"))
