"""Edited objects: geometry with generators whose answers are known, gates on images made by hand, and a diffusion model
that is tiny and random for the words."""

from __future__ import annotations

import json
import pickle
import tarfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tiny_models
import torch
from conftest import REPOSITORY
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from renderers import runner_in

from genaug.data.base import Sample
from genaug.data.images import RealImages
from genaug.functional.cutouts import Square, shrunk, without_rounding
from genaug.generation.base import Generator
from genaug.generation.diffusion import Diffusion
from genaug.generation.textual_inversion import TextualInversion
from genaug.generation.transparency import FourChannelVAE
from genaug.methods.deda import Decouple, OnlineCombination
from genaug.segmentation.annotated import Annotated
from genaug.segmentation.grabcut import GrabCut
from genaug.synthesis.commands import main as genaug
from genaug.synthesis.gates import colour_change, object_verdict, verdict
from genaug.synthesis.object_edits import ObjectEdits, class_tokens

BIRDS = SimpleNamespace(
    name="birds",
    superclass="bird",
    superclasses=("bird", "bird"),
    channels=3,
    classes=("Azure Jay", "Green Finch"),
    image_size=40,
    multilabel=False,
)
SIDE = 40
#: Every gate open: for generators that give back what they get.
OPEN = {"min_iou": 0.0, "area": (0.0, 99.0), "min_change": 0.0}


class Editor(Generator):
    """Applies ``change(image, prompt, seed)`` to each image; all that it was asked is known afterwards."""

    calls = ("text_to_image", "image_to_image", "inpaint", "edit_transparent")
    batch_size = 4

    def __init__(self, change=lambda image, prompt, seed: image, pixels: int = 48, name: str = "editor") -> None:
        self.change, self.pixels, self.name = change, pixels, name
        self.alpha = "as it was"
        self.asked: list[SimpleNamespace] = []

    @property
    def settings(self):
        return {"name": self.name, "pixels": self.pixels}

    @property
    def transparent_settings(self):
        return {"alpha": self.alpha}

    def size_for(self, height, width):
        return self.pixels, self.pixels

    def transparent_side(self, side):
        return self.pixels

    def denoiser_steps(self, call, strength=1.0):
        return round(10 * strength)

    def start_timestep(self, call, strength=1.0):
        return round(1000 * strength) - 1

    def edit_transparent(self, images, prompts, seeds, strength):
        assert all(image.shape == (self.pixels, self.pixels, 4) for image in images)
        return self._edit("edit_transparent", images, prompts, seeds, strength)

    def image_to_image(self, images, prompts, seeds, strength):
        assert all(image.shape == (self.pixels, self.pixels, 3) for image in images)
        return self._edit("image_to_image", images, prompts, seeds, strength)

    def _edit(self, call, images, prompts, seeds, strength):
        for image, prompt, seed in zip(images, prompts, seeds, strict=True):
            self.asked.append(SimpleNamespace(call=call, image=image, prompt=prompt, seed=seed, strength=strength))
        return [self.change(*one) for one in zip(images, prompts, seeds, strict=True)]


def swapped(image, prompt="", seed=0):
    """Red for blue and the other way round."""
    return image[..., [2, 1, 0, 3][: image.shape[2]]]


def noisy(image, prompt, seed):
    """Colours that follow from the seed alone, the object where it was."""
    colours = np.random.default_rng(seed).integers(0, 256, (1, 1, 3)) + image[..., :3] // 4
    return np.dstack([colours.clip(0, 255).astype(np.uint8), image[..., 3:]])


