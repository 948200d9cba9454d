"""Measured beside published: known numbers, by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from report_runs import result, write_run

from genaug.reports import published as module
from genaug.reports.__main__ import main
from genaug.reports.published import Published, as_csv, beside, published_rows, studies
from genaug.reports.tables import Row, gather

LOOK = {name: {"mean": None, "n": 0} for name in ("aic", "sic", "insertion", "deletion")} | {
    "energy": {"mean": None, "n": 0, "coverage": None}
}


def runs_of(method: str, accuracies: list[float], **changes: Any) -> list[dict[str, Any]]:
    """A run a seed."""
    extra = changes.pop("overrides", [])
    fields = {"model": "net", "experiment": "table"} | changes
    found = [result(method, seed, score, **fields) for seed, score in enumerate(accuracies)]
    for run in found:
        run["overrides"] += extra
        run["comparison"] = " ".join([method, str(run["model"]), *extra])
    return found


def rows_of(*runs: list[dict[str, Any]]) -> list[Row]:
    return [row for rows in gather([run for group in runs for run in group]).values() for row in rows]


def number(method: str, value: float, **changes: Any) -> Published:
    fields = {"label": "", "model": "net", "dataset": "birds", "split": "test", "metric": "accuracy", "note": ""}
    return Published(method=method, value=value, **(fields | changes))


def test_mean_spread_and_difference():
    # 50 and 60 %: mean 55, standard deviation sqrt(50) = 7.07.
    header, cells = beside(rows_of(runs_of("one", [0.5, 0.6])), [number("one", 52.34), number("two", 10)])
    assert header == ["method", "split", "measured", "published", "difference"]
    assert cells == [
        ["one", "test", "55.0 ± 7.1 [2 seeds, n=10]", "52.34", "+2.7"],
        ["two", "test", "–", "10.00", "–"],
    ]


def test_other_datasets_models_and_splits_are_not_compared():
    rows = rows_of(runs_of("one", [0.5]))
    assert beside(rows, [number("one", 50, dataset="cars")]) == ([], [])
    header, cells = beside(rows, [number("one", 50, model="large"), number("one", 50, split="ood")])
    assert header == ["method", "model", "split", "measured", "published", "difference"]
    assert [line[3] for line in cells] == ["–", "–"]


def test_overrides_tell_rows_of_a_method_apart():
    rows = rows_of(
        runs_of("one", [0.1], overrides=["one.view={p:0.5}"]), runs_of("one", [0.2], overrides=["one.view={p:1.0}"])
    )
    _, cells = beside(rows, [number("one one.view={p:1.0}", 15)])
    assert cells == [["one one.view={p:1.0}", "test", "20.0 [1 seed, n=10]", "15.00", "+5.0"]]
    _, cells = beside(rows, [number("one", 15)])  # both: each is named by what it was told
    assert [line[0] for line in cells] == ["one one.view={p:0.5}", "one one.view={p:1.0}"]
    assert [line[-1] for line in cells] == ["-5.0", "+5.0"]


def test_an_average_is_compared_with_that_of_its_parts():
    parts = [number("one", 40), number("one", 50, dataset="cars")]
    average = number("one", 99, model="average", dataset="average", note="wrong")
    measured = [*runs_of("one", [0.5, 0.7]), *runs_of("one", [0.3], dataset="cars")]
    header, cells = beside(rows_of(measured), [*parts, average])
    assert header == ["method", "model", "dataset", "split", "measured", "published", "difference", "note"]
    # (60 + 30) / 2 = 45, and (40 + 50) / 2 = 45.
    assert cells[-1] == ["one", "average", "average", "test", "45.0", "99.00", "+0.0", "wrong"]
    _, cells = beside(rows_of(measured[:2]), [*parts, average])  # a part was not measured
    assert cells[-1][-3:] == ["99.00", "–", "wrong"]


def test_an_average_over_networks_is_of_its_dataset():
    numbers = [number("one", 40), number("one", 60, model="large"), number("one", 50, model="average")]
    numbers += [number("one", 0, dataset="cars")]
    rows = rows_of(runs_of("one", [0.5]), runs_of("one", [0.9], model="large"))
    _, cells = beside(rows, numbers)
    assert cells[-1] == ["one", "average", "test", "70.0", "50.00", "+20.0"]


def test_groups_and_measures_of_where_it_looks():
    scores = {"ood": {"score": 0.5, "n": 8, "groups": {"Bird, Land": {"score": 0.25, "n": 4}}}}
    look = {"splits": {"ood": LOOK | {"aic": {"mean": 0.7174, "n": 7}}}}
    numbers = [
        number("one", 20, split="ood/Bird, Land"),
        number("one", 0.717, split="ood", metric="aic"),
        number("one", 0.5, split="ood", metric="sic"),
    ]
    _, cells = beside(rows_of(runs_of("one", [0.5], scores=scores, explain=look)), numbers)
    assert cells == [
        ["one", "ood/Bird, Land", "25.0 [1 seed, n=4]", "20.00", "+5.0"],
        ["one", "ood aic", "0.717 [1 seed, n=7]", "0.717", "+0.000"],
        ["one", "ood sic", "–", "0.500", "–"],
    ]


def test_a_metric_that_is_not_said_is_compared_with_the_score():
    scores = {"test": {"score": 0.5, "metric": "map", "n": 8}}
    _, cells = beside(rows_of(runs_of("one", [0.5], scores=scores)), [number("one", 20, metric="unstated")])
    assert cells == [["one", "test unstated", "50.0 [1 seed, n=8]", "20.00", "+30.0"]]


def test_rows_by_study():
    rows = rows_of(runs_of("one", [0.5]), runs_of("two", [0.5], experiment=None))
    assert [(name, [row.label for row in found]) for name, found in studies(rows).items()] == [("table", ["one"])]


def test_files(tmp_path):
    assert published_rows("table", tmp_path) == []
    (tmp_path / "table").mkdir()
    text = 'method,label,model,dataset,split,metric,value,note\none,One,net,birds,"test/a, b",accuracy,50.10,x\n'
    (tmp_path / "table" / "published.csv").write_text(text)
    assert published_rows("table", tmp_path) == [
        number("one", 50.1, label="One", split="test/a, b", note="x"),
    ]


def test_csv_has_every_number():
    scores = {"ood": {"score": 0.51239, "metric": "f1", "n": 8, "groups": {"a, b": {"score": 0.25, "n": 4}}}}
    look = {"splits": {"ood": LOOK | {"sic": {"mean": 0.5, "n": 3}}}}
    runs = [*runs_of("two", [0.5], overrides=["x=[1,2]"]), *runs_of("one", [0.5], scores=scores, explain=look)]
    lines = list(csv.DictReader(io.StringIO(as_csv(runs))))
    assert [(line["method"], line["split"], line["metric"], line["value"], line["n"]) for line in lines] == [
        ("one", "ood", "f1", "51.239", "8"),
        ("one", "ood/a, b", "f1", "25.0", "4"),
        ("one", "ood", "sic", "0.5", "3"),
        ("two", "test", "accuracy", "50.0", "10"),
    ]
    assert lines[-1]["overrides"] == "x=[1,2]"  # of method, seed and folders there are columns, or nothing
    assert {(line["study"], line["model"], line["steps"], line["seconds"]) for line in lines} == {
        ("table", "net", "100", "60.0")
    }


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of a study on two datasets, of which the paper has one."""
    (tmp_path / "studies" / "table").mkdir(parents=True)
    text = "method,label,model,dataset,split,metric,value,note\none,One,net,birds,test,accuracy,50.10,as read\n"
    (tmp_path / "studies" / "table" / "published.csv").write_text(text)
    monkeypatch.setattr(module.published_rows, "__defaults__", (tmp_path / "studies",))
    for run in [*runs_of("one", [0.5, 0.6]), *runs_of("one", [0.5], dataset="toys")]:
        write_run(tmp_path / "runs", run)
    return tmp_path / "runs"


def test_the_report_prints_and_writes_it(runs, tmp_path, capsys):
    files = ["--out", str(tmp_path / "all.md"), "--csv", str(tmp_path / "results.csv")]
    assert main([str(runs), *files]) == 0
    assert "table: measured and published" in capsys.readouterr().out
    line = "| one | test | 55.0 ± 7.1 [2 seeds, n=10] | 50.10 | +4.9 | as read |"
    assert line in (tmp_path / "all.md").read_text()
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 4
    assert main([str(runs / "toys")]) == 0
    assert "The published numbers of table are of birds, not of toys." in capsys.readouterr().out
