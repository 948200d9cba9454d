"""AGA from masks to training images, with real pictures as backgrounds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import blob_picture
from PIL import Image
from renderers import runner_in

from genaug.captioning.bank import make_captions
from genaug.captioning.template import Template
from genaug.data.base import Sample
from genaug.data.images import RealImages
from genaug.data.reading import read_image, read_mask
from genaug.generation.gallery import Gallery
from genaug.methods.aga import SubjectOnBackgrounds
from genaug.segmentation.annotated import Annotated
from genaug.synthesis.images import Concatenation

BIRDS = SimpleNamespace(
    name="blobs",
    superclass="blob",
    superclasses=("blob", "blob"),
    channels=3,
    classes=("azure jay", "green finch"),
    image_size=24,
)


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    """Twelve flat but for one pixel: a composite's background tells which one it is."""
    for number in range(12):
        pixels = np.full((30, 40, 3), 10 * number + 100, np.uint8)
        pixels[15, 20] = 255
        path = tmp_path / "gallery" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return Gallery(tmp_path / "gallery")


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    rng, made = np.random.default_rng(1), []
    for number in range(6):
        picture, mask = blob_picture(32, number % 2, rng)
        if number == 5:
            mask[:] = False  # a subject that nobody finds
        for folder, pixels in (("images", picture), ("masks", mask.astype(np.uint8) * 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
        path = tmp_path / "images" / f"{number}.png"
        made.append(Sample(f"{number}.png", path, number % 2, mask=tmp_path / "masks" / f"{number}.png"))
    return made


def aga(gallery, **settings) -> SubjectOnBackgrounds:
    return SubjectOnBackgrounds(Annotated(), Template(), gallery, **({"captions": 20} | settings))


def make(method, samples, tmp_path):
    return method.make(samples, BIRDS, tmp_path / "stores", 24, runner_in(tmp_path / "stores"))


STILL = {"flip": 0.0, "rotation": 0.0, "zoom": (1.0, 1.0), "softness": 0.0}


def test_the_subject_keeps_its_pixels_and_the_rest_is_the_background(samples, gallery, tmp_path):
    made = make(aga(gallery, **STILL), samples, tmp_path)
    assert len(made.samples) == 5
    for sample, synthetic in zip(samples, made.samples, strict=False):
        source, mask, result = read_image(sample.path), read_mask(sample.mask), read_image(synthetic.path)
        assert result.shape == source.shape
        assert (result[mask] == source[mask]).all()
        background = result[~mask]
        assert set(np.unique(background)) <= {*range(100, 220, 10), *range(211, 256)} or background.std() < 40
        assert np.bincount(background[:, 0]).argmax() % 10 == 0
        assert synthetic.label == sample.label


def test_an_image_without_subject_is_reported_by_class(samples, gallery, tmp_path):
    report = make(aga(gallery, scale=2), samples, tmp_path).report()
    assert (report["planned"], report["images"]) == (10, 10)
    assert report["without_subject"] == 1
    assert report["without_subject_by_class"] == {"green finch": 1}
    assert report["masks"]["empty"] == 1
    assert report["captions"]["n"] == 20
    assert report["ledger"]["composites"]["images"] == 10


class Unlucky(Gallery):
    """Gives nothing for the prompts of one instruction."""

    def text_to_image(self, prompts, seeds, size):
        made = super().text_to_image(prompts, seeds, size)
        return [None if "photo" in prompt else image for prompt, image in zip(prompts, made, strict=True)]


def test_what_is_missing_because_its_background_failed_is_reported_by_class(samples, gallery, tmp_path):
    made = make(aga(Unlucky(gallery.folder), scale=4), samples, tmp_path)
    report = made.report()
    lost = report["verdicts"]["an input could not be made"]
    assert 0 < lost < 20
    assert report["planned"] == 20
    assert report["images"] == len(made.samples) == 20 - lost
    assert sum(report["missing_by_class"].values()) == lost
    assert all("photo" not in one.caption for one in made.samples)
    again = make(aga(Unlucky(gallery.folder), scale=4), samples, tmp_path).report()
    assert {name: again[name] for name in ("planned", "images", "missing_by_class", "cost")} == {
        name: report[name] for name in ("planned", "images", "missing_by_class", "cost")
    }  # what it cost is known to later runs too


def test_scales_are_nested_and_seeds_of_the_split_do_not_matter(samples, gallery, tmp_path):
    once = make(aga(gallery), samples, tmp_path)
    thrice = make(aga(gallery, scale=3), samples[::-1], tmp_path)
    assert thrice.report()["ledger"]["composites"]["images"] == 10  # five were there
    assert {one.id for one in once.samples} < {one.id for one in thrice.samples}
    part = make(aga(gallery), samples[1:3], tmp_path)
    assert {one.id for one in part.samples} < {one.id for one in once.samples}
    # The copies of an image differ.
    pictures = [read_image(one.path).tobytes() for one in thrice.samples]
    assert len(set(pictures)) == 15


def test_every_setting_of_a_composite_makes_other_composites(samples, gallery, tmp_path):
    base = {one.id for one in make(aga(gallery), samples, tmp_path).samples}
    for change in (
        {"flip": 0.1},
        {"rotation": 3.0},
        {"zoom": (0.9, 1.2)},
        {"softness": 0.1},
        {"seed": 1},
        {"captions": 21},
    ):
        other = make(aga(gallery, **change), samples, tmp_path)
        assert not base & {one.id for one in other.samples}, change


def test_a_bank_of_backgrounds_is_shared(samples, gallery, tmp_path):
    method = aga(gallery, scale=3, backgrounds=2)
    made = make(method, samples, tmp_path)
    assert len({made.store[one.id]["background"] for one in made.samples}) <= 2
    assert made.report()["ledger"]["backgrounds"]["images"] <= 2
    plan = {stage.name: stage for stage in method.plan(samples, BIRDS, tmp_path / "stores")}
    assert plan["backgrounds"].count == made.report()["ledger"]["backgrounds"]["images"]
    assert plan["composites"].count == 18  # before masks are known, all images count


def test_the_plan_names_what_is_made(samples, gallery, tmp_path):
    method = aga(gallery, scale=2)
    plan = {stage.name: stage for stage in method.plan(samples, BIRDS, tmp_path / "stores")}
    planned = {job.key for job in plan["backgrounds"].jobs}
    assert not (tmp_path / "stores").exists()  # planning makes nothing
    made = make(method, samples, tmp_path)
    used = {made.store[one.id]["background"] for one in made.samples}
    assert used < planned
    assert len(planned) == 12


def test_captions_and_manifest_lead_back_to_their_origin(samples, gallery, tmp_path):
    made = make(aga(gallery), samples, tmp_path)
    captions = make_captions(Template(), 20, 0, BIRDS.classes, BIRDS.superclasses, tmp_path / "stores" / "captions")
    lines = [json.loads(line) for line in (made.store.root / "metadata.jsonl").open()]
    assert {line["prompt"] for line in lines} <= {caption.text for caption in captions}
    assert [line["sources"] for line in lines] == [[sample.id] for sample in samples[:5]]
    assert [line["class"] for line in lines] == ["azure jay", "green finch"] * 2 + ["azure jay"]
    assert all(line["key"] == made.samples[n].id for n, line in enumerate(lines))


def test_training_sees_the_real_images_and_then_the_synthetic_ones(samples, gallery, tmp_path):
    made = make(aga(gallery, scale=2), samples, tmp_path)
    source = Concatenation()(RealImages(samples, 2), made)
    rng = np.random.default_rng(0)
    assert len(source) == 6 + 10
    image, label = source.draw(1, rng)
    assert (image == read_image(samples[1].path)).all()
    assert label.tolist() == [0, 1]
    image, label = source.draw(6, rng)
    assert (image == read_image(made.samples[0].path)).all()
    assert label.tolist() == [1, 0]
    assert [one.id for one in source.samples[6:]] == [one.id for one in made.samples]


def test_a_sheet_shows_source_mask_background_and_result(samples, gallery, tmp_path):
    made = make(aga(gallery, **STILL), samples, tmp_path)
    made.sheet(tmp_path / "sheet.png", count=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 4 * 166 + 6  # four pictures a row
    assert sheet.shape[0] == 2 * (160 + 36) + 6
    mask = read_mask(samples[0].mask)
    shown = sheet[6:166, 6 + 166 : 6 + 166 + 160, 0] > 127
    assert shown[::5, ::5].sum() == pytest.approx(mask.sum(), abs=2)


def test_nothing_to_find_and_wrong_numbers_are_refused(samples, gallery, tmp_path):
    with pytest.raises(ValueError, match="no usable subject in 6 images"):
        make(aga(gallery, min_subject=0.9), samples, tmp_path)
    grey = SimpleNamespace(**{**vars(BIRDS), "channels": 1})
    with pytest.raises(ValueError, match="channels=1"):
        aga(gallery).make(samples, grey, tmp_path, 24, runner_in(tmp_path))
    for wrong in (
        {"scale": 0}, {"scale": 1.5}, {"captions": 0}, {"backgrounds": 0}, {"flip": 1.5}, {"zoom": (0, 1)},
        {"zoom": (1.2, 0.8)}, {"rotation": -1}, {"softness": -1}, {"min_subject": 0.9, "max_subject": 0.5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="|".join(wrong)):
            aga(gallery, **wrong)
