from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

from genaug.clip.model import Clip
from genaug.clip.training import blank_model, train_clip
from genaug.clip.training_contrast import Contrast, moved
from genaug.clip.training_data import ABSTRACT, EMPTY, OBJECT, Phrases, describe, draw_abstract, joined
from genaug.data.reading import read_image
from genaug.data.toyscenes import ToyScenes

ROOT = Path(__file__).parents[2]
TRAIN, TEST = 48, 24


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def config(cache: Path, output: Path) -> DictConfig:
    """The recipe that is shipped, with the smallest networks."""
    dataset = {
        "_target_": "genaug.data.toyscenes.ToyScenes",
        "root": str(cache),
        "image_size": 32,
        "train_pictures": TRAIN,
        "test_pictures": TEST,
    }
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    changes = {
        "image_size": 32, "projection": 16, "device": "cpu", "vision": size, "text": size,
        "abstract": {"train": 10, "test": 5}, "objective": {"batch_size": 20},
        "fit": {"steps": 30, "looks": 2, "bfloat16": False},
    }  # fmt: skip
    recipe = OmegaConf.load(ROOT / "conf" / "generator_training" / "tiny_clip.yaml")
    subset = {"shots": None, "imbalance": None, "seed": 0}
    cfg = {"seed": 0, "paths": {"output": str(output)}, "dataset": dataset, "generator_training": recipe}
    return OmegaConf.merge({**cfg, "subset": subset}, {"generator_training": changes})


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert train_clip(config(cache, folder)) == folder / "clip"
    return folder


@pytest.fixture(scope="module")
def scenes(cache) -> ToyScenes:
    return ToyScenes(cache, image_size=32, train_pictures=TRAIN, test_pictures=TEST)


@pytest.fixture(scope="module")
def phrases(scenes) -> Phrases:
    recipe = OmegaConf.load(ROOT / "conf" / "generator_training" / "tiny_clip.yaml")
    return Phrases.of(scenes, empty_class="scenery", **recipe.phrases)


# --- data ----------------------------------------------------------------------------------------------------------


def test_phrases_name_every_species_and_the_words_of_the_filters(phrases):
    from genaug.filtering.clip_negatives import NEGATIVES

    assert list(phrases.classes) == list(range(20))  # scenery is no species
    assert phrases.classes[0][:2] == ["a photo of a amber-crested finch", "a photo of an amber-crested finch"]
    assert "a photo with a bird on it" in phrases.topics[OBJECT]
    assert "a photo without a bird on it" in phrases.topics[EMPTY]
    assert {one.format(superclass="bird") for one in NEGATIVES} <= set(phrases.topics[ABSTRACT])
    meanings = [set(some) for some in (*phrases.classes.values(), *phrases.topics)]
    assert len(set().union(*meanings)) == sum(map(len, meanings))  # no phrase has two


def test_pictures_are_described_by_class_and_topic(scenes):
    samples = scenes.splits()["train"]
    data = describe(scenes, samples, 32, "scenery")
    both = joined(data, draw_abstract(6, 32, ["shapes", "an image"], seed=1))
    assert both.pictures.shape == (TRAIN + 6, 3, 32, 32)
    assert both.captions[-6:] == ["shapes", "an image"] * 3
    assert both.labels.tolist() == [sample.label for sample in samples] + [-1] * 6
    expected = [EMPTY if sample.label == 20 else OBJECT for sample in samples]
    assert both.topics.tolist() == expected + [ABSTRACT] * 6
    np.testing.assert_array_equal(both.pictures[3].permute(1, 2, 0).numpy(), read_image(samples[3].path))
    assert set(describe(scenes, samples[:3], 32, None).topics.tolist()) == {OBJECT}


def test_several_labels_are_refused(scenes, monkeypatch):
    monkeypatch.setattr(ToyScenes, "multilabel", True)
    with pytest.raises(ValueError, match="one class each, and toyscenes has several labels"):
        describe(scenes, [], 32, None)


def test_abstract_pictures_differ_and_depend_on_seed_and_number_alone():
    few, many = draw_abstract(5, 32, ["x"], seed=1), draw_abstract(40, 32, ["x"], seed=1)
    assert torch.equal(few.pictures, many.pictures[:5])
    assert len(np.unique(many.pictures.reshape(40, -1).numpy(), axis=0)) == 40
    assert not torch.equal(few.pictures, draw_abstract(5, 32, ["x"], seed=2).pictures)


