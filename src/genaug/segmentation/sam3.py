"""SAM 3: every object that a word names, without boxes in between (Carion et al. 2025, arXiv:2511.16719)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from genaug.data.base import Sample
from genaug.segmentation.base import Segmentation, Segmenter, Words
from genaug.segmentation.ladder import Ladder
from genaug.segmentation.pretrained import explained, hub_remedy, local_model, model_files

Objects = Literal["union", "best"]

_REMEDY = (
    hub_remedy("sam3", "model", "facebook/sam3")
    + " Its licence has to be accepted on its page first, and `hf auth login` run."
)


class SAM3(Segmenter):
    """Finds all instances of a word with SAM 3.

    The score is that of the best instance.

    Args:
        model: SAM 3, as an id on the Hugging Face hub or a local folder.
        threshold: Least score of an instance.
        lower_threshold: The same in the step ``lower_threshold``.
        objects: "union" takes all instances, "best" the one of the highest score.
        retry: See :class:`~genaug.segmentation.ladder.Ladder`.
        fallback: Segments what no step found; without one the mask stays empty.
        batch_size: Images that go through the network together.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: a local folder is not there.
    """

    serial = True

    def __init__(
        self,
        model: str | Path = "facebook/sam3",
        threshold: float = 0.5,
        lower_threshold: float = 0.3,
        objects: Objects = "union",
        retry: Sequence[str] = ("class_name", "lower_threshold", "object"),
        fallback: Segmenter | None = None,
        batch_size: int = 4,
    ) -> None:
        if objects not in get_args(Objects) or batch_size < 1:
            raise ValueError(
                f"objects must be union or best and batch_size at least 1, got {objects!r} and {batch_size}"
            )
        self.ladder = Ladder(threshold, lower_threshold, retry, fallback)
        self._place = local_model(model, _REMEDY)
        self.model, self.objects = str(model), objects
        self.batch_size, self.reads_class = batch_size, self.ladder.reads_class
        self._device: str | None = None
        self._network: Any = None
        self._processor: Any = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """All arguments but the batch size; a local model counts by its content, not by its place."""
        return {
            "model": self.model if self._place is None else None,
            "objects": self.objects,
            **self.ladder.settings,
        }

    @property
    def files(self) -> Sequence[Path]:
        """Those of a local model."""
        return model_files(self._place)

    def load(self, device: str) -> None:
        """See :meth:`Segmenter.load`.

        Raises:
            FileNotFoundError: the model is not there and cannot be downloaded.
        """
        from transformers import Sam3Model, Sam3Processor

        if self._device == device:
            return
        with explained(self.model, _REMEDY):
            source = self._place or self.model
            network: Any = Sam3Model.from_pretrained(source)
            self._network = network.to(device).eval()
            self._processor = Sam3Processor.from_pretrained(source)
        if self.ladder.fallback is not None:
            self.ladder.fallback.load(device)
        self._device = device

    def unload(self) -> None:
        """See :meth:`Segmenter.unload`."""
        self._network = self._processor = self._device = None
        if self.ladder.fallback is not None:
            self.ladder.fallback.unload()

    def segment(self, image: np.ndarray, sample: Sample, prompt: str) -> Segmentation:
        """See :meth:`Segmenter.segment`; without the step ``class_name``, for the class is not known here."""
        (found,) = self.segment_batch([image], [sample], [Words(prompt)])
        return found

    def segment_batch(
        self, images: Sequence[np.ndarray], samples: Sequence[Sample], words: Sequence[Words]
    ) -> list[Segmentation]:
        """See :meth:`Segmenter.segment_batch`."""
        return self.ladder.climb(images, samples, words, self._find)

    def _find(
        self, images: Sequence[np.ndarray], words: Sequence[str], threshold: float
    ) -> list[tuple[np.ndarray, float] | None]:
        """Mask and score of each image's word, ``None`` where it has no instance."""
        import torch

        if self._device is None:
            self.load("cpu")
        # Every image is squashed to one square and every text padded to one length: a batch may mix sizes and words.
        with torch.inference_mode():
            inputs = self._processor(
                images=list(images),
                text=list(words),
                return_tensors="pt",
                input_data_format="channels_last",
                device=self._device,
            ).to(self._device)
            outputs = self._network(**{name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")})
            results = self._processor.post_process_instance_segmentation(
                outputs, threshold=threshold, target_sizes=[image.shape[:2] for image in images]
            )
        return [
            taken(result["masks"].cpu().numpy().astype(bool), result["scores"].cpu().numpy(), self.objects)
            for result in results
        ]


def taken(masks: np.ndarray, scores: np.ndarray, objects: Objects) -> tuple[np.ndarray, float] | None:
    """One mask and the best score of instances, ``masks`` ``(n, H, W)`` bool; ``None`` where no pixel is left.

    >>> taken(np.array([[[True, False]], [[False, True]]]), np.array([0.5, 0.75]), "best")
    (array([[False,  True]]), 0.75)
    """
    if not len(scores):
        return None
    best = int(scores.argmax())
    mask = np.asarray(masks[best] if objects == "best" else masks.any(axis=0))
    return (mask, float(scores[best])) if mask.any() else None
