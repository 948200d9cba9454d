"""``stage=check_data``: what a dataset on disk really holds, before anybody trusts a number that was measured on it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from genaug.data.base import Dataset, Sample
from genaug.data.reading import ImageError, read_image, read_mask
from genaug.functional.masks import coverage
from genaug.synthesis.store import content_key, write_atomically
from genaug.threads import in_threads

#: Side of the grey thumbnails that tell near duplicates; and the correlation from which two count as one picture.
THUMBNAIL, SAME = 16, 0.98

#: Rows of a block of correlations: 4096 x 4096 floats are 64 MB.
_BLOCK = 4096

#: Examples of a finding that are printed; the file has all.
_SHOWN = 5

FILE = "check.json"


@dataclass(frozen=True, slots=True)
class Image:
    """What is known of one file.

    Attributes:
        digest: Hash of the file's bytes; empty where there is no file.
        shape: Height and width as a viewer shows it; None where it cannot be read.
        thumbnail: ``(256,)`` float32 of mean 0 and length 1; None also for a picture of one grey.
        coverage: Share of the image that its mask covers; None without a mask.
        problem: Why it cannot be used; empty where it can.
    """

    digest: str = ""
    shape: tuple[int, int] | None = None
    thumbnail: np.ndarray | None = None
    coverage: float | None = None
    problem: str = ""


@dataclass
class Findings:
    """What :func:`check` found; sizes in pixels, examples by sample id.

    Attributes:
        splits: For each split the number of images, of each class and group, sizes, masks.
        unreadable: File and reason.
        duplicates: Pairs of splits with the images that are in both: ``exact`` (the same bytes) and ``similar``.
        published: Names of splits (and ``classes``) with the published and the found number, where they differ.
    """

    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    published: dict[str, tuple[int, int]] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """What nobody should go on with, in sentences; empty when all is well."""
        found = [f"{name}: {there} here, {published} published" for name, (published, there) in self.published.items()]
        if self.unreadable:
            found.append(f"{len(self.unreadable)} files cannot be used, such as {self.unreadable[0]}")
        return found


def check(dataset: Dataset, workers: int) -> Findings:
    """Read every image and mask of a dataset once.

    Args:
        dataset: Which.
        workers: Threads.

    Raises:
        ValueError: the dataset's files do not fit together, as of :meth:`Dataset.splits`.
        FileNotFoundError: a file is missing.
    """
    splits = dataset.splits()
    samples = [(name, sample) for name, found in splits.items() for sample in found]
    done = in_threads(lambda pair: look_at(pair[1]), samples, workers, "reading images")
    images: dict[str, list[tuple[Sample, Image]]] = defaultdict(list)
    for (split, sample), outcome in zip(samples, done, strict=True):
        images[split].append((sample, outcome.result()))
    return Findings(
        splits={name: _summary(images[name], dataset) for name in splits},
        unreadable=[image.problem for found in images.values() for _, image in found if image.problem],
        duplicates=list(_duplicates(images)),
        published=_unlike_published(splits, dataset),
    )


def look_at(sample: Sample) -> Image:
    """Read one image and its mask."""
    try:
        data, pixels = sample.path.read_bytes(), read_image(sample.path)
        share = None if sample.mask is None else coverage(_mask(sample, pixels.shape[:2]))
    except (ImageError, OSError) as error:
        return Image(problem=str(error))
    return Image(content_key(data), (pixels.shape[0], pixels.shape[1]), thumbnail(pixels), share)


def _mask(sample: Sample, shape: tuple[int, ...]) -> np.ndarray:
    assert sample.mask is not None
    mask = read_mask(sample.mask, sample.mask_values)
    if mask.shape != shape:
        raise ImageError(
            f"{sample.mask}: is {mask.shape[1]}x{mask.shape[0]}, but its image, upright, is {shape[1]}x{shape[0]}"
        )
    return mask


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """A picture as a point on a sphere: the scalar product of two is the correlation of their grey thumbnails.

    Args:
        image: ``(H, W, 3)`` uint8.

    Returns:
        ``(256,)`` float32; None where all is of one grey.

    >>> ramp = np.arange(64, dtype=np.uint8).reshape(1, 64, 1).repeat(64, 0).repeat(3, 2)
    >>> round(float(thumbnail(ramp) @ thumbnail(ramp // 2)), 2)
    1.0
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > THUMBNAIL else None


def _summary(images: Sequence[tuple[Sample, Image]], dataset: Dataset) -> dict[str, Any]:
    """A split in numbers."""
    labels = (sample.label if isinstance(sample.label, tuple) else (sample.label,) for sample, _ in images)
    by_class = Counter(one for label in labels for one in label)
    sides = [min(image.shape) for _, image in images if image.shape]
    shares = [image.coverage for _, image in images if image.coverage is not None]
    groups = Counter(sample.group for sample, _ in images if sample.group is not None)
    return {
        "images": len(images),
        "by_class": {name: by_class[label] for label, name in enumerate(dataset.classes)},
        "by_group": {name: groups[group] for group, name in enumerate(dataset.groups)} if groups else {},
        "short_side": [min(sides), int(np.median(sides)), max(sides)] if sides else None,
        "masks": len(shares),
        "empty_masks": sum(share == 0 for share in shares),
        "mean_coverage": float(np.mean(shares)) if shares else None,
    }


def _unlike_published(splits: Mapping[str, Sequence[Sample]], dataset: Dataset) -> dict[str, tuple[int, int]]:
    found = {name: len(samples) for name, samples in splits.items()} | {"classes": len(dataset.classes)}
    return {
        name: (published, found.get(name, 0))
        for name, published in dataset.published.items()
        if found.get(name, 0) != published
    }


def _duplicates(images: Mapping[str, Sequence[tuple[Sample, Image]]]) -> Iterator[dict[str, Any]]:
    """Each pair of splits that share pictures; a picture that is the same to the byte is not counted as similar too."""
    names = list(images)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            exact = _same_bytes(images[first], images[second])
            similar = [pair for pair in _same_looks(images[first], images[second]) if pair not in set(exact)]
            if exact or similar:
                yield {"splits": [first, second], "exact": sorted(exact), "similar": sorted(similar)}


def _same_bytes(first: Sequence[tuple[Sample, Image]], second: Sequence[tuple[Sample, Image]]) -> list[tuple[str, str]]:
    by_digest = defaultdict(list)
    for sample, image in first:
        if image.digest:
            by_digest[image.digest].append(sample.id)
    return [(one, sample.id) for sample, image in second for one in by_digest.get(image.digest, ())]


def _same_looks(
    first: Sequence[tuple[Sample, Image]], second: Sequence[tuple[Sample, Image]]
) -> Iterator[tuple[str, str]]:
    ids, thumbnails = zip(*(_thumbnails(one) for one in (first, second)), strict=True)
    for top in range(0, len(ids[0]), _BLOCK):
        for left in range(0, len(ids[1]), _BLOCK):
            alike = thumbnails[0][top : top + _BLOCK] @ thumbnails[1][left : left + _BLOCK].T
            for row, column in np.argwhere(alike > SAME):
                yield ids[0][top + row], ids[1][left + column]


def _thumbnails(images: Sequence[tuple[Sample, Image]]) -> tuple[list[str], np.ndarray]:
    there = [(sample.id, image.thumbnail) for sample, image in images if image.thumbnail is not None]
    rows = [row for _, row in there]
    return [name for name, _ in there], np.stack(rows) if rows else np.empty((0, THUMBNAIL**2), np.float32)


def report(dataset: Dataset, findings: Findings, folder: Path) -> None:
    """Print what was found, and write all of it to ``folder/check.json``."""
    write_atomically(folder / FILE, json.dumps(asdict(findings), indent=1).encode())
    console = Console()
    console.print(_table(dataset, findings))
    for pair in findings.duplicates:
        for kind in ("exact", "similar"):
            if pair[kind]:
                shown = "; ".join(f"{one} = {other}" for one, other in pair[kind][:_SHOWN])
                console.print(
                    f"{' and '.join(pair['splits'])} share {len(pair[kind])} pictures ({kind}): {shown}"
                    + (" ..." if len(pair[kind]) > _SHOWN else ""),
                    highlight=False, markup=False, soft_wrap=True,
                )  # fmt: skip
    if len(findings.splits) > 1 and not findings.duplicates:
        console.print("No picture is in two splits.", highlight=False)
    for problem in findings.unreadable[:_SHOWN]:
        console.print(problem, highlight=False, markup=False, soft_wrap=True)
    console.print(f"All of it: {folder / FILE}", highlight=False, soft_wrap=True)


def _table(dataset: Dataset, findings: Findings) -> Table:
    title = f"{dataset.name}: {len(dataset.classes)} classes"
    table = Table(title=title, title_justify="left")
    for column in ("split", "group", "images", "published", "a class", "short side, px", "masks", "coverage"):
        table.add_column(column, justify="left" if column in ("split", "group") else "right")
    for name, found in findings.splits.items():
        counts = found["by_class"].values()
        table.add_row(
            name,
            "",
            f"{found['images']:,}",
            f"{dataset.published[name]:,}" if name in dataset.published else "",
            f"{min(counts)} to {max(counts)}",
            "{} / {} / {}".format(*found["short_side"]) if found["short_side"] else "",
            f"{found['masks']:,}" + (f" ({found['empty_masks']} empty)" if found["empty_masks"] else ""),
            "" if found["mean_coverage"] is None else f"{100 * found['mean_coverage']:.0f} %",
        )
        for group, count in found["by_group"].items():
            table.add_row("", group, f"{count:,}")
    return table
