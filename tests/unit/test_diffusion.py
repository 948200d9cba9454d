"""Every model here is random and tiny, saved to a folder and loaded as a real one is."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from functools import partial

import diffusers
import numpy as np
import pytest
import tiny_models
import torch
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img
from omegaconf import OmegaConf
from PIL import Image

from genaug.generation.diffusion import Diffusion, uint8_images
from genaug.generation.instruct_pix2pix import InstructPix2Pix

FAMILIES = {
    "sd15": tiny_models.save_sd15,
    "sdxl": tiny_models.save_sdxl,
    "sd35": tiny_models.save_sd35,
    "flux": tiny_models.save_flux,
}
PROMPTS, SEEDS = ["a bird", "a bird in the forest", "snow"], [1, 2, 3]
SIZE = (30, 45)  # neither side is a multiple of what the models take


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    saves = FAMILIES | {"pix2pix": tiny_models.save_pix2pix}
    return {name: save(root / name) for name, save in saves.items()}


@pytest.fixture(scope="module")
def loaded(folders):
    """Each family with its own scheduler, four steps at about 32 x 32 pixels."""

    def load(name):
        if name not in made:
            made[name] = Diffusion(str(folders[name]), steps=4, size=32, batch_size=3)
            made[name].load("cpu")
        return made[name]

    made: dict[str, Diffusion] = {}
    return load


@pytest.fixture
def sd15(folders):
    return partial(Diffusion, str(folders["sd15"]), steps=4, size=32)


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def masks():
    masks = np.zeros((3, *SIZE), bool)
    for number, mask in enumerate(masks):
        mask[5 + number : 20, 11:30] = True
    return list(masks)


@contextmanager
def timesteps_of(generator):
    """The timesteps that the denoiser is really called with, gathered while the block runs."""
    seen = []
    parts = generator._loaded.components
    scale = 1000 if "Flux" in type(generator._loaded).__name__ else 1  # FLUX hands it sigma

    def note(module, args, given):
        timestep = given["timestep"] if "timestep" in given else args[1]
        seen.append(float(timestep.flatten()[0]) * scale)

    hook = parts.get("transformer", parts.get("unet")).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def make(generator, call, images, masks, which, strength=0.5):
    """Run a call on the images ``which``."""

    def pick(things):
        return [things[index] for index in which]

    words = {"prompts": pick(PROMPTS), "seeds": pick(SEEDS)}
    if call == "text_to_image":
        return generator.text_to_image(**words, size=generator.size_for(*SIZE))
    if call == "image_to_image":
        return generator.image_to_image(pick(images), **words, strength=strength)
    return generator.inpaint(pick(images), pick(masks), **words, strength=strength)


# --- every family, every call --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["text_to_image", "image_to_image", "inpaint"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_does_what_was_planned_whatever_the_batch(family, call, loaded, images, masks):
    generator = loaded(family)
    with timesteps_of(generator) as seen:
        together = make(generator, call, images, masks, [0, 1, 2])
    assert len(seen) == generator.denoiser_steps(call, 0.5)
    # FLUX's noise levels move with the size: 32 x 40 pixels are made here, planned are 32 x 32.
    assert seen[0] == pytest.approx(generator.start_timestep(call, 0.5), abs=5 if family == "flux" else 0.51)
    assert all(image.dtype == np.uint8 and image.std() > 5 for image in together)
    assert {image.shape[:2] for image in together} == {generator.size_for(*SIZE) if call == "text_to_image" else SIZE}
    alone = [make(generator, call, images, masks, [index])[0] for index in (2, 0)]
    assert (alone[0] == together[2]).all()
    assert (alone[1] == together[0]).all()
    assert (together[0] != together[1]).any()


def test_a_batch_that_is_not_filled_moves_an_image_by_rounding_only(sd15, loaded, images, masks):
    generator = sd15(batch_size=3, fill_batches=False)
    generator.load("cpu")
    together = make(loaded("sd15"), "image_to_image", images, masks, [0, 1, 2])
    alone = make(generator, "image_to_image", images, masks, [1])[0]
    assert np.abs(alone.astype(int) - together[1]).max() <= 1
    assert (alone == together[1]).mean() > 0.99


def test_more_images_than_a_batch_holds(sd15, loaded, images, masks):
    generator, batches = sd15(batch_size=2), []
    generator.load("cpu")
    generator._loaded.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    made = make(generator, "image_to_image", images, masks, [0, 1, 2])
    assert set(batches) == {4}  # two images, with and without guidance
    assert len(batches) == 2 * generator.denoiser_steps("image_to_image", 0.5)
    for one, same in zip(made, make(loaded("sd15"), "image_to_image", images, masks, [0, 1, 2]), strict=True):
        assert np.abs(one.astype(int) - same).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_inpainting_leaves_the_rest_as_it_was(family, loaded, images, masks):
    for made, image, mask in zip(make(loaded(family), "inpaint", images, masks, [0, 1, 2]), images, masks, strict=True):
        assert (made[~mask] == image[~mask]).all()
        assert (made[mask] != image[mask]).any(-1).mean() > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_the_calls_share_their_weights(family, loaded, images, masks):
    generator = loaded(family)
    for call in generator.calls:
        make(generator, call, images, masks, [0])
    pipelines = generator._pipelines
    assert len({type(one) for one in pipelines.values()}) == 3
    for name in {"unet", "transformer", "vae", "text_encoder"} & set(pipelines["inpaint"].components):
        assert len({id(one.components[name]) for one in pipelines.values()}) == 1
    assert len({id(one.scheduler) for one in pipelines.values()}) == 3


def test_a_weak_edit_stays_nearer_to_the_image(loaded, images):
    # The random networks keep nothing that an eye would see, but what the least edit makes is the image's own.
    least, some, all_ = (
        np.stack(loaded("sd15").image_to_image(images, PROMPTS, SEEDS, strength)).astype(float)
        for strength in (0.2, 0.5, 1.0)
    )
    assert np.abs(some - least).mean() < np.abs(all_ - least).mean()


# --- strength ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.1, 0.4, 0.7, 1.0])
@pytest.mark.parametrize(
    ("scheduler", "arguments"),
    [
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {}),
        ("DDIMScheduler", {}),
        ("HeunDiscreteScheduler", {}),
    ],
)
def test_a_strength_is_a_noise_level_with_every_scheduler(sd15, images, scheduler, arguments, strength):
    generator = sd15(steps=9, size=16, scheduler=scheduler, scheduler_arguments=arguments)
    generator.load("cpu")
    with timesteps_of(generator) as seen:
        generator.image_to_image(images[:1], PROMPTS[:1], SEEDS[:1], strength)
    assert round(seen[0]) == generator.start_timestep("image_to_image", strength)
    assert len(seen) == generator.denoiser_steps("image_to_image", strength)
    assert abs(seen[0] - 1000 * strength) == min(abs(t - 1000 * strength) for t in generator.schedule.timesteps)


def test_the_plan_needs_no_weights(folders, tmp_path, sd15):
    for path in folders["sd15"].rglob("*.json"):
        copy = tmp_path / path.relative_to(folders["sd15"])
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    plan = Diffusion(str(tmp_path), steps=50, size=32)
    # Stable Diffusion 1's PNDM: 981, 961, 961, 941, ..., 1.
    assert plan.start_timestep("text_to_image") == 981
    assert plan.denoiser_steps("text_to_image") == 51
    assert plan.start_timestep("image_to_image", 0.4) == 401
    assert plan.denoiser_steps("image_to_image", 0.4) == 21
    assert plan.size_for(100, 70) == (40, 32)
    assert sd15(size=None).size_for(99, 70) == (104, 72)
    with pytest.raises(FileNotFoundError, match="safetensors"):
        plan.load("cpu")


def test_an_outdated_scheduler_is_repaired_as_diffusers_does(folders, tmp_path, images):
    folder = shutil.copytree(folders["sd15"], tmp_path / "old")
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"_class_name": "DDIMScheduler", "steps_offset": 0, "clip_sample": True}
    path.write_text(json.dumps(config))
    generator = Diffusion(str(folder), steps=4, size=16)
    assert generator.schedule.timesteps == (751, 501, 251, 1)
    generator.load("cpu")
    generator.image_to_image(images, PROMPTS, SEEDS, 0.5)
    assert generator._pipelines["image_to_image"].scheduler.config["clip_sample"] is False


def test_strengths_without_a_step_are_refused(sd15):
    generator = sd15(scheduler="DPMSolverMultistepScheduler")
    assert generator.schedule.timesteps[-1] == 201
    with pytest.raises(ValueError, match=r"strength=0\.1 gives no denoising step"):
        generator.start_timestep("image_to_image", 0.1)
    for strength in (0, 1.5):
        with pytest.raises(ValueError, match=f"got {strength}"):
            generator.denoiser_steps("inpaint", strength)


def test_a_start_that_was_not_planned_is_an_error(sd15, images):
    generator = sd15()
    generator.load("cpu")
    generator.schedule = sd15(scheduler="DPMSolverMultistepScheduler").schedule
    with pytest.raises(RuntimeError, match="started at timestep 501, planned was 601"):
        generator.image_to_image(images, PROMPTS, SEEDS, 0.7)


def test_noise_levels_that_depend_on_the_size_need_one(folders):
    generator = Diffusion(str(folders["flux"]), steps=4)
    with pytest.raises(ValueError, match=r"set generator\.size"):
        generator.start_timestep("image_to_image", 0.5)
    sides = [Diffusion(str(folders["flux"]), steps=4, size=side).schedule.timesteps for side in (16, 64)]
    assert sides[0][1] < sides[1][1]


# --- seeds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "arguments"),
    [
        ("EulerAncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("DDPMScheduler", {}),
    ],
)
def test_noise_added_on_the_way_is_of_the_images_own_seed(sd15, images, masks, scheduler, arguments):
    generator = sd15(size=16, batch_size=3, scheduler=scheduler, scheduler_arguments=arguments)
    generator.load("cpu")
    state = torch.get_rng_state()
    together = make(generator, "image_to_image", images, masks, [0, 1, 2], 0.9)
    torch.manual_seed(5)
    assert (make(generator, "image_to_image", images, masks, [1], 0.9)[0] == together[1]).all()
    torch.set_rng_state(state)


def test_another_seed_is_another_image_and_nobody_elses_random_numbers_are_used(loaded):
    generator, state = loaded("sd15"), torch.get_rng_state()
    first, second, again = (generator.text_to_image(["a bird"], [seed], (16, 16))[0] for seed in (4, 5, 4))
    assert (torch.get_rng_state() == state).all()
    assert (first == again).all()
    assert (first != second).any()


# --- answers and inputs --------------------------------------------------------------------------------------------


def test_values_are_rounded_and_broken_images_are_none():
    values = torch.tensor([-0.2, 0.0, 0.5, 1.2, 1 / 255 * 0.6]).repeat(3, 1)
    values[1, 2], values[2, 0] = torch.nan, -torch.inf
    kept, nan, infinite = uint8_images(values[:, None, None].expand(3, 3, 1, 5))
    assert kept[0, :, 1].tolist() == [0, 0, 128, 255, 1]
    assert nan is None
    assert infinite is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["unet.conv_out", "vae.decoder.conv_out"])
def test_broken_weights_give_none(sd15, images, masks, part, value):
    generator = sd15(size=16)
    generator.load("cpu")
    name, _, path = part.partition(".")
    generator._loaded.components[name].get_submodule(path).bias.data.fill_(value)
    for call in generator.calls:
        assert make(generator, call, images, masks, [0, 1]) == [None, None]


@pytest.mark.parametrize(
    ("image", "came"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
        (Image.new("RGBA", (8, 8)), "Image"),
    ],
)
def test_only_rgb_is_taken(loaded, image, came):
    generator = loaded("sd15")
    with pytest.raises(ValueError, match=f"{came}.*alpha channel.*for latents"):
        generator.image_to_image([image], ["a"], [0], 0.5)
    with pytest.raises(ValueError, match=f"{came}.*alpha channel.*for latents"):
        generator.inpaint([image], [np.ones((8, 8), bool)], ["a"], [0])


def test_inputs_that_do_not_fit_are_refused(loaded):
    generator, image = loaded("sd15"), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="of one size in a call"):
        generator.image_to_image([image, image[:4]], ["a", "b"], [0, 1], 0.5)
    for mask in (np.ones((8, 8), np.uint8), np.ones((4, 8), bool)):
        with pytest.raises(ValueError, match=r"bool arrays \(8, 8\)"):
            generator.inpaint([image], [mask], ["a"], [0])
    with pytest.raises(ValueError, match=r"\[2, 1, 1\]"):
        generator.image_to_image([image], ["a", "b"], [0], 0.5)
    assert generator.text_to_image([], [], (16, 16)) == generator.image_to_image([], [], [], 0.5) == []


@pytest.mark.parametrize("size", [None, 40])
def test_images_come_back_where_they_were(sd15, monkeypatch, size):
    y, x = np.mgrid[:100, :70]
    image = np.stack([2 * x, 2 * y, x + y], -1).astype(np.uint8)
    generator = sd15(size=size)
    monkeypatch.setattr(generator, "_make", lambda *_, image, **__: uint8_images(image))  # a model that changes nothing
    made = generator.image_to_image([image], ["a"], [0], 0.5)[0]
    assert made.shape == image.shape
    assert np.abs(made.astype(int) - image).max() <= (0 if size is None else 4)


# --- loading -------------------------------------------------------------------------------------------------------


def test_models_that_are_not_there(sd15, tmp_path, folders):
    for model, came in (("/no/such/folder", "no such folder"), (str(tmp_path), r"has no model_index\.json")):
        with pytest.raises(FileNotFoundError, match=f"{came}.*hf download .*generator.model=FOLDER"):
            Diffusion(model)
    with pytest.raises(FileNotFoundError, match="genaug:nothing.*no such folder"):
        Diffusion("genaug:nothing")
    elsewhere = Diffusion("nobody/no-such-model")
    for call in (partial(elsewhere.load, "cpu"), partial(elsewhere.size_for, 8, 8)):
        with pytest.raises(FileNotFoundError, match="nobody/no-such-model.*hf download nobody/no-such-model"):
            call()
    with pytest.raises(RuntimeError, match=r"call load\(device\) first"):
        sd15().text_to_image(["a"], [0], (16, 16))


def test_arguments_out_of_range(sd15):
    for arguments in ({"steps": 0}, {"size": 0}, {"batch_size": -1}, {"dtype": "float8"}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be .*{next(iter(arguments.values()))}"):
            sd15(**arguments)
    with pytest.raises(ValueError, match="'Nonesuch' is no scheduler"):
        sd15(scheduler="Nonesuch").start_timestep("text_to_image")


def test_weights_that_can_run_code_are_not_read(folders, tmp_path):
    folder = shutil.copytree(folders["sd15"], tmp_path / "pickled")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="safetensors"):
        Diffusion(str(folder)).load("cpu")


def test_no_checker_and_no_watermark(loaded, folders, images, monkeypatch):
    assert loaded("sd15")._loaded.safety_checker is None
    assert loaded("sd15")._quiet == {"safety_checker": None, "requires_safety_checker": False}
    assert loaded("sdxl")._quiet == {"add_watermarker": False}
    assert loaded("sd35")._quiet == {}
    # As if the package were installed: building a watermarker would fail here, for want of it.
    monkeypatch.setattr(pipeline_stable_diffusion_xl_img2img, "is_invisible_watermark_available", lambda: True)
    fresh = Diffusion(str(folders["sdxl"]), steps=2, size=16)
    fresh.load("cpu")
    fresh.image_to_image(images, PROMPTS, SEEDS, 0.5)
    assert fresh._pipelines["image_to_image"].watermark is None


def test_options_of_speed_change_next_to_nothing(sd15, images, masks, loaded):
    plain = np.stack(make(loaded("sd15"), "image_to_image", images, masks, [0, 1, 2])).astype(float)
    for options in ({"channels_last": True, "attention_slicing": True}, {"dtype": "bfloat16"}):
        generator = sd15(**options)
        generator.load("cpu")
        made = make(generator, "image_to_image", images, masks, [0, 1, 2])
        assert np.abs(np.stack(made) - plain).mean() < 6
    weights = generator._loaded.unet.conv_in.weight
    assert weights.dtype == torch.bfloat16


def test_options_reach_the_pipeline(sd15, images, masks, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: seen.append(type(module).__name__))
    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "enable_model_cpu_offload", lambda _, device: seen.append(("offload", device))
    )
    generator = sd15(compile=True, cpu_offload=True, channels_last=True)
    generator.load("cuda:7")  # nothing is moved there: that is left to the offloading
    assert generator._loaded.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    make(generator, "image_to_image", images, masks, [0])
    assert seen == ["UNet2DConditionModel", ("offload", "cuda:7")]


def test_guidance_and_the_negative_prompt_change_an_image(sd15, images, masks):
    made = []
    for options in ({"guidance": 1.0}, {"guidance": 7.0}, {"guidance": 7.0, "negative_prompt": "forest"}):
        generator = sd15(**options)
        generator.load("cpu")
        made.append(make(generator, "text_to_image", images, masks, [0])[0])
    assert all((made[a] != made[b]).any() for a, b in ((0, 1), (1, 2), (0, 2)))


def test_the_second_load_does_nothing(sd15):
    generator = sd15()
    generator.load("cpu")
    before = generator._loaded
    generator.load("meta")
    assert generator._loaded is before
    assert before.unet.device.type == "cpu"


def test_a_folder_without_the_variant_is_read_as_it_is(sd15, folders, tmp_path):
    generator = sd15(variant="fp16")
    generator.load("cpu")
    weights = generator._loaded.unet.state_dict()
    plain = sd15()
    plain.load("cpu")
    assert all((weights[name] == value).all() for name, value in plain._loaded.unet.state_dict().items())
    plain._loaded.save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.rglob("unet/diffusion_pytorch_model.safetensors"))
    both = Diffusion(str(tmp_path), steps=4, size=32, variant="fp16")
    both.load("cpu")  # where it is there, it is taken
    assert all((weights[name] == value).all() for name, value in both._loaded.unet.state_dict().items())


# --- names ---------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_what_changes_an_image(sd15, folders, tmp_path):
    moved = shutil.copytree(folders["sd15"], tmp_path / "moved")
    same = [sd15(), sd15(batch_size=8, fill_batches=False), sd15(compile=True), Diffusion(str(moved), steps=4, size=32)]
    assert len({one.fingerprint for one in same}) == 1
    karras = OmegaConf.create({"use_karras_sigmas": True})  # as Hydra hands it over
    others = [
        sd15(),
        sd15(steps=5),
        sd15(guidance=2.0),
        sd15(dtype="bfloat16"),
        sd15(scheduler="DPMSolverMultistepScheduler"),
        sd15(scheduler="DPMSolverMultistepScheduler", scheduler_arguments=karras),
        sd15(call_arguments={"eta": 0.5}),
        Diffusion(str(folders["sdxl"]), steps=4, size=32),
    ]
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    others.append(Diffusion(str(moved), steps=4, size=32))
    assert len({one.fingerprint for one in others}) == len(others)
    assert Diffusion("owner/name").settings["model"] == "owner/name"


# --- InstructPix2Pix -----------------------------------------------------------------------------------------------


def test_instruct_pix2pix(folders, images):
    generator = InstructPix2Pix(str(folders["pix2pix"]), steps=4, size=32, batch_size=3)
    generator.load("cpu")
    with timesteps_of(generator) as seen:
        made = generator.image_to_image(images, PROMPTS, SEEDS, 1.0)
    assert len(seen) == generator.denoiser_steps("image_to_image") == 5  # PNDM's extra one
    assert seen[0] == generator.start_timestep("image_to_image") == 751
    assert {image.shape for image in made} == {(*SIZE, 3)}
    alone = generator.image_to_image(images[1:2], PROMPTS[1:2], SEEDS[1:2], 1.0)[0]
    assert (alone == made[1]).all()
    closer = InstructPix2Pix(str(folders["pix2pix"]), steps=4, size=32, image_guidance=5.0)
    closer.load("cpu")
    assert (closer.image_to_image(images[:1], PROMPTS[:1], SEEDS[:1], 1.0)[0] != made[0]).any()
    assert closer.fingerprint != generator.fingerprint


def test_instruct_pix2pix_has_no_strength_and_no_other_calls(folders, images, masks):
    generator = InstructPix2Pix(str(folders["pix2pix"]))
    assert (generator.steps, generator.guidance) == (100, 7.5)
    assert generator.settings["call_arguments"] == {"image_guidance_scale": 1.5}
    with pytest.raises(ValueError, match=r"strength=0\.4 means nothing to InstructPix2Pix"):
        generator.denoiser_steps("image_to_image", 0.4)
    generator.load("cpu")
    for call in ("text_to_image", "inpaint"):
        with pytest.raises(NotImplementedError, match=f"offers image_to_image, not {call}"):
            make(generator, call, images, masks, [0], strength=1.0)
    with pytest.raises(ValueError, match="image_guidance must be at least 1, got 0"):
        InstructPix2Pix(str(folders["pix2pix"]), image_guidance=0.5)
