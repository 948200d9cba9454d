"""The page of many runs, as text; tests/integration/test_report_browser.py looks at it in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from report_runs import result, write_picture, write_run, write_study

from genaug.launch import WrongValue
from genaug.reports import embedded, page
from genaug.reports.__main__ import main
from genaug.reports.charts import LEFT, RIGHT, WIDTH, Axis, look_charts, scale_charts
from genaug.reports.embedded import LARGEST, SMALLEST, Wanted, embed, small_jpeg
from genaug.reports.failures import note_failure
from genaug.reports.page import render, report_runs, write_page
from genaug.reports.published import Published
from genaug.reports.tables import find_runs, gather

HOSTILE = "<script>alert(1)</script>\"'&"
VOID = {"meta", "img", "br", "wbr", "input", "circle", "rect", "path", "line", "polyline"}


class Page(HTMLParser):
    """What a browser would make of the text: tags with their attributes, tables as cells, and that all tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        assert self.open == []
        self.tables = [[[" ".join(cell.split()) for cell in line] for line in table] for table in self.tables]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def table(self, *header: str) -> list[list[str]]:
        """Lines of the first table whose header begins so."""
        found = [lines for lines in self.tables if tuple(lines[0][: len(header)]) == header]
        return found[0][1:]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("study")
    write_study(home / "runs")
    return home, render([home / "runs"], home / "report.html")


def test_the_page_has_every_part(study):
    home, text = study
    page = Page(text)
    ids = {attributes.get("id") for _, attributes in page.tags}
    parts = ("comparison", "pairs", "scale", "looks", "groups", "cost", "samples", "maps", "settings", "files")
    assert {f"birds-{part}" for part in parts} | {"failed"} <= ids
    targets = {str(one["href"])[1:] for one in page.of("a") if str(one.get("href")).startswith("#")}
    assert targets <= ids


def test_the_answer_by_hand(study):
    # "plain" is the plainest: "other" sets its mixer, "more" made images. 3.5 and 8.5 of ten are right.
    [answer] = re.findall(r'<div class="answer">(.*?)</div>', study[1], re.DOTALL)
    words = " ".join(re.sub(r"<[^>]+>", " ", answer.replace("<wbr>", "")).split())
    assert words.startswith("test more method.scale=1 85.0 ± 7.1 [21.5, 148.5] % +50.0 [")
    assert words.endswith("] points above plain better")


def test_tables_by_hand(study):
    page = Page(study[1])
    comparison = page.table("method", "seeds")
    assert [line[0] for line in comparison] == ["other", "plain", "more method.scale=1", "more method.scale=2"]
    assert comparison[1][:3] == ["plain", "2", "35.0 ± 7.1 [-28.5, 98.5]"]
    [other] = [line for line in page.table("method", "split", "points above plain") if line[0] == "other"]
    assert other[3:] == ["within noise", "2", "1 : 0 (p=1)1 : 2 (p=1)"]
    [plain] = [line for line in page.table("method", "split", "land") if line[0] == "plain"]
    assert plain[2] == "35.0 ± 7.1 [-28.5, 98.5] (n=6)"
    assert page.table("device", "runs") == [["1 x cpu", "8", "3.11", "0.1"]]
    assert page.table("setting")[0] == ["method.name", "other", "plain", "more", "more"]


def test_the_page_is_one_file(study):
    page = Page(study[1])
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "srcset", "poster", "action"):
            value = attributes.get(name) or ""
            assert "//" not in value or value.startswith("data:image/jpeg;base64,"), (tag, value)
    assert not page.of("link")
    assert "@import" not in study[1]
    assert "url(" not in study[1]


def test_links_lead_to_the_runs(study):
    home, text = study
    hrefs = [str(one["href"]) for one in Page(text).of("a") if not str(one["href"]).startswith("#")]
    assert len(hrefs) == 9  # eight runs and the failed job; the stores are gone
    assert all((home / href).is_dir() for href in hrefs)
    assert str(home) not in text


def test_pictures_have_words_for_those_who_do_not_see_them(study):
    images = [one for one in Page(study[1]).of("img") if one.get("src")]
    assert len(images) == 8  # a sheet and maps for each of four rows
    assert {one["alt"] for one in images} >= {"plain, seed 0: maps of importance, test"}
    assert all(str(one["src"]).startswith("data:image/jpeg;base64,") for one in images)
    assert {(one["width"], one["height"]) for one in images} == {("600", "300"), ("300", "300")}


