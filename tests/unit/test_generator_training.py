from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoPipelineForText2Image
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTokenizer

import genaug.captioning
from genaug.data.base import Sample
from genaug.data.toybirds import ToyBirds
from genaug.data.toyscenes import ToyScenes
from genaug.generation import training
from genaug.generation.tokenizer import END, learn_merges, train_tokenizer
from genaug.generation.training_denoiser import Denoising, tokenize
from genaug.generation.training_loop import Average, Objective, Settings, fit
from genaug.generation.training_vae import encode
from genaug.schedules import constant

ROOT = Path(__file__).parents[2]
SETS = Path(genaug.captioning.__file__).parent / "sets"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(folder: Path, pictures: int = 4, steps: int = 40) -> DictConfig:
    """The recipe that is shipped, with the smallest networks."""
    vae = {
        "network": {"block_out_channels": [8, 16], "norm_num_groups": 4},
        "objective": {"batch_size": 8, "crop": 16, "compiled": False},
        "fit": {"steps": steps, "looks": 2},
    }
    denoiser = {
        "network": {"sample_size": 16, "block_out_channels": [16, 16, 16, 16], "attention_head_dim": 2},
        "text_encoder": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "objective": {"batch_size": 8, "compiled": False, "preview_steps": 2, "prompts": ["a lake", "a bird"]},
        "fit": {"steps": steps, "looks": 2},
    }
    changes = {"image_size": 32, "held_out": 1, "device": "cpu", "vae": vae, "denoiser": denoiser}
    dataset = {
        "_target_": "genaug.data.toyscenes.ToyScenes",
        "root": str(folder / "cache"),
        "image_size": 32,
        "train_pictures": pictures,
        "test_pictures": 0,
    }
    recipe = OmegaConf.load(ROOT / "conf" / "generator_training" / "tiny.yaml")
    cfg = {"seed": 0, "paths": {"output": str(folder / "run")}, "dataset": dataset, "generator_training": recipe}
    cfg["subset"] = {"shots": None, "imbalance": None, "seed": 0}
    return OmegaConf.merge(cfg, {"generator_training": changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    training.train_generator(config(folder))
    return folder


def captions() -> list[str]:
    scenes = ToyScenes("unused")
    return [scenes.picture("train", number).caption for number in range(3000)]


# --- tokenizer -----------------------------------------------------------------------------------------------------


def test_each_word_of_the_data_and_of_the_prompt_sets_is_one_token_and_the_rest_falls_apart(tmp_path):
    tokenizer = train_tokenizer(captions(), max_length=40)
    birds = ToyBirds("unused", correlation=0.125)
    texts = [
        birds.compose(split, species, number).caption
        for split in ("train", "ood_sketch")
        for species in range(20)
        for number in range(30)
    ]
    texts += [line for name in ("spatial", "temporal") for line in (SETS / f"{name}.txt").read_text().splitlines()]
    words = {word for text in texts for word in text.replace("-", " - ").split()}
    assert len(words) > 100
    assert {word: tokenizer.tokenize(word) for word in words} == {word: [f"{word}</w>"] for word in words}
    longest = max(len(tokenizer(text).input_ids) for text in texts)
    assert 20 < longest <= 40
    assert len(tokenizer.tokenize("xylophon")) > 1
    assert tokenizer.decode(tokenizer("Ein Xylophon").input_ids, skip_special_tokens=True) == "ein xylophon"
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 40
    assert again([*texts, "xylophon 7!"]).input_ids == tokenizer([*texts, "xylophon 7!"]).input_ids


def test_every_process_finds_the_same_vocabulary():
    code = (
        "from genaug.generation.tokenizer import train_tokenizer;"
        "print(sorted(train_tokenizer(['a jay at a lake', 'a teal in a reed bed'], 9).get_vocab().items()))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_merges_come_by_frequency_then_by_alphabet():
    words = {"abab": 3, "b": 9, "ba": 2}  # after a+b there are ab+a and a+b</w>, three of each
    merges = [("a", "b"), ("a", "b</w>"), ("ab", "ab</w>"), ("b", "a</w>")]
    assert learn_merges(words, 99) == merges
    assert learn_merges(words, 2) == merges[:2]


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(ValueError, match="captions are empty"):
        train_tokenizer(["", "a"], max_length=8)


# --- loop ----------------------------------------------------------------------------------------------------------


class Parabola(Objective):
    """(w - step)² of one weight: every number can be had by hand."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight, self.fail_at = nn.Parameter(torch.tensor(1.0)), fail_at

    def loss(self, step: int) -> Tensor:
        if step == self.fail_at:
            raise KeyboardInterrupt
        return (self.weight - step) ** 2

    def preview(self):
        return torch.zeros(2, 2, 3, dtype=torch.uint8).numpy()

    def score(self) -> dict[str, float]:
        return {"weight": float(self.weight)}


def settings(steps: int, looks: int) -> Settings:
    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=0.25)

    return Settings(steps, optimizer, constant(), ema_decay=0.15, looks=looks, gradient_clip=1e9, bfloat16=False)


def test_updates_and_average_by_hand(tmp_path):
    objective = Parabola()
    fit(objective, settings(2, 1), tmp_path, "it")
    # Gradient 2 (w - step): 1 -> 1 - 0.25 * 2 = 0.5 -> 0.5 + 0.25 * 1 = 0.75. Decays 1/10 and min(0.15, 2/11) = 0.15.
    first = 0.1 * 1 + 0.9 * 0.5
    assert objective.weight.item() == pytest.approx(0.15 * first + 0.85 * 0.75)
    record = json.loads((tmp_path / "it.jsonl").read_text())
    assert record["loss"] == pytest.approx((1 + 0.25) / 2)
    assert record["weight"] == pytest.approx(objective.weight.item())  # the average is what is looked at
    assert (tmp_path / "it_000002.png").exists()


def test_a_killed_training_ends_with_the_same_numbers(tmp_path):
    whole, killed, resumed = Parabola(), Parabola(fail_at=5), Parabola()
    fit(whole, settings(8, 4), tmp_path / "a", "it")
    with pytest.raises(KeyboardInterrupt):
        fit(killed, settings(8, 4), tmp_path / "b", "it")
    fit(resumed, settings(8, 4), tmp_path / "b", "it")
    assert resumed.weight.item() == whole.weight.item()
    assert resumed.weight.item() != killed.weight.item()


def test_a_loss_that_is_no_number_is_refused(tmp_path):
    objective = Parabola()
    objective.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        fit(objective, settings(2, 1), tmp_path, "it")


def test_swapping_the_average_in_and_out_changes_nothing():
    module = nn.Linear(2, 2)
    average, before = Average(module, 0.5), module.weight.detach().clone()
    module.weight.data += 1
    with average.applied(module):
        assert torch.equal(module.weight, before)
    assert torch.equal(module.weight, before + 1)


# --- generator -----------------------------------------------------------------------------------------------------


def test_training_lowers_both_losses(trained):
    for name in ("vae", "denoiser"):
        first, last = map(
            json.loads, (trained / "run" / "generator_training" / f"{name}.jsonl").read_text().split("\n")[:2]
        )
        assert last["loss"] < 0.9 * first["loss"], name
    assert len(list((trained / "run" / "generator_training").glob("*.png"))) == 4


def test_the_folder_is_in_half_precision_and_draws(trained):
    folder = trained / "run" / "generator"
    for part in ("vae", "unet", "text_encoder"):
        (file,) = (folder / part).glob("*.safetensors")
        with safe_open(file, "pt") as weights:
            assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    pipeline = AutoPipelineForText2Image.from_pretrained(folder)
    assert {pipeline.vae.dtype, pipeline.unet.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompt):
        return pipeline(
            prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt"
        ).images

    lake = draw("a lake")
    assert lake.shape == (1, 3, 32, 32)
    assert not torch.equal(lake, draw("a forest"))


def test_scaled_latents_have_deviation_one(trained):
    cfg = config(trained)
    learn, _ = training.load_data(cfg)
    vae = AutoPipelineForText2Image.from_pretrained(trained / "run" / "generator").vae
    assert float((encode(vae, learn.pictures) * vae.config.scaling_factor).std()) == pytest.approx(1, abs=0.01)


def test_the_same_call_again_trains_nothing_and_gives_the_same_weights(trained):
    folder = trained / "run" / "generator" / "unet"
    (file,) = folder.glob("*.safetensors")
    before = file.read_bytes()
    training.train_generator(config(trained))
    assert file.read_bytes() == before


def test_no_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="generator_training=tiny"):
        training.train_generator(OmegaConf.create({"generator_training": None}))


@pytest.fixture
def denoising(tmp_path) -> Denoising:
    cfg = config(tmp_path)
    vae = training.build(cfg.generator_training.vae.network, 0, "cpu")
    words = ["a photo of a calm lake at dusk", "a forest"]
    pipeline = training.blank_pipeline(cfg, vae, words, "cpu")
    latents = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Denoising(
        pipeline, latents, words, latents[0], words, prompts=["a lake"], batch_size=4, drop=0.25, strange=0.25
    )


def test_error_is_the_min_snr_weighted_one(denoising):
    noise = torch.full((2, 4, 8, 8), 2.0)
    timesteps = torch.tensor([5, 900])

    def silent(sample, *_, **__):
        return (torch.zeros_like(sample),)

    error = denoising._error(denoising.latents[0], noise, timesteps, denoising.tokens, silent)
    # The noise of Stable Diffusion, from its definition.
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)[timesteps]
    ratio = signal / (1 - signal)
    weights = torch.where(ratio > 5, 5 / ratio, torch.ones(2))
    assert weights[0] < 0.1
    assert weights[1] == 1
    assert error.item() == pytest.approx(float((4 * weights).mean()), rel=1e-4)


def test_captions_are_dropped_and_get_strange_pieces_as_often_as_asked(denoising):
    row = denoising.tokens[0]
    spoilt = denoising._spoil(row.expand(2000, -1), torch.Generator().manual_seed(0))
    dropped = (spoilt == denoising.nothing).all(1)
    kept = (spoilt == row).all(1)
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.03)
    strange = spoilt[~dropped & ~kept]
    pieces = set(denoising.pieces.tolist())
    words = [token for token in row.tolist() if token not in pieces]
    for other in strange:
        assert [token for token in other.tolist() if token not in pieces][: len(set(words)) + 2] == words[
            : len(set(words)) + 2
        ]
        assert other[-1] == denoising.nothing[-1]


def test_tokens_end_and_are_padded_with_the_end(denoising):
    tokenizer = denoising.pipelines[0].tokenizer
    rows = tokenize(tokenizer, ["a lake", "a " * 100])
    assert rows.shape == (2, 40)
    end = tokenizer.convert_tokens_to_ids(END)
    assert (rows[0, 3:] == end).all()
    assert rows[1, -1] == end


def test_captions_of_a_dataset_without_any():
    sample = Sample("a.png", Path("a.png"), 1)
    assert training.caption_of(sample, ["Cat", "Big Dog"]) == "a photo of a big dog"


def test_holding_out_parts_the_pictures():
    data = training.Captioned(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), [str(n) for n in range(10)])
    learn, look = training.hold_out(data, 3, seed=0)
    assert [int(p) for p in learn.pictures.flatten()] == [int(caption) for caption in learn.captions]
    assert sorted(learn.captions + look.captions) == sorted(data.captions)
    assert len(look.captions) == 3
    with pytest.raises(ValueError, match="held_out=10"):
        training.hold_out(data, 10, seed=0)
