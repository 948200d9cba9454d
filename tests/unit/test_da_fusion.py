"""DA-Fusion: words from whole photographs, a noise level for each edit, and a photograph's own edits in its place."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from conftest import REPOSITORY, run_cli
from hydra import compose, initialize_config_dir
from PIL import Image
from renderers import runner_in
from test_per_source import BIRDS, KEPT, SIDE, Painter, keys, lines, shrunk
from test_per_source import samples as samples  # the fixture

from genaug.data.images import RealImages
from genaug.data.reading import read_image
from genaug.generation.diffusion import Diffusion
from genaug.generation.textual_inversion import TextualInversion
from genaug.methods.da_fusion import WholeImageEdits
from genaug.segmentation.annotated import Annotated
from genaug.synthesis.images import Replacement

LEVELS = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """A random model in the shape of Stable Diffusion 1.5."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Diffusion(str(tiny_models.save_sd15(tmp_path_factory.mktemp("sd15"))), steps=4, size=32, batch_size=4)
    torch.set_num_threads(before)


def inversion(**settings) -> TextualInversion:
    return TextualInversion(**({"steps": 2, "batch_size": 2, "truncated": False, "prompts": ["a {}"]} | settings))


def make(one, samples, folder, dataset=BIRDS):
    return one.make(samples, dataset, folder / "stores", SIDE, runner_in(folder / "stores"))


# --- noise levels ----------------------------------------------------------------------------------------------------


