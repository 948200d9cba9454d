"""InstructPix2Pix: edits an image as a sentence says (Brooks et al. 2023, arXiv:2211.09800)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genaug.generation.base import Call
from genaug.generation.diffusion import Diffusion
from genaug.generation.noise_levels import Start


class InstructPix2Pix(Diffusion):
    """A Stable Diffusion model that sees the image beside the noise, so every edit starts at pure noise.

    A prompt is an instruction ("make it snow"), not a description. There is no strength to choose: how much of the
    image is kept follows from ``guidance`` and ``image_guidance``, and a strength other than 1 is refused.

    Args:
        model: As for :class:`Diffusion`, as is everything else but ``image_guidance``.
        steps: Number of denoising steps.
        guidance: How closely the instruction is followed.
        image_guidance: How closely the image is kept, at least 1.
        negative_prompt: What the images are not to show.
        dtype: Of the weights.
        variant: Of the weight files.
        size: Side in pixels of a square with as many pixels as an image is made at.
        batch_size: Images made at once.
        fill_batches: Fill incomplete batches.
        scheduler: Class name of a diffusers scheduler.
        scheduler_arguments: Its arguments.
        attention_slicing: Compute attention in slices.
        cpu_offload: Keep on the device only the part that is at work.
        compile: Compile the denoiser.
        channels_last: Keep convolution weights channels last.

    Raises:
        FileNotFoundError: ``model`` is a folder that is not there or holds no model.
        ValueError: an argument is out of range.
    """

    calls = ("image_to_image",)
    by_instruction = True

    def __init__(
        self,
        model: str,
        steps: int = 100,
        guidance: float = 7.5,
        image_guidance: float = 1.5,
        negative_prompt: str | None = None,
        dtype: str = "float32",
        variant: str | None = None,
        size: int | None = None,
        batch_size: int = 1,
        fill_batches: bool = True,
        scheduler: str | None = None,
        scheduler_arguments: Mapping[str, Any] | None = None,
        attention_slicing: bool = False,
        cpu_offload: bool = False,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        if image_guidance < 1:
            raise ValueError(f"generator.image_guidance must be at least 1, got {image_guidance}")
        super().__init__(
            model,
            steps=steps,
            guidance=guidance,
            negative_prompt=negative_prompt,
            dtype=dtype,
            variant=variant,
            size=size,
            batch_size=batch_size,
            fill_batches=fill_batches,
            scheduler=scheduler,
            scheduler_arguments=scheduler_arguments,
            call_arguments={"image_guidance_scale": image_guidance},
            attention_slicing=attention_slicing,
            cpu_offload=cpu_offload,
            compile=compile,
            channels_last=channels_last,
        )

    def start(self, call: Call, strength: float = 1.0) -> Start:
        """The first step.

        Raises:
            NotImplementedError: ``call`` is not image-to-image.
            ValueError: ``strength`` is not 1.
        """
        if strength != 1:
            raise ValueError(
                f"strength={strength} means nothing to InstructPix2Pix, which starts every edit at pure noise: pass "
                "1.0, and change generator.image_guidance to keep more or less of the image."
            )
        return super().start(call, strength)

    def _from_pretrained(self) -> Any:
        from diffusers import StableDiffusionInstructPix2PixPipeline

        return StableDiffusionInstructPix2PixPipeline.from_pretrained(self._source, **self._weights)

    def _convert(self, call: Call) -> Any:
        """The loaded pipeline itself: the Auto classes do not know it."""
        return self._loaded
