"""``genaug list | inspect | verify | export`` on stores of noise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from renderers import Noise, noise_jobs, runner_in

from genaug.synthesis.commands import main
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.jobs import Job

CLASSES = ("Azure Jay", "Green [Finch]")  # as rich's markup the second one would lose its bracket
DESCRIPTION = {
    "made_by": "noise [bold]",
    "generator": {"model": "noise", "scheduler": None, "arguments": {"steps": 4}},
    "classes": [*CLASSES, "c", "d", "e"],
}


@pytest.fixture
def store(tmp_path) -> ImageStore:
    return ImageStore(tmp_path / "stores" / "images" / "noise", DESCRIPTION)


def jobs_of(count: int, copies: int = 1, steps: int = 0) -> list[Job]:
    return [
        replace(job, steps=steps, facts={"class": CLASSES[job.label]}, prompt=f"noise [{job.copy}]")
        for job in noise_jobs(count, copies)
    ]


def fill(store: ImageStore, jobs, **given) -> list[int]:
    """Make what is missing; the seeds of what was."""
    renderer = Noise(**given)
    runner_in(store.root.parents[1]).run(jobs, renderer, ImageStore(store.root), "noise")
    return sorted(seed for batch in renderer.batches for seed in batch)


def content(folder: Path) -> dict[str, bytes]:
    kept = [path for path in folder.rglob("*") if path.is_file() and path.parent.name not in ("records", "locks")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


@pytest.fixture
def genaug(capsys):
    """Run a command: its exit status, and the lines it printed to each of the two."""

    def run(*arguments) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        status = main([str(one) for one in arguments])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return run


# --- list ----------------------------------------------------------------------------------------------------------


def test_list_has_a_line_a_store(store, genaug, tmp_path):
    fill(store, jobs_of(4, copies=2), bad={102: "ugly"})
    deep = ImageStore(tmp_path / "stores" / "images" / ("long" * 30), {"made_by": "other"})
    fill(deep, noise_jobs(1))
    status, out, err = genaug("list", tmp_path / "stores")
    assert (status, err) == (0, [])
    rows = [line.split() for line in out if str(tmp_path) in line]
    megabytes = sum(path.stat().st_size for path in store.root.glob("??/*.png")) / 1e6
    assert rows == [
        [str(deep.root), "other", "1", "1", "0", "0.0"],
        [str(store.root), "noise", "[bold]", "7", "2", "1", f"{megabytes:.1f}"],
    ]


def test_a_person_with_a_narrow_window_sees_whole_paths(store, genaug, tmp_path, monkeypatch):
    fill(store, jobs_of(2))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    out = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in genaug("list", tmp_path / "stores")[1]]
    assert max(map(len, out)) <= 60
    assert "…" not in "".join(out)
    first = [line[2:].split("  ")[0].strip() for line in out]  # the leftmost column
    assert str(store.root) in "".join(first)


def test_list_goes_on_past_a_store_that_cannot_be_read(store, genaug, tmp_path):
    fill(store, jobs_of(2))
    for name, text in (("broken", "{"), ("list", "[]"), ("old", '{"format": 0}')):
        (tmp_path / "stores" / "images" / name).mkdir()
        (tmp_path / "stores" / "images" / name / "store.json").write_text(text)
    status, out, err = genaug("list", tmp_path / "stores")
    assert status == 1
    assert [line.split()[0] for line in out if str(tmp_path) in line] == [str(store.root)]
    assert len(err) == 3
    assert "broken/store.json cannot be read" in err[0]
    assert "list has the layout None" in err[1]
    assert "old has the layout 0" in err[2]


def test_list_where_there_is_nothing(genaug, tmp_path, monkeypatch):
    assert genaug("list", tmp_path)[::2] == (1, [f"No stores of images under {tmp_path}."])
    monkeypatch.setenv("GENAUG_STORES", str(tmp_path / "elsewhere"))
    assert genaug("list")[2] == [f"No stores of images under {tmp_path / 'elsewhere'}."]


# --- inspect -------------------------------------------------------------------------------------------------------


def test_inspect_says_what_is_there(store, genaug):
    # Of six images one is black at first, and one is never good: 6 + 1 + 2 attempts of 5 steps.
    fill(store, jobs_of(3, copies=2, steps=5), bad={101: "black", 202: "ugly"}, slow=0.01)
    status, out, err = genaug("inspect", store.root)
    assert (status, err) == (0, [])
    words = [line.split() for line in out]
    for expected in (
        "made_by noise [bold]", "generator.model noise", "generator.scheduler –", "generator.arguments.steps 4",
        "classes 5: Azure Jay, Green [Finch], c, …",
        "verdict 2 different", "5 x ok", "1 x ugly",
        "class 2 different", "4 x Azure Jay", "2 x Green [Finch]",
        "copy 2 different", "3 x 1", "3 x 2",
        "prompt 2 different", "3 x noise [1]", "3 x noise [2]",
    ):  # fmt: skip
        assert expected.split() in words, expected
    steps, seconds, speed = re.fullmatch(
        r"cost +([\d,]+) denoiser steps, (\d+) s of rendering, ([\d.]+) images/s", out[-1]
    ).groups()
    assert steps == "45"
    assert int(seconds) <= 1
    assert 10 < float(speed) <= 100  # 10 ms an image, retries apart


def test_inspect_shows_the_most_frequent_of_many(store, genaug):
    jobs = [replace(job, prompt=f"noise {number % 12}") for number, job in enumerate(jobs_of(20))]
    fill(store, jobs)
    out = genaug("inspect", store.root)[1]
    prompts = [line.split() for line in out if "x noise" in line]
    assert [line[0] for line in prompts] == ["2"] * 8 + ["1"] * 2
    assert "and 2 more" in " ".join(out)


# --- verify --------------------------------------------------------------------------------------------------------


def damage(store: ImageStore, jobs) -> None:
    """One of every kind."""
    paths = [store.image_path(job.key) for job in jobs]
    paths[0].unlink()
    paths[1].write_bytes(paths[2].read_bytes())  # an image, but another one
    paths[3].write_bytes(b"\0" * paths[3].stat().st_size)  # its size is right
    paths[5].write_bytes(paths[5].read_bytes()[:-20])  # cut short
    (paths[4].parent / "0123.png").write_bytes(paths[4].read_bytes())
    (paths[4].parent / ".x.png.77.tmp").write_bytes(b"half")


def test_verify_of_a_whole_store(store, genaug):
    fill(store, jobs_of(3), bad={101: "ugly"})
    assert genaug("verify", store.root) == (0, ["2 images, 1 given up, 0 problems"], [])
    before = content(store.root)
    assert genaug("verify", "--repair", store.root) == (0, ["2 images, 1 given up, 0 problems"], [])
    assert content(store.root) == before


def test_verify_names_every_kind_of_damage_and_repair_lets_it_be_made_again(store, genaug):
    jobs = jobs_of(7)
    fill(store, jobs)
    whole = content(store.root)
    damage(store, jobs)
    hurt = content(store.root)
    status, out, err = genaug("verify", store.root)
    assert (status, err) == (1, [])
    said = dict(line.split(": ")[::-1] for line in out[:-1])
    names = [store.image_path(job.key).relative_to(store.root).as_posix() for job in jobs]
    assert said.pop(names[0]) == "missing"
    assert said.pop(names[1]) == "changed"
    assert said.pop(names[3]) == "not an image"
    assert said.pop(names[5]) in ("changed", "not an image")  # what a reader makes of the rest
    assert {Path(name).name: kind for name, kind in said.items()} == {
        "0123.png": "orphan",
        ".x.png.77.tmp": "left over",
    }
    assert out[-1].startswith("7 images, 0 given up, 6 problems: ")
    assert "1 missing" in out[-1]
    assert "1 orphan" in out[-1]
    assert content(store.root) == hurt  # looking changes nothing

    status, out, _ = genaug("verify", store.root, "--repair")
    assert status == 0
    assert "it makes the 4 missing images" in out[-1]
    assert genaug("verify", store.root) == (0, ["3 images, 0 given up, 0 problems"], [])
    assert len((store.root / "metadata.jsonl").read_text().splitlines()) == 3
    assert fill(store, jobs) == [100, 101, 103, 105]
    assert content(store.root) == whole
    assert genaug("verify", store.root)[0] == 0


def test_files_too_many_cost_no_image(store, genaug):
    fill(store, jobs_of(2))
    (store.root / "00").mkdir(exist_ok=True)
    for number in range(12):
        (store.root / "00" / f"{number:02}.png").write_bytes(b"x")
    status, out, _ = genaug("verify", store.root)
    assert (status, len(out)) == (1, 12)
    assert out[:2] == ["orphan: 00/00.png", "orphan: 00/01.png"]
    assert out[10:] == ["and 2 more", "2 images, 0 given up, 12 problems: 12 orphan"]
    assert "missing" not in genaug("verify", "--repair", store.root)[1][-1]
    assert genaug("verify", store.root)[0] == 0
    assert fill(store, jobs_of(2)) == []


@pytest.mark.parametrize("state", ["absent", "short", "other", "torn"])
def test_a_list_that_is_behind_the_images(state, store, genaug):
    """A run that was killed has images, and records of them, that other programs do not see yet."""
    fill(store, jobs_of(3))
    listed = store.root / "metadata.jsonl"
    whole = listed.read_text()
    lines = whole.splitlines(keepends=True)
    listed.write_text(
        {"absent": "", "short": lines[0], "other": whole.replace('"key": "', '"key": "x'), "torn": whole[:-9]}[state]
    )
    if state == "absent":
        listed.unlink()
    status, out, _ = genaug("verify", store.root)
    assert status == 1
    assert out[0] == "3 images, 0 given up, 0 problems"
    assert out[1].startswith("metadata.jsonl does not list these 3: a run has not ended yet")
    assert genaug("verify", store.root, "--repair")[0] == 0
    assert listed.read_text() == whole
    assert genaug("verify", store.root)[0] == 0


def test_a_store_that_lost_everything(store, genaug):
    jobs = jobs_of(2)
    fill(store, jobs)
    whole = content(store.root)
    for job in jobs:
        store.image_path(job.key).unlink()
    (store.root / ".metadata.jsonl.77.tmp").write_text("half")  # of a process killed as it wrote the list
    out = genaug("verify", "--repair", store.root)[1]
    assert "2 images, 0 given up, 3 problems: 1 left over, 2 missing" in out
    assert genaug("verify", store.root) == (0, ["0 images, 0 given up, 0 problems"], [])
    assert not (store.root / "metadata.jsonl").exists()  # it would name images that are not there
    assert fill(store, jobs) == [100, 101]
    assert content(store.root) == whole


def test_a_store_that_is_being_worked_on_is_not_repaired(store, genaug):
    jobs = jobs_of(2)
    fill(store, jobs)
    store.image_path(jobs[0].key).unlink()
    before = content(store.root)
    claim = store.claim("somebody")
    status, _, err = genaug("verify", store.root, "--repair")
    claim.release()
    assert status == 1
    assert "is being worked on" in err[0]
    assert content(store.root) == before


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["verify", "--repair"], ["export"]])
def test_a_folder_that_is_no_store_is_named(command, genaug, tmp_path):
    (tmp_path / "photos").mkdir()
    for folder in (tmp_path / "photos", tmp_path / "nowhere"):
        target = [tmp_path / "out"] if command == ["export"] else []
        status, out, err = genaug(*command, folder, *target)
        assert (status, out) == (1, [])
        assert err == [f"{folder} is no store of images: there is no store.json in it."]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


# --- export --------------------------------------------------------------------------------------------------------


def test_export(store, genaug, tmp_path):
    jobs = jobs_of(3, copies=2)
    fill(store, jobs)
    assert genaug("export", store.root, tmp_path / "all") == (0, [f"6 images in {tmp_path / 'all'}"], [])
    assert (
        sorted(path.parent.name for path in (tmp_path / "all").glob("*/*.png")) == [CLASSES[0]] * 4 + [CLASSES[1]] * 2
    )
    assert genaug("export", store.root, tmp_path / "one", "--copies", 1)[1] == [f"3 images in {tmp_path / 'one'}"]
    assert genaug("export", store.root, tmp_path / "tar", "--layout", "webdataset")[0] == 0
    with tarfile.open(tmp_path / "tar" / "000000.tar") as shard:
        assert sum(name.endswith(".png") for name in shard.getnames()) == 6
    status, out, err = genaug("export", store.root, tmp_path / "all")
    assert (status, out) == (1, [])
    assert err == [f"{tmp_path / 'all'} is not empty: give a new folder to export to."]


def test_what_argparse_refuses(genaug, tmp_path, capsys):
    for arguments in ([], ["mend"], ["export", tmp_path, tmp_path, "--layout", "zip"], ["verify"]):
        with pytest.raises(SystemExit) as stopped:
            genaug(*arguments)
        assert stopped.value.code == 2


# --- at the prompt -------------------------------------------------------------------------------------------------


def test_help_comes_without_what_training_needs():
    """A command that looks at files should not take the seconds that torch takes to start."""
    code = (
        "import json, sys\n"
        "from genaug.synthesis.commands import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print(json.dumps([end.code, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    assert status == 0
    assert not {"torch", "torchvision", "pytorch_lightning", "hydra", "omegaconf", "diffusers", "scipy"} & set(modules)
    assert {"list", "inspect", "verify", "export"} <= set(" ".join(text).split())
