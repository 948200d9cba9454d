from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from genaug.clip.model import Clip

TEXTS = ["a photo of a jay", "a photo of a finch", "a", "b", "something else"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Of several sizes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((20, 30), (16, 16), (40, 25), (16, 16))]


def test_logits_are_those_of_transformers(folder, pictures):
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    shown = [Image.fromarray(one) for one in pictures]
    inputs = processor(text=TEXTS, images=shown, return_tensors="pt", padding=True)
    with torch.inference_mode():
        expected = model(**inputs).logits_per_image
    clip = Clip(folder, batch_size=3)
    images, texts = clip.images(pictures), clip.texts(TEXTS)
    assert images.dtype == texts.dtype == torch.float32
    assert images.device == texts.device == torch.device("cpu")
    torch.testing.assert_close(images.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(clip.scale * images @ texts.T, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_a_row_is_the_same_in_any_company(folder, pictures):
    clip = Clip(folder, batch_size=3)
    together, texts = clip.images(pictures), clip.texts(TEXTS)

    def same(one, other):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)

    for number in range(len(pictures)):
        same(clip.images([pictures[number]])[0], together[number])
    same(clip.images(pictures[::-1]), together.flip(0))
    same(Clip(folder, batch_size=64).images(pictures), together)
    same(clip.texts(TEXTS[:1])[0], texts[0])
    same(clip.texts([TEXTS[0], "a long text " * 50])[0], texts[0])  # cut off, not refused
    assert clip.images([]).shape == (0, 24) == clip.texts([]).shape


def test_the_files_are_its_identity_and_the_batch_size_is_not(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    clip = Clip(folder)
    assert Clip(moved, batch_size=5).fingerprint == clip.fingerprint
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert Clip(moved).fingerprint != clip.fingerprint
    assert Clip("openai/clip-vit-base-patch32").settings == {"model": "openai/clip-vit-base-patch32"}


def test_it_loads_once_and_again_after_it_was_unloaded(folder, pictures):
    clip = Clip(str(folder))
    clip.load("cpu")
    network = clip._network
    clip.load("cpu")
    assert clip._network is network
    rows = clip.images(pictures)
    clip.unload()
    assert clip._network is None
    assert torch.equal(clip.images(pictures), rows)


@pytest.mark.parametrize("model", ["nowhere/at/all", "./nothing"])
def test_a_folder_that_is_not_there_names_the_remedy(model):
    with pytest.raises(FileNotFoundError, match=r"no model at .*\n?.*hf download openai/clip-vit-base-patch32"):
        Clip(model)


def test_a_folder_without_a_model_and_a_model_that_cannot_be_fetched_name_it_too(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"without a config.json.*clip.model=FOLDER"):
        Clip(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"(?s)owner/clip.*clip.model=FOLDER"):
        Clip("owner/clip").load("cpu")


def test_another_kind_of_model_is_refused(tmp_path):
    tiny_models.clip_text().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)clip.model=FOLDER.*clip_text_model model, and clip is needed"):
        Clip(tmp_path).load("cpu")


def test_an_empty_batch_is_refused(folder):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Clip(folder, batch_size=0)


def test_transformers_is_imported_when_weights_are_loaded():
    code = "import sys; from genaug.clip.model import Clip; Clip(); assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
