"""Objects and scenes from words: which are chosen, what an image is put together from, and what is made again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from renderers import runner_in
from test_per_source import BIRDS, SIDE, Painter, keys, lines
from test_per_source import samples as samples  # the fixture

from genaug.filtering.base import Candidate
from genaug.methods.beyond_generation import CutAndPaste
from genaug.segmentation.base import Segmentation, Segmenter
from genaug.synthesis.images import Concatenation
from genaug.synthesis.scenes import choose_scenes, chosen

BIRDS = SimpleNamespace(**vars(BIRDS), multilabel=False)
TEMPLATES, SCENES = ("a photo of {a_name}", "{name} on white"), ("sea", "empty hall", "field")


class Middle(Segmenter):
    """The middle of every picture is its object; of some nothing is."""

    def __init__(self, share=0.5, blind=()) -> None:
        self.share, self.blind = share, blind

    @property
    def settings(self):
        return {"share": self.share, "blind": list(self.blind)}

    def segment(self, image, sample, prompt):
        mask = np.zeros(image.shape[:2], bool)
        height, width = mask.shape
        pad = (1 - self.share) / 2
        if sample.label not in self.blind:
            mask[int(pad * height) : int((1 - pad) * height), int(pad * width) : int((1 - pad) * width)] = True
        return Segmentation(mask, None, "middle")


class Colours:
    """Compares colours: a picture is as like a text as its first pixel is bright in the text's channel."""

    batch_size, fingerprint = 2, "colours"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.calls: list[str] = []

    def load(self, device):
        self.calls.append(device)

    def unload(self):
        self.calls.append("nowhere")

    def texts(self, texts):
        self.asked.append(list(texts))
        return torch.eye(3)[[len(text) % 3 for text in texts]]

    def images(self, arrays):
        return torch.tensor(np.stack([one[0, 0] for one in arrays])).float() / 255


def method(painter=None, segmenter=None, clip=None, **settings) -> CutAndPaste:
    given = {"templates": TEMPLATES, "scenes": SCENES, "scenes_each": 4, "foregrounds": 3} | settings
    return CutAndPaste(painter or Painter(), segmenter or Middle(), clip or Colours(), **given)


def make(one, samples, folder):
    return one.make(samples, BIRDS, folder / "stores", SIDE, runner_in(folder / "stores"))


# --- scenes --------------------------------------------------------------------------------------------------------


def test_scenes_like_no_class_come_first_and_then_those_like_their_caption():
    classes, captions = [0.5, 0.1, 0.2, 0.9, 0.3, 0.4], [0.9, 0.1, 0.8, 1.0, 0.7, 0.2]
    assert chosen(classes, captions, (0.5, 0.5)) == [2, 4]  # of 1, 2 and 4; 1.5 is rounded to 2
    assert chosen(classes, captions, (1, 0.2)) == [3]
    assert chosen([0.3], [0.1], (0.1, 0.1)) == [0]


def test_scenes_are_chosen_caption_by_caption_and_compared_once(tmp_path):
    from PIL import Image

    # "class a": 7 letters, channel 1; "lake": channel 1; "the sea": channel 1. Channel 2 decides nothing here.
    pictures = {"lake": [(0, 10, 0), (0, 90, 0), (0, 50, 0), (0, 200, 0)], "road x": [(5, 20, 0), (9, 30, 0)]}
    scenes = []
    for caption, colours in pictures.items():
        for number, colour in enumerate(colours):
            path = tmp_path / f"{caption}-{number}.png"
            Image.fromarray(np.full((4, 4, 3), colour, np.uint8)).save(path)
            scenes.append(Candidate(f"{caption}-{number}", path, 0, prompt=caption))
    clip = Colours()
    found = choose_scenes(scenes, clip, ["class a"], (0.75, 0.67), tmp_path, "cpu")
    # Of the lakes the brightest green is most like the class; of the rest the two greenest are most like "lake".
    assert [one.key for one in found] == ["lake-1", "lake-2", "road x-1"]
    assert clip.asked == [["class a", "lake", "road x"]]
    assert clip.calls == ["cpu", "nowhere"]
    again = Colours()
    assert choose_scenes(scenes, again, ["class a"], (1, 0.25), tmp_path, "cpu")[0].key == "lake-3"
    assert again.calls == []
    choose_scenes(scenes, again, ["class b or c"], (1, 0.25), tmp_path, "cpu")
    assert again.calls == ["cpu", "nowhere"]  # other texts are other similarities


# --- images --------------------------------------------------------------------------------------------------------


def test_each_real_image_gets_its_copies_of_its_class(samples, tmp_path):
    made = make(method(scale=3), samples, tmp_path)
    assert [one.label for one in made.samples] == [0, 1, 0, 1, 0] * 3
    report = made.report()
    assert (report["planned"], report["images"], report["scenes"]) == (15, 15, {"made": 12, "chosen": 3})
    assert set(report["cost"]) == {"pictures", "composites"}
    for job in made.jobs:
        words, place = job.prompt.split(" / ")
        name, a_name = [("azure jay", "an azure jay"), ("green finch", "a green finch")][job.label]
        assert words in (f"a photo of {a_name}", f"{name} on white")
        assert place in {f"A real photo of {scene}" for scene in SCENES}
    assert len({one.path.read_bytes() for one in made.samples}) == 15


