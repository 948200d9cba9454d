"""Captions of photographs: those of the data set, and a tiny BLIP that is saved and loaded as a real one is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from genaug.captioning.blip import Blip
from genaug.captioning.image_captions import DatasetCaptions
from genaug.data.base import Sample

BIRDS = SimpleNamespace(superclass="bird", superclasses=("bird", "owl"), classes=("jay", "tawny owl"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (20 + number, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [Sample(f"{number}.png", tmp_path / f"{number}.png", number % 2) for number in range(5)]


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory):
    """Folder of a BLIP with random weights, whose captions are words of its vocabulary."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("blip")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        *["a", "the", "bird", "owl", "on", "in", "tree", "lake", "snow", "sky"],
    ]
    text = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "encoder_hidden_size": 32, "max_position_embeddings": 64, "initializer_range": 0.6,
        "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
        "patch_size": 8, "initializer_range": 0.6,
    }  # fmt: skip
    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, bos_token="[DEC]")
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_the_captions_of_a_data_set(samples, tmp_path):
    told = [samples[0], Sample("x", samples[1].path, 1, caption="an owl at night"), samples[1]]
    captions = DatasetCaptions().describe(told, BIRDS, tmp_path)
    assert captions == ["a photo of a bird", "an owl at night", "a photo of an owl"]


def test_blip_says_the_same_in_every_batch_and_says_it_once(tiny_blip, samples, tmp_path, monkeypatch):
    captions = Blip(str(tiny_blip), batch_size=2).describe(samples, BIRDS, tmp_path)
    assert len(set(captions)) > 1
    assert all(
        set(caption.split()) <= set(["a", "the", "bird", "owl", "on", "in", "tree", "lake", "snow", "sky", "[unk]"])
        for caption in captions
    )
    assert captions == Blip(str(tiny_blip), batch_size=5).describe(samples, BIRDS, tmp_path / "again")
    monkeypatch.setattr(Blip, "_load", None)  # nothing is loaded any more
    reader = Blip(str(tiny_blip))
    assert reader.describe(samples[::-1], BIRDS, tmp_path) == captions[::-1]
    with pytest.raises(TypeError):
        reader.describe(samples, BIRDS, tmp_path / "elsewhere")


def test_blip_is_known_by_its_content_and_its_length(tiny_blip, tmp_path):
    import shutil

    shutil.copytree(tiny_blip, tmp_path / "moved")
    assert Blip(str(tiny_blip)).fingerprint == Blip(str(tmp_path / "moved"), batch_size=1).fingerprint
    assert Blip(str(tiny_blip)).fingerprint != Blip(str(tiny_blip), max_tokens=5).fingerprint


def test_what_cannot_be_a_blip_is_refused(samples, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no model.*Salesforce/blip"):
        Blip(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="at least 1"):
        Blip(max_tokens=0)
    with pytest.raises(FileNotFoundError, match=r"hf download Salesforce/blip"):
        Blip("nobody/nothing").describe(samples, BIRDS, tmp_path)
