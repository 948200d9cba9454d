"""Image-to-image augmentation (SDEdit, Meng et al. 2022), as in the case study of AGA (section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genaug.synthesis.jobs import Job
from genaug.synthesis.per_source import PerSource


class ImageToImage(PerSource):
    """n edits of each real image, from the noise level ``strength``."""

    call = "image_to_image"

    def draw(self, images: Sequence[np.ndarray], jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :meth:`PerSource.draw`."""
        return self.generator.image_to_image(images, [job.prompt for job in jobs], seeds, self.strength)