def test_failed_jobs_are_shown(study):
    [failed] = re.findall(r'id="failed".*?</section>', study[1], re.DOTALL)
    assert "runs/birds/broken/0" in failed
    assert "method=broken seed=0</code>" in failed
    assert "ValueError: no birds" in failed


def test_the_same_runs_give_the_same_bytes(study):
    home, text = study
    assert render([home / "runs"], home / "report.html") == text
    assert render([home / "runs" / "birds"], home / "report.html") == text


def test_hostile_names_stay_text(tmp_path):
    groups = {HOSTILE: {"score": 0.5, "n": 5}}
    scores = {f"test{HOSTILE}": {"score": 0.5, "n": 10, "groups": groups}}
    hostile = result("evil", 0, 0.5, dataset="birds", comparison="evil", scores=scores, device=HOSTILE)
    hostile["overrides"].append(f"x={HOSTILE}")
    home = write_run(tmp_path / "runs", hostile, config={"method": {HOSTILE: HOSTILE}}, folder="a b&<script>'\"?#")
    write_run(tmp_path / "runs", result("plain", 0, 0.4))
    write_picture(home / "contact_sheet.png")
    write_picture(home / "explain" / "final" / "<script>x.png")
    (home / "failed.txt").write_text(f"{HOSTILE}\n</pre>{HOSTILE}")
    text = render([tmp_path / "runs"], tmp_path / "report.html")
    page = Page(text)
    assert len(page.of("script")) == 1
    assert text.count("<script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    hrefs = [str(one["href"]) for one in page.of("a") if "a%20b" in str(one["href"])]
    assert set(hrefs) == {"runs/birds/evil/a%20b%26%3Cscript%3E%27%22%3F%23/"}
    assert f"x={HOSTILE}" in {attributes.get("data-label", "")[5:] for attributes in page.of("tr") if attributes}


def test_a_hostile_dataset_name(tmp_path):
    run = result("plain", 0, 0.5) | {"dataset": "b"}
    home = write_run(tmp_path, run)
    (home / "results.json").write_text(json.dumps(run | {"dataset": HOSTILE}))
    page = Page(render([tmp_path], tmp_path / "report.html"))
    assert len(page.of("script")) == 1


def test_little_is_enough(tmp_path):
    # One run of a multilabel dataset, of before there were predictions, configurations, pictures or devices.
    run = result("plain", 0, 0.5, scores={"test": {"score": 0.5, "metric": "map", "n": 10}})
    for key in ("device", "versions", "made", "scale"):
        del run[key]
    write_run(tmp_path, run)
    text = render([tmp_path], tmp_path / "report.html")
    page = Page(text)
    assert page.tables[0][0][2] == "test map % (n=10)"
    assert "The only row." in text
    assert "One seed only" in text
    for part in ("pairs", "scale", "looks", "groups", "samples", "maps", "settings"):
        assert f'id="birds-{part}"' not in text


def test_failed_jobs_alone_are_a_page(tmp_path):
    folder = tmp_path / "runs" / "birds" / "deda" / "0"
    note_failure(folder, ["method=deda"], OSError(f"disk full: {Path.home()}/a.py"))
    text = render([tmp_path / "runs"], tmp_path / "report.html")
    Page(text)
    assert "No job finished" in text
    assert "OSError: disk full: ~/a.py" in text


def test_no_runs_are_an_error_and_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No results.json under"):
        write_page([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_notes_of_what_to_mind(tmp_path):
    paper = {"protocol": "paper", "weights": "best on test", "score": 0.7}
    write_run(tmp_path, result("plain", 0, 0.5))
    write_run(tmp_path, result("plain", 1, 0.5))
    write_run(tmp_path, result("long", 2, 0.6, steps=200, selection=paper))
    text = render([tmp_path], tmp_path / "report.html")
    notes = re.findall(r"<li>(.*?)</li>", text.split('class="care"')[1].split("</div>")[0])
    assert notes == [
        "One seed only, so that the spread between seeds is not known: long (best on test).",
        "Budgets differ: rows were not trained for equal steps of equal batches "
        "(100 steps of 16: plain; 200 steps of 16: long (best on test)).",
        "Of two seeds a 95 % interval is 12.7 standard errors to each side: three make it a third as wide.",
        "Not all seeds have a counterpart in plain: long (best on test).",
        "Weights were chosen on the test images, which flatters: long (best on test).",
    ]


def test_networks_that_were_compared(study, tmp_path):
    write_study(tmp_path / "runs")
    folder = tmp_path / "runs" / "comparisons" / "abc"
    one = {"n": 2, "means": {"a": 0.25, "b": None}, "differences": {"b": {"mean": 0.5, "low": 0.25, "high": 0.75}}}
    measures = dict.fromkeys(("aic", "sic", "insertion", "deletion", "energy"), one)
    split = {"images": 4, "right": {"a": 1, "b": 2}, **measures}
    # The paths are of the time of the comparison: the runs may have been moved since.
    runs = {"a": "/somewhere/runs/birds/plain/plain-0-0", "b": "/somewhere/else/birds/gone/1"}
    write_picture(folder / "test_not_all_right.png")
    (folder / "comparison.json").write_text(json.dumps({"runs": runs, "splits": {"test": split}}))
    text = render([tmp_path / "runs" / "birds"], tmp_path / "report.html")
    line = Page(text).table("measure", "n", "a", "b", "b − a")[0]
    assert line == ["AIC ↑", "2", "0.250", "–", "+0.500 [+0.250, +0.750]"]
    assert "a is plain, seed 0, b is birds/gone/1." in text
    assert 'alt="test: images that some networks get right and others do not"' in text
    assert "Networks compared" not in study[1]


def test_published_numbers_stand_beside(tmp_path, monkeypatch):
    facts = {"label": "Theirs", "model": "small", "dataset": "birds", "split": "test", "metric": "accuracy"}
    printed = [
        Published("plain", value=52.5, note="one seed", **facts),
        Published("gone", value=60.0, note="", **facts),
    ]
    monkeypatch.setattr(page, "published_rows", lambda experiment: printed if experiment == "study" else [])
    for seed, score in enumerate((0.5, 0.6)):
        write_run(tmp_path, result("plain", seed, score, experiment="study", model="small"))
    write_run(tmp_path, result("other", 0, 0.5, experiment="another"))
    found = Page(render([tmp_path], tmp_path / "report.html")).table("method", "split", "measured")
    assert found[0][:5] == ["plain", "test", "55.0 ± 7.1 [2 seeds, n=10]", "52.50", "+2.5"]
    assert found[1][:5] == ["gone", "test", "–", "60.00", "–"]


# --- charts --------------------------------------------------------------------------------------------------------


def test_an_axis_by_hand():
    axis = Axis(10, 50, start=200, end=0)  # with a margin of 3.2: 6.8 to 53.2, in steps of 10
    assert axis.values == [0, 10, 20, 30, 40, 50, 60]
    assert (axis(0), axis(15), axis(60)) == (200, 150, 0)
    assert axis.ticks()[1] == (pytest.approx(166.7), "10")
    assert Axis(0.0, 0.0, 0, 1).values  # all the same
    assert max(Axis(90, 100, 0, 1, 0, 100).values) == 100


def test_scales_as_a_chart(tmp_path):
    write_study(tmp_path)
    [chart] = scale_charts(gather(find_runs([tmp_path]))["birds"])
    assert [text for _, text in chart.x_ticks] == ["0X", "1X", "2X"]
    by_label = {one.label: one for one in chart.series}
    assert {label: (one.joined, len(one.marks)) for label, one in by_label.items()} == {
        "more": ("line", 2),
        "plain": ("level", 1),
        "other": ("level", 1),
    }
    assert by_label["more"].marks[0].x < by_label["more"].marks[1].x
    assert by_label["more"].marks[0].y < by_label["plain"].marks[0].y  # higher
    assert by_label["plain"].marks[0].text == "plain, 0X: 35.0 % [-28.5, 98.5], 2 seeds"
    mark = by_label["more"].marks[0]
    # 21.47 to 148.5 on an axis from 0 at pixel 210 to 100 at pixel 10: the upper end leaves the frame.
    assert (mark.low, mark.high, mark.stem) == (pytest.approx(167.1), None, (pytest.approx(167.1), 10))


def test_many_marks_stay_in_the_frame(tmp_path):
    for number in range(30):
        write_run(tmp_path, result(f"m{number:02}", 0, number / 100))
    for scale in (1, 2):
        run = result("more", 0, 0.5, scale=scale, comparison=f"more-{scale}")
        run["overrides"].append(f"method.scale={scale}")
        write_run(tmp_path, run)
    [chart] = scale_charts(gather(find_runs([tmp_path]))["birds"])
    places = [mark.x for series in chart.series for mark in series.marks]
    assert len(places) == len(set(places)) == 32
    assert LEFT <= min(places) < max(places) <= WIDTH - RIGHT


def test_looks_as_charts(tmp_path):
    write_study(tmp_path)
    charts = look_charts(gather(find_runs([tmp_path]))["birds"])["test"]
    assert [chart.title for chart in charts] == ["AIC ↑", "SIC ↑", "insertion ↑", "deletion ↓", "on object ↑"]
    best = max(charts[0].series, key=lambda one: one.marks[0].x)
    assert best.marks[0].text in ("more method.scale=2: 85.0 %, 0.675", "more method.scale=1: 85.0 %, 0.675")
    assert best.marks[0].y == min(one.marks[0].y for one in charts[0].series)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_as_small_as_asked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (450, 1800, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    sizes = []
    for most in (10_000_000, 200_000, 1):
        data, size = small_jpeg(tmp_path / "noise.png", most)
        sizes.append(size[0])
        assert len(data) <= max(most, 60_000)
    assert sizes[0] == LARGEST > sizes[1] > sizes[2] == SMALLEST


def test_a_broken_picture_is_left_out(tmp_path, caplog):
    write_picture(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:30])
    pictures = embed([Wanted(tmp_path / f"{name}.png", "row", name) for name in ("broken", "whole", "none")], 3)
    assert [one.caption for one in pictures] == ["whole"]
    assert "broken.png is left out" in caplog.text


def test_pictures_share_the_bytes_of_the_page(tmp_path, monkeypatch):
    assert embedded.ALL_BYTES * 4 / 3 < 9_000_000  # as text: below ten megabytes with all tables
    monkeypatch.setattr(embedded, "ALL_BYTES", 400_000)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3)).astype(np.uint8))
    for number in range(4):
        home = write_run(tmp_path / "runs", result(f"m{number}", 0, 0.5))
        noise.save(home / "contact_sheet.png")
        noise.save(home / "synthesis.png")
    images = [one for one in Page(render([tmp_path / "runs"], tmp_path / "report.html")).of("img") if one.get("src")]
    assert len(images) == 8
    assert 300_000 < sum(len(str(one["src"])) * 3 / 4 for one in images) <= 401_000


