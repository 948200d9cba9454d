"""Grounded SAM: GroundingDINO finds the boxes of a word, SAM the object in each (AGA, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from genaug.data.base import Sample
from genaug.segmentation.base import Segmentation, Segmenter, Words
from genaug.segmentation.ladder import Ladder
from genaug.segmentation.pretrained import explained, hub_remedy, local_model, model_files

if TYPE_CHECKING:
    from genaug.segmentation.boxes import Boxes, GroundingDino
    from genaug.segmentation.sam import BoxSam

Objects = Literal["union", "best"]

_DETECTOR_REMEDY = hub_remedy("grounded_sam", "detector", "IDEA-Research/grounding-dino-tiny")
_SAM_REMEDY = (
    hub_remedy("grounded_sam", "sam", "facebook/sam-vit-huge")
    + " A checkpoint file of segment-anything (sam_vit_h_4b8939.pth from "
    "https://dl.fbaipublicfiles.com/segment_anything/) works too."
)


class GroundedSAM(Segmenter):
    """Finds what a word names: boxes by GroundingDINO, a mask in each by SAM or SAM 2.

    The score is the detector's, of the best box.

    Args:
        detector: GroundingDINO, as an id on the Hugging Face hub or a local folder.
        sam: SAM or SAM 2, as an id or a local folder, or a checkpoint file of the segment-anything package.
        prompt: What the detector is asked, with ``{}`` for the word. AGA's published code asks for "all {}s".
        box_threshold: Least score of a box.
        text_threshold: A box stays where some word of the prompt scores this much, too. 0 keeps every box.
        lower_threshold: Least score of a box in the step ``lower_threshold``.
        nms: Of two boxes with a larger intersection over union, the better is kept.
        objects: "union" takes all boxes, "best" the one of the highest score. The paper does not say; the published
            code takes the detector's first.
        retry: See :class:`~genaug.segmentation.ladder.Ladder`; the published code asks once.
        fallback: Segments what no step found; without one the mask stays empty.
        batch_size: Images that go through SAM together; through the detector, those of one size.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: a local folder or file is not there.
    """

    serial = True

    def __init__(
        self,
        detector: str | Path = "IDEA-Research/grounding-dino-tiny",
        sam: str | Path = "facebook/sam-vit-huge",
        prompt: str = "{}.",
        box_threshold: float = 0.35,
        text_threshold: float = 0.25,
        lower_threshold: float = 0.2,
        nms: float = 0.8,
        objects: Objects = "union",
        retry: Sequence[str] = ("class_name", "lower_threshold", "object"),
        fallback: Segmenter | None = None,
        batch_size: int = 4,
    ) -> None:
        if "{}" not in prompt:
            raise ValueError(f"segmenter.prompt={prompt!r} must have {{}} where the word goes")
        if not 0 <= text_threshold < 1 or not 0 < nms <= 1:
            raise ValueError(
                f"0 <= text_threshold < 1 and 0 < nms <= 1 are needed, got text_threshold={text_threshold}, nms={nms}"
            )
        if objects not in get_args(Objects) or batch_size < 1:
            raise ValueError(
                f"objects must be union or best and batch_size at least 1, got {objects!r} and {batch_size}"
            )
        self.ladder = Ladder(box_threshold, lower_threshold, retry, fallback)
        self._places = local_model(detector, _DETECTOR_REMEDY), local_model(sam, _SAM_REMEDY)
        self.detector, self.sam, self.prompt = str(detector), str(sam), prompt
        self.text_threshold, self.nms, self.objects = text_threshold, nms, objects
        self.batch_size, self.reads_class = batch_size, self.ladder.reads_class
        self._device: str | None = None
        self._models: tuple[GroundingDino, BoxSam] | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """All arguments but the batch size; a local model counts by its content, not by its place."""
        detector, sam = self._places
        return {
            "detector": self.detector if detector is None else None,
            "sam": self.sam if sam is None else None,
            "prompt": self.prompt,
            "text_threshold": self.text_threshold,
            "nms": self.nms,
            "objects": self.objects,
            **self.ladder.settings,
        }

    @property
    def files(self) -> Sequence[Path]:
        """Those of local models."""
        return [file for place in self._places for file in model_files(place)]

    def load(self, device: str) -> None:
        """See :meth:`Segmenter.load`.

        Raises:
            FileNotFoundError: a model is not there and cannot be downloaded.
            ValueError: a model is of another kind.
        """
        from genaug.segmentation.boxes import GroundingDino
        from genaug.segmentation.sam import SegmentAnything, TransformersSam, load_checkpoint

        if self._device == device:
            return
        with explained(self.detector, _DETECTOR_REMEDY):
            detector = GroundingDino(self._places[0] or self.detector, device)
        with explained(self.sam, _SAM_REMEDY):
            place = self._places[1]
            sam: BoxSam
            if place is not None and place.is_file():
                sam = SegmentAnything(load_checkpoint(place), device)
            else:
                sam = TransformersSam(place or self.sam, device)
        if self.ladder.fallback is not None:
            self.ladder.fallback.load(device)
        self._models, self._device = (detector, sam), device

    def unload(self) -> None:
        """See :meth:`Segmenter.unload`."""
        self._models = self._device = None
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
        """Mask and score of each image's word, ``None`` where it has no box."""
        if self._models is None:
            self.load("cpu")
        assert self._models is not None
        detector, sam = self._models
        # The lower threshold lowers both, or the higher of the two would still decide.
        text_threshold = self.text_threshold * threshold / self.ladder.threshold
        boxes = detector(images, [self._text(word) for word in words], threshold, text_threshold, self.nms)
        some = [i for i, one in enumerate(boxes) if len(one.scores)]
        masks = sam([images[i] for i in some], [self._taken(boxes[i]) for i in some]) if some else []
        found: list[tuple[np.ndarray, float] | None] = [None] * len(images)
        for i, mask in zip(some, masks, strict=True):
            found[i] = (mask, float(boxes[i].scores[0])) if mask.any() else None
        return found

    def _text(self, word: str) -> str:
        """The prompt as GroundingDINO was trained: lower case, a dot at the end."""
        return self.prompt.replace("{}", word).lower().strip().rstrip(".") + "."

    def _taken(self, boxes: Boxes) -> np.ndarray:
        return boxes.corners[:1] if self.objects == "best" else boxes.corners