def photograph(size: tuple[int, int], box: tuple[int, int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth blue and red in an ellipse that fills the box, on green; and its mask."""
    (height, width), (left, top, columns, rows) = size, box
    y, x = np.mgrid[:height, :width]
    mask = ((x - left - (columns - 1) / 2) / (columns / 2)) ** 2 + ((y - top - (rows - 1) / 2) / (rows / 2)) ** 2 <= 1
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = 255
    colours = np.dstack([40 + 200 * x / width, 0 * x, 40 + 20 * seed + 100 * y / height]).astype(np.uint8)
    image[mask] = colours[mask]
    return image, mask


#: Size of the photograph, and box of the object: in the middle, at a corner, wide, and as large as training needs.
PLACES = [
    ((60, 80), (20, 10, 30, 40)),
    ((60, 80), (0, 0, 25, 20)),
    ((50, 50), (5, 20, 44, 12)),
    ((90, 60), (10, 30, 40, 40)),
]


def photographs(folder, count: int = 4, labels=(0, 1)) -> list[Sample]:
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        image, mask = photograph(*PLACES[number % len(PLACES)], seed=number)
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"mask-{number}.png")
        label = labels[number % len(labels)]
        samples.append(Sample(f"{number}.png", folder / f"{number}.png", label, mask=folder / f"mask-{number}.png"))
    return samples


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    return photographs(tmp_path / "photographs")


def make(edit, samples, folder, dataset=BIRDS, side: int = SIDE, segmenter=None):
    stores = folder / "stores"
    return Decouple(segmenter or Annotated(), edit=edit).make(samples, dataset, stores, side, runner_in(stores))


def jobs(parts):
    return parts.edited.images.jobs


def keys(parts) -> set[str]:
    return {job.key for job in jobs(parts)}


# --- the square that is edited -------------------------------------------------------------------------------------


def test_a_square_at_a_corner_by_hand():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[0:6, 0:10] = True
    square = Square.around((0, 0, 10, 6), 0.1)
    assert square == Square(-1, -3, 12)
    cut = square.cut(image, mask, 12)
    expected = np.zeros((12, 12), np.uint8)
    expected[3:9, 1:11] = 255
    assert (cut[..., 3] == expected).all()
    assert (cut[3:9, 1:11, :3] == image[:6, :10]).all()  # to the bit where nothing is scaled
    assert cut[0, 0, :3].max() > 0  # the object's colours go on


def test_no_colour_of_the_background_enters_when_a_square_is_scaled():
    image, mask = photograph((60, 80), (20, 10, 30, 40), seed=0)  # all green around the object
    for pixels in (16, 31, 48, 100):
        cut = Square.around((20, 10, 30, 40), 0.1).cut(image, mask, pixels)
        assert cut[..., 1].max() == 0
        assert (len(np.unique(cut[..., 3])) > 2) == (pixels != 48)  # a soft edge where it is scaled
        assert cut[..., 3].sum() / 255 == pytest.approx(mask.sum() * (pixels / 48) ** 2, rel=0.03)


def test_a_half_covered_pixel_has_half_the_alpha_and_the_objects_colour():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :3] = 200
    mask = np.zeros((4, 4), bool)
    mask[:, :3] = True
    cut = Square(0, 0, 4).cut(image, mask, 2)
    assert cut[..., 3].tolist() == [[255, 128]] * 2
    assert (cut[..., :3] == 200).all()


def test_alpha_that_is_nearly_nothing_or_all_is_rounding():
    rgba = np.zeros((1, 6, 4), np.uint8)
    rgba[0, :, 3] = [0, 8, 9, 246, 247, 255]
    assert without_rounding(rgba)[0, :, 3].tolist() == [0, 0, 9, 246, 255, 255]


def test_shrinking_weights_colours_by_alpha():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0], rgba[0, 1], rgba[1, 0], rgba[1, 1] = (100, 0, 0, 255), (0, 90, 0, 0), (0, 90, 0, 0), (40, 0, 0, 255)
    assert shrunk(rgba, 1).tolist() == [[[70, 0, 0, 128]]]
    assert (shrunk(np.zeros((4, 4, 4), np.uint8), 2) == 0).all()


# --- what comes back of an object that is not changed --------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"padding": 0.0}, {"padding": 0.33}, {"crop": "image"}, {"whole_image": True}]
)
@pytest.mark.parametrize("pixels", [48, 64, 160])
@pytest.mark.parametrize("side", [20, 40])
def test_a_generator_that_gives_back_its_input_gives_the_real_object(settings, pixels, side, samples, tmp_path):
    edit = ObjectEdits(Editor(pixels=pixels), copies=1, **settings, **OPEN)
    parts = make(edit, samples, tmp_path, side=side)
    assert parts.synthetic == [(1,)] * 4
    for index, (size, box) in enumerate(PLACES):
        real, made = parts.cdp(index), parts.cdp(index, 1)
        # One pixel of the edited square and one of the kept one are where edges may have moved.
        whole = "crop" in settings or "whole_image" in settings
        square = max(size) if whole else max(box[2:]) * (1 + 2 * settings.get("padding", 0.1))
        slack = square / pixels / max(box[2:]) + 1 / max(made.shape[:2])
        real_place, place = parts.places[index], parts.part(index, 1)[1]
        # In long sides of the object.
        short = min(size)
        moved = np.array([(place[0] - real_place[0]) * size[1], (place[1] - real_place[1]) * size[0]]) / max(box[2:])
        assert np.abs(moved).max() <= slack
        assert abs(place[2] - real_place[2]) * short / max(box[2:]) <= slack
        assert max(made.shape[:2]) <= side + 1
        again = cv2.resize(made, real.shape[1::-1], interpolation=cv2.INTER_AREA)
        inside = cv2.erode(((real[..., 3] == 255) & (again[..., 3] == 255)).astype(np.uint8), np.ones((3, 3))) > 0
        assert inside.sum() >= 10
        difference = np.abs(again[inside, :3].astype(int) - real[inside, :3])
        assert difference.mean() <= 5
        if not settings.get("whole_image"):  # there a scaled photograph mixes colours at the edge
            assert difference.max() <= 255 * (0.02 + slack)
            assert made[..., 1].max() == 0


def test_without_scaling_it_is_the_real_object_to_the_bit(tmp_path):
    sample = photographs(tmp_path / "photographs")[3]  # 40 pixels, in a square of 48
    parts = make(ObjectEdits(Editor(), copies=1, **OPEN), [sample, sample], tmp_path)
    real, made = parts.cdp(0), parts.cdp(0, 1)
    assert (made[..., 3] == real[..., 3]).all()
    assert (made[real[..., 3] > 0] == real[real[..., 3] > 0]).all()
    assert parts.part(0, 1)[1] == pytest.approx(tuple(parts.places[0]), abs=1e-12)


def test_in_its_place_on_its_own_scene_a_synthetic_object_covers_the_real_one(samples, tmp_path):
    parts = make(ObjectEdits(Editor(swapped), copies=1), samples, tmp_path, side=50)
    view = OnlineCombination(p_aug=1.0, p_syn=1.0, p_mix=0.0, cip="own", placement="original")
    combined = view(RealImages(samples, 2), parts)
    for index in (0, 2):
        image, _ = combined.draw(index, np.random.default_rng(0))
        photo, mask = photograph(*PLACES[index], seed=index)
        small = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_AREA)
        photo = cv2.resize(photo, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        inside = cv2.erode((small == 1).astype(np.uint8), np.ones((5, 5))) > 0
        assert inside.sum() > 50
        assert np.abs(image[inside].astype(int) - swapped(photo)[inside]).max() <= 8
        changed = np.abs(image.astype(int) - parts.cip(index)).max(axis=-1) > 60
        assert (changed & (small == 0)).mean() < 0.03  # and reaches hardly beyond it


def test_processes_that_read_for_training_get_the_objects_and_no_generator(samples, tmp_path):
    editor = Editor(noisy)
    editor.weights = lambda: None  # as a model's, they do not travel
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(editor)
    parts = make(ObjectEdits(editor, copies=1), samples, tmp_path)
    there = pickle.loads(pickle.dumps(parts))
    assert there.synthetic == parts.synthetic
    assert all((there.cdp(index, copy) == parts.cdp(index, copy)).all() for index in range(4) for copy in (0, 1))


def test_an_object_that_has_grown_is_not_cut_off(samples, tmp_path):
    def grown(image, prompt, seed):
        alpha = cv2.dilate(image[..., 3], np.ones((5, 5)))  # 2 pixels each side
        return np.dstack([swapped(image)[..., :3], alpha])

    parts = make(ObjectEdits(Editor(grown), copies=1), samples[3:] * 2, tmp_path)
    cutout, place = parts.part(0, 1)
    assert cutout.shape == (44, 44, 4)
    assert place == pytest.approx((30 / 60, 50 / 90, 44 / 60), abs=1e-9)


# --- what is asked -------------------------------------------------------------------------------------------------


def test_each_object_is_asked_for_once_a_copy_with_its_class_and_a_seed_of_its_own(samples, tmp_path):
    editor = Editor(noisy)
    parts = make(ObjectEdits(editor, copies=2, strength=0.3), samples, tmp_path)
    assert (
        sorted(one.prompt for one in editor.asked) == ["a photo of a azure jay"] * 4 + ["a photo of a green finch"] * 4
    )
    assert len({one.seed for one in editor.asked}) == 8
    assert {(one.call, one.strength) for one in editor.asked} == {("edit_transparent", 0.3)}
    assert parts.synthetic == [(1, 2)] * 4
    assert len({parts.cdp(index, copy).tobytes() for index in range(4) for copy in (1, 2)}) == 8
    (job, *_) = jobs(parts)
    record = parts.edited.store[job.key]
    assert (record["strength"], record["start_timestep"], record["class"]) == (0.3, 299, "Azure Jay")
    assert record["square"] == [11, 6, 48]  # 40 pixels and 4 on each side, around (20, 10, 30, 40)
    assert record["box"] == [9.0, 4.0, 30.0, 40.0]
    image = parts.edited.image("0.png", 1)
    assert image.shape == (48, 48, 4)


def test_keys_are_stable_and_hold_everything(samples, tmp_path):
    def made(folder="a", segmenter=None, some=samples, editor=None, **settings):
        edit = ObjectEdits(editor or Editor(noisy), **{"copies": 1, **OPEN, **settings})
        return keys(make(edit, some, tmp_path / folder, segmenter=segmenter))

    base = made()
    assert made("b") == base  # in another folder
    assert made(some=samples[:2]) < base  # whatever else is made
    assert base < made(copies=3)
    other = Editor(noisy)
    other.alpha = "another way"
    for changes in (
        {"strength": 0.5}, {"prompt": "{}"}, {"crop": "image"}, {"padding": 0.2}, {"whole_image": True}, {"seed": 1},
        {"min_iou": 0.1}, {"area": (0.1, 9.0)}, {"min_change": 0.001}, {"editor": Editor(noisy, pixels=56)},
        {"editor": Editor(noisy, name="other")}, {"editor": other}, {"segmenter": GrabCut()},
    ):  # fmt: skip
        assert not made(**changes) & base, changes
    Image.fromarray(photograph(*PLACES[0], seed=9)[0]).save(samples[0].path)
    assert len(made() & base) == 3


def test_a_plan_counts_what_is_made(samples, tmp_path):
    editor = Editor(noisy)
    decouple = Decouple(Annotated(), edit=ObjectEdits(editor, copies=2))
    masks, parts, objects = decouple.plan(samples, BIRDS, tmp_path / "stores")
    assert (masks.name, masks.count, parts.name, parts.count) == ("masks", 4, "decoupled images", 4)
    assert (objects.name, objects.count, objects.steps) == ("synthetic objects", 8, 32)
    assert not editor.asked
    assert not (tmp_path / "stores").exists()
    report = make(decouple.edit, samples, tmp_path).report()
    assert report["edit"]["cost"]["images"]["denoiser_steps"] == 32
    assert (report["synthetic"], report["edit"]["planned"], report["edit"]["images"]) == (8, 8, 8)
    assert objects.prompts() == {job.prompt: 4 for job in objects.jobs}
    assert [stage.name for stage in Decouple(Annotated()).plan(samples, BIRDS, tmp_path)] == [
        "masks",
        "decoupled images",
    ]


def test_objects_of_several_classes_are_told_all_of_them(tmp_path):
    many = SimpleNamespace(**{**vars(BIRDS), "multilabel": True})
    samples = photographs(tmp_path / "photographs", labels=((0,), (0, 1)))
    editor = Editor(noisy)
    make(ObjectEdits(editor, copies=1), samples, tmp_path, dataset=many)
    assert {one.prompt for one in editor.asked} == {"a photo of a azure jay", "a photo of a azure jay and green finch"}


# --- gates ---------------------------------------------------------------------------------------------------------


def square_object(left: int = 8, top: int = 8, width: int = 16, height: int = 16, colour=(200, 100, 50)) -> np.ndarray:
    """A rectangle with a gradient on 32 x 32 transparent pixels."""
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[..., :3] = colour
    rgba[..., 0] += np.arange(32, dtype=np.uint8)
    rgba[top : top + height, left : left + width, 3] = 255
    return rgba


CHANGED = (100, 200, 50)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (square_object(colour=CHANGED), "ok"),
        (square_object(0, 0, 32, 32, CHANGED), "all opaque"),
        (square_object(0, 0, 32, 19, CHANGED), "all opaque"),  # 416 of the 768 pixels around it
        (
            square_object(0, 0, 32, 16, CHANGED),
            "IoU with the source mask",
        ),  # 384 of 768, no more than half; twice the area
        (square_object(8, 8, 16, 7, CHANGED), "alpha coverage"),  # 112 of 256
        (square_object(8, 8, 16, 8, CHANGED), "ok"),  # half of it, and an IoU of one half
        (square_object(14, 8, 16, 16, CHANGED), "IoU with the source mask"),  # 160 of 352
        (square_object(13, 8, 16, 16, CHANGED), "ok"),  # 176 of 336
        (square_object(), "unchanged"),
        (square_object(colour=(202, 102, 52)), "unchanged"),  # 2 of 255
        (square_object(colour=(203, 103, 53)), "ok"),  # 3 of 255
    ],
)
def test_gates_on_rectangles(made, expected):
    assert object_verdict(square_object(), made, 0.5, (0.5, 2.0), 0.01) == expected


def test_what_decoding_does_to_details_is_no_change():
    source = square_object()
    rng = np.random.default_rng(0)
    grain = source.copy()
    grain[..., :3] = (source[..., :3].astype(int) + rng.choice([-8, 8], (32, 32, 1))).clip(0, 255)
    assert np.abs(grain[..., :3].astype(int) - source[..., :3]).mean() == 8  # 0.03 of the range
    assert colour_change(source, grain) < 0.01
    brighter = source.copy()
    brighter[..., :3] += 8
    assert colour_change(source, brighter) == pytest.approx(8 / 255)


def test_only_what_both_objects_cover_counts_as_change():
    made = square_object(12, 8, 16, 16)
    made[:, 24:, :3] = 0  # outside the source
    assert colour_change(square_object(), made) == 0
    assert colour_change(square_object(0, 0, 4, 4), square_object(20, 20, 4, 4)) == 1


def test_transparent_images_are_judged_by_what_can_be_seen():
    assert verdict(square_object()) == "ok"
    hidden = square_object()
    hidden[..., 3] = 127
    assert verdict(hidden) == "transparent"
    flat = square_object()
    flat[8:24, 8:24, :3] = 90  # the background, under alpha 0, still has its gradient
    assert verdict(flat) == "constant"
    flat[8:24, 8:24, :3] = 5
    assert verdict(flat) == "black"
    with pytest.raises(TypeError, match=r"\(H, W, 3\) or \(H, W, 4\) of uint8, got uint8 \(4, 4, 2\)"):
        verdict(np.zeros((4, 4, 2), np.uint8))


def test_what_does_not_pass_is_tried_again_and_given_up_without_shifting_others(samples, tmp_path):
    first: list[int] = []

    def change(image, prompt, seed):
        if "green" in prompt and len(first) < 1:  # once: retried with another seed
            first.append(seed)
            return np.dstack([image[..., :3], np.full(image.shape[:2], 255, np.uint8)])
        if "azure" in prompt and image[24, 24, 2] > 110:  # the blue of photograph 2
            return image  # unchanged, whatever the seed
        return noisy(image, prompt, seed)

    editor = Editor(change)
    parts = make(ObjectEdits(editor, copies=2), samples, tmp_path)
    assert parts.synthetic == [(1, 2), (1, 2), (), (1, 2)]
    report = parts.report()
    assert report["synthetic"] == 6
    assert report["edit"]["verdicts"] == {"ok": 6, "unchanged": 2}
    assert report["edit"]["missing_by_class"] == {"Azure Jay": 2}
    assert report["edit"]["ledger"]["rejected"] == {"all opaque": 1, "unchanged": 6}
    assert report["edit"]["cost"]["images"]["images"] == 8
    assert report["edit"]["iou"] == pytest.approx(1, abs=0.01)
    # Nothing is tried a second time.
    asked = len(editor.asked)
    make(ObjectEdits(editor, copies=2), samples, tmp_path)
    assert len(editor.asked) == asked
    view = OnlineCombination(p_aug=1.0, p_syn=1.0, p_mix=0.0)(RealImages(samples, 2), parts)
    assert view.draw(2, np.random.default_rng(0))[0].shape[2] == 3  # its real object is used
    parts.sheet(tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (6 * 166 + 6, 4 * 196 + 6)  # object, two, scene, two combinations


def test_what_is_there_is_not_made_again(samples, tmp_path):
    editor = Editor(noisy)
    edit = ObjectEdits(editor, copies=1)
    make(edit, samples[:3], tmp_path)
    assert len(editor.asked) == 3
    parts = make(edit, samples, tmp_path)
    assert len(editor.asked) == 4
    files = {job.key: parts.edited.store.image_path(job.key).read_bytes() for job in jobs(parts)}
    parts.edited.store.image_path(jobs(parts)[1].key).unlink()
    again = make(edit, samples, tmp_path)
    assert len(editor.asked) == 5
    assert {job.key: again.edited.store.image_path(job.key).read_bytes() for job in jobs(again)} == files


# --- whole photographs ---------------------------------------------------------------------------------------------


def test_whole_images_are_edited_with_their_background_and_cut_afterwards(samples, tmp_path):
    editor = Editor(swapped, pixels=80)
    parts = make(ObjectEdits(editor, copies=1, whole_image=True), samples, tmp_path, side=80)
    assert {one.call for one in editor.asked} == {"image_to_image"}
    photo, mask = photograph(*PLACES[0], seed=0)  # 60 x 80: the rows 10 to 69 of the square
    shown = next(one.image for one in editor.asked if (one.image[10:70] == photo).all())
    assert (shown[:10, :, 1] > 200).all()  # continued by the green that the photograph ends with
    whole = parts.edited.image("0.png", 1)
    assert (whole[10:70, :, :3] == swapped(photo)).all()  # the background is kept, but cannot be seen
    assert ((whole[10:70, :, 3] == 255) == mask).all()
    assert not whole[:10, :, 3].any()
    cutout, place = parts.part(0, 1)
    assert (cutout[mask[10:50, 20:50], :3] == swapped(photo)[mask]).all()
    assert cutout[..., 1].max() == 0  # no green beside the object
    parts.sheet(tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 7 * 166 + 6  # photograph, its edit, object, synthetic object, scene, two combinations
    seen = sheet[6:166, 6:166], sheet[6:166, 172:332]  # 80 pixels, twice as large
    assert all((one[20:140:2, ::2] == other).all() for one, other in zip(seen, (photo, swapped(photo)), strict=True))
    assert place == pytest.approx(tuple(parts.places[0]), abs=1e-12)


def test_whole_images_need_no_transparency(samples, tmp_path):
    class Plain(Editor):
        calls = ("text_to_image", "image_to_image", "inpaint")

        def transparent_side(self, side):
            raise NotImplementedError

    assert make(ObjectEdits(Plain(swapped), copies=1, whole_image=True), samples, tmp_path).synthetic == [(1,)] * 4


# --- words ---------------------------------------------------------------------------------------------------------


def test_tokens_are_unique_and_plain():
    tokens = class_tokens(["Zoé's Wren", "zoé s-wren", "ÄRGER", "A B", "a  b", "a-b-2", "…", "  "])
    assert tokens == [
        "<zoé-s-wren>",
        "<zoé-s-wren-2>",
        "<ärger>",
        "<a-b>",
        "<a-b-2>",
        "<a-b-2-2>",
        "<class>",
        "<class-2>",
    ]


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """A random model in the shape of Stable Diffusion 1.5 with an autoencoder of four channels."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = tiny_models.save_sd15(tmp_path_factory.mktemp("sd15"))
    rgba = tiny_models.save_rgba_vae(tmp_path_factory.mktemp("rgba"))
    yield Diffusion(str(model), steps=4, size=32, batch_size=4, transparency=FourChannelVAE(str(rgba)))
    torch.set_num_threads(before)


INVERSION = {"steps": 2, "batch_size": 2, "prompts": ["a {}"]}


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_words_are_learned_once_from_all_objects_of_their_class(whole, diffusion, samples, tmp_path, monkeypatch):
    inversion = TextualInversion(**INVERSION)
    learned: list[tuple] = []

    def learn(generator, call, token, word, latents, last, seed, original=inversion.learn):
        learned.append((call, token, word, len(latents), last))
        return original(generator, call, token, word, latents, last, seed)

    monkeypatch.setattr(inversion, "learn", learn)
    edit = ObjectEdits(diffusion, inversion, copies=1, strength=0.5, prompt="a {}", whole_image=whole, **OPEN)
    stages = Decouple(Annotated(), edit=edit).plan(samples, BIRDS, tmp_path)
    call = "image_to_image" if whole else "edit_transparent"
    steps = 4 * diffusion.denoiser_steps(call, 0.5)
    assert [(one.name, one.count, one.steps) for one in stages[2:]] == [
        ("words", 2, 8), ("synthetic objects", 4, steps),
    ]  # fmt: skip
    parts = make(edit, samples, tmp_path)
    start = diffusion.start_timestep(call, 0.5)
    # Two photographs a class, each also mirrored.
    assert sorted(learned) == [(call, "<azure-jay>", "bird", 4, start), (call, "<green-finch>", "bird", 4, start)]
    assert [job.prompt for job in jobs(parts)] == ["a <azure-jay>", "a <green-finch>"] * 2
    assert jobs(parts)[0].facts["start_timestep"] == start
    assert parts.report()["edit"]["words"]["words"] == 2
    make(edit, samples, tmp_path)
    assert len(learned) == 2
    # Another picture of a class: another word, and other objects of this class alone.
    Image.fromarray(photograph(*PLACES[0], seed=7)[0]).save(samples[0].path)
    again = make(edit, samples, tmp_path)
    assert [one[1] for one in learned[2:]] == ["<azure-jay>"]
    changed = [old.key != new.key for old, new in zip(jobs(parts), jobs(again), strict=True)]
    assert changed == [True, False, True, False]


def test_requests_start_from_the_superclass_or_where_there_is_none_from_the_class(diffusion, tmp_path):
    def words(labels, **changes):
        dataset = SimpleNamespace(**{**vars(BIRDS), **changes})
        samples = photographs(tmp_path / "photographs", labels=labels)
        parts = make(ObjectEdits(Editor(noisy), copies=1), samples, tmp_path, dataset=dataset)
        return {one.token: (one.word, len(one.keys)) for one in parts.edited.renderer.requests()}

    assert words((0, 1)) == {"<azure-jay>": ("bird", 2), "<green-finch>": ("bird", 2)}
    assert words((0, 1), superclasses=("crow", "")) == {"<azure-jay>": ("crow", 2), "<green-finch>": ("green finch", 2)}
    several = words(((0,), (0, 1)), multilabel=True)
    assert several == {"<azure-jay>": ("azure jay", 4), "<green-finch>": ("green finch", 2)}
    assert words((1,)) == {"<green-finch>": ("bird", 4)}


# --- the store -----------------------------------------------------------------------------------------------------


def test_commands_take_transparent_images(samples, tmp_path, capsys):
    parts = make(ObjectEdits(Editor(noisy), copies=2), samples, tmp_path)
    store = parts.edited.store
    key = jobs(parts)[0].key
    assert Image.open(store.image_path(key)).mode == "RGBA"
    image = store.transparent_image(key)
    alpha = image[..., 3:] / 255
    assert np.abs(store.image(key) - (image[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1  # on white
    assert genaug(["verify", str(store.root)]) == 0
    assert genaug(["list", str(tmp_path / "stores")]) == 0
    assert genaug(["inspect", str(store.root)]) == 0
    assert "a photo of a azure jay" in capsys.readouterr().out
    assert genaug(["export", str(store.root), str(tmp_path / "folders"), "--copies", "1"]) == 0
    copied = tmp_path / "folders" / "Azure Jay" / f"{key}.png"
    assert copied.read_bytes() == store.image_path(key).read_bytes()
    assert genaug(["export", str(store.root), str(tmp_path / "tars"), "--layout", "webdataset"]) == 0
    with tarfile.open(tmp_path / "tars" / "000000.tar") as shard:
        assert len(shard.getnames()) == 24
    lines = [json.loads(line) for line in (store.root / "metadata.jsonl").open()]
    assert {(store.root / line["file_name"]).is_file() for line in lines} == {True}
    store.image_path(key).write_bytes(store.image_path(jobs(parts)[1].key).read_bytes())
    assert genaug(["verify", str(store.root)]) == 1


# --- configuration -------------------------------------------------------------------------------------------------


def method(*overrides: str):
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return instantiate(compose("config", list(overrides)).method)


def test_the_paper_s_numbers_are_the_defaults():
    edit = method("method=deda").synthesis.edit
    assert (edit.copies, edit.strength, edit.prompt) == (3, 0.4, "a photo of a {}")
    assert isinstance(edit.inversion, TextualInversion)
    assert method("method=deda", "method.synthesis.edit.inversion=null").synthesis.edit.inversion is None


def test_de_da_without_generation_makes_none(samples, tmp_path, caplog):
    mixing, null = (
        method("method=deda_mixing"),
        method("method=deda", "method.synthesis.edit=null", "method.view.p_syn=0"),
    )
    for one, other in ((mixing.synthesis, null.synthesis), (mixing.view, null.view)):
        assert {k: v for k, v in vars(one).items() if k != "segmenter"} == {
            k: v for k, v in vars(other).items() if k != "segmenter"
        }
    parts = make(None, samples, tmp_path)
    assert (parts.edited, parts.synthetic, parts.report()["edit"]) == (None, [()] * 4, None)
    assert not (tmp_path / "stores" / "images").exists()
    with caplog.at_level("INFO", logger="genaug.methods.deda"):
        parts.sheet(tmp_path / "sheet.png")
        mixing.view(RealImages(samples, 2), parts)
    said = [record for record in caplog.records if record.name == "genaug.methods.deda"]
    assert not said  # the sheet's own view, and this method's, draw no synthetic ones
    assert Image.open(tmp_path / "sheet.png").width == 4 * 166 + 6  # object, scene, two combinations


def test_a_generator_that_cannot_is_refused_before_anything_is_made(samples, tmp_path):
    class Plain(Editor):
        calls = ("text_to_image",)

    message = r"needs edit_transparent.*\(Plain\) offers text_to_image: choose one .*tiny.*method.synthesis.edit=null"
    with pytest.raises(ValueError, match=message):
        ObjectEdits(Plain())
    with pytest.raises(ValueError, match="needs image_to_image"):
        ObjectEdits(Plain(), whole_image=True)
    for edit, error in (
        (ObjectEdits(Editor(), TextualInversion()), "words are learned for diffusion models; Editor is none"),
        (ObjectEdits(Diffusion(str(tiny_models.save_sd15(tmp_path / "model")), steps=4), None, whole_image=True,
                     strength=0.01), "strength=0.01 gives no denoising step"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=error):
            make(edit, samples, tmp_path)
        with pytest.raises(ValueError, match=error):
            Decouple(Annotated(), edit=edit).plan(samples, BIRDS, tmp_path / "stores")
    assert not (tmp_path / "stores" / "masks").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("copies", 0, "copies=0 must be a whole number of at least 1; method.synthesis.edit=null makes none"),
        ("copies", 1.5, "copies=1.5 must be a whole number"),
        ("strength", 0.0, r"strength=0.0 must be a noise level in \(0, 1\]"),
        ("prompt", "a bird", "prompt='a bird' must have one {}"),
        ("crop", "box", "crop='box' is not known: choose one of object, image"),
        ("padding", -0.1, r"padding=-0.1 must be a number in \[0, 1\]"),
        ("min_iou", 1.2, r"min_iou=1.2 must be a number in \[0, 1\]"),
        ("min_change", float("nan"), r"min_change=nan must be a number in \[0, 1\]"),
        ("area", (1.5, 2.0), r"area=\[1.5, 2.0\] must be \[smallest, largest\] with 1 between them"),
        ("area", (0.5,), r"area=\[0.5\] must be"),
    ],
)
def test_bad_arguments_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        ObjectEdits(Editor(), **{name: value})
