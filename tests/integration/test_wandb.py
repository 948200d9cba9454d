"""Weights & Biases without a server: one run a job."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from conftest import run_cli, run_python

from genaug.reports.tables import LOOKS

pytest.importorskip("wandb")


@pytest.mark.cli
def test_each_job_of_a_sweep_has_a_run_of_its_own(tiny_folder, tmp_path):
    """An open run would take the next job's metrics: two jobs would leave one run."""
    jobs = tiny_folder.overrides(method="vanilla,cutmix", protocol="last", logger="wandb", debug="fast")
    done = run_cli("-m", *jobs, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/*/*/results.json"))) == 2
    runs = list(tmp_path.glob("runs/*/*/*/wandb/offline-run-*/*.wandb"))
    assert len(runs) == len({run.parents[2] for run in runs}) == 2
    for run in runs:
        content, method = run.read_bytes(), run.parents[3].name
        tags = (b"dataset=folder", f"method={method}".encode(), b"protocol=last", b"seed=0")
        assert all(tag in content for tag in tags)
        assert b"experiment=" not in content  # none was chosen


def inspected(run: Path) -> dict[str, Any]:
    """What wandb itself reads in the file of an offline run."""
    [file] = run.glob("*.wandb")
    done = run_python("-m", "wandb", "leet", "inspect", "--summary", "--json", str(file), cwd=run)
    assert done.rc == 0, done.stderr
    return json.loads(done.stdout)


def names(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted or slashed names of a summary: nested values are media, or parts of a name."""
    return {prefix + key for key in values} | {
        name for key, one in values.items() if isinstance(one, dict) for name in names(one, f"{prefix}{key}/")
    }


def shown_by(board: dict[str, Any]) -> set[str]:
    """Names of everything that panels show."""
    found: set[str] = set()
    for section in board["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            found |= {*config.get("metrics", []), *config.get("mediaKeys", [])}
            found |= {config["yAxis"].removeprefix("summary:")} if "yAxis" in config else set()
    return found


@pytest.mark.cli
@pytest.mark.slow
def test_what_a_run_logs_is_what_panels_show_and_nothing_secret(tiny_folder, tmp_path, monkeypatch):
    home = tiny_folder.root.parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-in-the-environment")
    looks = {"callbacks": "explain", "explain__images": 6, "explain__workers": 1, "explain__min_prediction": 0.1}
    server = ("+server.api_key=sk-in-the-configuration", "+server.note=sk-in-the-environment")
    jobs = tiny_folder.overrides(method="cutmix", logger="wandb", recipe__epochs=5, **looks)
    done = run_cli(*jobs, *server, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    [run] = tmp_path.glob("runs/*/*/*/wandb/offline-run-*")

    media = run / "files" / "media"
    pictures = {str(path.relative_to(media / "images")).rsplit("_", 2)[0] for path in media.glob("images/**/*.png")}
    assert pictures == {"contact_sheet", "explain/test", "explain/curves"}
    assert len(list(media.glob("images/explain/test_*.png"))) == 2  # after five epochs, and at the test
    assert list(media.glob("table/explain/curves/*.json"))
    results = json.loads((run.parents[1] / "results.json").read_text())
    scores = results["scores"]["test"]
    [table] = media.glob("table/scores_*.json")
    assert json.loads(table.read_text())["data"] == [["test", "all", "accuracy", scores["score"], scores["n"]]]
    [table] = media.glob("table/predictions_*.json")
    assert len(json.loads(table.read_text())["data"]) == scores["n"] == tiny_folder.test

    kept = inspected(run)
    assert kept["summary"]["scale"] == kept["config"]["method"]["scale"] == 0
    assert kept["config"]["choices"]["dataset"] == "folder"
    assert kept["config"]["dataset"]["root"] == "…/data"
    assert kept["config"]["server"] == {"api_key": "***", "note": "***"}
    content = b"".join(file.read_bytes() for file in run.rglob("*") if file.is_file())
    for secret in (b"sk-in-the", str(home).encode(), platform.node().encode() * (len(platform.node()) > 5) or b"sk-"):
        assert secret not in content, secret

    made = run_python("-m", "genaug.synthesis.commands", "dashboard", "--offline", "board.json", cwd=tmp_path)
    assert made.rc == 0, made.stderr
    shown = shown_by(json.loads((tmp_path / "board.json").read_text()))
    logged = names(kept["summary"])
    assert not shown - logged
    measured = {name for name in logged if name.startswith("explain/test/") and name.rsplit("/", 1)[1] in LOOKS}
    assert len(measured) == len(LOOKS)
    costs = {name for name in logged if name.startswith("cost/")}
    assert shown == pictures | measured | costs | {"test/score", "val/score", "train/loss"}
