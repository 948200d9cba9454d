"""The notebooks: short, stripped of what they printed, and right from the first cell to the last."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
#: Words that the tables of a notebook must show, and how many pictures it must draw.
EXPECTED = {
    "quickstart": (("deda_mixing", "vanilla"), 3),
    "look_inside": (("a photo of",), 4),
    "compare_runs": (("deda_mixing", "ood_habitat", "McNemar"), 1),
    "explain": (("insertion", "energy"), 2),
}


def test_there_are_the_four():
    assert [path.stem for path in NOTEBOOKS] == sorted(EXPECTED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_short_and_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 12
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    # A notebook that was saved by a person's editor says whose machine it ran on.
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> Path:
    """The cache of drawn birds, which the notebooks share."""
    return tmp_path_factory.mktemp("birds")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_says(path, birds, monkeypatch, tmp_path):
    for name, folder in (("GENAUG_CACHE", birds), ("IPYTHONDIR", tmp_path), ("JUPYTER_RUNTIME_DIR", tmp_path)):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output["data"] for output in outputs if "data" in output]
    text = " ".join(
        [output.get("text", "") for output in outputs] + [str(one.get("text/markdown", "")) for one in data]
    )
    words, count = EXPECTED[path.stem]
    assert all(word in text or any(word in str(one.get("text/plain", "")) for one in data) for word in words)
    files = [io.BytesIO(base64.b64decode(one["image/png"])) for one in data if "image/png" in one]
    pictures = [np.asarray(Image.open(file)) for file in files]
    assert len(pictures) == count
    assert all(picture.std() > 10 for picture in pictures)  # none is blank
    assert not [output for output in outputs if output.get("name") == "stderr" and "Error" in output["text"]]
