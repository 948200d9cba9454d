"""Diffusion models through diffusers: one load, and pipelines for three calls that share its weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from genaug.console import hide_loading_bars, quiet_transformers
from genaug.devices import release_memory
from genaug.generation.base import Call, Generator
from genaug.generation.framing import Frame
from genaug.generation.model_files import locate, missing, model_digest, read_config
from genaug.generation.noise_levels import Schedule, Start, build_scheduler, size_shift
from genaug.generation.transparency import Transparency, fuse_lora

DTYPES = ("float32", "bfloat16", "float16")
#: Share of the training timesteps by which a real start may differ from the planned one: models that shift their noise
#: levels with the picture's size are planned at the size configured, and rounding to whole patches moves that a little.
TOLERANCE = 0.01
#: Pipelines that set the noise levels before the shift themselves, at equal distances.
_EVEN_SIGMAS = ("Flux", "QwenImage", "ZImage")
#: Pipelines that repair outdated scheduler configurations when they are built.
_REPAIRING = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")


class Diffusion(Generator):
    """A model that diffusers' Auto pipelines know: Stable Diffusion 1 to 3.5, SDXL, FLUX, Qwen-Image, Z-Image, ….

    Strength is a noise level: denoising starts at the scheduler's timestep nearest to it, whatever the scheduler and
    its spacing, and :meth:`start_timestep` tells which. A model that shifts its noise levels with the size of the
    picture (FLUX, Qwen-Image) is planned at ``size`` x ``size`` pixels.

    An image depends on its own prompt, seed and input, not on its neighbours in the batch. Its last bits depend on how
    many those are, as matrix products are computed in another order then (1e-6 of the range in float32 on a CPU, which
    moves one byte in some thousand by 1). So incomplete batches are filled up to ``batch_size`` by repeating the last
    image: on one machine, with one ``batch_size``, an image then is the same to the bit however it is asked for. Two
    things remain: Qwen-Image and Z-Image pad prompts to the longest of the batch, and other hardware or versions
    round in their own way.

    Args:
        model: Folder that diffusers saved, ``genaug:NAME`` for one that comes with this package, or name of a model on
            the Hugging Face hub. Weights are read from safetensors files only, and no code of a model's is run.
        steps: Number of denoising steps from pure noise.
        guidance: ``guidance_scale`` of the pipeline; None for its default.
        negative_prompt: What the images are not to show; not for models without classifier-free guidance.
        dtype: Of the weights: "float32", "bfloat16" or "float16".
        variant: Of the weight files ("fp16"), where the model has several; a folder without it gives the files it has.
        size: Side in pixels of a square with as many pixels as an image is made at; None for the size it is asked for.
        batch_size: Images made at once; more of them in one call are made in several batches.
        fill_batches: Fill incomplete batches, see above. False saves the time where there are many.
        scheduler: Class name of a diffusers scheduler; None for the model's own.
        scheduler_arguments: Its arguments in place of those in the model's configuration.
        call_arguments: Further arguments of the pipeline ("true_cfg_scale").
        attention_slicing: Compute attention in slices: less memory, slower.
        cpu_offload: Keep on the device only the part that is at work: less memory, slower. Of no use on a CPU.
        compile: Compile the denoiser; pays off from hundreds of images of one size and batch.
        channels_last: Keep convolution weights channels last: faster on GPUs with tensor cores.
        transparency: How it edits transparent images; None if it does not.

    Raises:
        FileNotFoundError: ``model`` is a folder that is not there or holds no model.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        model: str,
        steps: int = 50,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        dtype: str = "float32",
        variant: str | None = None,
        size: int | None = None,
        batch_size: int = 1,
        fill_batches: bool = True,
        scheduler: str | None = None,
        scheduler_arguments: Mapping[str, Any] | None = None,
        call_arguments: Mapping[str, Any] | None = None,
        attention_slicing: bool = False,
        cpu_offload: bool = False,
        compile: bool = False,
        channels_last: bool = False,
        transparency: Transparency | None = None,
    ) -> None:
        for name, value in (("steps", steps), ("size", size), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"generator.{name} must be at least 1, got {value}")
        if dtype not in DTYPES:
            raise ValueError(f"generator.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.model, self.folder = str(model), locate(str(model))
        self.steps, self.guidance, self.negative_prompt = steps, guidance, negative_prompt
        self.dtype, self.variant, self.size = dtype, variant, size
        self.batch_size, self.fill_batches = batch_size, fill_batches
        self.scheduler, self.scheduler_arguments = scheduler, _plain(scheduler_arguments)
        self.call_arguments = _plain(call_arguments)
        self.attention_slicing, self.cpu_offload = attention_slicing, cpu_offload
        self.compile, self.channels_last = compile, channels_last
        self.transparency = transparency
        if transparency is not None:
            self.calls = (*self.calls, "edit_transparent")
            if self.folder is not None:
                transparency.check(self._index)
        self._loaded: Any = None
        self._pipelines: dict[Call, Any] = {}
        self._words: set[str] = set()
        #: Worked into the denoiser.
        self._lora: Path | None = None
        #: Open while the denoiser is as transparent images need it.
        self._transparent: ExitStack | None = None
        self._lock = Lock()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of a local model the hash of its files stands for its name, so that it may be moved."""
        names = ("steps", "guidance", "negative_prompt", "dtype", "variant", "size", "scheduler")
        return {
            "model": self._identity,
            **{name: getattr(self, name) for name in names},
            "scheduler_arguments": self.scheduler_arguments,
            "call_arguments": self.call_arguments,
        }

    @property
    def transparent_settings(self) -> Mapping[str, Any]:
        """See :attr:`Generator.transparent_settings`."""
        return {} if self.transparency is None else self.transparency.settings

    @cached_property
    def _identity(self) -> str:
        return self.model if self.folder is None else model_digest(self.folder)

    # --- what is known without weights -----------------------------------------------------------------------------

    @cached_property
    def _index(self) -> dict[str, Any]:
        """The model's list of parts."""
        return read_config(self.model, "model_index.json")

    @cached_property
    def _patch(self) -> int:
        """Side in pixels of what the denoiser sees as one: the VAE's factor, twice that where a transformer looks."""
        if "vae" not in self._index:
            return 64
        vae = read_config(self.model, "vae/config.json")
        stages = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
        factor = 2 ** (len(stages) - 1) if stages else 8
        return factor * (2 if "transformer" in self._index else 1)

    @property
    def _step(self) -> int:
        """What the sides of an image are multiples of; Stable Diffusion's pipelines insist on 8 with any VAE."""
        return max(8, self._patch)

    @cached_property
    def _scheduler_config(self) -> dict[str, Any]:
        config = read_config(self.model, "scheduler/scheduler_config.json")
        if self._index["_class_name"] in _REPAIRING:
            config |= {"steps_offset": 1, "clip_sample": False}
        return config

    def _new_scheduler(self) -> Any:
        return build_scheduler(self._scheduler_config, self.scheduler, self.scheduler_arguments)

    @cached_property
    def schedule(self) -> Schedule:
        """The noise levels of all steps; read from the model's configuration, without its weights.

        Raises:
            FileNotFoundError: the configuration cannot be read.
            ValueError: they depend on the size of the picture, and ``size`` is None.
        """
        scheduler = self._new_scheduler()
        given: dict[str, Any] = {}
        if self._index["_class_name"].startswith(_EVEN_SIGMAS):
            given["sigmas"] = np.linspace(1.0, 1 / self.steps, self.steps)
        if scheduler.config.get("use_dynamic_shifting"):
            if self.size is None:
                raise ValueError(
                    f"The noise levels of {self.model} depend on the size of the picture: set generator.size, for "
                    "example to the side it was trained at."
                )
            given["mu"] = size_shift(scheduler.config, (self.size // self._patch) ** 2)
        return Schedule.of(scheduler, self.steps, **given)

    def start(self, call: Call, strength: float = 1.0) -> Start:
        """Where the denoising of a call begins; text-to-image knows no strength and always begins at the first step.

        Raises:
            NotImplementedError: the model does not offer the call.
            ValueError: ``strength`` is out of range or gives no step.
        """
        if call not in self.calls:
            raise NotImplementedError(f"{type(self).__name__} offers {', '.join(self.calls)}, not {call}")
        return self.schedule.start(self.steps) if call == "text_to_image" else self.schedule.nearest(strength)

    def denoiser_steps(self, call: Call, strength: float = 1.0) -> int:
        """See :meth:`Generator.denoiser_steps`; more than ``steps`` with schedulers that call the denoiser twice."""
        return self.start(call, strength).calls

    def start_timestep(self, call: Call, strength: float = 1.0) -> int | None:
        """See :meth:`Generator.start_timestep`; 1000 times sigma for flow matching."""
        return round(self.start(call, strength).timestep)

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """See :meth:`Generator.size_for`; sides are rounded up, so that a scaled image fits in whole."""
        return Frame.of(height, width, self._step, self.size).size

    def transparent_side(self, side: int) -> int:
        """See :meth:`Generator.transparent_side`."""
        step = self._step if self.transparency is None else max(self._step, self.transparency.step)
        return Frame.of(side, side, step, self.size).size[0]

    def check_transparent(self) -> None:
        """See :meth:`Generator.check_transparent`."""
        super().check_transparent()
        if self.transparency is not None:
            self.transparency.check(self._index)
            self.transparency.fetch()

    # --- loading ---------------------------------------------------------------------------------------------------

    def load(self, device: str) -> None:
        """See :meth:`Generator.load`.

        Raises:
            FileNotFoundError: the weights can neither be found nor fetched.
        """
        with self._lock:
            if self._loaded is not None:
                return
            hide_loading_bars()
            try:
                pipeline = self._from_pretrained()
            except OSError as error:
                raise FileNotFoundError(missing(self.model, str(error))) from error
            if self.channels_last:
                for name in ("unet", "vae"):
                    if name in pipeline.components:
                        pipeline.components[name].to(memory_format=torch.channels_last)
            if not (self.cpu_offload and device != "cpu"):
                pipeline.to(device)
            if self.compile:
                (pipeline.components.get("transformer") or pipeline.components["unet"]).compile()
            _tell_the_end_of_texts(pipeline)
            self._device, self._loaded = device, pipeline

    def unload(self) -> None:
        """See :meth:`Generator.unload`."""
        with self._lock:
            self._loaded = self._transparent = self._lora = None
            self._pipelines.clear()
            self._words.clear()
            if self.transparency is not None:
                self.transparency.unload()
        release_memory()

    def _from_pretrained(self) -> Any:
        from diffusers import AutoPipelineForText2Image

        return AutoPipelineForText2Image.from_pretrained(self._source, **self._weights)

    @property
    def _source(self) -> str:
        return self.model if self.folder is None else str(self.folder)

    @property
    def _weights(self) -> dict[str, Any]:
        # A folder that diffusers saved has mostly plain names; on a hub a variant is there or not.
        there = self.folder is None or any(self.folder.rglob(f"*.{self.variant}*.safetensors"))
        variant = self.variant if there else None
        return {"dtype": getattr(torch, self.dtype), "variant": variant, "use_safetensors": True} | self._quiet

    @cached_property
    def _quiet(self) -> dict[str, Any]:
        """Arguments that leave the images as the model makes them, of those that the pipeline knows.

        The safety checker blackens pictures it takes for indecent, real animals among them, and costs a second network.
        The watermark is noise that a classifier could learn to tell synthetic images by.
        """
        import diffusers

        known = inspect.signature(getattr(diffusers, self._index["_class_name"])).parameters
        quiet = {"safety_checker": None, "requires_safety_checker": False, "add_watermarker": False}
        return {name: value for name, value in quiet.items() if name in known}

    def _convert(self, call: Call) -> Any:
        """The pipeline of a call, around the weights of the one that was loaded."""
        import diffusers

        auto = {
            "text_to_image": diffusers.AutoPipelineForText2Image,
            "image_to_image": diffusers.AutoPipelineForImage2Image,
            "inpaint": diffusers.AutoPipelineForInpainting,
            "edit_transparent": diffusers.AutoPipelineForImage2Image,
        }
        try:
            # The watermark is no part of a pipeline's configuration, which is all that from_pipe passes on by itself.
            pipeline = auto[call].from_pipe(self._loaded, **self._quiet)
        except ValueError as error:
            raise NotImplementedError(f"diffusers has no {call} pipeline for {self.model}: {error}") from error
        if call != "text_to_image" and "strength" not in inspect.signature(pipeline.__call__).parameters:
            raise NotImplementedError(
                f"{type(pipeline).__name__} of {self.model} takes no strength: it edits by instruction, from noise"
            )
        return pipeline

    def pipeline(self, call: Call) -> Any:
        """The pipeline of diffusers that serves a call, ready to be run; its denoiser is as that call needs it.

        Raises:
            RuntimeError: nothing is loaded.
            NotImplementedError: the model does not offer the call.
        """
        with self._lock:
            if self._loaded is None:
                raise RuntimeError(f"{type(self).__name__} has no weights yet: call load(device) first")
            self._change_denoiser(call == "edit_transparent")
            if call not in self._pipelines:
                pipeline = self._convert(call)
                # One of its own: its state is of one call, and pipelines change the configuration of those they get.
                pipeline.scheduler = self._new_scheduler()
                pipeline.set_progress_bar_config(disable=True)
                # Clamping would turn infinity into a plain black or white.
                pipeline.image_processor.denormalize = lambda images: images * 0.5 + 0.5
                if self.attention_slicing:
                    pipeline.enable_attention_slicing()
                if self.cpu_offload and self._device != "cpu":
                    pipeline.enable_model_cpu_offload(device=self._device)
                self._pipelines[call] = pipeline
            return self._pipelines[call]

    def _change_denoiser(self, transparent: bool) -> None:
        """Exchange what transparent images need of the denoiser, where the last call needed the other."""
        if transparent and self._transparent is None:
            assert self.transparency is not None
            self.transparency.load(self._loaded, self._device)
            self._transparent = ExitStack()
            self._transparent.enter_context(self.transparency.active(self._loaded))
        elif not transparent and self._transparent is not None:
            self._transparent.close()
            self._transparent = None

    def add_words(self, words: Mapping[str, Sequence[Tensor]]) -> None:
        """See :meth:`Generator.add_words`.

        Raises:
            NotImplementedError: diffusers loads no words into this kind of model.
            ValueError: a word has not one tensor for each text encoder.
        """
        pipeline = self.pipeline("image_to_image")
        new = {word: vectors for word, vectors in words.items() if word not in self._words}
        if not new:
            return
        if not hasattr(pipeline, "load_textual_inversion"):
            raise NotImplementedError(f"{type(pipeline).__name__} of {self.model} learns no words")
        encoders = text_encoders(pipeline)
        if any(len(vectors) != len(encoders) for vectors in new.values()):
            raise ValueError(f"{self.model} has {len(encoders)} text encoders: each word needs a tensor for each.")
        # New rows are first drawn at random, on the device, to be overwritten at once.
        devices = [pipeline.device] if pipeline.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), quiet_transformers():
            for number, (tokenizer, encoder) in enumerate(encoders):
                pipeline.load_textual_inversion(
                    [vectors[number] for vectors in new.values()],
                    token=list(new),
                    tokenizer=tokenizer,
                    text_encoder=encoder,
                )
        self._words |= set(new)

    def add_lora(self, file: Path) -> None:
        """See :meth:`Generator.add_lora`.

        Raises:
            FileNotFoundError: there is no such file.
            NotImplementedError: the model has no U-Net.
            RuntimeError: nothing is loaded.
            ValueError: another LoRA is in the denoiser already.
        """
        pipeline = self.pipeline("image_to_image")  # with the denoiser that is not for transparent images
        if self._lora == file:
            return
        if not file.is_file():
            raise FileNotFoundError(f"there is no LoRA at {file}")
        if self._lora is not None:
            raise ValueError(f"{self._lora} is in the denoiser, and {file} would add to it: unload the generator first")
        if "unet" not in pipeline.components:
            raise NotImplementedError(
                f"{type(pipeline).__name__} of {self.model} has no U-Net that a LoRA could go into"
            )
        fuse_lora(pipeline, file)
        if self.transparency is not None:
            self.transparency.unload()  # what it keeps of the denoiser is without the LoRA
        self._lora = file

    # --- making ----------------------------------------------------------------------------------------------------

    def text_to_image(
        self, prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int]
    ) -> list[np.ndarray | None]:
        """See :meth:`Generator.text_to_image`."""
        check_counts(prompts, seeds)
        return self._make("text_to_image", prompts, seeds, size)

    def image_to_image(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], strength: float
    ) -> list[np.ndarray | None]:
        """See :meth:`Generator.image_to_image` and :class:`Frame` for sizes that the model does not take.

        Raises:
            ValueError: an image is not ``(H, W, 3)`` uint8, or they differ in size.
        """
        check_counts(prompts, seeds, images)
        if not images:
            return []
        frame = self._frame(images)
        shown = image_tensor([frame.show(image) for image in images])
        made = self._make("image_to_image", prompts, seeds, frame.size, strength, image=shown)
        return [None if one is None else frame.back(one) for one in made]

    def inpaint(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float = 1.0,
    ) -> list[np.ndarray | None]:
        """See :meth:`Generator.inpaint`.

        Raises:
            ValueError: an image is not ``(H, W, 3)`` uint8, a mask not ``(H, W)`` bool, or they differ in size.
        """
        check_counts(prompts, seeds, images, masks)
        if not images:
            return []
        frame = self._frame(images)
        check_masks(masks, frame.source)
        shown = image_tensor([frame.show(image) for image in images])
        hidden = torch.from_numpy(np.stack([frame.show_mask(mask) for mask in masks])).float()[:, None]
        made = self._make("inpaint", prompts, seeds, frame.size, strength, image=shown, mask_image=hidden)
        # The VAE changes every pixel a little; those outside the mask are the image's own.
        return [
            None if one is None else np.where(mask[..., None], frame.back(one), image)
            for one, mask, image in zip(made, masks, images, strict=True)
        ]

    def edit_transparent(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], strength: float
    ) -> list[np.ndarray | None]:
        """See :meth:`Generator.edit_transparent`.

        Raises:
            ValueError: an image is not ``(H, W, 4)`` uint8, they differ in size, or the model does not take that.
        """
        check_counts(prompts, seeds, images)
        start, pipeline = self.start("edit_transparent", strength), self.pipeline("edit_transparent")
        assert self.transparency is not None
        made: list[np.ndarray | None] = []
        for count, filled in self._batches(len(prompts)):
            # A tensor of four channels is taken for latents, and not scaled again.
            latents = self.transparent_latents([images[index] for index in filled])
            size = images[0].shape[0], images[0].shape[1]
            answer = pipeline(
                prompt=[prompts[index] for index in filled],
                image=latents,
                generator=[torch.Generator().manual_seed(seeds[index]) for index in filled],
                num_inference_steps=self.steps,
                output_type="latent",
                callback_on_step_end=self._start_check(start),
                **self._wishes(pipeline, start, len(filled), size),
            )
            made += uint8_images(self.transparency.decode(pipeline, answer.images)[:count])
        return made

    def transparent_latents(self, images: Sequence[np.ndarray]) -> Tensor:
        """Scaled latents ``(N, 4, h, w)`` of images as :meth:`edit_transparent` takes them, on the device.

        Raises:
            ValueError: as there.
        """
        pipeline = self.pipeline("edit_transparent")
        assert self.transparency is not None
        height, width = check_images(images, channels=4)
        step = max(self._step, self.transparency.step)
        if height % step or width % step:
            raise ValueError(f"expected transparent images whose sides are multiples of {step}, got {width}x{height}")
        return self.transparency.encode(pipeline, image_tensor(images))

    def image_latents(self, images: Sequence[np.ndarray], size: int | None = None) -> Tensor:
        """Scaled latents ``(N, C, h, w)`` of images as :meth:`image_to_image` edits them, on the device.

        Nothing random is in them: they are the means of the autoencoder's posteriors.

        Args:
            images: As there.
            size: In the place of the generator's.

        Raises:
            ValueError: as there.
        """
        frame = Frame.of(*check_images(images), self._step, size or self.size)
        vae = self.pipeline("image_to_image").vae
        dtype, shift = vae.dtype, vae.config.get("shift_factor") or 0.0
        pixels = image_tensor([frame.show(image) for image in images]).to(vae.device) * 2 - 1
        overflows = dtype == torch.float16 and vae.config.get("force_upcast")  # SDXL's does
        if overflows:
            vae.to(torch.float32)
        try:
            with torch.no_grad():
                means = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        finally:
            if overflows:
                vae.to(dtype)
        return ((means - shift) * vae.config.scaling_factor).to(dtype)

    def _frame(self, images: Sequence[np.ndarray]) -> Frame:
        return Frame.of(*check_images(images), self._step, self.size)

    def _make(
        self,
        call: Call,
        prompts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int],
        strength: float = 1.0,
        **inputs: Tensor,
    ) -> list[np.ndarray | None]:
        """Run the pipeline of a call in batches, on inputs of the model's size."""
        start, pipeline = self.start(call, strength), self.pipeline(call)
        made: list[np.ndarray | None] = []
        for count, filled in self._batches(len(prompts)):
            answer = pipeline(
                prompt=[prompts[index] for index in filled],
                # On the CPU, so that a seed means the same noise on every device.
                generator=[torch.Generator().manual_seed(seeds[index]) for index in filled],
                num_inference_steps=self.steps,
                output_type="pt",
                callback_on_step_end=self._start_check(start),
                **{name: tensor[filled] for name, tensor in inputs.items()},
                **self._wishes(pipeline, start, len(filled), size),
            )
            made += uint8_images(answer.images[:count])
        return made

    def _batches(self, count: int) -> Iterator[tuple[int, list[int]]]:
        """How many images of each batch are wanted, and the numbers of all its images, filled up or not."""
        for first in range(0, count, self.batch_size):
            batch = list(range(first, min(first + self.batch_size, count)))
            yield len(batch), batch + batch[-1:] * ((self.batch_size - len(batch)) if self.fill_batches else 0)

    def _wishes(self, pipeline: Any, start: Start, count: int, size: tuple[int, int]) -> dict[str, Any]:
        """What is configured, and of what pipelines differ in what this one knows."""
        wishes: dict[str, Any] = {"strength": start.argument, "height": size[0], "width": size[1]}
        known = inspect.signature(pipeline.__call__).parameters
        wishes = {name: value for name, value in wishes.items() if name in known}
        if self.guidance is not None:
            wishes["guidance_scale"] = self.guidance
        if self.negative_prompt is not None:
            wishes["negative_prompt"] = [self.negative_prompt] * count
        return wishes | self.call_arguments

    def _start_check(self, start: Start) -> Callable[..., dict[str, Any]]:
        """A callback of the pipeline that compares where it begins with what was planned."""

        def check(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            if step == 0 and abs(float(timestep) - start.timestep) > TOLERANCE * self.schedule.train_timesteps:
                raise RuntimeError(
                    f"{type(pipeline).__name__} started at timestep {float(timestep):g}, planned was "
                    f"{start.timestep:g}: it sets its noise levels in a way that genaug does not know"
                )
            return tensors

        return check


def check_counts(prompts: Sequence[str], seeds: Sequence[int], *others: Sequence[Any]) -> None:
    """Check that there is one of everything an image.

    Raises:
        ValueError: the lengths differ.
    """
    counts = [len(prompts), len(seeds), *map(len, others)]
    if len(set(counts)) > 1:
        raise ValueError(f"expected one prompt, seed and input an image, got {counts} of them")


def check_images(images: Sequence[np.ndarray], channels: int = 3) -> tuple[int, int]:
    """Height and width of all images.

    Raises:
        ValueError: one is not ``(H, W, channels)`` uint8, or they differ in size.
    """
    for image in images:
        good = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
        if not good or image.shape[2] != channels:
            came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"{type(image).__name__}"
            trap = (
                " Drop the alpha channel or paint it on a background first: diffusers takes a picture of four "
                "channels for latents, without a word."
            )
            raise ValueError(
                f"expected images as (H, W, {channels}) uint8 arrays, got {came}.{trap if channels == 3 else ''}"
            )
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        raise ValueError(f"expected images of one size in a call, got {sorted(sizes)}")
    (size,) = sizes
    return size


def check_masks(masks: Sequence[np.ndarray], size: tuple[int, int]) -> None:
    """Check that masks are ``(H, W)`` bool.

    Raises:
        ValueError: one is not.
    """
    for mask in masks:
        if mask.dtype != bool or mask.shape != size:
            raise ValueError(f"expected masks as bool arrays {size} like their images, got {mask.dtype} {mask.shape}")


def image_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """``(N, C, H, W)`` float32 in [0, 1] for images ``(H, W, C)`` uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def uint8_images(images: Tensor) -> list[np.ndarray | None]:
    """``(H, W, C)`` uint8 for each of ``(N, C, H, W)`` around [0, 1]; None where a value is NaN or infinite."""
    finite = images.isfinite().flatten(1).all(1).tolist()
    pixels = (images.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    arrays = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [array if good else None for array, good in zip(arrays, finite, strict=True)]


def text_encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """Tokenizer and text encoder of a pipeline, once each: one pair for Stable Diffusion, two for SDXL."""
    pairs = [(f"tokenizer{number}", f"text_encoder{number}") for number in ("", "_2", "_3")]
    return [
        (getattr(pipeline, tokenizer), getattr(pipeline, encoder))
        for tokenizer, encoder in pairs
        if getattr(pipeline, encoder, None) is not None
    ]


def _tell_the_end_of_texts(pipeline: Any) -> None:
    """Have CLIP look for the end of a text by its number.

    Older configurations say 2, which means the highest number in the text; that would be a new word's.
    """
    for tokenizer, encoder in text_encoders(pipeline):
        for module in encoder.modules():
            if getattr(module, "eos_token_id", None) == 2 and type(encoder).__name__.startswith("CLIP"):
                module.eos_token_id = tokenizer.eos_token_id


def _plain(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """As Python's own types: these go into JSON."""
    if OmegaConf.is_config(arguments):
        arguments = OmegaConf.to_container(arguments, resolve=True)  # type: ignore[assignment]
    return dict(arguments or {})
