"""The command line as a person meets it: quick answers, and wrong input refused with what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, Finished, TinyFolder, run_cli, run_python

pytestmark = pytest.mark.cli
QUICK = 1.5


def message(done: Finished) -> str:
    """The error of a command that failed without a traceback."""
    assert done.rc != 0
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("question", ["--help", "--cfg"])
def test_questions_are_answered_at_once(question, tmp_path):
    arguments = ("--cfg", "job") if question == "--cfg" else (question,)
    answers = []
    for _ in range(3):
        answers.append(run_cli(*arguments, cwd=tmp_path))
        assert answers[-1].rc == 0
        assert "p_aug" not in answers[-1].stdout  # the answer is about what would run: method=vanilla
        assert "vanilla" in answers[-1].stdout
        if answers[-1].seconds < QUICK:
            return
    # A busy machine is slow at everything: what counts is that nothing like torch has to be waited for.
    assert min(answer.seconds for answer in answers) < run_python("-c", "import torch", cwd=tmp_path).seconds


def imported_by(*arguments: str, cwd: Path) -> set[str]:
    """The modules that a process imported, which ended well."""
    done = run_python("-X", "importtime", *arguments, cwd=cwd)
    assert done.rc == 0
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_a_question_imports_nothing_heavy(tmp_path):
    imported = imported_by(str(REPOSITORY / "run.py"), "--cfg", "job", cwd=tmp_path)
    assert {"hydra", "genaug.launch"} <= imported
    heavy = {"torch", "pytorch_lightning", "torchvision", "cv2", "numpy", "timm", "onnxruntime", "wandb"}
    assert not imported & heavy
    assert not [name for name in imported if name.startswith("genaug.") and name != "genaug.launch"]
    assert not list(tmp_path.iterdir())  # and leaves nothing behind


@pytest.mark.parametrize("module", ["genaug.reports.__main__", "genaug.synthesis.commands"])
def test_other_commands_answer_without_what_computes(module, tmp_path):
    # As the scripts of a package do; ``-m`` would not tell under which name the module itself was imported.
    asked = f"import sys; from {module} import main; sys.exit(main(['--help']))"
    imported = imported_by("-c", asked, cwd=tmp_path)
    assert {module, "rich"} <= imported
    assert not imported & {
        "torch",
        "pytorch_lightning",
        "torchvision",
        "scipy.stats",
        "diffusers",
        "matplotlib",
        "wandb",
    }


def test_a_wrong_choice_is_answered_with_the_choices(tmp_path):
    said = message(run_cli("method=dedda", cwd=tmp_path))
    choices = [path.stem for path in (REPOSITORY / "conf" / "method").glob("*.yaml")]
    assert {"deda", "cutmix", "vanilla"} <= set(choices)
    assert "'method/dedda'" in said
    assert all(re.search(rf"^\s+{choice}$", said, re.MULTILINE) for choice in choices)


def test_a_wrong_key_is_answered_with_the_keys(tmp_path):
    said = message(run_cli("method=deda", "method.view.p_agu=0.3", cwd=tmp_path))
    assert "Did you mean 'p_aug'?" in said
    assert "method.view has: cip, flip, label_area, p_aug, p_mix, p_syn, placement, rotation, size." in said


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stage=foo", "one of all, synthesize, train, evaluate, check_data, explain, assess, report, train_generator."),
        ("protocol=x", "protocol=x is not known: choose one of heldout, last, paper."),
        ("method.view.p_aug=2", "method.view.p_aug=2 is not a probability: give a number in [0, 1]."),
        ("dataset.root=???", "Without a value: dataset.root."),
    ],
)
def test_a_wrong_value_is_refused_before_an_image_is_read(override, expected, tiny_folder: TinyFolder, tmp_path):
    for name in ("a", "b"):  # an attempt to read these would be the error
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(b"no image")
    broken = ("dataset.root=data", "dataset.masks=null", "method=deda_mixing", "segmenter=grabcut")
    said = message(run_cli(*tiny_folder.overrides(), *broken, override, cwd=tmp_path))
    assert expected in said
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "stores").exists()
