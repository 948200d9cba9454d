"""Editing transparent images: what goes into the latents, what comes out, and a denoiser that comes back unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import save_file
from torch import nn

from genaug.generation.diffusion import Diffusion
from genaug.generation.transparency import Exchange, FourChannelVAE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def rgba_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rgba")
    torch.manual_seed(1)
    tiny_models.vae(in_channels=4, out_channels=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(model: Path, rgba_vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The autoencoder with a LoRA of the denoiser beside it: up = 0.5, down = 0.25 everywhere, rank 1."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("rgba_lora")
    AutoencoderKL.from_pretrained(rgba_vae).save_pretrained(folder)
    unet = StableDiffusionPipeline.from_pretrained(model).unet
    layers = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            layers[f"unet.{name}.lora_A.weight"] = torch.full((1, module.in_features), 0.25)
            layers[f"unet.{name}.lora_B.weight"] = torch.full((module.out_features, 1), 0.5)
    save_file(layers, folder / FourChannelVAE.LORA)
    return folder


def build(model: Path, folder: Path | None, **more: object) -> Diffusion:
    transparency = FourChannelVAE(None if folder is None else str(folder))
    generator = Diffusion(str(model), steps=4, guidance=2.0, transparency=transparency, **more)
    generator.load("cpu")
    return generator


def cutouts(count: int, side: int = 32) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (count, side, side, 4)).astype(np.uint8)
    made[..., 3] = np.where(np.arange(side) < side // 2, 255, 0)
    return list(made)


def weights(pipeline: object) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in pipeline.unet.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_exchange_swaps_only_what_it_was_given_and_swaps_back_to_the_bit() -> None:
    layer = nn.Linear(2, 2)
    before = weights_of(layer)
    exchange = Exchange(layer, {"bias": torch.tensor([5.0, 7.0])})
    with exchange.applied():
        assert layer.bias.tolist() == [5.0, 7.0]
        assert torch.equal(layer.weight, before["weight"])
    assert same(weights_of(layer), before)
    with exchange.applied():
        assert layer.bias.tolist() == [5.0, 7.0]


def weights_of(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in layer.state_dict().items()}


def test_exchange_after_a_change_holds_the_changed_weights_alone() -> None:
    layer = nn.Linear(2, 2)
    before = weights_of(layer)

    def change() -> None:
        with torch.no_grad():
            layer.bias += 1

    exchange = Exchange.after(layer, change)
    assert same(weights_of(layer), before)
    assert len(exchange.pairs) == 1
    with exchange.applied():
        torch.testing.assert_close(layer.bias, before["bias"] + 1)


def test_exchange_is_undone_when_the_work_inside_fails() -> None:
    layer = nn.Linear(1, 1)
    before = layer.bias.item()
    with pytest.raises(RuntimeError), Exchange(layer, {"bias": torch.tensor([9.0])}).applied():
        raise RuntimeError
    assert layer.bias.item() == before


def test_encoding_is_the_scaled_mode_of_the_autoencoder_at_minus_one_to_one(model: Path, rgba_vae: Path) -> None:
    from diffusers import AutoencoderKL

    image = cutouts(1)[0]
    made = build(model, rgba_vae).transparent_latents([image])
    vae = AutoencoderKL.from_pretrained(rgba_vae)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mean * 0.18215
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_decoding_undoes_the_scale(model: Path, rgba_vae: Path) -> None:
    generator = build(model, rgba_vae)
    pipeline = generator.pipeline("edit_transparent")
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    vae = generator.transparency._vae
    with torch.no_grad():
        expected = vae.decode(latents / 0.18215).sample / 2 + 0.5
    torch.testing.assert_close(generator.transparency.decode(pipeline, latents), expected)


def test_an_edit_denoises_the_latents_it_was_given(model: Path, rgba_vae: Path) -> None:
    """The same as diffusers' own pipeline on these latents, decoded by hand: nothing is scaled or flattened twice."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline

    image = cutouts(1)[0]
    generator = build(model, rgba_vae, scheduler="DDIMScheduler")
    [made] = generator.edit_transparent([image], ["a cat"], [3], 0.5)
    start = generator.start("edit_transparent", 0.5)
    vae = AutoencoderKL.from_pretrained(rgba_vae)
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(model, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean * 0.18215
        edited = pipeline(
            "a cat", latents, strength=start.argument, num_inference_steps=4, guidance_scale=2.0,
            generator=torch.Generator().manual_seed(3), output_type="latent",
        ).images  # fmt: skip
        expected = vae.decode(edited / 0.18215).sample[0] * 127.5 + 127.5
    assert made.shape == (32, 32, 4)
    np.testing.assert_allclose(made.astype(float), expected.clamp(0, 255).permute(1, 2, 0).numpy(), atol=0.51)


def test_an_edit_does_not_depend_on_its_batch(model: Path, lora: Path) -> None:
    images = cutouts(3)
    together = build(model, lora, batch_size=3).edit_transparent(images, ["a", "b", "c"], [1, 2, 3], 0.5)
    alone = build(model, lora, batch_size=3).edit_transparent([images[1]], ["b"], [2], 0.5)
    np.testing.assert_array_equal(together[1], alone[0])
    assert not np.array_equal(together[0], together[1])


def test_the_lora_works_on_transparent_images_and_leaves_all_others_as_they_were(model: Path, lora: Path) -> None:
    generator = build(model, lora)
    scene = [cutouts(1)[0][..., :3].copy()]
    before = generator.image_to_image(scene, ["a"], [1], 0.5)[0]
    plain = weights(generator.pipeline("image_to_image"))
    with_lora = weights(generator.pipeline("edit_transparent"))
    changed = {name for name in plain if not torch.equal(plain[name], with_lora[name])}
    assert changed == {name for name in plain if name.endswith(("to_q.weight", "to_v.weight"))}
    for name in changed:  # rank 1, up 0.5, down 0.25, and as much alpha as rank
        torch.testing.assert_close(with_lora[name], plain[name] + 0.125)
    generator.edit_transparent(cutouts(1), ["a"], [1], 0.5)
    np.testing.assert_array_equal(generator.image_to_image(scene, ["a"], [1], 0.5)[0], before)
    assert same(weights(generator.pipeline("image_to_image")), plain)


def test_unloading_in_the_middle_of_transparent_work_starts_anew(model: Path, lora: Path) -> None:
    generator = build(model, lora)
    first = generator.edit_transparent(cutouts(1), ["a"], [1], 0.5)[0]
    generator.unload()
    generator.load("cpu")
    np.testing.assert_array_equal(generator.edit_transparent(cutouts(1), ["a"], [1], 0.5)[0], first)


def test_a_model_whose_own_autoencoder_has_four_channels(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    parts = tiny_models.stable_diffusion_parts() | {"vae": tiny_models.vae(in_channels=4, out_channels=4)}
    StableDiffusionPipeline(**parts).save_pretrained(tmp_path)
    [made] = build(tmp_path, None).edit_transparent(cutouts(1), ["a"], [1], 0.5)
    assert made.shape == (32, 32, 4)
    assert made[..., 3].std() > 0


def test_refusals(model: Path, rgba_vae: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="own has 3"):
        build(model, None).pipeline("edit_transparent")
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        FourChannelVAE(str(tmp_path))
    tiny_models.vae().save_pretrained(tmp_path / "rgb")
    with pytest.raises(ValueError, match="takes 3 and gives 3 channels"):
        FourChannelVAE(str(tmp_path / "rgb"))
    generator = build(model, rgba_vae)
    with pytest.raises(ValueError, match=r"\(H, W, 4\)"):
        generator.edit_transparent([cutouts(1)[0][..., :3].copy()], ["a"], [1], 0.5)
    with pytest.raises(ValueError, match="multiples of 8, got 36x36"):
        generator.edit_transparent(cutouts(1, side=36), ["a"], [1], 0.5)
    without = Diffusion(str(model))
    with pytest.raises(NotImplementedError, match="not edit_transparent"):
        without.denoiser_steps("edit_transparent", 0.5)


def test_transparency_is_no_part_of_what_names_opaque_images(model: Path, rgba_vae: Path, lora: Path) -> None:
    with_it, with_other = (
        Diffusion(str(model), transparency=FourChannelVAE(str(folder))) for folder in (rgba_vae, lora)
    )
    assert with_it.fingerprint == Diffusion(str(model)).fingerprint
    assert with_it.transparent_settings != with_other.transparent_settings


def test_new_words_are_used_by_prompts_and_gone_after_unloading(model: Path, rgba_vae: Path) -> None:
    generator = build(model, rgba_vae)
    images = cutouts(1)
    with_letters = generator.edit_transparent(images, ["a <x>"], [1], 0.5)[0]
    state = torch.random.get_rng_state()
    generator.add_words({"<x>": (torch.full((2, 32), 3.0),)})
    assert torch.equal(torch.random.get_rng_state(), state)
    generator.add_words({"<x>": (torch.full((2, 32), 9.0),)})  # known already
    rows = generator.pipeline("edit_transparent").text_encoder.get_input_embeddings().weight[-2:]
    assert rows.unique().tolist() == [3.0]
    assert not np.array_equal(generator.edit_transparent(images, ["a <x>"], [1], 0.5)[0], with_letters)
    generator.unload()
    generator.load("cpu")
    np.testing.assert_array_equal(generator.edit_transparent(images, ["a <x>"], [1], 0.5)[0], with_letters)
    with pytest.raises(ValueError, match="1 text encoder"):
        generator.add_words({"<y>": (torch.zeros(1, 32), torch.zeros(1, 32))})


def test_the_end_of_a_text_is_found_behind_a_new_word(tmp_path: Path) -> None:
    """SDXL's configurations say that it is the highest number of the text, which is then the new word's."""
    folder = tiny_models.save_sdxl(tmp_path)
    config = folder / "text_encoder_2" / "config.json"
    config.write_text(config.read_text().replace('"eos_token_id": 1', '"eos_token_id": 2'))
    generator = Diffusion(str(folder))
    generator.load("cpu")
    generator.add_words({"<x>": (torch.ones(1, 32), torch.ones(1, 32))})
    pipeline = generator.pipeline("image_to_image")
    pooled = pipeline.encode_prompt("a <x>", device="cpu", do_classifier_free_guidance=False)[2]
    ids = pipeline.tokenizer_2("a <x>", return_tensors="pt").input_ids
    assert ids[0].tolist()[-1] == 1, "the end"
    assert ids.max() == ids[0, -2], "the new word has the highest number"
    encoder = pipeline.text_encoder_2
    with torch.no_grad():
        hidden = encoder(ids, output_hidden_states=True).last_hidden_state
        torch.testing.assert_close(pooled, encoder.text_projection(hidden[:, -1]), atol=1e-5, rtol=1e-5)


def test_what_transparency_lacks_is_found_out_without_weights(model: Path, rgba_vae: Path) -> None:
    Diffusion(str(model), transparency=FourChannelVAE(str(rgba_vae))).check_transparent()
    with pytest.raises(NotImplementedError, match="no transparent"):
        Diffusion(str(model)).check_transparent()
