from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from genaug.reports import cost, pairs
from genaug.reports.__main__ import main
from genaug.reports.statistics import summarize
from genaug.reports.tables import (
    by_group,
    by_look,
    by_scale,
    comparison,
    find_runs,
    gather,
    markdown,
    percent,
    show_run,
    terminal,
)

# --- statistics ----------------------------------------------------------------------------------------------------


def test_summary_by_hand():
    # 2, 4, 4, 4, 5, 5, 7, 9: mean 5, squared deviations 32, so sqrt(32 / 7); t(0.975, 7) = 2.364624.
    summary = summarize([2, 4, 4, 4, 5, 5, 7, 9])
    assert (summary.n, summary.mean) == (8, 5.0)
    assert summary.spread == pytest.approx(math.sqrt(32 / 7))
    assert summary.half_width == pytest.approx(2.364624 * math.sqrt(32 / 7) / math.sqrt(8), rel=1e-6)
    assert summary.interval == pytest.approx((5 - summary.half_width, 5 + summary.half_width))


@pytest.mark.parametrize("values", [[0.1, 0.4], [3.0, 3.0, 3.0, 3.1], [-1.0, 0.0, 5.0, 2.0, 8.5]])
def test_the_interval_is_scipys(values):
    expected = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert summarize(values).interval == pytest.approx(expected)


def test_one_value_has_no_spread_and_none_is_refused():
    summary = summarize([0.5])
    assert (summary.n, summary.mean) == (1, 0.5)
    assert math.isnan(summary.spread)
    assert math.isnan(summary.half_width)
    with pytest.raises(ValueError, match="at least one value"):
        summarize([])


# --- runs ----------------------------------------------------------------------------------------------------------


def result(method: str = "deda", seed: int = 0, score: float = 0.5, **changes: Any) -> dict[str, Any]:
    """What a run records, with 100 test images and a minute of time."""
    run = {
        "dataset": "birds",
        "method": method,
        "overrides": [f"method={method}", f"seed={seed}"],
        "seed": seed,
        "config": f"{method}-{seed}",
        "comparison": method,
        "selection": {"protocol": "heldout", "weights": "best on held-out part", "score": 0.6},
        "scores": {"test": {"score": score, "n": 100}},
        "steps": 1000,
        "batch_size": 16,
        "stage_seconds": {"train": 50.0, "evaluate": 10.0},
        "cost": {"images_per_second": 200.0},
    }
    return run | changes


def write(folder: Path, runs: list[dict[str, Any]]) -> Path:
    for number, run in enumerate(runs):
        path = folder / run["dataset"] / run["method"] / str(number) / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(run))
    return folder


def test_runs_are_found_in_any_depth_and_once(tmp_path, monkeypatch):
    write(tmp_path / "runs", [result(seed=0), result(seed=1)])
    monkeypatch.chdir(tmp_path)
    for folders in ([Path("runs")], [Path("runs"), tmp_path / "runs", Path("runs/birds/deda")], [tmp_path]):
        assert [run["seed"] for run in find_runs(folders)] == [0, 1]


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No results.json under .*nowhere, .*empty: has a run finished"):
        find_runs([tmp_path / "nowhere", tmp_path / "empty"])


# --- rows ----------------------------------------------------------------------------------------------------------


def test_rows_are_configurations_the_weakest_first():
    runs = [
        result("deda", 1, 0.7),
        result("vanilla", 0, 0.55),
        result("deda", 0, 0.5),
        result("cutmix", 0, 0.9),
        result("other", dataset="cars"),
    ]
    tables = gather(runs)
    assert list(tables) == ["birds", "cars"]
    assert [row.label for row in tables["birds"]] == ["vanilla", "deda", "cutmix"]
    assert [[run["seed"] for run in row.runs] for row in tables["birds"]] == [[0], [0, 1], [0]]


def overridden(method: str, comparison: str, seed: int, *texts: str) -> dict[str, Any]:
    overrides = [f"method={method}", f"seed={seed}", "dataset=cub", "stage=all", "paths.runs=/x", "logger=none", *texts]
    return result(method, seed, comparison=comparison, overrides=overrides)