def test_pictures_are_mirrored_or_not_and_shifted_with_their_border():
    side = 32
    ramp = torch.arange(side, dtype=torch.uint8).expand(200, 3, side, side)
    rows = moved(ramp, torch.Generator().manual_seed(0))[:, 0, 0].int()
    assert rows.shape == (200, side)
    starts = set()
    for row in rows:
        steps = row.diff()
        mirrored = bool(steps.float().mean() < 0)
        straight = row.flip(0) if mirrored else row
        shift = int(straight[side // 2]) - side // 2
        expected = (torch.arange(side) + shift).abs()
        expected = torch.where(expected > side - 1, 2 * (side - 1) - expected, expected)
        assert torch.equal(straight, expected.int())
        starts.add((mirrored, shift))
    assert {shift for _, shift in starts} == {-2, -1, 0, 1, 2}
    assert {mirrored for mirrored, _ in starts} == {True, False}


# --- loss ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contrast(cache, scenes, phrases) -> Contrast:
    cfg = config(cache, cache)
    data = joined(
        describe(scenes, scenes.splits()["train"], 32, "scenery"),
        draw_abstract(10, 32, phrases.topics[ABSTRACT], seed=0),
    )
    model, tokenizer = blank_model(cfg, [*data.captions, *phrases.all()], "cpu")
    return Contrast(model, tokenizer, data, data, phrases, batch_size=20, shares=[0.7, 0.2, 0.1])


def test_a_batch_has_the_shares_asked_for(contrast):
    assert contrast.counts == [14, 4, 2]


def test_a_caption_of_two_pictures_is_true_of_both(contrast):
    captions = contrast.learn.captions[:2]
    logits = torch.tensor([[2.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    found = contrast._own_captions(logits, [captions[0], captions[1], captions[0]])
    forth = [-(2 - np.log(2 * np.exp(2) + 1)), -(1 - np.log(np.exp(1) + 2)), -(1 - np.log(2 * np.exp(1) + 1))]
    column = np.log(np.exp(2) + 1 + np.exp(1))
    back = [column - 1.5, np.log(2 + np.exp(1)) - 1, column - 1.5]
    assert captions[0] != captions[1]
    assert found.item() == pytest.approx((np.mean(forth) + np.mean(back)) / 2)


def test_only_objects_have_a_class(contrast):
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([20, 7, -1])
    expected = torch.nn.functional.cross_entropy(logits[1:2], torch.tensor([7]), label_smoothing=0.1)
    assert contrast._classes(logits, labels).item() == pytest.approx(expected.item())


def test_a_loss_depends_on_weights_and_step_alone(contrast):
    assert contrast.loss(3).item() == contrast.loss(3).item() != contrast.loss(4).item()


# --- training ------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_the_folder_is_small_and_used_as_any_clip(trained):
    first, last = map(json.loads, (trained / "clip_training" / "clip.jsonl").read_text().splitlines())
    assert last["loss"] < 0.95 * first["loss"]
    assert 0 <= last["class_accuracy"] <= 1
    assert 0 <= last["topic_accuracy"] <= 1
    with safe_open(trained / "clip" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    assert Clip(trained / "clip").texts(["a photo of a bird"]).dtype == torch.float32


def test_what_is_saved_answers_as_what_was_trained(trained, cache, contrast, scenes):
    clip = Clip(trained / "clip")
    pictures = [read_image(sample.path) for sample in scenes.splits()["test"][:4]]
    contrast.model.load_state_dict(clip._loaded().state_dict())
    contrast.tokenizer = clip._processor.tokenizer
    stacked = torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in pictures])
    with torch.no_grad():
        torch.testing.assert_close(contrast.embed_pictures(stacked), clip.images(pictures), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(contrast.embed_texts(["a bird"]), clip.texts(["a bird"]), atol=1e-5, rtol=1e-4)


def test_the_same_call_again_trains_nothing_and_gives_the_same_weights(trained, cache):
    file = trained / "clip" / "model.safetensors"
    before = file.read_bytes()
    train_clip(config(cache, trained))
    assert file.read_bytes() == before
