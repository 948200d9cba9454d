"""Masks of many images: made once, kept by content, measured as they are made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from genaug.console import track
from genaug.data.base import Box, Sample
from genaug.data.reading import read_image, read_mask
from genaug.functional.masks import coverage, iou, keep_inside
from genaug.segmentation.base import Segmentation, Segmenter
from genaug.synthesis.store import Store, content_key

#: Share of the image above which a mask leaves hardly any background.
NEAR_FULL = 0.95


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask ``(H, W)`` bool as a PNG of one bit a pixel."""
    done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    if not done:
        raise ValueError(f"a mask of shape {mask.shape} cannot be written as PNG")
    return data.tobytes()


def decode_mask(data: bytes) -> np.ndarray:
    """The inverse of :func:`encode_mask`.

    >>> decode_mask(encode_mask(np.array([[True, False]]))).tolist()
    [[True, False]]
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{len(data)} bytes that are no PNG image")
    return image > 0


def mask_key(sample: Sample, prompt: str) -> str:
    """Hash of all that a mask and its record are made from, the segmenter apart: file contents, box and prompt."""
    truth = b"" if sample.mask is None else sample.mask.read_bytes()
    box = None if sample.box is None else [float(value) for value in sample.box]
    return content_key(sample.path.read_bytes(), json.dumps(box), truth, prompt)


def inside_box(found: Segmentation, box: Box | None) -> tuple[np.ndarray, str]:
    """Mask and note of ``found``, cut to the sample's box.

    A mask that lies all outside is kept whole, and the note says so: the box or the segmenter is wrong, and a person
    can see which only from the mask.
    """
    if box is None:
        return found.mask, found.note
    inside = keep_inside(found.mask, box)
    if found.mask.any() and not inside.any():
        return found.mask, f"{found.note}, outside the box"
    return inside, found.note


def _make(sample: Sample, segmenter: Segmenter, prompt: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """File and record of one mask."""
    image = read_image(sample.path, channels=3)
    started = perf_counter()
    found = segmenter.segment(image, sample, prompt)
    seconds = perf_counter() - started
    if found.mask.dtype != bool or found.mask.shape != image.shape[:2]:
        raise ValueError(
            f"{type(segmenter).__name__} made a mask of {found.mask.dtype} {found.mask.shape}, "
            f"a bool mask of {image.shape[:2]} is needed"
        )
    mask, note = inside_box(found, sample.box)
    record = {
        "id": sample.id,
        "note": note,
        "score": None if found.score is None else float(found.score),
        "coverage": coverage(mask),
        "iou": None if sample.mask is None else iou(mask, read_mask(sample.mask)),
        "seconds": seconds,
    }
    return {"mask.png": encode_mask(mask)}, record


class Masks(Mapping[str, np.ndarray]):
    """The masks of a list of samples by sample id, read from a store on demand.

    Args:
        store: Where the masks are.
        keys: Sample id to key in the store, in the order of the samples.
    """

    def __init__(self, store: Store, keys: Mapping[str, str]) -> None:
        self.store, self._keys = store, dict(keys)

    def key(self, sample_id: str) -> str:
        """Key of the sample's mask; the same content, box and prompt give the same key in every run."""
        return self._keys[sample_id]

    def __getitem__(self, sample_id: str) -> np.ndarray:
        """Mask ``(H, W)`` bool."""
        return decode_mask(self.store.path(self.key(sample_id), "mask.png").read_bytes())

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def record(self, sample_id: str) -> dict[str, Any]:
        """``note``, ``score``, ``coverage``, ``iou`` (None without ground truth) and ``seconds`` of one mask."""
        return self.store[self.key(sample_id)]

    def report(self) -> dict[str, Any]:
        """How good the masks look.

        Returns:
            ``n``; mean ``coverage``; how many are ``empty`` and ``near_full`` (more than 95 % of the image); mean
            ``iou`` with the ground truth of the ``iou_n`` samples that have one; ``notes``, how often each way led
            to a mask; ``seconds``, the sum over images of the time the segmenter took, in this run or an earlier one.
            A mean over nothing is None.
        """
        records = [self.record(sample_id) for sample_id in self]
        covered = [record["coverage"] for record in records]
        ious = [record["iou"] for record in records if record["iou"] is not None]
        return {
            "n": len(records),
            "coverage": float(np.mean(covered)) if covered else None,
            "empty": sum(share == 0 for share in covered),
            "near_full": sum(share > NEAR_FULL for share in covered),
            "iou": float(np.mean(ious)) if ious else None,
            "iou_n": len(ious),
            "notes": dict(Counter(record["note"] for record in records)),
            "seconds": sum(self.store[key]["seconds"] for key in dict.fromkeys(self._keys.values())),
        }


def make_masks(samples: Sequence[Sample], segmenter: Segmenter, prompt: str, folder: Path, workers: int) -> Masks:
    """Segment every sample whose mask is not yet there, several at a time.

    The masks do not depend on ``workers``. An image that fails does not stop the others: it is reported at the end,
    and running again tries only the failed ones.

    Args:
        samples: What to segment.
        segmenter: How.
        prompt: What the images show, in a word; see :attr:`Dataset.superclass`.
        folder: Folder of all masks; those of this segmenter go to ``folder/<fingerprint>/``.
        workers: Threads; OpenCV and onnxruntime let each other run.

    Raises:
        ValueError: ``workers`` is below 1.
        RuntimeError: images failed; the message names their files, the cause is the first one's error.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    store = Store(Path(folder) / segmenter.fingerprint)

    def one(sample: Sample) -> str:
        key = mask_key(sample, prompt)
        if key not in store:
            store.add(key, *_make(sample, segmenter, prompt))
        return key

    pool = ThreadPoolExecutor(workers)
    try:
        futures = [pool.submit(one, sample) for sample in samples]
        for _ in track(as_completed(futures), total=len(futures), description="segmenting"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run waits for the images in work only
    _raise_failures([(sample, future.exception()) for sample, future in zip(samples, futures, strict=True)])
    return Masks(store, {sample.id: future.result() for sample, future in zip(samples, futures, strict=True)})


def _raise_failures(outcomes: Sequence[tuple[Sample, BaseException | None]]) -> None:
    """Raise one error that names the files of all failed images (the first five of them)."""
    failures = [(sample, error) for sample, error in outcomes if error is not None]
    if failures:
        lines = [f"\n  {sample.path}: {type(error).__name__}: {error}" for sample, error in failures[:5]]
        more = f"\n  and {len(failures) - 5} more" if len(failures) > 5 else ""
        raise RuntimeError(
            f"{len(failures)} of {len(outcomes)} images could not be segmented; the other masks are kept."
            f"{''.join(lines)}{more}"
        ) from failures[0][1]