def test_every_edit_starts_at_one_of_four_levels_all_as_likely(samples, tmp_path):
    made = WholeImageEdits(Painter(), scale=80).plan(samples, BIRDS, tmp_path)[-1]
    counts = Counter(job.facts["strength"] for job in made.jobs)
    assert set(counts) == set(LEVELS)
    assert all(abs(count - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    by_image = {
        sample.id: [job.facts["strength"] for job in made.jobs if job.sources == (sample.id,)] for sample in samples
    }
    assert len({tuple(levels) for levels in by_image.values()}) == 5
    other = WholeImageEdits(Painter(), scale=80, seed=1).plan(samples, BIRDS, tmp_path)[-1]
    assert [job.facts["strength"] for job in other.jobs] != [job.facts["strength"] for job in made.jobs]


def test_levels_cost_what_they_take_and_never_share_a_batch(samples, tmp_path):
    painter = Painter(batch_size=3)
    one = WholeImageEdits(painter, scale=8)
    (stage,) = one.plan(samples, BIRDS, tmp_path / "stores")
    made = make(one, samples, tmp_path)
    wanted = {job.seed: job.facts["strength"] for job in made.jobs}
    for asked in painter.asked:
        assert {wanted[seed] for seed in asked.seeds} == {asked.strength}
    assert [job.steps for job in made.jobs] == [round(10 * job.facts["strength"]) for job in made.jobs]
    assert [job.facts["start_timestep"] for job in made.jobs] == [
        round(1000 * job.facts["strength"]) - 1 for job in made.jobs
    ]
    assert stage.steps == sum(job.steps for job in made.jobs) == made.report()["ledger"]["images"]["denoiser_steps"]
    counts = Counter(wanted.values())
    assert len(painter.asked) == sum(-(-count // 3) for count in counts.values())  # sizes share batches, levels do not


def test_more_edits_contain_fewer_with_their_levels(samples, tmp_path):
    few = make(WholeImageEdits(Painter(), scale=3), samples, tmp_path)
    painter = Painter()
    many = make(WholeImageEdits(painter, scale=5), samples[::-1], tmp_path)
    assert keys(few) < keys(many)
    assert sum(len(asked.seeds) for asked in painter.asked) == 10
    alone = make(WholeImageEdits(Painter(), scale=5), samples[2:3], tmp_path)
    assert keys(alone) == {job.key for job in many.jobs if job.sources == ("2.png",)}


def test_one_level_alone_is_possible(samples, tmp_path):
    painter = Painter()
    make(WholeImageEdits(painter, scale=1, strengths=[0.5]), samples, tmp_path)
    assert {asked.strength for asked in painter.asked} == {0.5}


# --- photographs -----------------------------------------------------------------------------------------------------


def test_photographs_are_squeezed_to_a_square_and_come_back(samples, tmp_path):
    painter = Painter()
    made = make(WholeImageEdits(painter, scale=1), samples, tmp_path)
    assert {image.shape for asked in painter.asked for image in asked.images} == {(24, 24, 3)}
    assert [read_image(one.path).shape[:2] for one in made.samples] == KEPT
    assert [one.label for one in made.samples] == [0, 1, 0, 1, 0]
    assert [job.prompt for job in made.jobs[:2]] == ["a photo of a azure jay", "a photo of a green finch"]


def test_every_setting_makes_other_images(samples, tmp_path):
    base = make(WholeImageEdits(Painter(), scale=2), samples, tmp_path)
    changes = [
        {"seed": 1},
        {"prompt": "a {token}"},
        {"strengths": LEVELS[:3]},
        {"initial_word": None},
        {"mask": "object", "segmenter": Annotated()},
        {"mask": "background", "segmenter": Annotated()},
    ]
    for change in changes:
        other = make(WholeImageEdits(Painter(), scale=2, **change), samples, tmp_path)
        assert not keys(other) & keys(base), change
        assert "seed" in change or other.store.root != base.store.root, change


def grown(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Every pixel whose centre is near one of the mask's, one by one."""
    own = np.argwhere(mask)
    found = np.zeros_like(mask)
    for place in np.ndindex(mask.shape):
        found[place] = (((own - place) ** 2).sum(axis=1) <= pixels**2 + 1e-3).any()
    return found


@pytest.mark.parametrize("part", ["object", "background"])
def test_only_the_part_that_is_wanted_is_painted_over(part, samples, tmp_path):
    # Masks of the paper's size: a 64th of a side of 64 pixels is one.
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (70, 64, 3)).astype(np.uint8)).save(samples[0].path)
    mask = np.zeros((70, 64), np.uint8)
    mask[20:40, 30:50] = 255
    Image.fromarray(mask).save(samples[0].mask)
    one = WholeImageEdits(Painter(), scale=1, mask=part, segmenter=Annotated())
    made = one.make(samples[:1], BIRDS, tmp_path / "stores", 64, runner_in(tmp_path / "stores"))
    source, result = read_image(samples[0].path), read_image(made.samples[0].path)
    painted = grown(mask > 0, 1) == (part == "object")
    assert (result[~painted] == source[~painted]).all()
    assert (result[painted] != source[painted]).any(axis=-1).mean() > 0.95
    assert made.report()["masks"]["n"] == 1


def test_without_an_object_nothing_is_painted_over(samples, tmp_path):
    Image.fromarray(np.zeros(KEPT[1], np.uint8)).save(samples[1].mask)
    made = make(WholeImageEdits(Painter(), scale=2, mask="object", segmenter=Annotated()), samples, tmp_path)
    assert {job.sources[0] for job in made.jobs} == {"0.png", "2.png", "3.png", "4.png"}
    report = made.report()
    assert (report["without_subject"], report["without_subject_by_class"]) == (1, {"Green Finch": 1})
    stages = WholeImageEdits(Painter(), mask="object", segmenter=Annotated()).plan(samples, BIRDS, tmp_path)
    assert [(stage.name, stage.count) for stage in stages] == [("masks", 5), ("images", 50)]


# --- words -----------------------------------------------------------------------------------------------------------


class Listed(TextualInversion):
    """Says what was learned: call, word, what from, latents, and up to where."""

    def __init__(self, **settings):
        super().__init__(steps=2, batch_size=2, truncated=False, prompts=["a {}"], **settings)
        self.learned: list[tuple] = []

    def learn(self, generator, call, token, word, latents, last_timestep, seed):
        self.learned.append((call, token, word, tuple(latents.shape), last_timestep))
        return super().learn(generator, call, token, word, latents, last_timestep, seed)


def test_words_are_learned_once_from_whole_photographs(diffusion, samples, tmp_path):
    lesson = Listed()
    one = WholeImageEdits(diffusion, lesson, scale=2, prompt="a {token}")
    stages = one.plan(samples, BIRDS, tmp_path / "stores")
    assert [(stage.name, stage.count) for stage in stages] == [("words", 2), ("images", 10)]
    assert stages[0].steps == 2 * 2 * 2
    assert lesson.learned == []
    made = make(one, samples, tmp_path)
    # Three photographs of one class and two of the other, and their mirror images; 32 pixels are 16 of latents.
    assert sorted(lesson.learned) == [
        ("image_to_image", "<azure-jay>", "the", (6, 4, 16, 16), 999),
        ("image_to_image", "<green-finch>", "the", (4, 4, 16, 16), 999),
    ]
    assert [job.prompt for job in made.jobs] == ["a <azure-jay>", "a <green-finch>"] * 2 + ["a <azure-jay>"] + [
        "a <azure-jay>", "a <green-finch>",
    ] * 2 + ["a <azure-jay>"]  # fmt: skip
    assert made.report()["words"]["words"] == 2
    assert stages[1].steps == sum(job.steps for job in made.jobs)
    again = make(WholeImageEdits(diffusion, lesson, scale=2, prompt="a {token}"), samples, tmp_path)
    assert (len(lesson.learned), keys(again)) == (2, keys(made))
    # Another photograph of a class: another word, and other edits of all of its class, and of it alone.
    pixels = np.array(Image.open(samples[1].path))
    pixels[0] ^= 255
    Image.fromarray(pixels).save(samples[1].path)
    changed = make(WholeImageEdits(diffusion, lesson, scale=2, prompt="a {token}"), samples, tmp_path)
    assert [learned[1] for learned in lesson.learned[2:]] == ["<green-finch>"]
    assert {job.sources[0] for job in changed.jobs if job.key not in keys(made)} == {"1.png", "3.png"}


def test_learning_may_start_from_the_name_and_an_image_may_have_two_words(diffusion, samples, tmp_path):
    several = [replace(one, label=(0, 1) if number == 0 else (number % 2,)) for number, one in enumerate(samples)]
    dataset = SimpleNamespace(**{**vars(BIRDS), "multilabel": True})
    one = WholeImageEdits(diffusion, inversion(), scale=1, prompt="a {token}", initial_word=None)
    asked = {request.token: (request.word, len(request.keys)) for request in one.requests(several, dataset)}
    assert asked == {"<azure-jay>": ("azure jay", 3), "<green-finch>": ("green finch", 3)}
    (picture, *_), *_ = [request.pictures() for request in one.requests(several, dataset)]
    assert picture.shape == (32, 32, 3)
    (*_, images) = one.plan(several[:1], dataset, tmp_path)
    assert [job.prompt for job in images.jobs] == ["a <azure-jay> and <green-finch>"]


def test_the_pictures_of_a_word_are_the_photographs_with_all_around(diffusion, samples):
    one = WholeImageEdits(diffusion, inversion())
    pictures = one.requests(samples, BIRDS)[0].pictures()
    mean = [np.asarray(Image.open(sample.path), float).mean() for sample in samples[::2]]
    assert [picture.mean() for picture in pictures] == pytest.approx(mean, abs=2)


# --- training --------------------------------------------------------------------------------------------------------


def test_a_photograph_gives_way_to_its_own_edits_that_were_kept(samples, tmp_path):
    """Of finches nothing can be used, so they are always themselves."""
    made = make(WholeImageEdits(Painter(bad="finch"), scale=2), samples, tmp_path)
    source = Replacement(p=0.5, pool="own")(RealImages(samples, 2), made)
    assert len(source) == 5
    for index, sample in enumerate(samples):
        edits = [read_image(one.path) for one, of in zip(made.samples, made.sources, strict=True) if of == sample.id]
        seen = Counter()
        for seed in range(100):
            image, label = source.draw(index, np.random.default_rng(seed))
            (number,) = [n for n, known in enumerate([read_image(sample.path), *edits]) if same(known, image)]
            assert label.tolist() == [float(sample.label == 0), float(sample.label == 1)]
            seen[number] += 1
        if sample.label == 1:
            assert (edits, seen) == ([], {0: 100})
        else:
            assert 30 <= seen[0] <= 70
            assert min(seen[1], seen[2]) >= 8


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def test_the_sheet_shows_the_photograph_under_its_prompt(samples, tmp_path):
    made = make(WholeImageEdits(Painter(), scale=1), samples, tmp_path)
    ((prompt, image),) = made.show(made.jobs[1]).items()
    assert prompt == "a photo of a green finch"
    assert same(image, shrunk(samples[1])[0])
    assert {line["prompt"] for line in lines(made)} == {"a photo of a azure jay", prompt}


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_paper_s_numbers_are_in_the_yamls():
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("config", ["method=da_fusion", "generator=sd15"])
        tiny = compose("config", ["method=da_fusion"])
        chosen = compose("config", ["method=da_fusion", "generator=sd15", "inversion=deda"])
        other = compose("config", ["method=deda", "generator=sd15"])
    assert (cfg.method.scale, tuple(cfg.method.synthesis.strengths), cfg.method.synthesis.initial_word) == (
        10, LEVELS, "the",
    )  # fmt: skip
    assert (cfg.method.view.p, cfg.method.view.pool) == (0.5, "own")
    words = cfg.inversion
    assert (words.vectors, words.steps, words.batch_size, words.learning_rate) == (1, 1000, 4, 4 * 5e-4)
    assert (words.truncated, words.mirror, len(set(words.prompts))) == (False, True, 27)
    assert (tiny.inversion.steps, chosen.inversion.steps, other.inversion.steps) == (40, 400, 400)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strengths": []}, r"strengths=\[\]"),
        ({"strengths": [0.5, 0]}, r"strengths=\[0\.5, 0\]"),
        ({"strengths": [1.5]}, r"strengths=\[1\.5\]"),
        ({"prompt": "a photo of a {name}"}, r"must have \{token\}"),
        ({"prompt": "a {token} {bird}"}, "cannot be filled in"),
        ({"mask": "subject"}, "choose object, background or null"),
        ({"mask": "object"}, "needs method.synthesis.segmenter"),
        ({"scale": 0}, r"method\.scale=0"),
    ],
)
def test_wrong_arguments_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        WholeImageEdits(Painter(), **settings)


def test_a_generator_that_learns_no_words_is_refused_before_anything_is_made(samples, tmp_path):
    with pytest.raises(ValueError, match="words are learned for diffusion models; Painter is none"):
        WholeImageEdits(Painter(), inversion()).plan(samples, BIRDS, tmp_path)


@pytest.mark.cli
def test_it_runs_from_nothing_to_results(tiny_folder, tmp_path):
    done = run_cli(
        *tiny_folder.overrides(
            method="da_fusion", method__scale=1, generator="tiny", generator__steps=4, inversion__steps=1,
            protocol="last", trainer__max_steps=2, logger="none",
        ),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/da_fusion/*/results.json")
    results = json.loads(file.read_text())
    assert (results["made"]["images"], results["made"]["words"]["words"], results["train_images"]) == (36, 3, 36)