def test_an_image_is_its_object_in_its_scene(samples, tmp_path):
    made = make(method(rotation=0, blur=0, placement="random", size=(0.5, 0.5)), samples, tmp_path)
    for job in made.jobs:
        rows = made.show(job)
        assert list(rows) == [job.prompt.split(" / ")[0], "mask", job.prompt.split(" / ")[1]]
        result, scene = made.store.image(job.key), list(rows.values())[2]
        differs = (result != scene).any(axis=2)
        # A square in a circle of 8 pixels across has sides of 8 / sqrt(2) pixels.
        assert 0 < differs.sum() <= 36
        rows, columns = np.nonzero(differs)
        assert rows.max() - rows.min() <= 5
        assert columns.max() - columns.min() <= 5


def test_an_object_that_is_not_found_gives_no_image(samples, tmp_path):
    made = make(method(segmenter=Middle(blind=(1,))), samples, tmp_path)
    report = made.report()
    assert [one.label for one in made.samples] == [0, 0, 0]
    assert report["missing_by_class"] == {"Green Finch": 2}
    with pytest.raises(ValueError, match="no usable subject"):
        make(method(segmenter=Middle(blind=(0, 1))), samples, tmp_path)


def test_only_pictures_that_are_needed_are_made(samples, tmp_path):
    painter = Painter()
    made = make(method(painter, foregrounds=1000), samples, tmp_path)
    asked = Counter(prompt for one in painter.asked for prompt in one.prompts)
    assert sum(count for prompt, count in asked.items() if "A real photo" in prompt) == 12
    assert sum(count for prompt, count in asked.items() if "A real photo" not in prompt) == 5
    (stage,) = [stage for stage in method(foregrounds=1000).plan(samples, BIRDS, tmp_path) if stage.name == "objects"]
    assert {job.key for job in stage.jobs} == {job.facts["object"] for job in made.jobs}


def test_scales_are_nested_and_other_samples_do_not_matter(samples, tmp_path):
    once = make(method(), samples, tmp_path)
    before = {one.id: one.path.read_bytes() for one in once.samples}
    thrice = make(method(scale=3), samples[::-1], tmp_path)
    assert keys(once) < keys(thrice)
    idle, clip = Painter(), Colours()
    part = make(method(idle, clip=clip), samples[1:3], tmp_path)
    assert (idle.devices, clip.calls) == ([], [])
    assert keys(part) < keys(once)
    fresh = make(method(Painter(batch_size=1)), samples[2:], tmp_path / "fresh")
    assert {one.id: one.path.read_bytes() for one in fresh.samples}.items() <= before.items()


def test_every_setting_makes_other_images(samples, tmp_path):
    base = make(method(), samples, tmp_path)
    for change in (
        {"seed": 1}, {"templates": ("{name}",)}, {"scenes": ("sea",)}, {"scene_prompt": "{}"}, {"scenes_each": 5},
        {"keep": (1.0, 1.0)}, {"placement": "random"}, {"size": (0.4, 0.7)}, {"rotation": 5}, {"blur": 9},
        {"segmenter": Middle(0.4)}, {"painter": Painter("dark")},
    ):  # fmt: skip
        other = make(method(**change), samples, tmp_path)
        assert not keys(base) & keys(other), change


def test_training_sees_real_images_and_all_others(samples, tmp_path):
    from genaug.data.images import RealImages

    made = make(method(scale=2), samples, tmp_path)
    source = Concatenation()(RealImages(samples, 2), made)
    assert len(source) == 15
    assert {line["class"] for line in lines(made)} == {"Azure Jay", "Green Finch"}


def test_the_plan_counts_and_makes_nothing(samples, tmp_path):
    stages = {stage.name: stage.count for stage in method(scale=2).plan(samples, BIRDS, tmp_path / "stores")}
    assert (stages["scenes"], stages["composites"]) == (12, 10)
    assert stages["objects"] == stages["masks"] <= 10
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scale": 0}, r"method\.scale=0"),
        ({"foregrounds": 0}, "foregrounds=0"),
        ({"templates": ()}, "not empty"),
        ({"templates": ("a {bird}",)}, r"method\.synthesis\.templates"),
        ({"keep": (0.5, 0)}, r"keep=\[0\.5, 0\]"),
        ({"placement": "middle"}, "choose space or random"),
        ({"size": (0.5, 1.5)}, "size="),
        ({"rotation": -1}, "rotation=-1"),
        ({"min_subject": 0.99}, "min_subject"),
    ],
)
def test_wrong_arguments_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        method(**settings)


def test_data_that_it_cannot_serve_are_refused(samples, tmp_path):
    several = SimpleNamespace(**{**vars(BIRDS), "multilabel": True})
    with pytest.raises(ValueError, match="several labels an image"):
        method().plan([replace(samples[0], label=(0, 1))], several, tmp_path)
    grey = SimpleNamespace(**{**vars(BIRDS), "channels": 1})
    with pytest.raises(ValueError, match="1 channels"):
        method().plan(samples, grey, tmp_path)
