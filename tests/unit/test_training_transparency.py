from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

import genaug.generation
from genaug.data.base import Sample
from genaug.data.reading import read_image, read_mask
from genaug.data.toybirds import ToyBirds
from genaug.generation import training, training_transparency
from genaug.generation.training_loop import step_generator
from genaug.generation.training_transparency import (
    TransparentDenoising,
    TransparentReconstruction,
    add_lora,
    alpha_iou,
    colour_weight,
    decode,
    edit,
    on_checkerboard,
    read_cutouts,
    reduced,
    save,
    square_cutout,
    train_transparency,
    visible_error,
    with_alpha,
)
from genaug.generation.training_vae import encode, reconstruct, to_network

RECIPES = Path(__file__).parents[2] / "conf" / "generator_training"
LORA = "pytorch_lora_weights.safetensors"
VAE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blank_base() -> StableDiffusionPipeline:
    """A generator in the shape of the shipped one, with the smallest networks, all of them noise."""
    sizes = {
        "vae": {"network": {"block_out_channels": [8, 16], "norm_num_groups": 4}},
        "denoiser": {
            "network": {"sample_size": 8, "block_out_channels": [16, 16, 16, 16], "attention_head_dim": 2},
            "text_encoder": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
        },
    }
    recipe = OmegaConf.merge(OmegaConf.load(RECIPES / "tiny.yaml"), sizes, {"image_size": 16})
    cfg = OmegaConf.create({"seed": 0, "generator_training": recipe})
    vae = training.build(cfg.generator_training.vae.network, 0, "cpu")
    vae.register_to_config(scaling_factor=0.7)
    return training.blank_pipeline(cfg, vae, ["a photo of a finch", "a photo of a teal"], "cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return training.save(blank_base(), tmp_path_factory.mktemp("base") / "generator")


def config(folder: Path, base: Path, steps: int = 4) -> DictConfig:
    changes = {
        "base": str(base),
        "image_size": 16,
        "held_out": 2,
        "device": "cpu",
        "cutouts": {"copies": 2},
        "vae": {"objective": {"batch_size": 4, "compiled": False}, "fit": {"steps": steps, "looks": 2}},
        "denoiser": {
            "lora": {"rank": 2, "target_modules": ["to_v", "ff.net.2", "conv1", "conv_in", "conv_out"]},  # for time
            "objective": {"batch_size": 4, "preview_steps": 5},
            "fit": {"steps": steps, "looks": 2},
        },
    }
    dataset = {
        "_target_": "genaug.data.toybirds.ToyBirds",
        "root": str(base.parent / "cache"),
        "image_size": 32,
        "train_per_class": 1,
        "test_per_class": 0,
    }
    cfg = {
        "seed": 0,
        "subset": {"shots": None, "imbalance": None, "seed": 0},
        "paths": {"output": str(folder / "run"), "stores": str(folder / "stores")},
        "dataset": dataset,
        "segmenter": {"_target_": "genaug.segmentation.annotated.Annotated"},
        "generator_training": OmegaConf.load(RECIPES / "tiny_transparency.yaml"),
    }
    return OmegaConf.merge(cfg, {"generator_training": changes})


# --- cut-outs ------------------------------------------------------------------------------------------------------


def test_the_object_is_in_the_middle_of_a_square_with_its_margin():
    image, mask = np.zeros((7, 9, 3), np.uint8), np.zeros((7, 9), bool)
    mask[5:7, 5:9] = True  # 4 wide, 2 high, at the corner of the image: the square reaches outside
    image[mask] = 200, 100, 50
    image[6, 5] = 10, 20, 30
    cutout = square_cutout(image, mask, margin=0.25, size=6)  # 4 + 2 * 1
    expected = np.zeros((6, 6), np.uint8)
    expected[2:4, 1:5] = 255
    assert np.array_equal(cutout[..., 3], expected)
    assert cutout[3, 1, :3].tolist() == [10, 20, 30]
    assert cutout[2, 4, :3].tolist() == [200, 100, 50]
    # What lies far on the other object's side has its colour; the black background is nowhere.
    assert np.abs(cutout[1, 5, :3].astype(int) - [200, 100, 50]).max() < 60
    assert cutout[..., 0].min() == 10


def test_a_cutout_of_one_colour_has_it_everywhere_at_any_size():
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    mask[2:5, 3:4] = True
    image[mask] = 9, 90, 200
    large = square_cutout(image, mask, margin=0.0, size=12)
    assert (large[..., :3] == (9, 90, 200)).all()
    # Bilinear, four times as large: one opaque column between two transparent ones, in eighths of 255.
    assert large[0, :, 3].tolist() == pytest.approx([255 * n / 8 for n in (0, 0, 1, 3, 5, 7, 7, 5, 3, 1, 0, 0)], abs=1)
    assert np.ptp(large[..., 3].astype(int), axis=0).max() <= 1


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="mask is empty"):
        square_cutout(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool), 0.1, 4)


