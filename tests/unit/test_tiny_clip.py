"""The CLIP that is shipped, on pictures that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genaug.clip import model
from genaug.clip.model import Clip
from genaug.clip.training_data import draw_abstract
from genaug.data.reading import read_image
from genaug.data.toybirds import ToyBirds
from genaug.data.toyscenes import ToyScenes
from genaug.filtering.base import Candidate, Circumstances
from genaug.filtering.clip_class import ClipClass
from genaug.filtering.clip_negatives import ClipNegatives
from genaug.filtering.clip_pair import ClipPair

WEIGHTS = Path(model.__file__).parent / "tiny_weights"


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> ToyBirds:
    birds = ToyBirds(tmp_path_factory.mktemp("birds"), train_per_class=0, test_per_class=2, data_seed=3)
    birds.splits()
    return birds


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip("genaug:tiny_weights")


@pytest.fixture(scope="module")
def pictures(birds, tmp_path_factory) -> list[Candidate]:
    """40 birds, 8 places without one and 8 abstract pictures, said to be of every class in turn."""
    folder = tmp_path_factory.mktemp("others")
    scenes = ToyScenes(tmp_path_factory.mktemp("scenes"), train_pictures=0, test_pictures=20, data_seed=3)
    empty = [sample.path for sample in scenes.splits()["test"] if sample.label == 20][:8]
    abstract = []
    for number, pixels in enumerate(draw_abstract(8, 64, ["x"], seed=3).pictures):
        abstract.append(folder / f"{number}.png")
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(abstract[-1])
    shown = [(sample.path, sample.label) for sample in birds.splits()["test"]]
    others = [(path, number) for number, path in enumerate([*empty, *abstract])]
    return [Candidate(f"{number:02}", path, label) for number, (path, label) in enumerate([*shown, *others])]


def test_it_is_small():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 4e6


@pytest.mark.parametrize(("split", "least"), [("test", 0.7), ("ood_habitat", 0.7), ("ood_sketch", 0.2)])
def test_it_names_species(clip, birds, split, least):
    samples = birds.splits()[split]
    texts = clip.texts([f"a photo of a {name}" for name in birds.classes])
    named = (clip.images([read_image(sample.path) for sample in samples]) @ texts.T).argmax(dim=1)
    assert float((named == torch.tensor([sample.label for sample in samples])).float().mean()) >= least


def test_filters_keep_good_birds_and_find_what_is_planted(clip, birds, pictures, tmp_path):
    about = Circumstances([], birds, tmp_path / "stores")
    bird, empty, abstract = slice(0, 40), slice(40, 48), slice(48, 56)

    said = ClipNegatives(clip).judge(pictures, about)
    kept = np.array([one.keep for one in said])
    assert kept[bird].mean() >= 0.95
    assert kept[abstract].mean() <= 0.2

    said = ClipPair(clip, drop=8 / 56).judge([*pictures[bird], *pictures[empty]], about)
    kept = np.array([one.keep for one in said])
    assert kept[bird].mean() >= 0.9
    assert kept[40:].mean() <= 0.5

    good = pictures[bird]
    wrong = [Candidate(one.key, one.path, (one.label + 5) % 20) for one in good]
    assert np.mean([one.keep for one in ClipClass(clip).judge(good, about)]) >= 0.8
    assert np.mean([one.keep for one in ClipClass(clip).judge(wrong, about)]) <= 0.2