# --- command -------------------------------------------------------------------------------------------------------


def test_the_stage_refuses_what_is_not_there(tmp_path):
    write_study(tmp_path / "runs")
    paths = {"runs": str(tmp_path / "runs"), "output": str(tmp_path / "out")}
    for runs, baseline, said in (
        (None, "none", "No row is called 'none'. There are: other, plain"),
        ([f"{tmp_path}/runs/cars*"], None, "No results.json under .*cars"),
    ):
        with pytest.raises(WrongValue, match=said):
            report_runs(OmegaConf.create({"runs": runs, "report": {"baseline": baseline}, "paths": paths}))
    assert not (tmp_path / "out").exists()
    report_runs(OmegaConf.create({"runs": None, "report": {"baseline": None}, "paths": paths}))
    assert (tmp_path / "out" / "report.html").exists()


def test_the_command_writes_the_page(tmp_path, capsys):
    write_study(tmp_path / "runs")
    out = tmp_path / "deep" / "report.html"
    assert main([str(tmp_path / "runs"), "--html", str(out), "--baseline", "other"]) == 0
    assert "points above other" in out.read_text()
    assert "../runs/birds/plain" in out.read_text()
    assert "against other" in capsys.readouterr().out
    assert main([str(tmp_path / "runs"), "--baseline", "none"]) == 1
    assert (
        "No row is called 'none'. There are: other, plain, more method.scale=1, more method.scale=2."
        in capsys.readouterr().err
    )
