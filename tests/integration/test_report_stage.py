"""``stage=report`` from the command line."""

from __future__ import annotations

import pytest
from conftest import run_cli
from report_runs import write_study

pytestmark = pytest.mark.cli


def test_the_stage_writes_a_page_of_the_runs_it_is_given(tmp_path):
    write_study(tmp_path / "runs")
    done = run_cli("stage=report", "runs=runs/birds/plain,runs/birds/more", "report.baseline=plain", cwd=tmp_path)
    assert done.rc == 0, done.stderr
    [page] = tmp_path.glob("runs/reports/*/report.html")
    text = page.read_text()
    assert "6 finished runs in 3 rows" in text
    assert "../../birds/plain" in text
    assert "other" not in [line for line in text.splitlines() if "data-label" in line]
