"""DiffuseMix: halves and seam pixel by pixel, the fractal over them, and which image gets which styles."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import tiny_models
from conftest import REPOSITORY, run_cli
from hydra import compose, initialize_config_dir
from renderers import runner_in
from test_per_source import BIRDS, KEPT, SIDE, keys, lines, shrunk
from test_per_source import Painter as AnyPainter
from test_per_source import samples as samples  # the fixture

from genaug.data.images import RealImages
from genaug.data.reading import read_image
from genaug.functional.fractals import fractal
from genaug.functional.halves import blend, half_weights
from genaug.generation.instruct_pix2pix import InstructPix2Pix
from genaug.methods.diffusemix import STYLES, StyledHalves
from genaug.synthesis.images import Concatenation


class Painter(AnyPainter):
    """One that paints ukiyo-e, too."""

    def __init__(self, **settings):
        super().__init__(**({"bad": "nothing"} | settings))


HALVES = ("left", "right", "top", "bottom")


def make(one, samples, folder):
    return one.make(samples, BIRDS, folder / "stores", SIDE, runner_in(folder / "stores"))


def edit_of(job, size) -> np.ndarray:
    """What :class:`Painter` makes of a source of SIDE x SIDE, brought back to the source's size."""
    import cv2

    noise = np.random.default_rng(job).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    shrinks = size[0] * size[1] < SIDE * SIDE
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


# --- two halves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        ("left", [[0, 0, 1, 1]] * 2),
        ("right", [[1, 1, 0, 0]] * 2),
        ("top", [[0] * 4, [1] * 4]),
        ("bottom", [[1] * 4, [0] * 4]),
    ],
)
def test_masks_of_the_paper_by_hand(half, expected):
    assert half_weights(2, 4, half).tolist() == expected


def test_of_an_odd_side_the_middle_is_the_edit_s():
    assert half_weights(1, 5, "left")[0].tolist() == [0, 0, 1, 1, 1]
    assert half_weights(1, 5, "right")[0].tolist() == [1, 1, 1, 0, 0]


def test_the_published_seam_by_hand():
    """20 pixels of 256, from 118 to 137: all the original at the first, all the edit at the last."""
    row = half_weights(1, 256, "left", seam=20 / 256)[0]
    assert (row[:119] == 0).all()
    assert row[119:137].tolist() == pytest.approx([step / 19 for step in range(1, 19)])
    assert (row[137:] == 1).all()
    column = half_weights(512, 3, "top", seam=20 / 256)  # twice as large, so twice as wide
    assert (column[:237] == 0).all()
    assert (column[275:] == 1).all()
    assert 0 < column[237, 0] < column[274, 0] < 1
    assert (column == column[:, :1]).all()


def test_blends_are_rounded_and_not_cut_off():
    one, other = np.array([[[10, 11, 12]]], np.uint8), np.array([[[20, 255, 0]]], np.uint8)
    assert blend(one, other, 0.25)[0, 0].tolist() == [12, 72, 9]  # 12.5, 72 and 9; a half goes to the even number
    assert blend(one, other, np.array([[1.0]]))[0, 0].tolist() == [20, 255, 0]


@pytest.mark.parametrize(("half", "seam", "said"), [("middle", 0, "not 'middle'"), ("left", 1.5, "seam=1.5")])
def test_wrong_halves_are_refused(half, seam, said):
    with pytest.raises(ValueError, match=said):
        half_weights(4, 4, half, seam)


# --- what is made ----------------------------------------------------------------------------------------------------


