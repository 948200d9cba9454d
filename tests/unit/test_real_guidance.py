"""Real-Guidance: where edits start by the number of images, and which of them training sees."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, run_cli
from hydra import compose, initialize_config_dir
from renderers import runner_in
from test_per_source import BIRDS, KEPT, SIDE, Painter, keys, lines
from test_per_source import samples as samples  # the fixture

from genaug.data.images import RealImages
from genaug.data.reading import read_image
from genaug.filtering.base import Filter, Judgement
from genaug.methods.real_guidance import GuidedEdits, start_for
from genaug.synthesis.images import Concatenation


def make(one, samples, folder, dataset=BIRDS):
    return one.make(samples, dataset, folder / "stores", SIDE, runner_in(folder / "stores"))


def test_the_paper_s_starts():
    assert [start_for(shots) for shots in (16, 8, 4, 2, 1)] == [0.15, 0.20, 0.35, 0.40, 0.50]


@pytest.mark.parametrize(("shots", "like"), [(3, 4), (5, 4), (6, 8), (11, 8), (12, 16), (15, 16), (30, 16), (1300, 16)])
def test_other_numbers_start_as_the_nearest_by_ratio(shots, like):
    assert start_for(shots) == start_for(like)


def test_every_edit_starts_at_one_level_and_all_sizes_share_batches(samples, tmp_path):
    painter = Painter(batch_size=3)
    made = make(GuidedEdits(painter, scale=2), samples, tmp_path)
    assert {asked.strength for asked in painter.asked} == {0.1}
    assert [len(asked.images) for asked in painter.asked] == [3, 3, 3, 1]  # of three sizes
    assert {image.shape for asked in painter.asked for image in asked.images} == {(24, 24, 3)}
    assert [read_image(one.path).shape[:2] for one in made.samples] == KEPT * 2
    assert Counter(job.prompt for job in made.jobs) == {"a photo of an azure jay": 6, "a photo of a green finch": 4}
    assert [one.label for one in made.samples] == [0, 1, 0, 1, 0] * 2


def test_the_fewer_images_of_a_class_the_more_noise(samples, tmp_path):
    """Three images of one class and two of the other; each is a batch of its own."""
    painter = Painter(batch_size=8)
    one = GuidedEdits(painter, scale=2, strength=None)
    stages = one.plan(samples, BIRDS, tmp_path / "stores")
    made = make(one, samples, tmp_path)
    assert [job.facts["strength"] for job in made.jobs] == [0.35, 0.40, 0.35, 0.40, 0.35] * 2
    assert {(job.facts["strength"], job.facts["start_timestep"]) for job in made.jobs} == {(0.35, 349), (0.40, 399)}
    assert sorted((asked.strength, len(asked.images)) for asked in painter.asked) == [(0.35, 6), (0.4, 4)]
    assert stages[-1].steps == sum(line["denoiser_steps"] for line in lines(made)) == 6 * round(3.5) + 4 * 4
    assert [job.seed for job in stages[-1].jobs] == [job.seed for job in made.jobs]
    assert made.report()["starts"] == {"0.35": 1, "0.4": 1}
    # With one image less the other class gets the start of one image; what is made of the first class stays.
    fewer = make(GuidedEdits(Painter(), scale=2, strength=None), samples[:3], tmp_path)
    assert [job.facts["strength"] for job in fewer.jobs] == [0.40, 0.50, 0.40] * 2
    three = make(GuidedEdits(Painter(), scale=1, strength=None), [samples[0], samples[2], samples[4]], tmp_path)
    assert keys(three) < keys(made)


def test_an_image_of_several_classes_starts_as_its_rarest(samples, tmp_path):
    several = [replace(one, label=(0, 1) if number == 0 else (0,)) for number, one in enumerate(samples)]
    dataset = SimpleNamespace(**{**vars(BIRDS), "multilabel": True})
    made = make(GuidedEdits(Painter(), scale=1, strength=None), several, tmp_path, dataset)
    assert [job.facts["strength"] for job in made.jobs] == [0.5, 0.35, 0.35, 0.35, 0.35]
    assert made.jobs[0].prompt == "a photo of an azure jay and a green finch"


def test_scales_are_nested_and_settings_make_other_images(samples, tmp_path):
    once = make(GuidedEdits(Painter()), samples, tmp_path)
    more = make(GuidedEdits(Painter(), scale=11), samples[::-1], tmp_path)
    assert keys(once) < keys(more)
    for change in ({"strength": 0.5}, {"strength": None}, {"prompt": "a satellite photo of {name}"}, {"seed": 1}):
        other = make(GuidedEdits(Painter(), **change), samples, tmp_path)
        assert not keys(other) & keys(once), change
        assert "seed" in change or other.store.root != once.store.root


class UnsureOfFinches(Filter):
    """Sees no more than half a finch."""

    name, settings = "stub", {}

    def judge(self, candidates, about):
        return [Judgement(one.label == 0, 0.9 if one.label == 0 else 0.5, "unsure") for one in candidates]


def test_training_sees_real_images_and_the_edits_that_the_filter_kept(samples, tmp_path):
    made = make(GuidedEdits(Painter(), scale=2, filters=[UnsureOfFinches()]), samples, tmp_path)
    assert made.report()["filters"]["stub"] == {"seen": 10, "dropped": 4, "reasons": {"unsure": 4}}
    source = Concatenation()(RealImages(samples, 2), made)
    assert [one.label for one in source.samples] == [0, 1, 0, 1, 0] + [0] * 6


@pytest.mark.parametrize("strength", [0, 1.5])
def test_wrong_levels_are_refused(strength):
    with pytest.raises(ValueError, match=rf"method\.synthesis\.strength={strength}"):
        GuidedEdits(Painter(), strength=strength)


def test_the_numbers_are_in_the_yamls():
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        usual, paper = (compose("config", [f"method=real_guidance{more}"]).method for more in ("", "_few_shot"))
    assert (usual.synthesis.strength, paper.synthesis.strength) == (0.1, None)
    assert [one["_target_"].rpartition(".")[2] for one in usual.synthesis.filters] == ["ClipClass"]
    assert (usual.synthesis.filters[0].factor, usual.synthesis.filters) == (1.0, paper.synthesis.filters)


@pytest.mark.cli
def test_it_runs_from_nothing_to_results(tiny_folder, tmp_path):
    done = run_cli(
        *tiny_folder.overrides(
            method="real_guidance_few_shot", method__scale=1, generator="tiny", subset__shots=4, protocol="last",
            trainer__max_steps=2, logger="none",
        ),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/real_guidance_few_shot/*/results.json")
    results = json.loads(file.read_text())
    judged = results["made"]["filters"]["clip_class"]
    assert (results["made"]["starts"], judged["seen"]) == ({"0.35": 3}, 12)
    assert results["train_images"] == 12 + 12 - judged["dropped"]
