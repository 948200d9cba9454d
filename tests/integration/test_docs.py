"""The pages build without PyTorch and load nothing from elsewhere; what they say of methods, errors and code is so."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, run_cli, run_python
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

DOCS, SOURCE = REPOSITORY / "docs", REPOSITORY / "src" / "genaug"
#: Methods whose yamls begin with others, replace a list or a mapping, or choose of another group.
INHERITING = ("alia_iwildcam", "beyond_generation", "deda_mixing", "diff_mix_published_code", "real_gen")
METHODS = sorted(path.stem for path in (REPOSITORY / "conf" / "method").glob("*.yaml"))
CODE = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def loaded(path: Path, name: str) -> ModuleType:
    """A file as a module of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return loaded(DOCS / "hooks.py", "docs_hooks")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder))
    done = run_python("-X", "importtime", *build, cwd=REPOSITORY)
    assert done.rc == 0, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"mkdocs", "griffe"} <= imported
    assert not [name for name in imported if name.split(".")[0] in ("torch", "genaug", "hydra")]
    return folder


class Loaded(HTMLParser):
    """Addresses that a browser fetches by itself, and those that a person may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag == "link"):
                self.fetched.append(value or "")
            elif name == "href":
                self.links.append(value or "")


def read(page: Path) -> Loaded:
    parser = Loaded()
    parser.feed(page.read_text())
    return parser


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        found = read(page)
        assert found.fetched
        assert not [one for one in found.fetched if re.match(r"(?:\w+:)?//", one)], page
    assert "https://arxiv.org/abs/2411.02592" in read(site / "methods" / "deda.html").links  # links there may be
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:\w+:)?//", sheet.read_text()), sheet


@pytest.mark.slow
@pytest.mark.parametrize("stem", METHODS)
def test_every_method_has_a_page_that_names_its_source(stem, site, hooks):
    one = hooks.option("method", stem)
    text = (site / "methods" / f"{one.family}.html").read_text()
    assert one.family == stem or f'id="{stem}"' in text
    assert (
        f'href="methods/{one.family}.html{"" if one.family == stem else "#" + stem}"'
        in (site / "methods.html").read_text()
    )
    fills_nothing = not one.targets.keys() & {"synthesis", "view"} and not one.choices
    said = re.search(r"[A-Z][\w-]+(?: et al\.| (?:&amp;|and) [A-Z]\w+)[^<]{0,160}\b20[012]\d\b", text)
    assert fills_nothing == (stem == "vanilla")
    assert said or fills_nothing


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted key; mappings inside lists have a number."""
    if isinstance(tree, dict):
        return {key: value for name, one in tree.items() for key, value in flat(one, f"{path}.{name}").items()}
    if isinstance(tree, list) and any(isinstance(one, dict) for one in tree):
        return {key: value for n, one in enumerate(tree) for key, value in flat(one, f"{path}[{n}]").items()}
    return {path.removeprefix("."): tree}


def test_settings_on_pages_are_those_that_hydra_composes(hooks):
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        for stem in INHERITING:
            tree = OmegaConf.to_container(compose("config", [f"method={stem}"]), resolve=False)
            there = {k: v for k, v in flat(tree["method"]).items() if k != "name" and not k.endswith("_target_")}
            one = hooks.option("method", stem)
            brought = tuple(f"{name.partition('@')[2]}." for name in one.choices if "@" in name)
            there = {key: value for key, value in there.items() if not brought or not key.startswith(brought)}
            assert there.keys() == one.settings.keys(), stem
            for key, value in there.items():
                if not isinstance(value, list):
                    assert yaml.safe_load(one.settings[key].value) == value, (stem, key)


def test_arguments_and_comments_stand_beside_their_settings(hooks):
    page = hooks.method_page("deda", "Notes of one's own.")
    [line] = [line for line in page.splitlines() if line.startswith("| `method.view.p_aug` |")]
    assert line == "| `method.view.p_aug` | `0.5` | Probability that a real image is replaced (Table 6: 0.5). |"
    [line] = [line for line in page.splitlines() if line.startswith("| `method.synthesis.edit.copies` |")]
    assert line.endswith("*of each real object* |")
    assert "Notes of one's own." in page
    # An argument that a class leaves to its base class is told in the words of the base class.
    assert hooks.meaning("genaug.methods.alia.DomainEdits", "strength") == "Noise level an edit starts at, in (0, 1]."


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("See :class:`genaug.x.Thing` and ``a*b``.", "See `Thing` and ``a*b``."),
        ("<class> [0, 1) *", r"&lt;class&gt; \[0, 1) \*"),
        ("(arXiv:2411.02592)", "([arXiv:2411.02592](https://arxiv.org/abs/2411.02592))"),
    ],
)
def test_docstrings_become_markdown(written, shown, hooks):
    assert hooks.markdown(written) == shown


def test_messages_on_the_page_of_errors_are_the_programs(hooks):
    quoted = re.findall(r"^### `(.+)`$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert len(quoted) > 12
    program = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    by_hydra = {"Could not find"}
    assert [one for one in quoted if one not in program] == sorted(by_hydra)


@pytest.mark.slow
@pytest.mark.cli
def test_the_method_of_the_page_works(tmp_path, monkeypatch):
    blocks = CODE.findall((DOCS / "add_a_method.md").read_text())
    files = {title: text for _, title, text in blocks if title}
    assert sorted(path.split("/")[0] for path in files) == ["my_conf", "my_conf", "my_methods", "my_methods"]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    [command] = [text for language, title, text in blocks if language == "bash" and not title]
    path, python, script, *overrides = shlex.split(command)
    assert (path, python, script) == ("PYTHONPATH=.", "python", "run.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    few = ("dataset.train_per_class=1", "dataset.test_per_class=1", "generator.steps=4")
    done = run_cli(*overrides, *few, "trainer=cpu", "loader.num_workers=0", cwd=tmp_path)
    assert done.rc == 0, done.stderr[-2000:]
    [results] = [json.loads(file.read_text()) for file in tmp_path.rglob("results.json")]
    assert results["method"] == "half_edit"
    assert results["made"]["images"] == 20  # one of each of the twenty species

    half = loaded(tmp_path / "my_methods" / "half_edit.py", "half_edit_of_the_page").HalfEdit
    grey, white = np.full((1, 1, 3), 151, np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert half.finish(None, None, grey, white).tolist() == [[[203, 203, 203]]]
    mirror = loaded(tmp_path / "my_methods" / "mirror_mix.py", "mirror_mix_of_the_page").MirrorMix()
    images, targets = mirror(torch.tensor([[[[0.0, 1.0]]]]), torch.eye(1), torch.Generator(), None)
    assert images.tolist() == [[[[0.5, 0.5]]]]
    assert targets.tolist() == [[1.0]]
