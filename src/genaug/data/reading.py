"""Image files as arrays: every kind of file that a photo collection holds, read the way a viewer shows it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from genaug.data.base import Sample
from genaug.threads import in_threads

log = logging.getLogger(__name__)

_MODES = {1: "L", 3: "RGB"}
_ON_BAD_IMAGE = ("raise", "skip")
_LISTED = 20

#: EXIF orientation -> what makes the picture upright (1 is upright already).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: What Pillow raises on damaged files; which of them depends on the format and on where the damage is.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class ImageError(ValueError):
    """A file that cannot be read as an image; the message names the file and the reason."""


def read_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """Read an image as ``(H, W, channels)`` uint8, upright as its EXIF orientation says.

    Grey of more than 8 bits counts as 0 to 65535 and is scaled to 0 to 255, not clipped. Float grey may span 0 to 1 or
    0 to 255. Transparent pixels are shown on white, as a viewer does; of an animation the first frame is read. The
    array is the caller's to write to.

    Args:
        path: A file of any format that Pillow reads.
        channels: 3 for RGB, 1 for grey.

    Raises:
        ImageError: the file is damaged, is no image, or holds values of unknown scale.
        FileNotFoundError: there is no such file.
        ValueError: ``channels`` is neither 1 nor 3.
    """
    if channels not in _MODES:
        raise ValueError(f"channels={channels!r} is not possible: choose 3 (RGB) or 1 (grey).")
    with _damage_named(path), Image.open(path) as file:
        file.load()
        image = _opaque(_eight_bit(_upright(file)))
        if image.mode != _MODES[channels]:
            image = image.convert(_MODES[channels])
        return np.array(image).reshape(image.height, image.width, channels)


def read_rgba(path: str | Path) -> np.ndarray:
    """Read an image with its alpha channel as ``(H, W, 4)`` uint8, colours not multiplied by alpha.

    Otherwise as :func:`read_image`; an image without alpha is opaque.

    Raises:
        ImageError: as there.
        FileNotFoundError: there is no such file.
    """
    with _damage_named(path), Image.open(path) as file:
        file.load()
        return np.array(_eight_bit(_upright(file)).convert("RGBA"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width that :func:`read_image` gives, from the file's header alone: a hundredth of the time.

    Raises:
        ImageError: the file is no image.
        FileNotFoundError: there is no such file.
    """
    with _damage_named(path), Image.open(path) as file:
        # Pillow turns TIFF files by itself, and tells their size as turned.
        turned = file.format != "TIFF" and file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (file.width, file.height) if turned else (file.height, file.width)


def read_mask(path: str | Path, values: Sequence[int] | None = None) -> np.ndarray:
    """Read a mask as ``(H, W)`` bool.

    Palette files count by index, colour files by any channel, and what is fully transparent is background. EXIF
    orientation is ignored: a mask lies on the image as :func:`read_image` returns it.

    Args:
        path: The file.
        values: Pixel values that are object; ``None``: all but 0.

    Raises:
        ImageError: the file is damaged or is no image.
        FileNotFoundError: there is no such file.
    """
    with _damage_named(path), Image.open(path) as file:
        file.load()
        pixels = np.atleast_3d(np.asarray(file))
        if file.mode in ("LA", "RGBA", "PA"):
            pixels = pixels[..., :-1] * (pixels[..., -1:] > 0)
    found = pixels if values is None else np.isin(pixels, values)
    return np.asarray(found.any(axis=-1))


def check_images(samples: Sequence[Sample], on_bad_image: str = "raise") -> list[Sample]:
    """Decode every image, and every mask that comes with one, before anything expensive depends on them.

    Args:
        samples: What to check.
        on_bad_image: ``raise`` stops with a list of all bad files; ``skip`` warns with that list and goes on.

    Returns:
        The samples that can be read, in the order given.

    Raises:
        ImageError: with ``raise``, when any file is missing, damaged or no image, or a mask has not its image's size.
        ValueError: ``on_bad_image`` is not one of the choices.
    """
    if on_bad_image not in _ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image={on_bad_image!r} is not known: choose one of {', '.join(_ON_BAD_IMAGE)}.")
    problems = _problems(samples) if samples else []
    bad = [problem for problem in problems if problem is not None]
    if not bad:
        return list(samples)
    listing = "\n".join(f"  {problem}" for problem in bad[:_LISTED])
    if len(bad) > _LISTED:
        listing += f"\n  ... and {len(bad) - _LISTED} more"
    summary = f"{len(bad)} of {len(samples)} images cannot be used:\n{listing}"
    if on_bad_image == "raise":
        raise ImageError(f"{summary}\nRepair or remove them, or go on without them with on_bad_image=skip.")
    log.warning("%s\nThey are left out.", summary)
    return [sample for sample, problem in zip(samples, problems, strict=True) if problem is None]


def _problems(samples: Sequence[Sample]) -> list[str | None]:
    """What is wrong with each sample's files; threads serve because Pillow decodes without the interpreter lock."""
    done = in_threads(_problem, samples, min(8, os.cpu_count() or 1), "checking images")
    return [one.result() for one in done]


def _problem(sample: Sample) -> str | None:
    """What is wrong with a sample's files, if anything."""
    try:
        height, width = read_image(sample.path).shape[:2]
        if sample.mask is None:
            return None
        mask = read_mask(sample.mask, sample.mask_values)
    except ImageError as error:
        return str(error)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        return f"{error.filename}: {error.strerror}"
    if mask.shape == (height, width):
        return None
    return f"{sample.mask}: is {mask.shape[1]}x{mask.shape[0]}, but its image, upright, is {width}x{height}"


@contextmanager
def _damage_named(path: str | Path) -> Iterator[None]:
    """Turn what Pillow raises on a bad file into an :class:`ImageError` that names the file."""
    try:
        yield
    except _DAMAGE as error:
        # With a number it comes from the file system (missing, forbidden, disk error), not from the content.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError(f"{path}: {_reason(Path(path), error)}") from error


def _reason(path: Path, error: BaseException) -> str:
    """The error in words; for a file of unknown format, its first bytes, which often tell (HTML, a Git LFS pointer)."""
    if not isinstance(error, UnidentifiedImageError):
        return str(error)
    with path.open("rb") as file:
        start = file.read(24)
    return f"is not an image that can be read (it starts with {start!r})" if start else "is empty (0 bytes)"


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits or of floats as 8-bit grey; any other image as it is."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        top, expected = (1 if high <= 1 else 255), "floats from 0 to 1 or from 0 to 255"
    else:
        top, expected = 65535, "integers of 8 or 16 bits (0 to 65535)"
    if not 0 <= low <= high <= max(top, 255):  # NaN fails too
        raise ValueError(f"holds grey values from {low} to {high}; expected {expected}: convert it first")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Transparent images on white; any other image as it is."""
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
