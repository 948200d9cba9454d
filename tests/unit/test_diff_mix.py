"""Diff-Mix: what is drawn, told and labelled, with a painter whose work is known; and with a random diffusion model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from conftest import run_cli
from hydra import compose, initialize_config_dir
from PIL import Image
from renderers import runner_in

from genaug.data.base import Sample
from genaug.data.images import RealImages, target_of
from genaug.data.reading import read_image
from genaug.filtering.base import Filter, Judgement
from genaug.generation.base import Generator
from genaug.generation.diffusion import Diffusion
from genaug.generation.lora_training import FineTuning
from genaug.methods.diff_mix import DiffMix, soft_label
from genaug.synthesis.images import Replacement

BIRDS = SimpleNamespace(
    name="blobs",
    superclass="blob",
    superclasses=("blob", "blob", "dot"),
    channels=3,
    classes=("Azure Jay", "Green Finch", "Red Dot"),
    image_size=16,
)
SIDE = 24
SIZES = [(20, 32), (32, 20), (20, 32), (48, 64), (20, 32), (24, 24)]
NAMES = "a photo of a {name}"


class Painter(Generator):
    """Noise that follows from seed and prompt; every call is known afterwards. It can be told a LoRA and words."""

    batch_size = 3

    def __init__(self, bad: str = "-") -> None:
        self.bad = bad
        self.asked: list[SimpleNamespace] = []

    @property
    def settings(self):
        return {"paint": "oil"}

    def size_for(self, height, width):
        return -(-height // 8) * 8, -(-width // 8) * 8

    def denoiser_steps(self, call, strength=1.0):
        return round(10 * strength)

    def start_timestep(self, call, strength=1.0):
        return round(1000 * strength) - 1

    def text_to_image(self, prompts, seeds, size):
        return self._paint([np.zeros((*size, 3), np.uint8) for _ in prompts], prompts, seeds, None)

    def image_to_image(self, images, prompts, seeds, strength):
        return self._paint(images, prompts, seeds, strength)

    def _paint(self, images, prompts, seeds, strength):
        self.asked.append(SimpleNamespace(images=images, prompts=prompts, seeds=seeds, strength=strength))
        return [
            None if self.bad in prompt else np.random.default_rng(seed).integers(0, 256, image.shape).astype(np.uint8)
            for image, prompt, seed in zip(images, prompts, seeds, strict=True)
        ]


class Odd(Filter):
    """Stands in for CLIP: drops what is of a class."""

    name = "odd"
    settings: dict = {}

    def __init__(self, label: int) -> None:
        self.label = label

    def judge(self, candidates, about):
        return [Judgement(one.label != self.label, reason="odd" * (one.label == self.label)) for one in candidates]


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    """Noise: one image of class 0, two of class 1, three of class 2."""
    rng, made = np.random.default_rng(1), []
    (tmp_path / "sources").mkdir()
    for number, (size, label) in enumerate(zip(SIZES, (0, 1, 1, 2, 2, 2), strict=True)):
        path = tmp_path / "sources" / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
        made.append(Sample(path.name, path, label))
    return made


def many(counts: list[int]) -> list[Sample]:
    """Samples without files, so many of each class."""
    return [
        Sample(f"{label}/{n}.png", Path(f"{n}.png"), label) for label, count in enumerate(counts) for n in range(count)
    ]


def method(painter=None, **settings):
    return DiffMix(painter or Painter(), **({"prompt": NAMES, "scale": 1} | settings))


def make(one, samples, folder, dataset=BIRDS):
    return one.make(samples, dataset, folder / "stores", SIDE, runner_in(folder / "stores"))


def lines(made) -> list[dict]:
    return [json.loads(line) for line in (made.store.root / "metadata.jsonl").open()]


# --- what is drawn -------------------------------------------------------------------------------------------------


def test_sources_targets_and_strengths_are_uniform_and_independent():
    """Classes of 10, 40 and 150 images: 5 x 200 draws, far from the shares of the images."""
    counts = [10, 40, 150]
    drawn = [draw for seed in range(10) for draw in method(scale=5, seed=seed).draws(many(counts))]
    assert len(drawn) == 10 * 5 * 200
    sources, targets = Counter(one.source.label for one in drawn), Counter(one.target for one in drawn)
    pairs = Counter((one.source.label, one.target) for one in drawn)
    strengths = Counter((one.strength, one.target) for one in drawn)
    for counter, cells in ((sources, 3), (targets, 3), (pairs, 9), (strengths, 9)):
        expected = len(drawn) / cells
        assert len(counter) == cells
        assert max(abs(count - expected) for count in counter.values()) < 4 * expected**0.5
    same = sum(one.source.label == one.target for one in drawn) / len(drawn)
    assert same == pytest.approx(1 / 3, abs=0.02)  # 1 / C
    for label, count in enumerate(counts):  # any image of its class
        of_class = Counter(one.source.id for one in drawn if one.source.label == label)
        expected = sources[label] / count
        assert len(of_class) == count
        assert max(abs(found - expected) for found in of_class.values()) < 5 * expected**0.5


def test_each_draw_follows_from_seed_copy_and_number():
    five, two = method(scale=5).draws(many([3, 4])), method(scale=2).draws(many([3, 4]))
    assert five[: len(two)] == two
    assert [(one.copy, one.number) for one in two] == [(copy, number) for copy in (1, 2) for number in range(7)]
    assert method(scale=5).draws(many([3, 4])[::-1]) == five
    assert method(scale=5, seed=1).draws(many([3, 4])) != five


def test_strategies_share_their_sources():
    mix, aug, gen = (method(task=task, scale=20).draws(many([3, 4, 5])) for task in ("mix", "aug", "gen"))
    assert [one.source for one in mix] == [one.source for one in aug] == [one.source for one in gen]
    assert all(one.target == one.source.label for one in (*aug, *gen))
    assert [one.strength for one in mix] == [one.strength for one in aug]
    assert {one.strength for one in gen} == {1.0}
    assert {one.target for one in mix if one.source.label == 0} == {0, 1, 2}


def test_classes_without_images_are_neither_source_nor_target():
    drawn = method(scale=50).draws(many([2, 0, 3]))
    assert {one.source.label for one in drawn} == {one.target for one in drawn} == {0, 2}


def test_one_strength_is_a_fixed_one():
    assert {one.strength for one in method(strengths=[0.7], scale=9).draws(many([2, 2]))} == {0.7}


# --- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strength", "gamma", "of_target"),
    [
        (0.25, 0.5, 0.5),  # the root of a quarter
        (0.5, 0.5, 0.70710678),
        (0.7, 0.5, 0.83666003),
        (0.9, 0.5, 0.94868330),
        (0.9, 1.0, 0.9),
        (0.5, 2.0, 0.25),
        (1.0, 0.5, 1.0),
        (0.3, 0.8, 0.38168),  # exp(0.8 log 0.3)
        (0.7, 0.8, 0.75176),
    ],
)
def test_the_target_has_the_strength_to_the_power_of_gamma(strength, gamma, of_target):
    (source, rest), (target, share) = soft_label(2, 0, strength, gamma)
    assert (source, target) == (2, 0)
    assert share == pytest.approx(of_target, abs=1e-5)
    assert rest + share == pytest.approx(1)


def test_labels_of_the_published_code_sum_to_less():
    (_, rest), (_, share) = soft_label(2, 0, 0.9, 0.8, 0.9)
    assert share == pytest.approx(0.9 * 0.91916, abs=1e-5)
    assert rest + share == pytest.approx(0.9)
    assert soft_label(2, 2, 0.9, 0.8, 0.9) == ((2, 0.9),)
    assert soft_label(2, 2, 0.9, 0.8) == ()


def test_samples_have_their_labels_and_keep_their_images_under_another_rule(samples, tmp_path):
    painter = Painter()
    first = make(method(painter, scale=6), samples, tmp_path)
    asked = len(painter.asked)
    other = make(method(painter, scale=6, gamma=1.0, label_sum=0.9), samples, tmp_path)
    assert len(painter.asked) == asked  # the images are the same
    draws = method(scale=6).draws(samples)
    seen = set()
    for draw, one, again in zip(draws, first.samples, other.samples, strict=True):
        assert one.path == again.path
        assert one.label == draw.target
        row, scaled = np.zeros(3), np.zeros(3)
        row[draw.source.label] += 1 - draw.strength**0.5
        row[draw.target] += draw.strength**0.5
        scaled[draw.source.label] += 0.9 * (1 - draw.strength)
        scaled[draw.target] += 0.9 * draw.strength
        np.testing.assert_allclose(target_of(one, 3), row, atol=1e-6)
        np.testing.assert_allclose(target_of(again, 3), scaled, atol=1e-6)
        seen.add((draw.source.label == draw.target, draw.strength))
    assert len(seen) == 6
    drawn = RealImages(first.samples, 3).draw(0, np.random.default_rng(0))[1]
    np.testing.assert_array_equal(drawn, target_of(first.samples[0], 3))


@pytest.mark.parametrize("task", ["aug", "gen"])
def test_images_of_one_class_have_hard_labels(task, samples, tmp_path):
    made = make(method(task=task), samples, tmp_path)
    assert [one.soft_label for one in made.samples] == [()] * 6
    assert [one.label for one in made.samples] == [draw.target for draw in method(task=task).draws(samples)]


# --- what is asked for ---------------------------------------------------------------------------------------------


def shrunk(path: Path) -> np.ndarray:
    """A source as it should be given to a generator: halved where the short side is 48."""
    image = np.asarray(Image.open(path))
    return image if image.shape[0] != 48 else ((image.reshape(24, 2, 32, 2, 3).astype(int).sum((1, 3)) + 2) // 4)


def test_a_source_is_edited_with_the_name_of_the_target(samples, tmp_path):
    painter = Painter()
    made = make(method(painter, scale=4), samples, tmp_path)
    given = {
        seed: (image, prompt, asked.strength)
        for asked in painter.asked
        for seed, image, prompt in zip(asked.seeds, asked.images, asked.prompts, strict=True)
    }
    assert len(given) == 24
    for draw, job in zip(method(scale=4).draws(samples), made.jobs, strict=True):
        image, prompt, strength = given[job.seed]
        assert (image == shrunk(draw.source.path)).all()
        assert prompt == f"a photo of a {BIRDS.classes[draw.target].lower()}"
        assert strength == draw.strength
        assert read_image(made.store.image_path(job.key)).shape == image.shape
        record = made.store[job.key]
        assert record["sources"] == [draw.source.id]
        assert (record["class"], record["source_class"]) == (
            BIRDS.classes[draw.target], BIRDS.classes[draw.source.label],
        )  # fmt: skip
        assert (record["strength"], record["start_timestep"]) == (draw.strength, round(1000 * draw.strength) - 1)
        assert record["denoiser_steps"] == round(10 * draw.strength)
    assert all(len(asked.seeds) <= 3 for asked in painter.asked)


def test_images_from_words_alone(samples, tmp_path):
    painter = Painter()
    made = make(method(painter, task="gen", prompt="{superclass}: {name}"), samples, tmp_path)
    assert {image.shape for asked in painter.asked for image in asked.images} == {(16, 16, 3)}
    words = {0: "blob: azure jay", 1: "blob: green finch", 2: "dot: red dot"}
    assert [job.prompt for job in made.jobs] == [words[one.label] for one in made.samples]
    assert {job.sources for job in made.jobs} == {()}
    made.sheet(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()


def test_a_sheet_shows_source_target_and_strength(samples, tmp_path):
    made = make(method(), samples, tmp_path)
    draw, job = method().draws(samples)[0], made.jobs[0]
    ((title, image),) = made.show(job).items()
    source, target = (BIRDS.classes[label] for label in (draw.source.label, draw.target))
    assert title == f"{draw.strength}: {source} to {target}"
    assert (image == shrunk(draw.source.path)).all()
    made.sheet(tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size[0] > 0


def test_a_plan_counts_without_making_anything(samples, tmp_path):
    (images,) = method(scale=5).plan(samples, BIRDS, tmp_path / "stores")
    assert (images.name, images.count) == ("images", 30)
    assert images.steps == sum(round(10 * draw.strength) for draw in method(scale=5).draws(samples))
    assert not (tmp_path / "stores").exists()


# --- what is made again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["mix", "gen"])
def test_scales_are_nested(task, samples, tmp_path):
    once = make(method(task=task), samples, tmp_path)
    before = {one.id: one.path.read_bytes() for one in once.samples}
    painter = Painter()
    twice = make(method(painter, task=task, scale=2), samples, tmp_path)
    assert sum(len(asked.seeds) for asked in painter.asked) == 6  # the new ones
    assert [job.key for job in twice.jobs[:6]] == [job.key for job in once.jobs]
    idle = Painter()
    again = make(method(idle, task=task, scale=2), samples[::-1], tmp_path)
    assert (idle.asked, [job.key for job in again.jobs]) == ([], [job.key for job in twice.jobs])
    fresh = make(method(task=task, scale=2), samples, tmp_path / "fresh")
    assert before.items() <= {one.id: one.path.read_bytes() for one in fresh.samples}.items()


def test_every_setting_of_the_images_makes_other_images(samples, tmp_path):
    base = {job.key for job in make(method(), samples, tmp_path).jobs}
    for change in (
        {"seed": 1},
        {"prompt": "a sketch of a {name}"},
        {"task": "aug"},
        {"task": "gen"},
        {"strengths": [1]},
    ):
        other = make(method(**change), samples, tmp_path)
        assert not base & {job.key for job in other.jobs}, change
    Image.fromarray(np.full((20, 32, 3), 7, np.uint8)).save(samples[0].path)
    changed = make(method(), samples, tmp_path)
    moved = {job.sources[0] for job in changed.jobs if job.key not in base}
    assert moved == {"0.png"} & {job.sources[0] for job in changed.jobs}


def test_what_is_filtered_is_left_out_and_counted(samples, tmp_path):
    made = make(method(scale=5, filters=[Odd(1)]), samples, tmp_path)
    dropped = sum(draw.target == 1 for draw in method(scale=5).draws(samples))
    assert 0 < dropped < 30
    assert {one.label for one in made.samples} == {0, 2}
    assert len(made.samples) == len(made.sources) == 30 - dropped
    assert made.report()["filters"]["odd"]["dropped"] == dropped
    kept = [draw for draw in method(scale=5).draws(samples) if draw.target != 1]
    for draw, one, source in zip(kept, made.samples, made.sources, strict=True):
        assert source == draw.source.id
        expected = dict(soft_label(draw.source.label, draw.target, draw.strength, 0.5)) or {}
        assert dict(one.soft_label) == expected


def test_images_that_fail_are_reported_by_their_target(samples, tmp_path):
    report = make(method(Painter(bad="red"), scale=2), samples, tmp_path).report()
    failed = sum(draw.target == 2 for draw in method(scale=2).draws(samples))
    assert failed
    assert report["missing_by_class"] == {"Red Dot": failed}


# --- with a diffusion model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.save_sd15(tmp_path_factory.mktemp("model"))


def tuned(model, task="mix", steps=3, **settings):
    generator = Diffusion(str(model), steps=4, size=32, batch_size=2, fill_batches=False)
    learning = FineTuning(rank=2, steps=steps, batch_size=2, learning_rate=0.1, word_learning_rate=0.1)
    given = {"prompt": "a photo of a {token} {superclass}", "strengths": [0.7]} | settings
    return DiffMix(generator, learning, task, **{"scale": 1, **given})


def test_the_generator_is_fine_tuned_once_and_its_words_are_used(model, samples, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    one = tuned(model)
    assert [stage.name for stage in one.plan(samples, BIRDS, tmp_path)] == ["fine-tuning", "images"]
    assert one.plan(samples, BIRDS, tmp_path)[0].steps == 6
    made = make(one, samples, tmp_path)
    superclasses = ("blob", "blob", "dot")
    for draw, job in zip(one.draws(samples), made.jobs, strict=True):
        assert job.prompt == f"a photo of a <class_{draw.target}> {superclasses[draw.target]}"
    report = made.report()["finetuning"]
    assert (report["words"], report["pictures"], report["steps"]) == (3, 6, 3)
    assert one.generator._loaded is None
    (adapter,) = (tmp_path / "stores" / "adapters").glob("*/")
    assert all(job.inputs[1] == adapter.name for job in made.jobs)
    monkeypatch.setattr(FineTuning, "learn", lambda *given: pytest.fail("learned again"))
    for task in ("aug", "gen"):
        other = make(tuned(model, task), samples, tmp_path)  # a sibling finds it
        assert len(other.samples) == 6
    monkeypatch.setattr(Diffusion, "load", lambda *given: pytest.fail("loaded"))
    assert [job.key for job in make(tuned(model), samples, tmp_path).jobs] == [job.key for job in made.jobs]


def test_fine_tuning_is_seen_in_the_images(model, samples, tmp_path):
    torch.set_num_threads(1)
    first, second = (make(tuned(model, steps=steps), samples, tmp_path) for steps in (1, 4))
    for one, other in zip(first.samples, second.samples, strict=True):
        assert one.label == other.label
        assert (read_image(one.path) != read_image(other.path)).any()
    assert first.store.root != second.store.root


# --- the view ------------------------------------------------------------------------------------------------------


def test_a_real_image_gives_way_to_any_synthetic_one_a_tenth_of_the_time(samples, tmp_path):
    made = make(method(scale=2), samples, tmp_path)
    real = RealImages(samples, 3)
    source = Replacement(p=0.1, pool="all")(real, made)
    assert len(source) == len(real)
    assert [one.id for one in source.samples] == [one.id for one in samples]
    pictures = {read_image(one.path).tobytes(): ("real", one) for one in samples}
    pictures |= {read_image(one.path).tobytes(): ("made", one) for one in made.samples}
    rng, seen = np.random.default_rng(0), Counter()
    for index in [0, 3] * 3000:
        image, target = source.draw(index, rng)
        kind, one = pictures[image.tobytes()]
        seen[kind, one.id] += 1
        np.testing.assert_array_equal(target, target_of(one, 3))
        assert kind == "made" or one.id == samples[index].id
    replaced = {name: count for (kind, name), count in seen.items() if kind == "made"}
    assert sum(replaced.values()) / 6000 == pytest.approx(0.1, abs=0.015)
    assert len(replaced) == 12  # of whatever source and class
    assert max(abs(count - 50) for count in replaced.values()) < 35


def test_where_nothing_was_kept_the_real_image_stays(samples):
    source = Replacement(p=1.0, pool="all")(RealImages(samples, 3), SimpleNamespace(samples=[], sources=[]))
    image, _ = source.draw(0, np.random.default_rng(0))
    assert (image == read_image(samples[0].path)).all()


# --- settings and errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0}, "method.scale=0"),
        ({"scale": 1.5}, "method.scale=1.5"),
        ({"task": "mixup"}, "task='mixup' is not known: choose one of mix, aug, gen"),
        ({"strengths": []}, r"strengths=\[\] must be noise levels"),
        ({"strengths": [0.5, 0.0]}, r"must be noise levels in \(0, 1\]"),
        ({"strengths": [1.2]}, "must be noise levels"),
        ({"gamma": 0.0}, "gamma=0.0 must be above 0"),
        ({"label_sum": 0.0}, "label_sum=0.0 must be in"),
        ({"label_sum": 1.1}, "label_sum=1.1 must be in"),
        ({"prompt": "{token}"}, "with a finetuning {token}"),
        ({"prompt": "{place}"}, "use {name} and {superclass}"),
        ({"prompt": "{"}, "cannot be filled in"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        method(**settings)


def test_generators_and_data_it_is_not_made_for_are_refused(samples, tmp_path):
    painter = Painter()
    painter.calls = ("text_to_image",)
    with pytest.raises(ValueError, match="Painter offers text_to_image, and this method needs image_to_image"):
        method(painter)
    assert method(painter, task="gen").call == "text_to_image"
    with pytest.raises(ValueError, match="Painter is none"):
        method(finetuning=FineTuning()).plan(samples, BIRDS, tmp_path)
    several = [Sample("a.png", samples[0].path, (0, 1))]
    with pytest.raises(ValueError, match="may show several"):
        method().plan(several, BIRDS, tmp_path)
    grey = SimpleNamespace(**vars(BIRDS) | {"channels": 1})
    with pytest.raises(ValueError, match="dataset.channels=3"):
        make(method(), samples, tmp_path, grey)


# --- presets -------------------------------------------------------------------------------------------------------


CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("name", "task", "tuned"),
    [
        ("diff_mix", "mix", True),
        ("diff_aug", "aug", True),
        ("diff_gen", "gen", True),
        ("real_mix", "mix", False),
        ("real_aug", "aug", False),
        ("real_gen", "gen", False),
    ],
)
def test_strategies_differ_in_what_they_should(name, task, tuned):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"method={name}", "generator=sd15"])
    settings = cfg.method.synthesis
    assert settings.task == task
    assert (settings.finetuning is not None) == tuned
    assert ("{token}" in settings.prompt) == tuned
    assert (cfg.method.name, cfg.method.scale, settings.gamma, settings.label_sum) == (name, 5, 0.5, 1.0)
    assert settings.strengths == [0.5, 0.7, 0.9]
    assert (cfg.method.view.p, cfg.method.view.pool) == (0.1, "all")
    assert [one["drop"] for one in settings.filters] == [0.1]
    assert cfg.finetuning.steps == 35000


def test_the_published_code_draws_and_labels_otherwise():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["method=diff_mix_published_code"])
    settings = cfg.method.synthesis
    assert settings.strengths == [0.3, 0.5, 0.7, 0.9]
    assert (settings.gamma, settings.label_sum, list(settings.filters)) == (0.8, 0.9, [])
    assert cfg.finetuning.steps < 1000  # the tiny generator brings its own


@pytest.mark.cli
def test_from_the_command_line_to_results(tiny_folder, model, tmp_path):
    command = tiny_folder.overrides(
        method="diff_mix", generator="sd15", generator__model=model, generator__size=32, generator__dtype="float32",
        generator__variant="null", generator__steps=3, generator__transparency="null", finetuning__steps=2,
        finetuning__batch_size=2, method__scale=1, method__synthesis__filters="[]", method__view__p=0.5,
        recipe__epochs=1, protocol="last", logger="none",
    )  # fmt: skip
    done = run_cli(*command, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/diff_mix/*/results.json")
    made = json.loads(file.read_text())["made"]
    assert made["images"] == made["planned"] == 36
    assert made["finetuning"]["steps"] == 2
    assert list((tmp_path / "stores" / "adapters").glob("*/pytorch_lora_weights.safetensors"))
