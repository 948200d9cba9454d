"""What is left of a job that failed, and that nothing secret is."""

from __future__ import annotations

from pathlib import Path

import pytest

from genaug.privacy import hide, public
from genaug.reports.__main__ import main
from genaug.reports.failures import FAILED, failures, note_failure


@pytest.fixture
def secrets(monkeypatch, tmp_path) -> Path:
    """Keys in the environment, and a home; the home is returned."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    monkeypatch.setenv("SHORT_KEY", "1")  # in every text
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")  # no key
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    return tmp_path / "someone"


def failure_of(error: Exception) -> Exception:
    """The exception as it is when it has been raised from another."""
    try:
        try:
            raise OSError("the disk\n  is full")
        except OSError as cause:
            raise error from cause
    except type(error) as raised:
        return raised


def test_a_failure_is_noted_and_found_without_secrets(secrets, tmp_path):
    error = failure_of(RuntimeError(f"sk-0123456789 was refused\n  in {secrets}/here"))
    overrides = ["method=some", "server.api_key=abc", "server.url=https://me:word@host/x", "note=hf_abcdefghij 1"]
    note_failure(tmp_path / "runs" / "a", overrides, error)
    [found] = failures([tmp_path / "runs", tmp_path])
    assert found.folder == tmp_path / "runs" / "a"
    assert found.overrides == "method=some server.api_key=*** server.url=https://***@host/x note=*** 1"
    assert found.error == "RuntimeError: *** was refused in ~/here"
    assert "OSError: the disk" in found.traceback
    assert 'raise OSError("the disk' in found.traceback
    text = (tmp_path / "runs" / "a" / FAILED).read_text()
    assert text == f"{found.overrides}\n{found.traceback}"
    assert not [word for word in ("sk-0123456789", "abc\n", "hf_abcdefghij", "me:word", str(secrets)) if word in text]


def test_another_home_of_the_same_beginning_is_none(secrets):
    assert hide(f"{secrets}") == "~"
    assert hide(f"{secrets}/x {secrets}2/x qwertyuiop") == f"~/x {secrets}2/x qwertyuiop"


def test_a_public_configuration(secrets, monkeypatch, tmp_path):
    here = tmp_path / "work"
    here.mkdir()
    monkeypatch.chdir(here)
    private = {
        "dataset": {"root": f"{secrets}/photos/birds", "masks": "masks", "size": 32},
        "paths": {"runs": str(here / "runs" / "a"), "storage": f"sqlite:///{here}/runs/searches.db"},
        "captioner": {"key_env": "OPENAI_API_KEY", "api_key": "short", "base_url": "https://me:word@host/v1"},
        "tokens": ["hf_abcdefghij", "/data/sets/x"],
        "password": None,
    }
    assert public(private) == {
        "dataset": {"root": "…/birds", "masks": "masks", "size": 32},
        "paths": {"runs": "runs/a", "storage": "sqlite:///runs/searches.db"},
        "captioner": {"key_env": "OPENAI_API_KEY", "api_key": "***", "base_url": "https://***@host/v1"},
        "tokens": ["***", "…/x"],
        "password": None,
    }


def test_a_report_lists_what_failed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        note_failure(Path("runs", name), ["method=some", f"seed={seed}"], failure_of(ValueError("<no> such thing")))
    assert main(["runs", "--out", "report.md"]) == 1  # nothing is finished
    said = capsys.readouterr()
    assert "No results.json under runs" in said.err
    assert "ValueError: <no> such thing" in said.out
    report = Path("report.md").read_text()
    assert "| runs/a | seed=1 | ValueError: <no> such thing |\n| runs/b | seed=2 |" in report
    assert report.count("<details>") == report.count("ValueError: &lt;no&gt; such thing\n</pre>") == 2
