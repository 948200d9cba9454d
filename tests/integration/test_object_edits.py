"""De-DA with generation through the command line: planned, made with a tiny random model, and trained on."""

from __future__ import annotations

import json

import pytest
import tiny_models
from conftest import run_cli
from PIL import Image

from genaug.synthesis.commands import main as genaug

pytestmark = [pytest.mark.cli, pytest.mark.slow]


def test_objects_are_edited_and_trained_on(tiny_folder, tmp_path):
    model, rgba = tiny_models.save_sd15(tmp_path / "sd15"), tiny_models.save_rgba_vae(tmp_path / "rgba")
    edit = {
        "prompt": "'a {}'",
        "copies": 2,
        "min_iou": 0,
        "area": "[0,99]",
        "min_change": 0,
    }  # what noise is edited to is noise
    command = [
        *tiny_folder.overrides(protocol="last", recipe__epochs=2, method="deda", inversion="tiny", generator="tiny"),
        f"generator.model={model}", f"generator.transparency.folder={rgba}", "generator.size=32", "generator.steps=4",
        "inversion.steps=2", "inversion.batch_size=2", "inversion.bfloat16=false", "inversion.prompts=['a {}']",
        *(f"method.synthesis.edit.{name}={value}" for name, value in edit.items()),
    ]  # fmt: skip
    planned = run_cli(*command, "plan_only=true", cwd=tmp_path)
    assert planned.rc == 0, planned.stderr
    rows = {line.split("│")[1].strip(): line.split("│")[2:] for line in planned.stdout.splitlines() if "│" in line}
    names = ("masks", "decoupled images", "words", "synthetic objects")
    assert [rows[name][0].strip() for name in names] == ["36", "36", "3", "72"]
    assert "24 x a <blue>" in planned.stdout
    assert not (tmp_path / "stores").exists()
    done = run_cli(*command, cwd=tmp_path, timeout=400)
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/deda/*/results.json")
    made = json.loads(file.read_text())["made"]
    assert (made["objects"], made["edit"]["planned"], made["edit"]["words"]["words"]) == (36, 72, 3)
    assert made["synthetic"] == made["edit"]["images"] > 0
    (store,) = (tmp_path / "stores" / "images").iterdir()
    assert genaug(["verify", str(store)]) == 0
    assert Image.open(file.parent / "synthesis.png").width == 6 * 166 + 6
