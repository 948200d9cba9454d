"""Text-to-image augmentation, as in the case study of AGA (section 3): images from the class name alone."""

from __future__ import annotations

from genaug.data.base import Sample
from genaug.generation.base import Generator
from genaug.synthesis.per_source import PerSource


class TextToImage(PerSource):
    """n images of its class for each real image, from pure noise; nothing of the image itself is used.

    Args:
        generator: Makes the images.
        scale: See :class:`PerSource`.
        seed: See :class:`PerSource`.
        prompt: See :class:`PerSource`.

    Raises:
        ValueError: see :class:`PerSource`.
    """

    call = "text_to_image"

    def __init__(
        self, generator: Generator, scale: int = 1, seed: int = 0, prompt: str = "a photo of {a_name}"
    ) -> None:
        super().__init__(generator, scale, seed, prompt)

    def inputs(self, sample: Sample) -> tuple[str, ...]:
        """None: the name of the sample alone gives each its own images."""
        return ()