def test_reducing_averages_the_photograph_and_its_mask():
    image, mask = np.zeros((4, 8, 3), np.uint8), np.zeros((4, 8), bool)
    image[:2, :2] = 200
    image[0, 0] = 0
    mask[:2, 2:4] = True
    mask[0, 4] = True  # a quarter of its pixel
    small, small_mask = reduced(image, mask, 2)
    assert small.shape == (2, 4, 3)
    assert small[0, 0].tolist() == [150] * 3
    assert small_mask.tolist() == [[False, True, False, False], [False] * 4]
    assert reduced(image, mask, 16) == (image, mask)


def test_every_second_copy_is_blurred_and_captions_leave_the_background_out(tmp_path):
    # A board of single black and white pixels: at half the size it is grey.
    board = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), board)
    mask, nothing = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    samples = [
        Sample(name, tmp_path / "a.png", label, caption="a photo of a thing in a forest")
        for name, label in (("a", 1), ("b", 0), ("c", 0))
    ]
    masks = {"a": mask, "b": nothing, "c": mask}
    read = {"size": 32, "copies": 4, "margin": (0.0, 0.0)}
    data = read_cutouts(samples, masks, ["Cat", "Dog"], seed=0, **read)
    assert data.captions == ["a photo of a dog", "a photo of a cat"]
    assert data.pictures.shape == (2, 4, 4, 32, 32)
    assert (data.pictures[:, :, 3] == 255).all()
    sharp, blurred = data.pictures[:, ::2, :3], data.pictures[:, 1::2, :3]
    assert set(sharp.unique().tolist()) == {0, 255}
    assert set(blurred.unique().tolist()) <= {127, 128}


def test_photographs_without_any_object_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    settings = {"size": 8, "copies": 1, "margin": (0.0, 0.0), "seed": 0}
    with pytest.raises(ValueError, match="no object in 1 photographs"):
        read_cutouts([Sample("a", tmp_path / "a.png", 0)], {"a": np.zeros((8, 8), bool)}, ["cat"], **settings)


def test_margins_and_mirroring_are_the_seeds(tmp_path):
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mask[20:40, 10:50] = True
    mask[20:30, 30:50] = False  # heavy on the left
    cv2.imwrite(str(tmp_path / "a.png"), image)
    samples = [Sample("a", tmp_path / "a.png", 0)]

    def pictures(seed: int) -> torch.Tensor:
        settings = {"size": 64, "copies": 40, "margin": (0.05, 0.3), "seed": seed}
        return read_cutouts(samples, {"a": mask}, ["cat"], **settings).pictures[0]

    made = pictures(0)
    assert torch.equal(made, pictures(0))
    assert not torch.equal(made, pictures(1))
    alpha = made[:, 3] >= 128
    widths = alpha.any(1).sum(1)
    assert widths.min() >= 39  # 64 / 1.6 = 40
    assert widths.max() <= 59  # 64 / 1.1 = 58.2
    assert widths.max() - widths.min() > 10
    mirrored = alpha[:, :, 32:].sum((1, 2)) > alpha[:, :, :32].sum((1, 2))
    assert 8 < int(mirrored.sum()) < 32


# --- measures ------------------------------------------------------------------------------------------------------


def test_measures_by_hand():
    real, made = -torch.ones(1, 4, 2, 2), -torch.ones(1, 4, 2, 2)
    real[0, 3, 0] = 1.0  # the upper row is visible
    made[0, 3, :, 0] = 1.0  # the left column
    made[0, 0, 0, 0] = 0.0  # red is wrong by half of the range in one of two visible pixels
    made[0, 1, 1, 1] = 1.0  # and something where nothing is seen
    assert visible_error(real, made).tolist() == pytest.approx([0.25 / 6])
    assert alpha_iou(real, made).tolist() == pytest.approx([1 / 3])