def test_labels_say_only_what_differs():
    runs = [
        overridden("deda", "a", 0, "subset.shots=10"),
        overridden("deda", "a", 1, "subset.shots=10"),
        overridden("deda", "b", 0, "subset.shots=10", "method.view.p_mix=0"),
        overridden("vanilla", "c", 0, "subset.shots=10", "loader.num_workers=4", "hydra.verbose=true"),
    ]
    assert sorted(row.label for row in gather(runs)["birds"]) == ["deda", "deda method.view.p_mix=0", "vanilla"]


def test_best_on_test_is_marked():
    paper = {"protocol": "paper", "weights": "best on test", "score": 0.7}
    runs = [result("deda"), result("deda", comparison="paper", selection=paper)]
    assert sorted(row.label for row in gather(runs)["birds"]) == ["deda", "deda (best on test)"]


def test_cells_by_hand():
    (row,) = gather([result(seed=0, score=0.50), result(seed=1, score=0.60), result(seed=2, score=0.70)])["birds"]
    # Spread 10; t(0.975, 2) = 4.302653; 4.302653 * 10 / sqrt(3) = 24.84.
    assert row.cell("test") == "60.0 ± 10.0 [35.2, 84.8]"
    assert row.cell("ood_snow") == "–"
    (single,) = gather([result(score=0.456)])["birds"]
    assert single.cell("test") == "45.6"


def test_the_header_says_what_is_no_accuracy():
    scores = {
        "test": {"score": 0.6, "metric": "map", "n": 90},
        "ood_snow": {"score": 0.2, "metric": "accuracy", "n": 8},
    }
    header, _ = comparison(gather([result("deda", 0, scores=scores)])["birds"])
    assert header[2:4] == ["test map % (n=90)", "ood_snow % (n=8)"]


def test_a_run_shows_every_way_of_averaging_precision(capsys):
    scores = {"test": {"score": 0.5, "metric": "map", "n": 9, "map": 0.5, "map_voc2007": 0.6, "map_voc2010": 0.55}}
    show_run(result(scores=scores), Path("run"))
    shown = capsys.readouterr().out
    for name, score in (("map", "50.0"), ("map_voc2007", "60.0"), ("map_voc2010", "55.0")):
        assert re.search(rf"all: {name}\s.*{score}", shown)


def test_comparison_by_hand():
    slow = {"images_per_second": 100.0}
    runs = [
        result("vanilla", 0, 0.5, cost={"images_per_second": None}),
        result("deda", 0, 0.6, scores={"test": {"score": 0.6, "n": 90}, "ood_snow": {"score": 0.25, "n": 8}}),
        result("deda", 1, 0.6, steps=900, cost=slow, stage_seconds={"train": 120.0}),
    ]
    header, cells = comparison(gather(runs)["birds"])
    assert header == ["method", "seeds", "test % (n=90/100)", "ood_snow % (n=8)", "steps", "images/s", "minutes"]
    assert cells == [
        ["vanilla", "1", "50.0", "–", "1000", "–", "1.0"],
        ["deda", "2", "60.0 ± 0.0 [60.0, 60.0]", "25.0", "1000/900", "150", "1.5"],
    ]


def making(images: int, steps: int, seconds: float, **more: Any) -> dict[str, Any]:
    """What a method reports of one kind of image."""
    return {"cost": {"images": {"images": images, "denoiser_steps": steps, "seconds": seconds}}, **more}


