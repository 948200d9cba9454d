"""ALIA's edits: which domain each copy gets, what is asked once, and what the domains have to do with the store."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import tiny_models
from conftest import run_cli
from renderers import runner_in
from test_domains import Talker
from test_per_source import BIRDS, SIDE, Painter, keys, lines
from test_per_source import samples as samples  # the fixture

from genaug.captioning.image_captions import DatasetCaptions
from genaug.captioning.template import Template
from genaug.data.images import RealImages
from genaug.filtering.base import Filter, Judgement
from genaug.generation.instruct_pix2pix import InstructPix2Pix
from genaug.methods.alia import DomainEdits
from genaug.synthesis.extra import OnePerSource

GIVEN = ["a photo of {a_name} at sea", "a photo of a {name} in snow", "{a_name} at night"]
ANSWER = "1. a photo of a blob on a shelf\n2. a photo of a blob in the rain\n3. something else"


def edits(painter=None, captioner=None, **settings) -> DomainEdits:
    return DomainEdits(painter or Painter(), captioner or Template(), DatasetCaptions(), **settings)


def make(one, samples, folder):
    return one.make(samples, BIRDS, folder / "stores", SIDE, runner_in(folder / "stores"))


def test_the_copies_of_an_image_go_through_all_domains_in_an_order_of_its_own(samples, tmp_path):
    made = make(edits(scale=7, domains=GIVEN), samples, tmp_path)
    names = {0: ("azure jay", "an azure jay"), 1: ("green finch", "a green finch")}
    orders = set()
    for sample in samples:
        name, a_name = names[sample.label]
        prompts = [job.prompt for job in made.jobs if job.sources == (sample.id,)]
        domains = [one.format(name=name, a_name=a_name) for one in GIVEN]
        assert sorted(prompts[:3]) == sorted(domains)
        assert prompts == (prompts[:3] * 3)[:7]
        orders.add(tuple(domains.index(prompt) for prompt in prompts[:3]))
    assert len(orders) > 1
    assert made.report()["domains"] == {"source": "given", "domains": GIVEN}
    # An image that comes again in the same domain is another image.
    assert len({one.path.read_bytes() for one in made.samples}) == 35


def test_domains_of_the_template_are_places_and_times(samples, tmp_path):
    made = make(edits(), samples, tmp_path)
    assert {job.prompt.partition(", ")[0] for job in made.jobs} == {
        "a photo of an azure jay",
        "a photo of a green finch",
    }
    report = made.report()["domains"]
    assert report["source"] == "template"
    assert {job.prompt.partition(", ")[2] for job in made.jobs} <= {text[2:] for text in report["domains"]}
    assert not (tmp_path / "stores" / "image_captions").exists()


def test_a_language_model_is_asked_once_and_its_domains_are_the_prompts(samples, tmp_path):
    talker = Talker(ANSWER)
    made = make(edits(captioner=talker), samples, tmp_path)
    ((question, _, _),) = talker.asked
    assert "a photo of a blob\n" in question  # what the samples come with
    assert '"a photo of a blob ..."' in question
    assert {job.prompt for job in made.jobs} == {
        f"a photo of {name} {where}"
        for name in ("an azure jay", "a green finch")
        for where in ("on a shelf", "in the rain")
    }
    assert made.report()["domains"]["source"] == "llm"
    idle, painter = Talker(), Painter()
    again = make(edits(painter, idle), samples, tmp_path)
    assert (keys(again), idle.loaded, painter.devices) == (keys(made), [], [])
    # Another answer, as by another seed: other images in another store.
    other = make(edits(captioner=Talker("a photo of a blob upside down"), seed=1), samples, tmp_path)
    assert other.store.root != made.store.root


def test_the_plan_knows_what_needs_no_language_model(samples, tmp_path):
    for settings, names in (
        ({"domains": GIVEN}, ["images"]),
        ({}, ["domains", "images"]),
        ({"captioner": Talker()}, ["captions of images", "domains", "images"]),
    ):
        one = edits(**settings)
        stages = one.plan(samples, BIRDS, tmp_path / "stores")
        assert [stage.name for stage in stages] == names
        assert (stages[-1].count, stages[-1].steps) == (10, 60)
        assert not (tmp_path / "stores").exists()
        if not isinstance(settings.get("captioner"), Talker):
            # The plan does not know the sizes of the images yet; nothing else is missing.
            assert [job.prompt for job in stages[-1].jobs] == [
                job.prompt for job in make(one, samples, tmp_path / str(names)).jobs
            ]
    assert any("(domain 1)" in prompt for prompt in stages[-1].prompts())


def test_scales_are_nested(samples, tmp_path):
    once = make(edits(scale=1), samples, tmp_path)
    painter = Painter()
    thrice = make(edits(painter, scale=3), samples[::-1], tmp_path)
    assert keys(once) < keys(thrice)
    assert sum(len(asked.seeds) for asked in painter.asked) == 10
    assert {line["strength"] for line in lines(thrice)} == {0.6}


class NoSecondImage(Filter):
    """Drops all edits of the second image."""

    name, settings = "drops", {}

    def judge(self, candidates, about):
        return [Judgement(one.sources != ("1.png",), reason="ugly") for one in candidates]


def test_training_sees_one_edit_of_each_image_that_a_filter_left(samples, tmp_path):
    made = make(edits(scale=3, filters=[NoSecondImage()]), samples, tmp_path)
    assert made.report()["filters"]["drops"] == {"seen": 15, "dropped": 3, "reasons": {"ugly": 3}}
    source = OnePerSource()(RealImages(samples, 2), made)
    written = {line["key"]: line["sources"][0] for line in lines(made)}
    added = [written[sample.id] for sample in list(source.samples)[5:]]
    assert Counter(added) == Counter(["0.png", "2.png", "3.png", "4.png"])
    verdicts = [json.loads(line) for line in (made.store.root / "filters.jsonl").open()]
    assert sum(not one["keep"] for one in verdicts) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"domains": []}, r"method\.synthesis\.domains is empty"),
        ({"domains": ["a {bird}"]}, r"method\.synthesis\.domains='a \{bird\}'"),
        ({"prefix": "a photo of a {name}"}, r"method\.synthesis\.prefix"),
        ({"prompt": "a {bird}"}, r"method\.synthesis\.prompt"),
        ({"scale": 0}, r"method\.scale=0"),
    ],
)
def test_wrong_arguments_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        edits(**settings)


# --- with models of diffusers, random and tiny ---------------------------------------------------------------------


def test_instructions_are_followed_by_instruct_pix2pix(samples, tmp_path):
    model = tiny_models.save_pix2pix(tmp_path / "model")
    generator = InstructPix2Pix(str(model), steps=2, image_guidance=1.2, guidance=5)
    one = edits(generator, domains=["put the {name} on rocks", "put the {name} at sea"], strength=1.0)
    made = make(one, samples[:2], tmp_path)
    assert made.report()["images"] == 4
    assert {line["prompt"] for line in lines(made)} == {
        "put the azure jay on rocks", "put the azure jay at sea", "put the green finch on rocks",
        "put the green finch at sea",
    }  # fmt: skip
    with pytest.raises(ValueError, match="strength=0.6 means nothing"):
        edits(generator, domains=GIVEN).plan(samples, BIRDS, tmp_path)


@pytest.mark.cli
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings", "planned", "added"),
    [
        ("alia", ["method.synthesis.filters=[]", "method.view.extra=5"], 72, 15),
        ("beyond_generation", ["method.synthesis.scenes=[forest,lake]", "method.synthesis.scenes_each=2"], 36, None),
    ],
)
def test_a_run_from_nothing_to_its_results(method, settings, planned, added, tiny_folder, tmp_path):
    clip = tiny_models.save_clip(tmp_path / "clip")
    command = tiny_folder.overrides(
        method=method, generator="tiny", generator__steps=2, clip__model=clip, trainer__max_steps=1, protocol="last",
        logger="none",
    )  # fmt: skip
    done = run_cli(*command, *settings, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob(f"runs/*/{method}/*/results.json")
    results = json.loads(file.read_text())
    made = results["made"]
    assert (made["planned"], made["images"]) == (planned, planned - sum(made["missing_by_class"].values()))
    assert results["train_images"] == 36 + (made["images"] if added is None else added)