def test_the_checkerboard_is_seen_through_what_is_transparent():
    pictures = torch.full((1, 4, 16, 16), -1.0)
    pictures[0, :3] = 0.9
    pictures[0, 3, :, 8:] = 1.0
    pictures[0, 3, 0, 0] = 0.0  # half
    shown = on_checkerboard(pictures)[0]
    assert torch.allclose(shown[:, :, 8:], torch.tensor(0.9))
    assert torch.allclose(shown[:, 1:8, 0], torch.tensor(0.2))
    assert torch.allclose(shown[:, 8:, 0], torch.tensor(0.6))
    assert shown[0, 0, 0].item() == pytest.approx((0.9 + 0.2) / 2)


def test_colours_count_near_the_object():
    alpha = torch.zeros(1, 1, 15, 15)
    alpha[0, 0, 7, 7] = 1
    weight = colour_weight(alpha)[0, 0]
    assert weight[7, 7].item() == pytest.approx(1.0)  # grown to 5 x 5, and all of the mean's 5 x 5 lies in it
    assert weight[7, 9].item() == pytest.approx(0.1 + 0.9 * 15 / 25)
    assert weight[7, 12].item() == pytest.approx(0.1)


def test_weighted_error_is_that_of_numpy():
    rng = np.random.default_rng(0)
    error, weight = rng.normal(size=(2, 3, 4, 5)), rng.uniform(0.1, 1, (2, 1, 4, 5))
    objective = object.__new__(TransparentReconstruction)
    torch.nn.Module.__init__(objective)
    objective.square_weight, objective.edge_weight = 7.0, 0.5
    every = np.broadcast_to(weight, error.shape)
    expected = np.average(np.abs(error) + 7 * error**2, weights=every) + 0.5 * (
        np.average(np.abs(np.diff(error, axis=2)), weights=every[:, :, 1:])
        + np.average(np.abs(np.diff(error, axis=3)), weights=every[..., 1:])
    )
    assert objective._error(torch.tensor(error), torch.tensor(weight)).item() == pytest.approx(expected)


# --- autoencoder ---------------------------------------------------------------------------------------------------


def test_at_first_the_encoder_is_the_generators_own_whatever_alpha_is(base):
    own = AutoencoderKL.from_pretrained(base / "vae").eval()
    wide = with_alpha(own, seed=3).eval()
    assert (wide.config.in_channels, wide.config.out_channels) == (4, 4)
    assert wide.config.scaling_factor == own.config.scaling_factor == 0.7
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    with torch.no_grad():
        wanted = own.encode(colours).latent_dist
        for alpha in (torch.rand(2, 1, 16, 16, generator=generator) * 2 - 1, torch.ones(2, 1, 16, 16)):
            found = wide.encode(torch.cat([colours, alpha], 1)).latent_dist
            assert torch.allclose(found.mean, wanted.mean, atol=1e-5)
            assert torch.allclose(found.std, wanted.std, atol=1e-5)
        made = wide.decode(wanted.mean).sample
        assert torch.allclose(made[:, :3], own.decode(wanted.mean).sample, atol=1e-5)
    assert 0 < made[:, 3].abs().max() < 0.5
    assert torch.equal(with_alpha(own, 3).decoder.conv_out.weight, wide.decoder.conv_out.weight)
    assert not torch.equal(with_alpha(own, 4).decoder.conv_out.weight, wide.decoder.conv_out.weight)


