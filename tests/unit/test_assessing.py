"""What is looked at of a method, and the numbers of images whose answers are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from conftest import run_cli
from PIL import Image
from renderers import runner_in
from safetensors.torch import save_file
from test_per_source import BIRDS, SIDE, Painter
from test_per_source import samples as samples  # the fixture

from genaug.assessing.assessor import Assessor
from genaug.assessing.examples import Example, choose_sources, examples_of
from genaug.assessing.runs import AssessedRun, cost_of_all, save_examples, shared_samples
from genaug.data.base import Sample
from genaug.data.images import RealImages
from genaug.explaining.finished import find_finished
from genaug.methods.image2image import ImageToImage
from genaug.segmentation.base import Segmentation, Segmenter


class Bright(Segmenter):
    """Takes bright pixels for the subject."""

    settings = {}

    def segment(self, image, sample, prompt):
        assert sample.box is None
        return Segmentation(image.min(axis=2) > 200, None, "bright")


class MeanColour:
    """Mean colours as features."""

    settings = {"name": "mean colour"}

    def __init__(self) -> None:
        self.calls = []

    def load(self, device):
        self.calls.append(device)

    def unload(self):
        self.calls.append("nowhere")

    def images(self, arrays):
        means = torch.tensor(np.stack([one.reshape(-1, 3).mean(0) for one in arrays]))
        return torch.nn.functional.normalize(means.float(), dim=1)


def picture(folder: Path, name: str, colour, subject=slice(2, 6)) -> Path:
    """A white square on a colour."""
    pixels = np.full((8, 8, 3), colour, np.uint8)
    pixels[subject, subject] = 255
    Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def example(folder: Path, name: str, colour, made_colour, label=0, **made) -> Example:
    source = Sample(name, picture(folder, name, colour), label, box=(0, 0, 8, 8))
    subject = made.pop("subject", slice(2, 6))
    return Example(source, Sample(f"{name}-made", picture(folder, f"{name}-made", made_colour, subject), label, **made))


def measure(examples, folder, judge=None):
    return Assessor(MeanColour(), Bright()).measure(examples, BIRDS, folder, "cpu", judge)


# --- what is looked at ---------------------------------------------------------------------------------------------


def test_sources_are_the_same_in_any_order_and_nested():
    birds = [Sample(f"{number}", Path("x"), number % 3) for number in range(20)]
    chosen = choose_sources(birds, 10, 0)
    assert [sample.label for sample in chosen] == [0, 1, 2] * 3 + [0]
    assert choose_sources(birds[::-1], 7, 0) == chosen[:7]
    assert choose_sources(birds, 10, 1) != chosen
    assert len(choose_sources(birds, 99, 0)) == 20


def test_one_image_of_each_source_that_has_any(samples, tmp_path):
    method = ImageToImage(Painter(bad="azure"), scale=2)
    made = method.make(samples, BIRDS, tmp_path, SIDE, runner_in(tmp_path))
    found = examples_of(made, None, RealImages(samples, 2), samples[3::-1], tmp_path / "drawn", 0)
    assert [one.source.id for one in found] == ["3.png", "1.png"]  # of the other class nothing came
    for one in found:
        assert made.store[one.made.id]["sources"] == [one.source.id]
    assert not (tmp_path / "drawn").exists()


class Inverts:
    """Shows half of the draws of an image inverted, as half of another class; the first image always as it is."""

    def __call__(self, real, made):
        def draw(index, rng):
            image, target = real.draw(index, rng)
            if index == 0 or rng.random() < 0.5:
                return image, target
            return 255 - image, np.array([0.25, 0.75], np.float32)

        return SimpleNamespace(draw=draw)


def test_what_a_view_makes_is_drawn(samples, tmp_path):
    real = RealImages(samples, 2)
    found = examples_of(SimpleNamespace(), Inverts(), real, samples, tmp_path / "drawn", 0)
    assert [one.source.id for one in found] == ["1.png", "2.png", "3.png", "4.png"]
    for one in found:
        assert (np.asarray(Image.open(one.made.path)) == 255 - np.asarray(Image.open(one.source.path))).all()
        assert one.made.soft_label == ((0, 0.25), (1, 0.75))
        assert one.made.mask is None
        assert one.made.id != one.source.id


# --- numbers -------------------------------------------------------------------------------------------------------


def test_images_that_are_their_sources(tmp_path):
    examples = [example(tmp_path, name, 50, 50) for name in "ab"]
    found, rows = measure(examples, tmp_path)
    assert found["iou"] == {"mean": 1.0, "n": 2}
    assert found["background"] == {"mean": 0.0, "n": 2}
    assert (found["psnr"], found["unchanged"]) == ({"mean": None, "n": 0}, 2)
    assert found["spread"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["label"] == {"mean": None, "n": 0}
    assert rows[0]["psnr"] is None


def test_another_background_behind_the_same_subject(tmp_path):
    found, rows = measure([example(tmp_path, "a", 0, 51), example(tmp_path, "b", 0, 0)], tmp_path)
    assert found["iou"] == {"mean": 1.0, "n": 2}
    assert found["background"]["mean"] == pytest.approx(0.1)  # of 0.2 and 0
    # 48 of 64 pixels differ by a fifth.
    assert found["psnr"] == {"mean": pytest.approx(10 * np.log10(25 / 0.75), abs=1e-5), "n": 1}
    assert [row["background"] for row in rows] == pytest.approx([0.2, 0])


def test_a_subject_that_moved_and_one_that_is_gone(tmp_path):
    moved = example(tmp_path, "a", 0, 0, subject=slice(4, 8))
    gone = example(tmp_path, "b", 0, 0, subject=slice(0, 0))
    never = replace(moved, source=Sample("c", picture(tmp_path, "c", 0, slice(0, 0)), 0))
    found, rows = measure([moved, gone, never], tmp_path)
    assert [row["iou"] for row in rows] == [pytest.approx(4 / 28), 0, None]
    assert found["iou"] == {"mean": pytest.approx(2 / 28), "n": 2}


def test_the_spread_is_within_classes(tmp_path):
    colours = {"a": (200, 0, 0), "b": (0, 200, 0), "c": (0, 0, 200), "d": (0, 0, 200)}
    examples = [
        example(tmp_path, name, 0, colour, label=int(name in "cd"), subject=slice(0, 0))
        for name, colour in colours.items()
    ]
    found, _ = measure(examples, tmp_path)
    assert found["spread"] == {"mean": pytest.approx(0.5), "n": 2}


def test_the_judge_is_right_as_often_as_the_label_says(tmp_path):
    hard = example(tmp_path, "a", 0, 51, label=1)
    wrong = example(tmp_path, "b", 0, 52, label=0)
    soft = example(tmp_path, "c", 0, 53, label=0, soft_label=((0, 0.3), (1, 0.6)))
    found, rows = measure([hard, wrong, soft], tmp_path, judge=lambda images: [1] * len(images))
    assert [row["label"] for row in rows] == pytest.approx([1, 0, 0.6])
    assert found["label"] == {"mean": pytest.approx(1.6 / 3), "n": 3}


def test_nothing_to_measure(tmp_path):
    found, rows = measure([], tmp_path)
    assert (rows, found["psnr"], found["spread"]["mean"]) == ([], {"mean": None, "n": 0}, None)


def test_runs_without_sources_are_left_out_of_the_sheet(tmp_path):
    one = example(tmp_path, "a", (200, 0, 0), (0, 0, 200))
    save_examples([one.source], {"edits": [one], "from words": []}, tmp_path / "sheet.png")
    alone = tmp_path / "alone.png"
    save_examples([one.source], {"edits": [one]}, alone)
    assert (tmp_path / "sheet.png").read_bytes() == alone.read_bytes()


def test_costs_are_added_up():
    part = {"images": 4, "denoiser_steps": 40, "seconds": 3.0}
    assert cost_of_all({"images": 8, "cost": {"scenes": part, "images": part}}) == {
        "denoiser_steps": 80, "seconds": 6.0, "steps_per_image": 10, "s_per_image": 0.75,
    }  # fmt: skip
    assert cost_of_all({"images": 8}) is None


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match=r"assess\.images=0"):
        Assessor(MeanColour(), Bright(), images=0)


# --- finished runs -------------------------------------------------------------------------------------------------


def run_of(ids: str, name="birds", classes=("jay",)):
    dataset = SimpleNamespace(name=name, classes=classes)
    return SimpleNamespace(folder=Path(ids), dataset=dataset, samples=[Sample(one, Path(one), 0) for one in ids])


def test_runs_share_the_images_that_all_of_them_train_on():
    assert [sample.id for sample in shared_samples([run_of("dbca"), run_of("abx"), run_of("bad")])] == ["b", "a"]
    with pytest.raises(ValueError, match="share no training image"):
        shared_samples([run_of("ab"), run_of("cd")])
    with pytest.raises(ValueError, match="cats.*of birds.*runs of one data set"):
        shared_samples([run_of("ab"), run_of("ab", name="cats")])


@pytest.mark.cli
@pytest.mark.slow
def test_runs_are_measured_side_by_side(tiny_folder, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_vit.r160_in1k").state_dict(), weights)
    common = {"protocol": "last", "trainer__max_steps": 1, "logger": "none"}
    commands = [
        tiny_folder.overrides(**common, method="image2image", stage="synthesize", generator="tiny", generator__steps=2),
        tiny_folder.overrides(**common, method="deda_mixing", stage="synthesize"),
        tiny_folder.overrides(**common),
    ]
    for command in commands:
        done = run_cli(*command, cwd=tmp_path)
        assert done.rc == 0, done.stderr
    (edited,), (mixed,), (judge,) = (
        tmp_path.glob(f"runs/*/{name}/*") for name in ("image2image", "deda_mixing", "vanilla")
    )
    features = ["assess=dino", "assess.features.name=test_vit.r160_in1k", f"assess.features.weights={weights}"]
    settings = [*features, "assess.images=9", f"assess.judge_run={judge}", "trainer=cpu"]
    done = run_cli("stage=assess", f"runs={edited},{mixed}", *settings, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/assessments/*/assess.json")
    record = json.loads(file.read_text())
    assert list(record["numbers"]) == ["real images", "image2image", "deda_mixing"]
    assert list(record["runs"]) == ["image2image", "deda_mixing"]
    for name, found in record["numbers"].items():
        assert found["images"] == found["label"]["n"] == 9
        assert found["spread"]["mean"] > 0
        assert name in done.stdout
    assert record["numbers"]["image2image"]["psnr"]["n"] == 9
    assert record["numbers"]["image2image"]["cost"]["denoiser_steps"] == 36  # 0.6 of two steps is one
    assert [row["source"] for row in record["images"]["image2image"]] == [
        row["source"] for row in record["images"]["deda_mixing"]
    ]
    assert "IoU" in done.stdout
    width = Image.open(file.with_name("assess.png")).width
    assert width == 3 * 166 + 6
    with pytest.raises(ValueError, match="method=vanilla makes no images offline"):
        AssessedRun.load(judge)
    with pytest.raises(ValueError, match=r"nowhere is no finished run: expected a folder with config\.yaml, as"):
        find_finished("nowhere", "assess", ["config.yaml"])
