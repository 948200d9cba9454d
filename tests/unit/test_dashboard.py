"""The comparison at Weights & Biases as it would be sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from genaug.loggers import numbers, run_id, score_rows
from genaug.synthesis.commands import main


def recorded(**changes: Any) -> dict[str, Any]:
    """What a run records, of two splits, the second with groups."""
    groups = {"home": {"score": 0.75, "n": 4}, "away": {"score": 0.25, "n": 4}, "nowhere": {"score": None, "n": 0}}
    scores = {
        "test": {"score": 0.9, "accuracy": 0.9, "n": 10, "metric": "accuracy"},
        "ood_far": {"score": 0.5, "n": 8, "metric": "accuracy", "worst_group": "away", "groups": groups},
    }
    run = {"dataset": "birds", "method": "some", "scale": 3, "seed": 0, "scores": scores, "steps": 4, "made": None}
    run |= {"cost": {"images_per_second": 10.0, "device_peak_memory_mib": None}, "stage_seconds": {"train": 2.0}}
    return run | {"selection": {"score": None}} | changes


def test_numbers_of_a_run():
    made = {"images": 7, "failed": {"red": 1}, "generator": "tiny"}
    assert numbers(recorded(made=made, selection={"score": 0.8})) == {
        "scale": 3,
        "steps": 4,
        "held_out/score": 0.8,
        "test/score": 0.9,
        "test/accuracy": 0.9,
        "test/n": 10,
        "ood_far/score": 0.5,
        "ood_far/n": 8,
        "ood_far/group/home": 0.75,
        "ood_far/group/away": 0.25,
        "cost/images_per_second": 10.0,
        "cost/seconds": 2.0,
        "made/images": 7,
    }


def test_rows_of_a_run():
    assert list(score_rows(recorded())) == [
        ("test", "all", "accuracy", 0.9, 10),
        ("ood_far", "all", "accuracy", 0.5, 8),
        ("ood_far", "home", "accuracy", 0.75, 4),
        ("ood_far", "away", "accuracy", 0.25, 4),
        ("ood_far", "nowhere", "accuracy", None, 0),
    ]


def test_a_run_keeps_its_name(tmp_path):
    first = run_id(tmp_path / "a")
    assert run_id(tmp_path / "a") == first
    assert run_id(tmp_path / "b") != first


def panels(section: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Kind of each panel, and what it shows."""
    for panel in section["panels"]:
        config = panel["config"]
        if panel["viewType"] == "Scatter Plot":
            yield "scatter", (config["xAxis"], config["yAxis"])
        elif panel["viewType"] == "Bar Chart":
            assert config["groupBy"] == "method.value.name"
            yield "bars", config["metrics"]
        elif panel["viewType"] == "Run History Line Plot":
            yield "curve", config["metrics"]
        elif panel["viewType"] == "Media Browser":
            yield "media", config["mediaKeys"]
        else:
            yield panel["viewType"], None


def test_what_runs_recorded_has_panels(tmp_path, capsys):
    pytest.importorskip("wandb_workspaces")
    looks = {"test": {name: {"mean": 0.5} for name in ("aic", "sic", "insertion", "deletion", "energy")}}
    looks["test"]["deletion"]["mean"] = None
    for name, run in (("a", recorded()), ("b", recorded(explain={"splits": looks}, selection={"score": 0.5}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(run))
    file = tmp_path / "board.json"
    assert main(["dashboard", str(tmp_path), "--project", "mine", "--offline", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    made = json.loads(file.read_text())
    bank = made["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    expected = {
        "Accuracy against scale": [
            ("scatter", ("config:method.value.scale", "summary:test/score")),
            ("scatter", ("config:method.value.scale", "summary:ood_far/score")),
        ],
        "Method by method": [("bars", ["test/score"])],
        "Out of distribution": [
            ("bars", ["ood_far/score"]),
            ("bars", ["ood_far/group/home"]),
            ("bars", ["ood_far/group/away"]),
        ],
        "Where networks look": [("bars", [f"explain/test/{name}"]) for name in ("aic", "sic", "insertion", "energy")],
        "Cost": [("bars", ["cost/images_per_second"]), ("bars", ["cost/seconds"])],
        "Training": [("curve", ["train/loss"]), ("curve", ["val/score"])],
        "Samples": [("media", ["contact_sheet"]), ("media", ["explain/test"]), ("media", ["explain/curves"])],
        "Scores": [("Weave", None)],
    }
    assert {section["name"]: list(panels(section)) for section in bank} == expected
    [runs] = made["workspace"]["spec"]["section"]["runSets"]
    assert [one["name"] for one in runs["grouping"]] == ["method.value.name", "method.value.scale"]
    assert made["workspace"]["project"] == made["report"]["project"]["name"] == "mine"
    grids = [block["metadata"] for block in made["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    headings = [
        block["children"][0]["text"] for block in made["report"]["spec"]["blocks"] if block["type"] == "heading"
    ]
    shown = [list(panels(grid["panelBankSectionConfig"])) for grid in grids]
    assert dict(zip(headings, shown, strict=True)) == expected


def test_a_dashboard_of_nothing(tmp_path, capsys):
    assert main(["dashboard", str(tmp_path), "--offline", str(tmp_path / "board.json")]) == 1
    assert "No results.json under" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