def test_what_images_cost_by_hand():
    scenes = {"images": 5, "denoiser_steps": 60, "seconds": 6.0}
    composites = {"images": 20, "denoiser_steps": 0, "seconds": 2.0}
    runs = [
        result("plain", score=0.1),
        result("online", score=0.2, made={"objects": 9, "cost": {}}),
        result("words", 0, score=0.3, made=making(10, 45, 4.0, words={"words": 3, "steps": 40})),
        result("words", 1, score=0.3, made=making(20, 90, 2.0, words={"words": 3, "steps": 40})),
        result("tuned", score=0.4, made=making(8, 24, 0.0, finetuning={"words": 3, "steps": 240}, words=None)),
        result("parts", score=0.5, made={"cost": {"scenes": scenes, "composites": composites}}),
        result("edits", score=0.6, made={**making(4, 20, 8.0), "edit": {"words": {"words": 2, "steps": 7}}}),
    ]
    header, cells = cost.making_table(gather(runs)["birds"])
    trained = "generator's training steps"
    assert header == ["method", "made", "made/s", "denoiser steps/made", trained, "making s"]
    assert [line[1:] for line in cells] == [
        ["0", "–", "–", "–", "0.0"],
        ["0", "–", "–", "–", "0.0"],
        ["10 images/20 images", "6.25", "4.5", "120", "3.0"],  # 2.5 and 10 a second
        ["8 images", "–", "3.0", "240", "0.0"],
        ["5 scenes, 20 composites", "2.50", "3.0", "0", "8.0"],  # 60 steps for 20 images
        ["4 images", "0.50", "5.0", "14", "8.0"],
    ]
    header, _ = cost.making_table(gather(runs[:2] + runs[5:6])["birds"])
    assert header == ["method", "made", "made/s", "denoiser steps/made", "making s"]  # nothing was trained


# --- groups --------------------------------------------------------------------------------------------------------


def grouped(method: str, seed: int, **groups: tuple[float | None, int]) -> dict[str, Any]:
    by_name = {name: {"score": score, "n": n} for name, (score, n) in groups.items()}
    return result(method, seed, scores={"test": {"score": 0.5, "n": 100, "groups": by_name}})


def test_groups_by_hand():
    runs = [
        grouped("deda", 0, land=(0.2, 10), water=(0.8, 5), empty=(None, 0)),
        grouped("deda", 1, land=(0.4, 10), water=(None, 0), empty=(None, 0)),
        grouped("vanilla", 0, land=(0.1, 10), water=(None, 0), empty=(None, 0)),
    ]
    header, cells = by_group(gather(runs)["birds"])
    assert header == ["split", "method", "land", "water"]
    # Spread sqrt(200); t(0.975, 1) = 12.7062; 12.7062 * sqrt(200) / sqrt(2) = 127.06.
    assert cells == [
        ["test", "deda", "30.0 ± 14.1 [-97.1, 157.1] (n=10)", "80.0 (n=5)"],
        ["test", "vanilla", "10.0 (n=10)", "–"],
    ]


def test_rows_without_groups_or_without_the_split_do_not_stop_the_others():
    ood = {
        "test": {"score": 0.9, "n": 9},
        "ood_snow": {"score": 0.5, "n": 2, "groups": {"owl": {"score": 0.5, "n": 2}}},
    }
    runs = [grouped("deda", 0, land=(0.2, 10)), result("vanilla", score=0.4), result("cutmix", scores=ood)]
    header, cells = by_group(gather(runs)["birds"])
    assert header == ["split", "method", "land", "owl"]
    assert cells == [["test", "deda", "20.0 (n=10)", "–"], ["ood_snow", "cutmix", "–", "50.0 (n=2)"]]


def test_no_groups_no_lines():
    assert by_group(gather([result()])["birds"]) == (["split", "method"], [])


# --- text ----------------------------------------------------------------------------------------------------------


def scaled(method: str, scale: int, score: float, *texts: str) -> dict[str, Any]:
    run = result(method, score=score, scale=scale, comparison=f"{method}-{scale}-{texts}")
    run["overrides"] += [*texts, *([f"method.scale={scale}"] if scale > 1 else [])]
    return run


def test_scales_by_hand():
    runs = [
        scaled("plain", 0, 0.5),
        *(scaled("more", scale, score) for scale, score in ((1, 0.6), (3, 0.71), (10, 0.7))),
    ]
    header, cells = by_scale(gather(runs)["birds"])
    assert header == ["split", "method", "0X", "1X", "3X", "10X"]
    assert cells == [["test", "plain", "50.0", "–", "–", "–"], ["test", "more", "–", "60.0", "71.0", "70.0"]]