def test_half_of_each_image_is_its_own_to_the_bit_and_the_other_the_edit_s(samples, tmp_path):
    made = make(StyledHalves(Painter(), scale=6, fractal=0.0), samples, tmp_path)
    assert len(made.samples) == 30
    sources = {sample.id: shrunk(sample)[0] for sample in samples}
    seen = Counter()
    for job, one in zip(made.jobs, made.samples, strict=True):
        source, result = sources[job.sources[0]], read_image(one.path)
        height, width = source.shape[:2]
        edit = edit_of(made_edit(made, job)["seed"], (height, width))
        own = {
            "left": np.s_[:, : width // 2],
            "right": np.s_[:, -(width // 2) :],
            "top": np.s_[: height // 2],
            "bottom": np.s_[-(height // 2) :],
        }[job.facts["original"]]
        expected = edit.copy()
        expected[own] = source[own]
        assert (result == expected).all()
        assert one.label == samples[int(one_source(job)[0])].label
        seen[job.facts["original"]] += 1
    assert set(seen) == set(HALVES)
    assert [read_image(one.path).shape[:2] for one in made.samples] == KEPT * 6


def one_source(job) -> str:
    (source,) = job.sources
    return source


def made_edit(made, job) -> dict:
    """Record of the edit in a hybrid."""
    (store,) = [root for root in made.store.root.parent.iterdir() if "image_to_image" in root.name]
    (line,) = [line for line in map(json.loads, (store / "metadata.jsonl").open()) if line["key"] == job.facts["edit"]]
    return line


def test_a_fifth_of_every_pixel_is_a_fractal_of_its_own(samples, tmp_path):
    plain = make(StyledHalves(Painter(), scale=1, fractal=0.0), samples, tmp_path)
    made = make(StyledHalves(Painter(), scale=1), samples, tmp_path)
    for job, one, before in zip(made.jobs, made.samples, plain.samples, strict=True):
        hybrid, result = read_image(before.path).astype(float), read_image(one.path)
        over = fractal(job.seed, *result.shape[:2]).astype(float)
        assert np.abs(0.8 * hybrid + 0.2 * over - result).max() < 0.51
    assert len({job.seed for job in made.jobs}) == 5


def test_other_halves_and_fractals_take_no_denoising(samples, tmp_path):
    base = make(StyledHalves(Painter(), scale=2), samples, tmp_path)
    for change in ({"fractal": 0.4}, {"seam": 0.1}, {"halves": ("left", "top")}):
        idle = Painter()
        other = make(StyledHalves(idle, scale=2, **change), samples, tmp_path)
        assert (idle.asked, idle.devices) == ([], []), change
        assert not keys(other) & keys(base)
        assert other.store.root != base.store.root
    assert {job.facts["original"] for job in other.jobs} == {"left", "top"}
    for change in ({"styles": ("autumn", "snowy")}, {"prompt": "{style}"}, {"strength": 0.3}, {"seed": 1}):
        other = make(StyledHalves(Painter(), scale=2, **change), samples, tmp_path)
        assert not keys(other) & keys(base), change


def test_black_edits_are_made_again_and_white_ones_too(samples, tmp_path):
    """A hybrid of a black edit is not black: the edit is what has to be looked at."""

    class Fading(Painter):
        worst = 0

        def _paint(self, images, prompts, seeds, strength):
            made = super()._paint(images, prompts, seeds, strength)
            for image, seed in zip(made, seeds, strict=True):
                if seed % 3 < 2:  # those with this seed, and its retries by theirs
                    image[:] = self.worst
            return made

    for worst, said in ((0, "black"), (255, "constant")):
        painter = Fading(colours=said)
        painter.worst = worst
        made = make(StyledHalves(painter, scale=4), samples, tmp_path)
        report = made.report()
        rejected = report["ledger"]["images"]["rejected"]
        assert set(rejected) == {said}
        assert rejected[said] > 0
        assert report["images"] + report["verdicts"].get("an input could not be made", 0) == report["planned"] == 20
        for job in made.jobs:
            assert made_edit_of(made, job, painter) % 3 == 2


def made_edit_of(made, job, painter) -> int:
    """The seed that the edit in a hybrid was made with at last."""
    from genaug.seeding import derive

    root = next(
        root
        for root in made.store.root.parent.iterdir()
        if "image_to_image" in root.name and (root / f"{job.facts['edit'][:2]}/{job.facts['edit']}.png").exists()
    )
    records = [json.loads(line) for file in root.glob("records/*") for line in file.read_text().splitlines() if line]
    (record,) = [record for record in records if record["key"] == job.facts["edit"]]
    tries = record["attempts"] - 1
    return record["seed"] if not tries else derive(record["seed"], "retry", tries)


# --- styles ----------------------------------------------------------------------------------------------------------


def styles(made) -> dict[str, list[str]]:
    """Styles of the copies of each image, in their order."""
    found: dict[str, list[str]] = {}
    for job in made.jobs:
        assert job.prompt == f"A transformed version of image into {job.facts['style']}"
        found.setdefault(job.sources[0], []).append(job.facts["style"])
    return found


def test_nine_prompts_make_nine_images_of_each_one_a_prompt(samples, tmp_path):
    made = make(StyledHalves(Painter()), samples, tmp_path)
    assert len(made.jobs) == 45
    assert all(sorted(one) == sorted(STYLES) for one in styles(made).values())
    assert len({tuple(one) for one in styles(made).values()}) == 5  # in an order of its own
    source = Concatenation()(RealImages(samples, 2), made)
    assert len(source) == 5 * (1 + 9)


def test_fewer_prompts_are_among_those_of_more(samples, tmp_path):
    thrice = make(StyledHalves(Painter(), scale=3), samples, tmp_path)
    painter = Painter()
    more = make(StyledHalves(painter, scale=11), samples[::-1], tmp_path)
    assert keys(thrice) < keys(more)
    assert sum(len(asked.seeds) for asked in painter.asked) == 5 * 8
    for one in styles(thrice).values():
        assert len(set(one)) == 3
    for sample, one in styles(more).items():
        assert one[:3] == styles(thrice)[sample]
        assert sorted(one[:9]) == sorted(STYLES)
        assert len(set(one[9:])) == 2  # after all have come, they come again
    assert len({one.path.read_bytes() for one in more.samples}) == 55


def test_the_plan_counts_edits_and_hybrids_and_makes_nothing(samples, tmp_path):
    painter = Painter()
    one = StyledHalves(painter, scale=2)
    edits, hybrids = one.plan(samples, BIRDS, tmp_path / "stores")
    assert (edits.name, edits.count, edits.steps) == ("images", 10, 10 * 4)
    assert (hybrids.name, hybrids.count, hybrids.steps) == ("hybrids", 10, 0)
    assert (painter.asked, (tmp_path / "stores").exists()) == ([], False)
    made = make(one, samples, tmp_path)
    report = made.report()
    assert report["cost"]["images"]["denoiser_steps"] == edits.steps
    assert (report["ledger"]["images"]["images"], report["ledger"]["hybrids"]["images"]) == (10, 10)
    assert [job.prompt for job in edits.jobs] == [job.prompt for job in made.jobs]
    assert {line["strength"] for line in lines(made)} == {0.4}
    shown = made.show(made.jobs[0])
    assert list(shown) == ["original", made.jobs[0].prompt]
    assert (shown["original"] == shrunk(samples[0])[0]).all()


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_paper_s_numbers_are_in_the_yamls():
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        paper = compose("config", ["method=diffusemix"]).method
        code = compose("config", ["method=diffusemix_published_code"]).method
    assert (paper.scale, tuple(paper.synthesis.styles), paper.synthesis.fractal) == (9, STYLES, 0.2)
    assert (tuple(paper.synthesis.halves), paper.synthesis.seam) == (HALVES, 0)
    assert (code.synthesis.prompt, list(code.synthesis.halves)) == ("{style}", ["left", "top"])
    assert code.synthesis.seam * 256 == 20


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"styles": []}, "styles"),
        ({"prompt": "a photo"}, "style"),
        ({"prompt": "{style} {bird}"}, "cannot be filled in"),
        ({"halves": []}, "halves"),
        ({"halves": ["left", "middle"]}, "left, right, top, bottom"),
        ({"seam": 1.1}, r"seam=1\.1"),
        ({"fractal": -0.1}, r"fractal=-0\.1"),
        ({"scale": 0}, r"method\.scale=0"),
    ],
)
def test_wrong_arguments_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        StyledHalves(Painter(), **settings)


def test_instructpix2pix_is_asked_at_its_only_strength(samples, tmp_path):
    model = tiny_models.save_pix2pix(tmp_path / "model")
    generator = InstructPix2Pix(str(model), steps=2, guidance=4, size=32, batch_size=4)
    made = make(StyledHalves(generator, scale=1), samples[:3], tmp_path)
    assert {line["strength"] for line in lines(made)} == {1.0}
    assert {line["denoiser_steps"] for line in map(lambda job: made_edit(made, job), made.jobs)} == {3}  # PNDM's two
    assert [read_image(one.path).shape[:2] for one in made.samples] == KEPT[:3]


@pytest.mark.cli
def test_it_runs_from_nothing_to_results(tiny_folder, tmp_path):
    done = run_cli(
        *tiny_folder.overrides(
            method="diffusemix", method__scale=1, generator="tiny", generator__steps=2, protocol="last",
            trainer__max_steps=2, logger="none",
        ),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/diffusemix/*/results.json")
    results = json.loads(file.read_text())
    assert (results["made"]["images"], results["train_images"]) == (36, 72)
