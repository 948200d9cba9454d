"""Masks of many images: made once, kept by content, measured as they are made."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import perf_counter
from traceback import clear_frames
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from genaug.data.base import Box, Dataset, Sample
from genaug.data.reading import read_image, read_mask
from genaug.functional.masks import coverage, iou, keep_inside
from genaug.segmentation.base import Segmentation, Segmenter, Words
from genaug.synthesis.store import Store, content_key
from genaug.threads import in_threads

log = logging.getLogger(__name__)

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


def mask_key(sample: Sample, prompt: str, class_name: str = "") -> str:
    """Hash of all that a mask and its record are made from, the segmenter apart: file contents, box and words.

    Args:
        sample: Which image.
        prompt: What the image shows, in a word, or line by line where several are asked; see :func:`questions`.
        class_name: Name of its class, where the segmenter reads it; empty otherwise.
    """
    truth = b"" if sample.mask is None else sample.mask.read_bytes()
    box = None if sample.box is None else [float(value) for value in sample.box]
    words = [prompt, class_name] if class_name else [prompt]
    values = [] if sample.mask_values is None else [json.dumps(sample.mask_values)]
    return content_key(sample.path.read_bytes(), json.dumps(box), truth, *words, *values)


def questions(sample: Sample, dataset: Dataset, reads_class: bool) -> tuple[Words, ...]:
    """What a segmenter is asked of a sample, one after the other; its object is what is found at any.

    Its superclass and, where the segmenter reads it, the name of its class. In multi-label data, where no word is true
    of every image, such a segmenter is asked for the name of each label (De-DA, Table 6: "Pascal: label name").
    """
    labels = _labels(sample) if reads_class else ()
    if isinstance(sample.label, tuple) and labels:
        return tuple(Words(dataset.classes[label]) for label in labels)
    return (Words(superclass_of(sample, dataset), dataset.classes[labels[0]] if labels else ""),)


def superclass_of(sample: Sample, dataset: Dataset) -> str:
    """The word that a segmenter is given for a sample: its class's own superclass.

    Where a sample has several classes that differ in it, :attr:`Dataset.superclass`, which is true of every image.
    """
    words = {dataset.superclasses[label] for label in _labels(sample)}
    return words.pop() if len(words) == 1 else dataset.superclass


def _labels(sample: Sample) -> tuple[int, ...]:
    return sample.label if isinstance(sample.label, tuple) else (sample.label,)


def union(found: Sequence[Segmentation]) -> Segmentation:
    """What was found at several questions as one mask; the score is the lowest, the note says all that differ."""
    if len(found) == 1:
        return found[0]
    scores = [one.score for one in found if one.score is not None]
    return Segmentation(
        np.any([one.mask for one in found], axis=0),
        min(scores) if len(scores) == len(found) else None,
        ", ".join(dict.fromkeys(one.note for one in found)),
    )


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


def _record(
    found: Segmentation, sample: Sample, segmenter: Segmenter, shape: tuple[int, ...], seconds: float
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """File and record of one mask of an image of ``shape``."""
    if found.mask.dtype != bool or found.mask.shape != shape:
        raise ValueError(
            f"{type(segmenter).__name__} made a mask of {found.mask.dtype} {found.mask.shape}, "
            f"a bool mask of {shape} is needed"
        )
    mask, note = inside_box(found, sample.box)
    record = {
        "id": sample.id,
        "note": note,
        "score": None if found.score is None else float(found.score),
        "coverage": coverage(mask),
        "iou": None if sample.mask is None else iou(mask, read_mask(sample.mask, sample.mask_values)),
        "seconds": seconds,
    }
    return {"mask.png": encode_mask(mask)}, record


@dataclass(frozen=True, slots=True)
class _Job:
    """A mask to make."""

    key: str
    sample: Sample
    questions: tuple[Words, ...]


class _Maker:
    """Makes the masks of batches of images; several threads may call it."""

    def __init__(self, segmenter: Segmenter, store: Store) -> None:
        self.segmenter, self.store = segmenter, store
        self._turn = Lock() if segmenter.serial else nullcontext()

    def __call__(self, batch: Sequence[_Job]) -> dict[str, Exception]:
        """Make and keep the masks of ``batch``; what went wrong comes back by key, and costs no other mask."""
        failed: dict[str, Exception] = {}
        jobs, images = [], []
        for job in batch:
            try:
                images.append(read_image(job.sample.path, channels=3))
                jobs.append(job)
            except Exception as error:
                failed[job.key] = error
        try:
            found, seconds = self._segment(jobs, images)
        except Exception as error:
            # Its frames hold what the model was computing: on a full device nothing else would find room.
            clear_frames(error.__traceback__)
            together = error
        else:
            return failed | self._keep(jobs, images, found, seconds)
        if len(jobs) == 1:
            return {**failed, jobs[0].key: together}
        log.warning("segmenting %d images together failed, now one at a time: %s", len(jobs), together)
        for job in jobs:
            failed |= self([job])
        return failed

    def _keep(
        self, jobs: Sequence[_Job], images: Sequence[np.ndarray], found: Sequence[Segmentation], seconds: float
    ) -> dict[str, Exception]:
        """Store what was found; what went wrong comes back by key."""
        failed: dict[str, Exception] = {}
        for job, image, one in zip(jobs, images, found, strict=True):
            try:
                self.store.add(job.key, *_record(one, job.sample, self.segmenter, image.shape[:2], seconds))
            except Exception as error:
                failed[job.key] = error
        return failed

    def _segment(self, jobs: Sequence[_Job], images: Sequence[np.ndarray]) -> tuple[list[Segmentation], float]:
        """What was found, and the seconds that it took an image."""
        if not jobs:
            return [], 0.0
        with self._turn:
            started = perf_counter()
            asked = [(*pair, words) for pair in zip(images, jobs, strict=True) for words in pair[1].questions]
            answers: list[Segmentation] = []
            for start in range(0, len(asked), self.segmenter.batch_size):
                pictures, owners, words = zip(*asked[start : start + self.segmenter.batch_size], strict=True)
                answers += self.segmenter.segment_batch(pictures, [job.sample for job in owners], words)
            one_by_one = iter(answers)
            found = [union([next(one_by_one) for _ in job.questions]) for job in jobs]
            return found, (perf_counter() - started) / len(jobs)


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


def usable_subjects(samples: Sequence[Sample], masks: Masks, smallest: float, largest: float) -> list[Sample]:
    """The samples whose mask covers a share of the image in [``smallest``, ``largest``].

    Raises:
        ValueError: there is none.
    """
    usable = [sample for sample in samples if smallest <= masks.record(sample.id)["coverage"] <= largest]
    if not usable:
        raise ValueError(
            f"There is no usable subject in {len(samples)} images: look at the masks in {masks.store.root}, or change "
            "the segmenter."
        )
    return usable


def without_subject(samples: Sequence[Sample], usable: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    """For a report: how many samples are not among the usable ones, and of which classes they are."""
    kept = {sample.id for sample in usable}
    lost = [sample.label for sample in samples if sample.id not in kept]
    names = [classes[one] for label in lost for one in (label if isinstance(label, tuple) else (label,))]
    return {"without_subject": len(lost), "without_subject_by_class": dict(Counter(names))}


def make_masks(
    samples: Sequence[Sample],
    segmenter: Segmenter,
    dataset: Dataset,
    folder: Path,
    workers: int,
    device: str = "cpu",
) -> Masks:
    """Segment every sample whose mask is not yet there, several at a time.

    The masks do not depend on ``workers``, nor on the images that share a batch. An image that fails does not stop the
    others: it is reported at the end, and running again tries only the failed ones. Processes that start together do
    the work once: the first makes the masks, the others wait and find them.

    Args:
        samples: What to segment.
        segmenter: How. Its model is loaded when a mask is missing, and given up at the end.
        dataset: For the words that segmenters are given: each sample's superclass, see :func:`superclass_of`, and the
            name of its class, for those that read it.
        folder: Folder of all masks; those of this segmenter go to ``folder/<fingerprint>/``.
        workers: Threads; OpenCV, onnxruntime and torch let each other run. While one waits for a model, another reads
            and writes.
        device: Where a segmenter that has a choice computes: "cpu", "cuda:1".

    Raises:
        ValueError: ``workers`` is below 1.
        RuntimeError: images failed; the message names their files, the cause is the first one's error.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    root = Path(folder) / segmenter.fingerprint

    def job(sample: Sample) -> _Job:
        asked = questions(sample, dataset, segmenter.reads_class)
        words = "\n".join(one.superclass for one in asked)
        return _Job(mask_key(sample, words, asked[0].class_name), sample, asked)

    named = in_threads(job, samples, workers, "looking for masks")
    jobs = [done.result() for done in named if done.exception() is None]
    store, failed = Store(root), {}
    if any(one.key not in store for one in jobs):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            store = Store(root)  # another process may have made them while this one waited
            failed = _make_missing(jobs, segmenter, store, workers, device)
    outcomes = [done.exception() or failed.get(done.result().key) for done in named]
    _raise_failures(list(zip(samples, outcomes, strict=True)))
    return Masks(store, {one.sample.id: one.key for one in jobs})


def _make_missing(
    jobs: Sequence[_Job], segmenter: Segmenter, store: Store, workers: int, device: str
) -> dict[str, Exception]:
    """Make the masks that ``store`` has not, each once; returns what went wrong by key."""
    missing = list({job.key: job for job in jobs if job.key not in store}.values())
    if not missing:
        return {}
    size = segmenter.batch_size
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    segmenter.load(device)
    try:
        title = "segmenting" if size == 1 else f"segmenting, {size} images at once"
        done = in_threads(_Maker(segmenter, store), batches, workers, title)
    finally:
        segmenter.unload()
    return {key: error for one in done for key, error in one.result().items()}


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