def test_scales_of_two_settings_stand_on_two_lines():
    runs = [scaled("more", scale, 0.5 + scale / 10, f"x={x}") for scale in (1, 2) for x in (1, 2)]
    header, cells = by_scale(gather(runs)["birds"])
    assert header == ["split", "method", "1X", "2X"]
    assert sorted(cells) == [["test", "more x=1", "60.0", "70.0"], ["test", "more x=2", "60.0", "70.0"]]


def test_one_scale_is_no_table_of_scales():
    assert by_scale(gather([result(), scaled("more", 1, 0.5)])["birds"]) == ([], [])
    assert by_scale(gather([result(), result("other")])["birds"]) == ([], [])  # runs of before there were scales


def test_percent():
    assert [percent(score) for score in (0.0, 0.4567, 1.0)] == ["0.0", "45.7", "100.0"]


def test_the_terminal_shows_every_character():
    console = Console(width=120, record=True)
    console.print(terminal("[bold]birds", ["method", "n"], [["deda dataset.only=[crow,gull] x=[/y]", "3"]]))
    text = console.export_text()
    assert "[bold]birds" in text
    assert "deda dataset.only=[crow,gull] x=[/y]" in text


def test_one_run_is_shown_with_its_groups_and_what_it_cost(capsys):
    show_run(grouped("deda", 3, land=(0.25, 8), empty=(None, 0)), Path("runs/x"))
    out = capsys.readouterr().out
    assert "deda on birds, seed 3" in out
    assert "25.0" in out
    assert "empty" not in out
    assert "best on held-out part (60.0 % there) · 1000 steps of 16 · 200 images/s · 60 s · runs/x" in out


EXPECTED = f"""\
mean ± standard deviation over seeds [95 % confidence interval of the mean]

## birds

| method | seeds | test % (n=100) | steps | images/s | minutes |
|---|---|---|---|---|---|
| vanilla | 1 | 50.0 | 1000 | 200 | 1.0 |
| deda | 2 | 60.0 ± 14.1 [-67.1, 187.1] | 1000 | 200 | 1.0 |

### Against the baseline

| method | split | points above vanilla | verdict | seeds | McNemar |
|---|---|---|---|---|---|
| deda | test | +0.0 | within noise (one seed) | 1 | – |

{pairs.EXPLAINED}

### Cost

| method | made | making s | training s | images seen | device | GPU-hours | GPU memory GiB |
|---|---|---|---|---|---|---|---|
| vanilla | 0 | 0.0 | 50.0 | 16,000 | – | 0.00 | – |
| deda | 0 | 0.0 | 50.0 | 16,000 | – | 0.00 | – |

{cost.EXPLAINED}
"""

BUDGETS = "Budgets differ: rows were not trained for equal steps of equal batches."


def birds() -> list[dict[str, Any]]:
    return [result("vanilla", 0, 0.5), result("deda", 0, 0.5), result("deda", 1, 0.7)]


def test_the_command_writes_markdown(tmp_path, capsys):
    runs, out = write(tmp_path / "runs", birds()), tmp_path / "deep" / "table.md"
    assert main([str(runs), "--out", str(out)]) == 0
    assert out.read_text() == EXPECTED
    shown = capsys.readouterr().out
    assert "vanilla" in shown
    assert "Budgets differ" not in shown


@pytest.mark.parametrize("change", [{"steps": 999}, {"batch_size": 32}])
def test_unequal_budgets_are_noted(tmp_path, capsys, change):
    runs = write(tmp_path / "runs", [*birds(), result("cutmix", **change)])
    assert main([str(runs), "--out", str(tmp_path / "table.md")]) == 0
    assert BUDGETS in (tmp_path / "table.md").read_text().splitlines()
    assert BUDGETS in capsys.readouterr().out


def test_budgets_of_different_datasets_are_not_compared(tmp_path):
    runs = write(tmp_path / "runs", [*birds(), result("cutmix", dataset="cars", steps=999)])
    assert main([str(runs), "--out", str(tmp_path / "table.md")]) == 0
    assert "Budgets differ" not in (tmp_path / "table.md").read_text()