def test_distance_to_the_teacher_is_in_its_deviations(base):
    own = AutoencoderKL.from_pretrained(base / "vae").eval()
    pictures = torch.randint(256, (2, 4, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    settings = {"batch_size": 2, "steps": 1, "crop": 16}
    objective = TransparentReconstruction(with_alpha(own, 0), own, pictures, pictures, latent_weight=1.0, **settings)
    seen = to_network(pictures, "cpu")
    with torch.no_grad():
        latents = own.encode(seen[:, :3]).latent_dist.mean
        assert objective._distance(seen, latents + 2).item() == pytest.approx((2 * 0.7) ** 2, rel=1e-4)
        assert objective.score()["latent_shift"] == pytest.approx(0, abs=1e-5)
    # The loss counts the distance as often as it is told to: the rest of it is the same.
    near, far = (
        TransparentReconstruction(objective.vae, shifted(own, 2.0), pictures, pictures, latent_weight=w, **settings)
        for w in (0.0, 3.0)
    )
    assert (far.loss(0) - near.loss(0)).item() == pytest.approx(3 * (2 * 0.7) ** 2, rel=1e-3)


def shifted(vae: AutoencoderKL, shift: float) -> AutoencoderKL:
    """The same autoencoder, its latents moved by ``shift``."""
    other = copy.deepcopy(vae)
    with torch.no_grad():
        other.quant_conv.bias[:4] += shift
    return other


# --- LoRA ----------------------------------------------------------------------------------------------------------


def lora_config(rank: int) -> DictConfig:
    targets = OmegaConf.load(RECIPES / "tiny_transparency.yaml").denoiser.lora.target_modules
    return OmegaConf.create({"rank": rank, "target_modules": targets})


def noise_of(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, words = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 32, generator=generator)
    with torch.no_grad():
        return pipeline.unet(latents, torch.tensor([100, 700]), encoder_hidden_states=words).sample


def test_a_written_lora_does_to_a_fresh_generator_what_it_did_to_the_trained_one(base, tmp_path):
    trained = StableDiffusionPipeline.from_pretrained(base)
    before = noise_of(trained)
    add_lora(trained, lora_config(2), seed=1)
    assert torch.equal(noise_of(trained), before)  # it starts as nothing
    generator = torch.Generator().manual_seed(2)
    factors = {name: one for name, one in trained.unet.named_parameters() if one.requires_grad}
    assert {name.split(".")[-3] for name in factors} == {"lora_A", "lora_B"}
    for name, one in factors.items():
        if "lora_B" in name:
            one.data = torch.randn(one.shape, generator=generator) * 0.1
    after = noise_of(trained)
    assert (after - before).abs().mean() > 0.05
    save(with_alpha(trained.vae, 0), trained, tmp_path)
    fresh = StableDiffusionPipeline.from_pretrained(base)
    fresh.load_lora_weights(str(tmp_path / LORA))
    fresh.fuse_lora()
    fresh.unload_lora_weights()
    assert torch.allclose(noise_of(fresh), after, atol=2e-3)
    assert not any(one.requires_grad for one in trained.text_encoder.parameters())


def test_an_edit_starts_from_the_latents_as_they_are(base, monkeypatch):
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    monkeypatch.setattr(pipeline.unet, "forward", lambda sample, *_, **__: (torch.zeros_like(sample),))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = edit(pipeline, latents, ["a teal", "a finch"], 0.4, guidance=3.0, steps=10, seed=5)
    # A denoiser that sees no noise leaves it in: with DDIM, each step only scales. Trailing: from 1000 - 6 * 100.
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=step_generator(5, "edit", number)) for number in range(2)])
    expected = signal[0].sqrt() * (latents + ((1 - signal[399]) / signal[399]).sqrt() * noise)
    assert torch.allclose(made, expected.float(), atol=1e-4)


# --- the whole -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_the_new_parts_are_trained(base, tmp_path):
    cfg = config(tmp_path, base)
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    frozen = {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    learn, look = training_transparency.load_cutouts(cfg, "cpu")
    assert len(learn.captions) == 18
    vae = training_transparency.train_vae(cfg, pipeline.vae, learn, look, tmp_path)
    trained = {key: value.clone() for key, value in vae.state_dict().items()}
    training_transparency.train_lora(cfg, pipeline, vae, learn, look, tmp_path)
    now = {name: getattr(pipeline, name).state_dict() for name in frozen}
    now["unet"] = {key.replace(".base_layer.", "."): value for key, value in now["unet"].items()}
    assert set(frozen) == {"vae", "text_encoder", "unet"}
    for name, weights in frozen.items():
        assert all(torch.equal(now[name][key], value) for key, value in weights.items()), name
    assert all(torch.equal(vae.state_dict()[key], value) for key, value in trained.items())
    # At the coarsest level a latent of 8 x 8 is a single number a channel, which the normalisation takes away.
    factors = {key: value for key, value in now["unet"].items() if "lora_B" in key}
    fine = [key for key in factors if not key.startswith(("down_blocks.3", "mid_block", "up_blocks.0"))]
    assert len(fine) > 10
    assert [key for key in fine if not factors[key].any()] == []


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_transparency(config(folder, base))
    return folder / "run"


def test_the_folder_is_as_diffusers_loads_it(base, trained):
    folder = trained / "transparency"
    assert {file.name for file in folder.iterdir()} == {"config.json", VAE, LORA}
    for name in (VAE, LORA):
        with safe_open(folder / name, "pt") as weights:
            assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118
    assert "path" not in (folder / "config.json").read_text()
    vae = AutoencoderKL.from_pretrained(folder)
    assert (vae.config.in_channels, vae.config.out_channels, vae.config.scaling_factor) == (4, 4, 0.7)
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    before = noise_of(pipeline)
    pipeline.load_lora_weights(str(folder / LORA))
    pipeline.fuse_lora()
    assert not torch.equal(noise_of(pipeline), before)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [TransparentReconstruction, TransparentDenoising])
