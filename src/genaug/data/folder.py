"""Anybody's own images, in one folder per class."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from genaug.data.base import Dataset, Sample
from genaug.data.layout import check_side
from genaug.data.reading import check_images
from genaug.data.subsets import hold_out

log = logging.getLogger(__name__)

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
})
# fmt: on

_EXPECTED = "Expected <root>/<class>/*.jpg, or <root>/train/<class>/*.jpg with <root>/test/<class>/*.jpg beside it"

#: Two folders with such names are splits and not classes; one alone may well be a class ("train" is a vehicle).
_LIKE_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})

#: The split of a root that has none.
_WHOLE = "whole"


class Folder(Dataset):
    """Images sorted into one folder per class, however deep inside it they lie.

    Either ``root/<class>/``, of which a part is set aside for testing; or ``root/train/<class>/`` and
    ``root/test/<class>/``, with ``root/val/`` and any ``root/ood_*/`` where they exist. Hidden files and files that
    are not named as images are passed over.

    Args:
        root: The folder.
        superclass: What every image shows ("bird"): the word a text-prompted segmenter is given.
        image_size: Side in pixels that a network is trained on.
        channels: 3 for RGB, 1 for grey.
        on_bad_image: What a file that is named as an image but cannot be read means: ``raise`` or ``skip``.
        name: Name in folders and tables; ``None`` takes the name of ``root``.
        test_fraction: Share of each class to set aside where ``root`` has no ``test`` folder.
        split_seed: Seed of that draw.
        masks: Folder of ground-truth masks, at the images' paths relative to ``root`` with the suffix ``.png``.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: there is no folder ``root`` or ``masks``.
    """

    def __init__(
        self,
        root: str | Path,
        superclass: str,
        image_size: int = 224,
        channels: int = 3,
        on_bad_image: str = "raise",
        name: str | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        masks: str | Path | None = None,
    ) -> None:
        check_side(image_size)
        if not 0 < test_fraction < 1:
            raise ValueError(f"test_fraction={test_fraction} is not possible: take a share such as 0.2.")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels!r} is not possible: choose 3 (RGB) or 1 (grey).")
        check_images([], on_bad_image)  # refuses an unknown choice before there are images to check
        self.root = _existing(root, "root", _EXPECTED)
        self.masks = None if masks is None else _existing(masks, "masks", "Expected <masks>/<image path>.png")
        self.name = name or self.root.resolve().name
        self.superclass, self.image_size, self.channels = superclass, image_size, channels
        self.on_bad_image, self.test_fraction, self.split_seed = on_bad_image, test_fraction, split_seed

    @property
    def classes(self) -> Sequence[str]:
        """The folder names in ``train`` (or in ``root``, where that has no splits), sorted."""
        return self._classes

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train`` and ``test``, and where their folders exist ``val`` and any ``ood_*``.

        Every file is decoded once, so that a bad one is found now and not in the middle of a run.

        Raises:
            ImageError: files are bad and ``on_bad_image`` is ``raise``.
            ValueError: the folders are not laid out as expected, or a class has no images.
        """
        return self._splits

    @cached_property
    def _layout(self) -> dict[str, dict[str, Path]]:
        """Class folders by split and class."""
        folders = self._subfolders(self.root)
        splits = [name for name in folders if name.lower() in _LIKE_SPLITS or name.startswith("ood_")]
        if len(splits) < 2:
            return {_WHOLE: folders}
        unknown = [name for name in folders if name not in ("train", "val", "test") and not name.startswith("ood_")]
        if unknown or "train" not in folders or "test" not in folders:
            raise ValueError(
                f"{self.root} holds {sorted(folders)}. Beside train and test, which must both be there, there may be "
                "val and any ood_*, and nothing else: rename or move the rest."
            )
        return {split: self._subfolders(folder) for split, folder in folders.items()}

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        training = self._layout.get("train") or self._layout.get(_WHOLE, {})
        if len(training) < 2:
            where = self.root / "train" if "train" in self._layout else self.root
            raise ValueError(
                f"{where} has {len(training)} class folders {sorted(training)}; two or more are needed. {_EXPECTED}."
            )
        for split, folders in self._layout.items():
            unknown = sorted(set(folders) - set(training))
            if unknown:
                raise ValueError(
                    f"{self.root / split} has classes that {self.root / 'train'} has not: {', '.join(unknown)}. "
                    "A class that is not trained cannot be tested: add or remove it."
                )
        return tuple(sorted(training))

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        labels = {name: label for label, name in enumerate(self._classes)}
        found = {
            split: _by_id(sample for name, folder in folders.items() for sample in self._samples(folder, labels[name]))
            for split, folders in self._layout.items()
        }
        everything = [sample for samples in found.values() for sample in samples]
        self._check_masks(everything)
        good = {sample.id for sample in check_images(everything, self.on_bad_image)}
        splits = {split: [sample for sample in samples if sample.id in good] for split, samples in found.items()}
        self._check_classes(splits.get("train") or splits[_WHOLE])
        if _WHOLE in splits:
            splits["train"], splits["test"] = hold_out(splits.pop(_WHOLE), self.test_fraction, self.split_seed)
        return splits

    def _subfolders(self, folder: Path) -> dict[str, Path]:
        """Folders by name, less hidden ones and the masks."""
        entries = [path for path in sorted(folder.iterdir()) if not _hidden(path.name)]
        inside = {_text(path.name): path for path in entries}
        if len(inside) < len(entries):
            raise ValueError(
                f"{folder} has names that look the same and differ in how accents are encoded: merge them."
            )
        loose = [path for path in inside.values() if _is_image(path.name) and path.is_file()]
        if loose:
            log.warning("%d images such as %s lie outside the class folders and are not used.", len(loose), loose[0])
        masks = self.masks and self.masks.resolve()
        return {name: path for name, path in inside.items() if path.is_dir() and path.resolve() != masks}

    def _samples(self, folder: Path, label: int) -> Iterator[Sample]:
        files = list(_files(folder))
        images = [path for path in files if _is_image(path.name)]
        if not images:
            suffixes = dict(Counter(path.suffix.lower() for path in files))
            raise ValueError(
                f"The class folder {folder} has no images, but {len(files)} other files {suffixes or ''}. "
                f"Fill or remove it; images end in {' '.join(sorted(IMAGE_SUFFIXES))}."
            )
        for path in images:
            relative = path.relative_to(self.root)
            mask = self.masks and self.masks / relative.with_suffix(".png")
            yield Sample(_text(relative.as_posix()), path, label, mask=mask if mask and mask.is_file() else None)

    def _check_masks(self, samples: Sequence[Sample]) -> None:
        """Refuse masks that lie elsewhere than expected; some may be missing."""
        with_mask = sum(sample.mask is not None for sample in samples)
        if self.masks is None or with_mask == len(samples):
            return
        lacking = next(sample for sample in samples if sample.mask is None)
        expected = self.masks / lacking.path.relative_to(self.root).with_suffix(".png")
        if not with_mask:
            raise FileNotFoundError(f"masks={self.masks} has no mask for any image: expected files such as {expected}.")
        log.warning("%d of %d images have no mask, such as %s.", len(samples) - with_mask, len(samples), expected)

    def _check_classes(self, training: Sequence[Sample]) -> None:
        """Refuse to go on when a class has lost all its images."""
        gone = set(range(len(self._classes))) - {sample.label for sample in training}
        if gone:
            names = ", ".join(self._classes[label] for label in sorted(gone))
            raise ValueError(f"No image that can be read is left of: {names}. Repair the files or remove the class.")


def _by_id(samples: Iterable[Sample]) -> list[Sample]:
    """In an order that does not depend on the file system's."""
    return sorted(samples, key=lambda sample: sample.id)


def _existing(folder: str | Path, argument: str, expected: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{argument}={path} is not a folder. {expected}.")
    return path


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, through links too."""
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        yield from (Path(parent, name) for name in files if not _hidden(name))


def _raise(error: OSError) -> NoReturn:
    raise error


def _hidden(name: str) -> bool:
    """Names that systems and archivers leave behind (``.DS_Store``, ``._a.jpg``, ``__MACOSX``)."""
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _text(name: str) -> str:
    """The one spelling of names that file systems spell differently (an accent as part of its letter or behind it)."""
    return unicodedata.normalize("NFC", name)