def test_groups_get_a_table_of_their_own(tmp_path):
    runs = write(tmp_path / "runs", [grouped("deda", 0, land=(0.2, 10))])
    assert main([str(runs), "--out", str(tmp_path / "table.md")]) == 0
    grouped_table = "### By group\n\n| split | method | land |\n|---|---|---|\n| test | deda | 20.0 (n=10) |\n"
    assert grouped_table in (tmp_path / "table.md").read_text()


def test_nothing_to_compare_is_an_error_without_a_file(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--out", str(tmp_path / "table.md")]) == 1
    assert "No results.json under" in capsys.readouterr().err
    assert not (tmp_path / "table.md").exists()


def test_runs_is_the_default_folder(tmp_path, monkeypatch, capsys):
    write(tmp_path / "runs", birds())
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert "deda" in capsys.readouterr().out


def test_markdown_by_hand():
    assert markdown(["a"], []) == "| a |\n|---|"
    assert markdown(["a", "b"], [["1", "2"], ["3", "4"]]).splitlines()[2:] == ["| 1 | 2 |", "| 3 | 4 |"]


# --- where networks look -------------------------------------------------------------------------------------------


def look(sic: float | None, n: int, energy: float | None = 0.5) -> dict[str, Any]:
    """What is recorded of where a network looks on one split."""
    found = {
        "sic": {"mean": sic, "n": n},
        "energy": {"mean": energy, "n": 8, "coverage": None if energy is None else 0.25},
    }
    others = {name: {"mean": 0.125, "n": 8} for name in ("aic", "insertion", "deletion")}
    return {"images": 8, "right": 4, "degenerate": {"all zero": 1, "constant": 2}, **found, **others}


def explained(method: str, seed: int, **splits: dict[str, Any]) -> dict[str, Any]:
    return result(method, seed, explain={"splits": splits})


def test_where_networks_look_over_seeds_by_hand():
    runs = [
        explained("deda", 0, test=look(0.5, 7), ood_snow=look(None, 0, None)),
        explained("deda", 1, test=look(0.7, 5), ood_snow=look(0.25, 1, None)),
        result("vanilla", 0),  # not explained
    ]
    header, cells = by_look(gather(runs)["birds"])
    assert header == ["split", "method", "AIC ↑", "SIC ↑", "insertion ↑", "deletion ↓", "on object ↑"]
    assert [line[:2] for line in cells] == [["test", "deda"], ["ood_snow", "deda"]]
    # 0.5, 0.7: mean 0.6, spread sqrt(0.02), half width t(0.975, 1) = 12.706205 times 0.1.
    assert cells[0][3] == "0.600 ± 0.141 [-0.671, 1.871] (n=7/5)"
    assert cells[1][3] == "0.250 (n=1)"  # one seed has no such image
    assert cells[1][6] == "–"


def test_without_explained_runs_there_is_no_such_table():
    assert by_look(gather([result("deda"), result("vanilla", explain=None)])["birds"])[1] == []


def test_a_run_shows_where_its_network_looks(capsys, tmp_path):
    show_run(explained("deda", 0, test=look(0.5, 7), ood_snow=look(None, 0, None)), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    [test] = [line.split() for line in lines if line.startswith("test ")]
    [snow] = [line.split() for line in lines if line.startswith("ood_snow")]
    assert test == ["test", "0.125", "(8)", "0.500", "(7)", "0.125", "(8)", "0.125", "(8)", "0.500/0.250", "3"]
    assert snow == ["ood_snow", "0.125", "(8)", "–", "0.125", "(8)", "0.125", "(8)", "–", "3"]


def test_the_report_has_the_table(tmp_path, capsys):
    write(tmp_path / "runs", [explained("deda", 0, test=look(0.5, 7))])
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "table.md")]) == 0
    assert "where the networks look" in capsys.readouterr().out
    assert "| test | deda | 0.125 (n=8) | 0.500 (n=7) |" in (tmp_path / "table.md").read_text()
