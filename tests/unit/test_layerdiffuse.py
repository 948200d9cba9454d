"""LayerDiffuse: networks as published, latents by hand, and a denoiser that comes back unchanged."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import (
    AutoPipelineForText2Image,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import FrozenDict
from diffusers.models.attention_processor import Attention
from safetensors.torch import save_file
from tiny_models import lora_tensors, random_tensors, sd15_tensors, vae8
from torch import Tensor, nn
from torch.nn import functional

from genaug.generation.diffusion import Diffusion
from genaug.generation.layerdiffuse import LayerDiffuse, layerdiffuse, sdxl_weights
from genaug.generation.layerdiffuse.decoder import TransparentDecoder, median_of_views
from genaug.generation.layerdiffuse.encoder import TransparentEncoder
from genaug.generation.layerdiffuse.sd15_attention import (
    FramedAttention,
    Sd15Attention,
    attention_names,
    layer_shapes,
)
from genaug.generation.layerdiffuse.weights import WeightFile
from genaug.synthesis.object_edits import ObjectEdits

SHAPES = json.loads((Path(__file__).parents[1] / "data" / "layerdiffuse_shapes.json").read_text())
SCALE = 0.18215


class SmallDecoder(nn.Module):
    """In the decoder's place, as the same for all eight views: a linear map of each pixel and its latent."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(7, 4, 1)

    def forward(self, pixels: Tensor, latents: Tensor) -> Tensor:
        return self.mix(torch.cat([pixels, functional.interpolate(latents, scale_factor=8)], 1))


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- the networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "name", "count"),
    [
        (TransparentEncoder, "transparent_encoder", 1_181_764),
        (TransparentDecoder, "transparent_decoder", 104_104_804),
    ],
)
def test_weights_are_named_and_shaped_as_in_the_public_files(build, name, count):
    with torch.device("meta"):
        network = build()
    assert {name: list(shape) for name, shape in shapes_of(network).items()} == SHAPES[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_an_untrained_encoder_leaves_the_latents_as_they_are():
    assert torch.equal(TransparentEncoder()(torch.rand(1, 4, 16, 24)), torch.zeros(1, 4, 2, 3))


def test_encoder_is_convolutions_and_silu():
    encoder = TransparentEncoder()
    encoder.load_state_dict(random_tensors(shapes_of(encoder)))
    weights, hidden = encoder.state_dict(), torch.rand(1, 4, 32, 16)
    expected = hidden
    for number in range(0, 17, 2):
        stride = 2 if number in (4, 8, 12) else 1
        weight, bias = weights[f"blocks.{number}.weight"], weights[f"blocks.{number}.bias"]
        expected = functional.conv2d(expected, weight, bias, stride, padding=1)
        if number < 16:
            expected = expected * torch.sigmoid(expected)
    torch.testing.assert_close(encoder(hidden), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def decoder() -> TransparentDecoder:
    """With random weights, the zero ones among them."""
    with torch.device("meta"):
        network = TransparentDecoder()
    tensors = random_tensors(shapes_of(network), size=0.02)
    tensors["latent_conv_in.weight"] += 0.5  # so that the latents matter
    for name in tensors:
        if "norm" in name and name.endswith("weight"):
            tensors[name] += 1
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def convolved(weights: dict[str, Tensor], name: str, hidden: Tensor, stride: int = 1) -> Tensor:
    weight = weights[f"{name}.weight"]
    return functional.conv2d(hidden, weight, weights[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)


def normed(weights: dict[str, Tensor], name: str, hidden: Tensor) -> Tensor:
    """Group norm of four groups, from its definition."""
    groups = hidden.reshape(len(hidden), 4, -1)
    groups = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return groups.reshape(hidden.shape) * scale[:, None, None] + shift[:, None, None]


def residual(weights: dict[str, Tensor], name: str, hidden: Tensor) -> Tensor:
    inner = hidden
    for number in (1, 2):
        inner = functional.silu(normed(weights, f"{name}.norm{number}", inner))
        inner = convolved(weights, f"{name}.conv{number}", inner)
    if f"{name}.conv_shortcut.weight" in weights:
        hidden = convolved(weights, f"{name}.conv_shortcut", hidden)
    return hidden + inner


def attended(weights: dict[str, Tensor], name: str, hidden: Tensor) -> Tensor:
    """Self-attention in heads of eight channels."""
    if f"{name}.to_q.weight" not in weights:
        return hidden
    count, width, height, breadth = hidden.shape
    tokens = normed(weights, f"{name}.group_norm", hidden).flatten(2).transpose(1, 2)

    def linear(part: str, tokens: Tensor) -> Tensor:
        return tokens @ weights[f"{name}.{part}.weight"].T + weights[f"{name}.{part}.bias"]

    query, key, value = (
        linear(f"to_{part}", tokens).reshape(count, -1, width // 8, 8).transpose(1, 2) for part in "qkv"
    )
    answer = (query @ key.transpose(2, 3) / 8**0.5).softmax(-1) @ value
    answer = linear("to_out.0", answer.transpose(1, 2).reshape(count, -1, width))
    return hidden + answer.transpose(1, 2).reshape(count, width, height, breadth)


def test_decoder_is_the_published_network(decoder):
    """Computed once more from the definitions, with nothing of diffusers."""
    weights = decoder.state_dict()
    generator = torch.Generator().manual_seed(1)
    pixels, latents = torch.rand(1, 3, 128, 64, generator=generator), torch.randn(1, 4, 16, 8, generator=generator)
    hidden = convolved(weights, "conv_in", pixels)
    kept = [hidden]
    for stage in range(7):
        if stage == 3:
            hidden = hidden + convolved(weights, "latent_conv_in", latents)
        for layer in range(2):
            hidden = residual(weights, f"down_blocks.{stage}.resnets.{layer}", hidden)
            hidden = attended(weights, f"down_blocks.{stage}.attentions.{layer}", hidden)
            kept.append(hidden)
        if stage < 6:
            hidden = convolved(weights, f"down_blocks.{stage}.downsamplers.0.conv", hidden, stride=2)
            kept.append(hidden)
    hidden = residual(weights, "mid_block.resnets.0", hidden)
    hidden = residual(weights, "mid_block.resnets.1", attended(weights, "mid_block.attentions.0", hidden))
    for stage in range(7):
        for layer in range(3):
            hidden = torch.cat([hidden, kept.pop()], 1)
            hidden = residual(weights, f"up_blocks.{stage}.resnets.{layer}", hidden)
            hidden = attended(weights, f"up_blocks.{stage}.attentions.{layer}", hidden)
        if stage < 6:
            hidden = hidden.repeat_interleave(2, 2).repeat_interleave(2, 3)
            hidden = convolved(weights, f"up_blocks.{stage}.upsamplers.0.conv", hidden)
    hidden = convolved(weights, "conv_out", functional.silu(normed(weights, "conv_norm_out", hidden)))
    made = decoder(pixels, latents)
    torch.testing.assert_close(made, hidden, atol=1e-4, rtol=1e-4)
    assert (made - decoder(pixels, latents.flip(3))).abs().max() > 1e-3


def test_an_untrained_decoder_does_not_see_the_latents():
    decoder = TransparentDecoder()
    assert not decoder.latent_conv_in.weight.any()
    assert not decoder.latent_conv_in.bias.any()


# --- eight views ---------------------------------------------------------------------------------------------------


def test_median_is_the_fourth_smallest_of_eight_clipped_values():
    values = iter([0.8, 0.1, 7.0, 0.3, 0.2, 0.7, -5.0, 0.5])  # 0 .1 .2 .3 | .5 .7 .8 1
    made = median_of_views(
        lambda pixels, latents: torch.full_like(pixels, next(values)), torch.rand(2, 3, 4, 4), torch.rand(2, 4, 1, 1)
    )
    assert torch.equal(made, torch.full((2, 3, 4, 4), 0.3))
    low = median_of_views(lambda pixels, latents: pixels * 0 - 5, torch.rand(1, 3, 2, 2), torch.rand(1, 4, 1, 1))
    high = median_of_views(lambda pixels, latents: pixels * 0 + 5, torch.rand(1, 3, 2, 2), torch.rand(1, 4, 1, 1))
    assert (low.unique().tolist(), high.unique().tolist()) == ([0], [1])


@pytest.mark.parametrize("number", range(8))
def test_each_view_is_turned_back(number):
    """Three of the others are 0, four are 1: the fourth smallest is the view itself."""
    calls = count()

    def decode(pixels: Tensor, latents: Tensor) -> Tensor:
        call = next(calls)
        if call == number:
            return pixels
        return torch.full_like(pixels, 0.0 if (call - number) % 8 <= 3 else 1.0)

    pixels = torch.rand(2, 3, 16, 24)
    assert torch.equal(median_of_views(decode, pixels, torch.rand(2, 4, 2, 3)), pixels)


def test_eight_different_views_with_the_latents_turned_alike():
    pixels = torch.rand(1, 4, 16, 16)
    seen = []

    def decode(pixels: Tensor, latents: Tensor) -> Tensor:
        torch.testing.assert_close(functional.avg_pool2d(pixels, 8), latents)
        seen.append(tuple(latents.flatten().tolist()))
        return pixels

    median_of_views(decode, pixels, functional.avg_pool2d(pixels, 8))
    assert len(set(seen)) == len(seen) == 8


# --- files ---------------------------------------------------------------------------------------------------------


class Files:
    """Weight files in a folder, and LayerDiffuse with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = {name: str(folder / f"{name}.safetensors") for name in ("attention", "encoder", "decoder")}
        self.write(
            "encoder", random_tensors({name: tuple(shape) for name, shape in SHAPES["transparent_encoder"].items()})
        )
        self.write("decoder", random_tensors({"mix.weight": (4, 7, 1, 1), "mix.bias": (4,)}, seed=1))
        self.write("attention", {})

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        save_file(tensors, self.places[name])

    def constant_encoder(self, values: list[float]) -> None:
        """One that gives the same offset everywhere."""
        tensors = {name: torch.zeros(shape) for name, shape in SHAPES["transparent_encoder"].items()}
        tensors["blocks.16.bias"] = torch.tensor(values)
        self.write("encoder", tensors)

    def build(self, kind: str = "offset", **more: object) -> LayerDiffuse:
        return LayerDiffuse(**self.places, attention_kind=kind, **more)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """With a decoder of 32 weights."""
    monkeypatch.setattr(layerdiffuse, "TransparentDecoder", SmallDecoder)
    return Files(tmp_path)


class StubVAE:
    """Of which everything is known: mean and deviation of each latent, and one colour for all pixels."""

    def __init__(self, dtype: torch.dtype = torch.float32, force_upcast: bool = True, colour: float = 0.0) -> None:
        self.dtype, self.colour = dtype, colour
        self.config = FrozenDict(
            scaling_factor=0.5, force_upcast=force_upcast, block_out_channels=(8, 8, 8, 8), in_channels=3
        )
        self.seen: list[Tensor] = []

    def to(self, dtype: torch.dtype) -> StubVAE:
        self.dtype = dtype
        return self

    def encode(self, pixels: Tensor) -> SimpleNamespace:
        self.seen.append(pixels)
        shape = (len(pixels), 4, pixels.shape[2] // 8, pixels.shape[3] // 8)
        mean, std = torch.full(shape, 2.0, dtype=pixels.dtype), torch.full(shape, 0.25, dtype=pixels.dtype)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=std))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        self.seen.append(latents)
        shape = (len(latents), 3, latents.shape[2] * 8, latents.shape[3] * 8)
        return SimpleNamespace(sample=torch.full(shape, self.colour, dtype=latents.dtype))


class StubDenoiser(nn.Module):
    dtype = torch.float32


def stub(vae: StubVAE | None = None) -> SimpleNamespace:
    """What LayerDiffuse sees of a pipeline."""
    return type("StableDiffusionXLPipeline", (SimpleNamespace,), {})(vae=vae or StubVAE(), unet=StubDenoiser())


def loaded(transparency: LayerDiffuse, pipeline: object) -> LayerDiffuse:
    transparency.load(pipeline, "cpu")
    return transparency


def test_nothing_is_fetched_before_the_weights_are_loaded(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("asked for the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    hub = "LayerDiffusion/layerdiffusion-v1:vae_transparent_encoder.safetensors"
    transparency = LayerDiffuse(attention=hub, attention_kind="lora", encoder=hub, decoder=hub)
    assert transparency.settings == {
        "attention": hub,
        "encoder": hub,
        "decoder": hub,
        "attention_kind": "lora",
        "offset_scale": 1.0,
        "use_offset": True,
        "decoder_latents": "unscaled",
    }


def test_a_hub_file_without_a_network_is_refused_with_the_way_to_get_it(files):
    files.places["encoder"] = "LayerDiffusion/nowhere:some.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        files.build().load(stub(), "cpu")
    for part in (
        "generator.transparency.encoder",
        "some.safetensors of https://huggingface.co/LayerDiffusion/nowhere",
        "hf download LayerDiffusion/nowhere some.safetensors --local-dir FOLDER",
        "generator.transparency.encoder=FOLDER/some.safetensors",
    ):
        assert part in str(caught.value)


def test_a_hub_file_is_asked_for_by_repository_and_name(files, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or files.places["encoder"]
    )
    file = WeightFile("encoder", "some-one/layers.v1:folder/encoder.safetensors")
    assert file.tensors().keys() == SHAPES["transparent_encoder"].keys()
    assert asked == [("some-one/layers.v1", "folder/encoder.safetensors")]


def test_arguments_are_checked_at_construction(files):
    files.places["decoder"] = str(files.folder / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match=r"generator\.transparency\.decoder=.*nowhere.*no such file"):
        files.build()
    files.places["decoder"] = str(files.folder / "decoder.pt")
    with pytest.raises(ValueError, match="no safetensors file"):
        files.build()


@pytest.mark.parametrize(("name", "value"), [("kind", "sdxl"), ("offset_scale", 30.0), ("decoder_latents", "divided")])
def test_an_unknown_choice_is_refused(files, name, value):
    with pytest.raises(ValueError, match=f"must be one of .*{value}"):
        files.build(**{name: value})


def test_settings_follow_the_content_of_local_files_and_not_their_place(files, tmp_path):
    before = files.build().settings
    (tmp_path / "moved").mkdir()
    moved = Files(tmp_path / "moved")
    assert dict(moved.build().settings) == dict(before)
    json.dumps(dict(before))
    moved.constant_encoder([1, 0, 0, 0])
    changed = moved.build().settings
    assert {name for name in before if before[name] != changed[name]} == {"encoder"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("blocks.2.bias"), r"encoder.*missing: blocks\.2\.bias\."),
        (lambda tensors: tensors.update({"more": torch.zeros(1)}), r"encoder.*unexpected: more\."),
        (
            lambda tensors: tensors.update({"blocks.0.bias": torch.zeros(31)}),
            r"of another shape: blocks\.0\.bias \(31,\) instead of \(32,\)",
        ),
    ],
)
def test_other_weights_are_refused_by_name(files, change, message):
    tensors = random_tensors({name: tuple(shape) for name, shape in SHAPES["transparent_encoder"].items()})
    change(tensors)
    files.write("encoder", tensors)
    with pytest.raises(ValueError, match=message):
        files.build().load(stub(), "cpu")


def test_loading_draws_no_random_numbers_and_happens_once(files):
    state = torch.get_rng_state()
    transparency = loaded(files.build(), stub())  # the real encoder among the networks
    assert torch.equal(torch.get_rng_state(), state)
    for place in files.places.values():
        Path(place).unlink()
    transparency.load(stub(), "cpu")
    transparency.unload()
    with pytest.raises(FileNotFoundError):
        transparency.load(stub(), "cpu")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("sd15", "StableDiffusionPipeline", ["StableDiffusionXLPipeline", "FluxPipeline", "StableDiffusion3Pipeline"]),
        ("lora", "StableDiffusionXLPipeline", ["StableDiffusionPipeline", "FluxPipeline", "QwenImagePipeline"]),
        ("offset", "StableDiffusionXLImg2ImgPipeline", ["StableDiffusionPipeline", "ZImagePipeline"]),
    ],
)
def test_a_model_of_another_kind_is_refused(files, kind, good, bad):
    transparency = files.build(kind)
    transparency.check({"_class_name": good})
    for name in bad:
        with pytest.raises(ValueError, match=name):
            transparency.check({"_class_name": name})


def test_a_model_is_refused_when_it_is_built(files, tmp_path):
    with pytest.raises(ValueError, match="attention_kind=sd15 is for a StableDiffusionPipeline"):
        Diffusion(str(tiny_models.save_sdxl(tmp_path / "sdxl")), transparency=files.build("sd15"))


def test_a_hub_model_is_refused_when_it_is_loaded(files):
    with pytest.raises(ValueError, match="the model is a StableDiffusionXLPipeline"):
        files.build("sd15").load(stub(), "cpu")


def test_another_autoencoder_is_refused(files):
    pipeline = stub()
    pipeline.vae.config = FrozenDict(block_out_channels=(8, 8))
    with pytest.raises(ValueError, match="sides 8 times smaller; the model's makes them 2"):
        files.build().load(pipeline, "cpu")


# --- latents -------------------------------------------------------------------------------------------------------


def test_latents_are_mean_plus_deviation_times_offset(files):
    files.constant_encoder([1.0, -2.0, 0.5, 0.0])
    pipeline, images = stub(), torch.rand(2, 4, 16, 8)
    made = loaded(files.build(), pipeline).encode(pipeline, images)
    assert made.shape == (2, 4, 2, 1)
    # (2 + 0.25 * offset) * 0.5
    assert made[1, :, 1, 0].tolist() == [1.125, 0.75, 1.0625, 1.0]
    made = loaded(files.build(offset_scale=300.0), pipeline).encode(pipeline, images)
    assert made[0, :, 0, 0].tolist() == [38.5, -74.0, 19.75, 1.0]
    made = loaded(files.build(use_offset=False), pipeline).encode(pipeline, images)
    assert made.unique().tolist() == [1.0]


def test_the_autoencoder_sees_the_image_on_mid_grey(files):
    pipeline = stub()
    images = torch.zeros(1, 4, 8, 8)
    images[0, :, 0, 0] = torch.tensor([0.75, 1.0, 0.0, 0.5])  # 0.5 * [0.5, 1, -1]
    images[0, :, 0, 1] = torch.tensor([0.75, 1.0, 0.0, 1.0])
    images[0, :, 0, 2] = torch.tensor([0.75, 1.0, 0.0, 0.0])
    loaded(files.build(), pipeline).encode(pipeline, images)
    (seen,) = pipeline.vae.seen
    assert seen.shape == (1, 3, 8, 8)
    assert seen[0, :, 0, :3].T.tolist() == [[0.25, 0.5, -0.5], [0.5, 1.0, -1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("channel", "value"), enumerate([0.875, 0.25, 0.5, 0.75]))
def test_the_encoder_sees_alpha_before_the_colours_which_are_not_multiplied(files, channel, value):
    """Weights that hand one channel on: eight times SiLU of its value."""
    tensors = {name: torch.zeros(shape) for name, shape in SHAPES["transparent_encoder"].items()}
    for number in range(0, 17, 2):
        tensors[f"blocks.{number}.weight"][0, channel if number == 0 else 0, 1, 1] = 1
    files.write("encoder", tensors)
    pipeline = stub()
    images = torch.tensor([0.25, 0.5, 0.75, 0.875])[None, :, None, None].expand(1, 4, 16, 16)
    made = loaded(files.build(), pipeline).encode(pipeline, images)
    offset = value
    for _ in range(8):
        offset = offset / (1 + np.exp(-offset))
    torch.testing.assert_close(made[0, 0], torch.full((2, 2), (2 + 0.25 * offset) * 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("force", "expected"), [(True, torch.float32), (False, torch.float16)])
def test_an_autoencoder_that_overflows_computes_in_float32_meanwhile(files, force, expected):
    pipeline = stub(StubVAE(torch.float16, force))
    pipeline.unet.dtype = torch.float16
    transparency = loaded(files.build(), pipeline)
    latents = transparency.encode(pipeline, torch.rand(1, 4, 8, 8))
    made = transparency.decode(pipeline, latents)
    assert [seen.dtype for seen in pipeline.vae.seen] == [expected, expected]
    assert (pipeline.vae.dtype, latents.dtype, made.dtype) == (torch.float16, torch.float16, torch.float32)


def test_an_autoencoder_comes_back_to_float16_when_the_work_fails(files):
    pipeline = stub(StubVAE(torch.float16))
    transparency = loaded(files.build(), pipeline)
    pipeline.vae.encode = lambda pixels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        transparency.encode(pipeline, torch.rand(1, 4, 8, 8))
    assert pipeline.vae.dtype == torch.float16


# --- images --------------------------------------------------------------------------------------------------------


def mixing(files: Files, rows: list[list[float]]) -> None:
    """A decoder whose outputs (alpha, red, green, blue) are sums of the pixel's three and the latent's four values."""
    files.write(
        "decoder", {"mix.weight": torch.tensor(rows)[:, :, None, None].contiguous(), "mix.bias": torch.zeros(4)}
    )


def test_images_are_colours_then_alpha_of_pixels_in_zero_to_one(files):
    mixing(files, [[1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0]])
    pipeline = stub(StubVAE(colour=0.5))  # -1 to 1
    latents = torch.tensor([0.125, 0.25, 0.375, 0.0])[None, :, None, None].expand(1, 4, 2, 1)
    made = loaded(files.build(), pipeline).decode(pipeline, latents)
    assert made.shape == (1, 4, 16, 8)
    assert made[0, :, 3, 4].tolist() == [0.25, 0.5, 0.75, 0.75]  # latents over the scaling factor of 0.5
    made = loaded(files.build(decoder_latents="scaled"), pipeline).decode(pipeline, latents)
    assert made[0, :, 3, 4].tolist() == [0.125, 0.25, 0.375, 0.75]
    assert [seen[0, :3, 0, 0].tolist() for seen in pipeline.vae.seen] == [[0.25, 0.5, 0.75]] * 2


def test_pixels_are_clipped_before_they_are_decoded_and_infinity_is_not_hidden(files):
    mixing(files, [[0.5, 0, 0, 0, 0, 0, 0]] * 4)
    transparency = None
    for colour, expected in ((3.0, 0.5), (-3.0, 0.0)):
        pipeline = stub(StubVAE(colour=colour))
        transparency = loaded(files.build(), pipeline)
        assert transparency.decode(pipeline, torch.zeros(1, 4, 1, 1)).unique().tolist() == [expected]
    pipeline = stub(StubVAE(colour=float("inf")))
    assert loaded(files.build(), pipeline).decode(pipeline, torch.zeros(1, 4, 1, 1)).isnan().all()


# --- models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_models.save_sd15(tmp_path_factory.mktemp("sd15"))
    StableDiffusionPipeline.from_pretrained(folder, vae=vae8(), safety_checker=None).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_models.save_sdxl(tmp_path_factory.mktemp("sdxl"))
    StableDiffusionXLPipeline.from_pretrained(folder, vae=vae8(), add_watermarker=False).save_pretrained(folder)
    return folder


def pipeline_of(folder: Path) -> object:
    return AutoPipelineForText2Image.from_pretrained(folder)


def denoised(unet: nn.Module, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 6, width, generator=generator)
    more = {"text_embeds": torch.ones(2, 32), "time_ids": torch.ones(2, 6)} if width == 64 else None
    with torch.no_grad():
        return unet(latents, 300, encoder_hidden_states=text, added_cond_kwargs=more).sample


def test_latents_without_an_offset_are_those_of_the_plain_autoencoder(files, sdxl):
    pipeline = pipeline_of(sdxl)
    files.constant_encoder([0, 0, 0, 0])
    images = torch.rand(1, 4, 64, 64)
    images[:, 3] = 1
    made = loaded(files.build(), pipeline).encode(pipeline, images)
    with torch.no_grad():
        expected = pipeline.vae.encode(images[:, :3] * 2 - 1).latent_dist.mean * SCALE
    torch.testing.assert_close(made, expected)


# --- attention of Stable Diffusion 1.5 -----------------------------------------------------------------------------


def test_the_32_modules_are_counted_down_up_and_middle():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    down = [("down_blocks", stage, layer) for stage in (0, 1, 2) for layer in (0, 1)]
    up = [("up_blocks", stage, layer) for stage in (1, 2, 3) for layer in (0, 1, 2)]
    places = [f"{part}.{stage}.attentions.{layer}" for part, stage, layer in down + up] + ["mid_block.attentions.0"]
    names = attention_names(unet)
    assert names == [f"{place}.transformer_blocks.0.attn{number}" for place in places for number in (1, 2)]
    shapes = layer_shapes(unet.get_submodule(names[1]))
    assert len(shapes) == 20
    assert shapes["to_k_lora.0.down.weight"] == (256, 768)  # looks at the text
    assert shapes["to_out_lora.0.up.weight"] == (320, 256)
    assert shapes["temporal_i.weight"] == (320, 320)


class Denoiser(nn.Module):
    """What there is around attention modules."""

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks, self.up_blocks, self.mid_block = nn.Module(), nn.Module(), nn.Module()

    def forward(self, hidden: Tensor, text: Tensor | None = None) -> Tensor:
        return self.down_blocks.attn1(hidden, encoder_hidden_states=text)


def one_module(attention: Attention) -> Denoiser:
    denoiser = Denoiser()
    denoiser.down_blocks.attn1 = attention
    return denoiser


def one_change(folder: Path, denoiser: Denoiser, layer: dict[str, Tensor]) -> Sd15Attention:
    file = folder / "attention.safetensors"
    save_file({f"hookers.layers.0.{name}": one for name, one in layer.items()}, file)
    return Sd15Attention(denoiser, WeightFile("attention", str(file)), "cpu")


def test_one_module_is_attention_with_a_lora_and_attention_over_one_frame(tmp_path):
    """Once more from the formulas, the attention over frames with its softmax."""
    torch.manual_seed(0)
    attention = Attention(16, cross_attention_dim=10, heads=2, dim_head=8).eval().requires_grad_(False)
    layer = random_tensors(layer_shapes(attention, rank=3), size=0.5)
    hidden, text = torch.randn(2, 5, 16), torch.randn(2, 7, 10)

    def changed(part: str, inner: Tensor) -> Tensor:
        weight = attention.get_submodule("to_out.0" if part == "out" else f"to_{part}").weight
        return inner @ (weight + layer[f"to_{part}_lora.0.up.weight"] @ layer[f"to_{part}_lora.0.down.weight"]).T

    def linear(part: str, inner: Tensor) -> Tensor:
        return inner @ layer[f"temporal_{part}.weight"].T + layer[f"temporal_{part}.bias"]

    def heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (one.unflatten(-1, (2, 8)).transpose(-3, -2) for one in (query, key, value))
        return ((query @ key.mT / 8**0.5).softmax(-1) @ value).transpose(-3, -2).flatten(-2)

    answer = heads(changed("q", hidden), changed("k", text), changed("v", text))
    answer = changed("out", answer) + attention.to_out[0].bias
    normed = functional.layer_norm(
        hidden + answer, (16,), layer["temporal_n.weight"], layer["temporal_n.bias"], eps=1e-6
    )
    frames = linear("i", normed)[:, :, None]  # one frame a pixel
    over_frames = heads(linear("q", frames), linear("k", frames), linear("v", frames))[:, :, 0]
    expected = answer + linear("o", over_frames)

    denoiser = one_module(attention)
    with one_change(tmp_path, denoiser, layer):
        assert isinstance(denoiser.down_blocks.attn1, FramedAttention)
        torch.testing.assert_close(denoiser(hidden, text), expected)
    assert denoiser.down_blocks.attn1 is attention


def test_a_change_of_nothing_changes_nothing(files, sd15):
    pipeline = pipeline_of(sd15)
    tensors = sd15_tensors(pipeline.unet)
    for name in tensors:
        if name.endswith("up.weight") or "temporal_o" in name:
            tensors[name].zero_()
    files.write("attention", tensors)
    stock = denoised(pipeline.unet)
    with loaded(files.build("sd15"), pipeline).active(pipeline):
        assert torch.equal(denoised(pipeline.unet), stock)


def test_sd15_attention_is_there_inside_and_gone_to_the_bit_outside(files, sd15):
    pipeline = pipeline_of(sd15)
    files.write("attention", sd15_tensors(pipeline.unet))
    weights, stock = weights_of(pipeline.unet), denoised(pipeline.unet)
    transparency = loaded(files.build("sd15"), pipeline)
    assert same(weights_of(pipeline.unet), weights)
    with transparency.active(pipeline):
        changed = denoised(pipeline.unet)
    assert (changed - stock).abs().max() > 0.01
    assert same(weights_of(pipeline.unet), weights)
    assert torch.equal(denoised(pipeline.unet), stock)
    with pytest.raises(RuntimeError), transparency.active(pipeline):
        assert torch.equal(denoised(pipeline.unet), changed)
        raise RuntimeError
    assert torch.equal(denoised(pipeline.unet), stock)


def test_each_module_gets_the_layer_of_its_number(files, sd15):
    """A LoRA of one module alone, the sixth: the first of the way up but one."""
    pipeline = pipeline_of(sd15)
    names = attention_names(pipeline.unet)
    assert len(names) == 8
    tensors = {name: torch.zeros_like(one) for name, one in sd15_tensors(pipeline.unet).items()}
    for end in ("up", "down"):
        tensors[f"hookers.layers.5.to_v_lora.0.{end}.weight"] += 0.5
    files.write("attention", tensors)
    before = weights_of(pipeline.unet)
    with loaded(files.build("sd15"), pipeline).active(pipeline):
        after = {name.replace("attention.to", "to"): one for name, one in weights_of(pipeline.unet).items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{names[5]}.to_v.weight"}
    assert names[5] == "up_blocks.0.attentions.1.transformer_blocks.0.attn2"
    torch.testing.assert_close(after[f"{names[5]}.to_v.weight"], before[f"{names[5]}.to_v.weight"] + 0.75)  # rank 3


def test_sliced_attention_does_not_undo_the_change(files, sd15):
    pipeline = pipeline_of(sd15)
    files.write("attention", sd15_tensors(pipeline.unet))
    with loaded(files.build("sd15"), pipeline).active(pipeline):
        changed = denoised(pipeline.unet)
        pipeline.enable_attention_slicing()
        torch.testing.assert_close(denoised(pipeline.unet), changed)


def test_a_compiled_denoiser_takes_notice_of_the_change(tmp_path):
    denoiser = one_module(Attention(16, heads=2, dim_head=8).eval().requires_grad_(False))
    layer = random_tensors(layer_shapes(denoiser.down_blocks.attn1, rank=3), size=0.5)
    change = one_change(tmp_path, denoiser, layer)
    hidden = torch.randn(2, 5, 16)
    stock = denoiser(hidden)
    with change:
        changed = denoiser(hidden)
    assert (changed - stock).abs().max() > 0.1
    denoiser.compile(backend="eager")
    torch.testing.assert_close(denoiser(hidden), stock)
    with change:
        torch.testing.assert_close(denoiser(hidden), changed)
    torch.testing.assert_close(denoiser(hidden), stock)


def test_attention_of_another_model_is_refused_by_name(files, sd15):
    pipeline = pipeline_of(sd15)
    tensors = sd15_tensors(pipeline.unet)
    del tensors["hookers.layers.7.temporal_q.bias"]
    tensors["hookers.layers.8.temporal_q.bias"] = torch.zeros(32)
    files.write("attention", tensors)
    message = r"attention=.* missing: hookers\.layers\.7\.temporal_q\.bias; unexpected: hookers\.layers\.8\.temporal_q"
    with pytest.raises(ValueError, match=message):
        files.build("sd15").load(pipeline, "cpu")


# --- weights of SDXL -----------------------------------------------------------------------------------------------


def write_lora(files: Files, unet: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    pairs = lora_tensors(unet)
    tensors = {}
    for name, (up, down) in pairs.items():
        tensors |= {f"unet.{name}.lora_B.weight": up, f"unet.{name}.lora_A.weight": down}
    files.write("attention", tensors)
    return pairs


def write_comfy_lora(files: Files, unet: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Where the tiny denoiser, of one layer a block, would have its attention: 3 on the way down, 0 and 1 up."""
    pairs = lora_tensors(unet)
    places = {
        "down_blocks.1.attentions.0": "input_blocks.3.1",
        "mid_block.attentions.0": "middle_block.1",
        "up_blocks.0.attentions.0": "output_blocks.0.1",
        "up_blocks.0.attentions.1": "output_blocks.1.1",
    }
    tensors = {}
    for name, (up, down) in pairs.items():
        place = next(place for place in places if name.startswith(place))
        comfy = f"diffusion_model.{places[place]}{name.removeprefix(place)}.weight::lora"
        tensors |= {f"{comfy}::0": up, f"{comfy}::1": down}
    files.write("attention", tensors)
    return pairs


@pytest.mark.parametrize("write", [write_lora, write_comfy_lora])
def test_a_lora_is_there_inside_and_gone_to_the_bit_outside(files, sdxl, write):
    pipeline = pipeline_of(sdxl)
    pairs = write(files, pipeline.unet)
    before, stock = weights_of(pipeline.unet), denoised(pipeline.unet, 64)
    transparency = loaded(files.build("lora"), pipeline)
    assert same(weights_of(pipeline.unet), before)
    with transparency.active(pipeline):
        inside = weights_of(pipeline.unet)
    changed = {name for name in before if not torch.equal(before[name], inside[name])}
    assert changed == {f"{name}.weight" for name in pairs}
    for name, (up, down) in pairs.items():
        torch.testing.assert_close(inside[f"{name}.weight"], before[f"{name}.weight"] + up @ down, atol=1e-5, rtol=1e-5)
    assert same(weights_of(pipeline.unet), before)
    assert torch.equal(denoised(pipeline.unet, 64), stock)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("input_blocks.4.1", "down_blocks.1.attentions.0"),
        ("input_blocks.5.1", "down_blocks.1.attentions.1"),
        ("input_blocks.7.1", "down_blocks.2.attentions.0"),
        ("input_blocks.8.1", "down_blocks.2.attentions.1"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("output_blocks.0.1", "up_blocks.0.attentions.0"),
        ("output_blocks.2.1", "up_blocks.0.attentions.2"),
        ("output_blocks.3.1", "up_blocks.1.attentions.0"),
        ("output_blocks.5.1", "up_blocks.1.attentions.2"),
    ],
)
def test_names_of_sdxl_in_the_comfy_layout(files, theirs, ours):
    rest = "transformer_blocks.1.attn2.to_out.0.weight"
    tensors = {
        f"diffusion_model.{theirs}.{rest}::lora::0": torch.tensor([[2.0], [3.0]]),
        f"diffusion_model.{theirs}.{rest}::lora::1": torch.tensor([[5.0, 7.0]]),
    }
    file = WeightFile("attention", files.places["attention"])
    made = sdxl_weights.comfy_deltas(tensors, 2, file)
    assert {name: one.tolist() for name, one in made.items()} == {f"{ours}.{rest}": [[10, 14], [15, 21]]}


def test_a_lora_that_diffusers_takes_in_part_is_refused(files, sdxl):
    pipeline = pipeline_of(sdxl)
    pairs = write_lora(files, pipeline.unet)
    tensors = {}
    for name, (up, down) in pairs.items():
        other = name.replace("mid_block.attentions.0", "mid_block.attentions.5")
        tensors |= {f"unet.{other}.lora_B.weight": up, f"unet.{other}.lora_A.weight": down}
    files.write("attention", tensors)
    before = weights_of(pipeline.unet)
    with pytest.raises(ValueError, match=r"LoRA of 32 weights, and diffusers has changed 24"):
        files.build("lora").load(pipeline, "cpu")
    assert same(weights_of(pipeline.unet), before)


def test_an_unknown_comfy_layout_is_refused_with_the_name_of_the_converted_file(files, sdxl):
    files.write("attention", {"diffusion_model.out.2.weight::diff::0": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"out\.2.*diffuser_layer_xl_transparent_attn\.safetensors"):
        files.build("lora").load(pipeline_of(sdxl), "cpu")
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight::lora::0"
    files.write("attention", {name: torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=r"one of the two matrices is missing for mid_block"):
        files.build("lora").load(pipeline_of(sdxl), "cpu")


def test_differences_are_added_to_the_weights_and_taken_off_to_the_bit(files, sdxl):
    pipeline = pipeline_of(sdxl)
    before = weights_of(pipeline.unet)
    name = attention_names(pipeline.unet)[3] + ".to_k.weight"
    delta = torch.linspace(-1, 1, before[name].numel()).reshape(before[name].shape)
    files.write("attention", {name: delta, "conv_in.bias": torch.zeros_like(before["conv_in.bias"])})
    with loaded(files.build("offset"), pipeline).active(pipeline):
        inside = weights_of(pipeline.unet)
    assert {one for one in before if not torch.equal(before[one], inside[one])} == {name}
    torch.testing.assert_close(inside[name], before[name] + delta)
    assert same(weights_of(pipeline.unet), before)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv_in.nothing": torch.ones(2)}, "unexpected: conv_in.nothing"),
        ({"conv_in.bias": torch.ones(3)}, r"conv_in\.bias \(3,\) instead of \(16,\)"),
    ],
)
def test_differences_of_another_model_are_refused_by_name(files, sdxl, tensors, message):
    files.write("attention", tensors)
    with pytest.raises(ValueError, match=message):
        files.build("offset").load(pipeline_of(sdxl), "cpu")


# --- end to end ----------------------------------------------------------------------------------------------------


def cutouts(count: int) -> list[np.ndarray]:
    made = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 4)).astype(np.uint8)
    made[:, :, :32, 3] = 255
    return list(made)


def diffusion(folder: Path, transparency: LayerDiffuse, **more: object) -> Diffusion:
    generator = Diffusion(str(folder), steps=4, guidance=2.0, batch_size=2, transparency=transparency, **more)
    generator.load("cpu")
    return generator


@pytest.mark.parametrize("kind", ["sd15", "lora"])
def test_transparent_images_are_edited_between_plain_ones(files, sd15, sdxl, kind):
    folder = sd15 if kind == "sd15" else sdxl
    unet = pipeline_of(folder).unet
    if kind == "sd15":
        files.write("attention", sd15_tensors(unet))
    else:
        write_lora(files, unet)
    generator = diffusion(folder, files.build(kind))
    assert generator.transparent_side(50) == 64
    with pytest.raises(ValueError, match="multiples of 64, got 96x96"):
        generator.transparent_latents([np.zeros((96, 96, 4), np.uint8)])
    plain = partial(generator.text_to_image, ["bird"], [7], (64, 64))
    (before,) = plain()
    made = generator.edit_transparent(cutouts(3), ["bird", "tree", "bird"], [1, 2, 3], 0.5)
    assert [image.shape for image in made] == [(64, 64, 4)] * 3
    (after,) = plain()
    assert np.array_equal(before, after)
    (again,) = generator.edit_transparent(cutouts(3)[2:], ["bird"], [3], 0.5)
    assert np.array_equal(again, made[2])
    # Without the denoiser's change it would be another image.
    generator.transparency._change = nullcontext()
    plain()
    (other,) = generator.edit_transparent(cutouts(3)[2:], ["bird"], [3], 0.5)
    assert np.abs(other.astype(int) - again).max() > 8


def test_a_model_in_half_precision_makes_about_the_same_image(files, sd15):
    files.write("attention", {name: one * 0.1 for name, one in sd15_tensors(pipeline_of(sd15).unet).items()})
    exact, half = (
        diffusion(sd15, files.build("sd15"), dtype=dtype).edit_transparent(cutouts(1), ["bird"], [1], 0.5)[0]
        for dtype in ("float32", "float16")
    )
    assert np.abs(exact.astype(int) - half).mean() < 1
    assert exact.std() > 20


@pytest.mark.slow
def test_the_published_decoder_end_to_end(tmp_path, sd15, decoder):
    """With its file in float16, half as large."""
    files = Files(tmp_path)
    files.write("decoder", {name: one.half() for name, one in decoder.state_dict().items()})
    files.write("attention", sd15_tensors(pipeline_of(sd15).unet))
    transparency = files.build("sd15")
    generator = diffusion(sd15, transparency)
    (made,) = generator.edit_transparent(cutouts(1), ["bird"], [1], 0.5)
    assert made.shape == (64, 64, 4)
    assert {one.dtype for one in transparency._decoder.state_dict().values()} == {torch.float32}


def test_a_hub_file_that_is_missing_is_found_out_before_masks_are_made(files, sd15):
    files.places["decoder"] = "LayerDiffusion/nowhere:some.safetensors"
    generator = Diffusion(str(sd15), transparency=files.build("sd15"))
    with pytest.raises(FileNotFoundError, match="hf download LayerDiffusion/nowhere"):
        ObjectEdits(generator).check()