def test_a_killed_training_ends_with_the_same_weights(base, trained, tmp_path, monkeypatch, objective):
    loss = objective.loss

    def killed(self, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, step)

    cfg = config(tmp_path, base)
    with monkeypatch.context() as patch:
        patch.setattr(objective, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            train_transparency(cfg)
    assert not (tmp_path / "run" / "transparency").exists()
    train_transparency(cfg)
    for name in (VAE, LORA):
        files = (run / "transparency" / name for run in (tmp_path / "run", trained))
        first, second = (file.read_bytes() for file in files)
        assert first == second, name


@pytest.mark.slow
def test_the_autoencoder_learns_alpha(base, tmp_path):
    cfg = config(tmp_path, base, steps=90)
    cfg.generator_training.vae.fit.optimizer.lr = 5e-3
    own = AutoencoderKL.from_pretrained(base / "vae")
    learn, look = training_transparency.load_cutouts(cfg, "cpu")
    training_transparency.train_vae(cfg, own, learn, look, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "vae.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["alpha_iou"] > 0.6  # all opaque: 0.2


def test_too_few_objects_are_refused_before_anything_is_trained(base, tmp_path, monkeypatch):
    cfg = config(tmp_path, base)
    cfg.generator_training.held_out = 20
    monkeypatch.setattr(training_transparency, "fit", None)
    with pytest.raises(ValueError, match="held_out=20"):
        train_transparency(cfg)


@pytest.mark.parametrize(
    ("recipe", "task"), [("tiny", training.train_generator), ("tiny_transparency", train_transparency)]
)
def test_a_recipe_names_its_task(recipe, task):
    cfg = OmegaConf.create({"generator_training": OmegaConf.load(RECIPES / f"{recipe}.yaml")})
    made = training_transparency.instantiate(training.chosen_recipe(cfg).task)
    assert made.func is task


def test_no_recipe_is_refused():
    with pytest.raises(ValueError, match="generator_training=tiny"):
        training.chosen_recipe(OmegaConf.create({"generator_training": None}))


# --- what the package brings along ---------------------------------------------------------------------------------

SHIPPED = Path(genaug.generation.__file__).parent / "tiny_transparency"


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> torch.Tensor:
    """Cut-outs ``(20, 4, 64, 64)`` uint8 of photographs of 64 pixels, one of each species."""
    samples = ToyBirds(tmp_path_factory.mktemp("birds"), train_per_class=0, test_per_class=1).splits()["test"]
    cutouts = [square_cutout(read_image(one.path), read_mask(one.mask), 0.1, 64) for one in samples]
    return torch.from_numpy(np.stack(cutouts)).permute(0, 3, 1, 2)


def test_the_shipped_autoencoder_keeps_cutouts_and_the_latents_of_the_generator(birds):
    vae = AutoencoderKL.from_pretrained(SHIPPED).eval()
    own = AutoencoderKL.from_pretrained(SHIPPED.parent / "tiny_weights" / "vae").eval()
    assert vae.config.scaling_factor == own.config.scaling_factor
    real, made = to_network(birds, "cpu"), reconstruct(vae, birds)
    assert alpha_iou(real, made).mean() > 0.95
    assert -10 * torch.log10(visible_error(real, made).mean()) > 30
    shift = (encode(vae, birds) - encode(own, birds[:, :3])) * own.config.scaling_factor
    assert shift.square().mean().sqrt() < 0.4


@pytest.mark.slow
def test_with_the_shipped_lora_edits_keep_the_outline(birds):
    birds = birds[::3]
    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED.parent / "tiny_weights")
    vae = AutoencoderKL.from_pretrained(SHIPPED).eval()
    latents, prompts = encode(vae, birds) * vae.config.scaling_factor, ["a photo of a bird"] * len(birds)

    def overlap() -> float:
        edited = edit(pipeline, latents, prompts, 0.4, guidance=3.0, steps=10, seed=0)
        return float(alpha_iou(to_network(birds, "cpu"), decode(vae, edited)).mean())

    without = overlap()
    pipeline.load_lora_weights(str(SHIPPED / LORA))
    assert overlap() > max(0.7, without + 0.15)


def test_what_is_shipped_is_small():
    folders = (SHIPPED, SHIPPED.parent / "tiny_weights")
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*")) < 16e6
