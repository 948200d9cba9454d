"""A store of made images that Hugging Face's ``imagefolder`` can read.

::

    store.json               what made it
    ab/ab12….png             the images, each complete or absent
    records/<process>.jsonl  one line an image or failure, with its timing, as it was made
    metadata.jsonl           one line an image, sorted: what ``datasets.load_dataset("imagefolder")`` reads

``metadata.jsonl`` holds nothing that differs from one making to another, so a store that was finished after a kill is
the same as one made without interruption; timings stay in ``records``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from genaug.data.reading import read_image, read_rgba
from genaug.synthesis.jobs import Job
from genaug.synthesis.store import Store, write_atomically

log = logging.getLogger(__name__)

FORMAT = 1
METADATA, DESCRIPTION = "metadata.jsonl", "store.json"
IMAGE = "png"

#: Fields of a record that differ from one making of the same image to the next.
VARYING = ("time", "seconds", "device")


def digest(data: bytes) -> str:
    """Hash of a file's content, as the manifest keeps it."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def encode_png(image: np.ndarray) -> bytes:
    """``(H, W, 3)`` or ``(H, W, 4)`` uint8, RGB or RGBA, as PNG.

    A low compression level: 40 % of the time for 10 % more bytes.
    """
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, data = cv2.imencode(".png", cv2.cvtColor(image, order), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return data.tobytes()


@dataclass(frozen=True)
class Problem:
    """Something wrong with a store.

    Attributes:
        kind: "missing", "changed", "not an image", "orphan" or "left over".
        path: The file, relative to the store.
        key: Of the entry, where there is one.
    """

    kind: str
    path: str
    key: str | None = None


class ImageStore(Store):
    """Made images by the key of their job.

    Args:
        root: Folder of the store.
        description: JSON values that say what makes its images; kept in ``store.json``. None opens one that is there.

    Raises:
        ValueError: the folder holds what something else made, or a layout this program does not know.
        FileNotFoundError: ``description`` is None and there is no store at ``root``.
    """

    def __init__(self, root: Path, description: Mapping[str, Any] | None = None) -> None:
        file = Path(root) / DESCRIPTION
        if file.exists():
            self._check_description(file, description)
        elif description is None:
            raise FileNotFoundError(f"{root} is no store of images: there is no {DESCRIPTION} in it.")
        else:
            write_atomically(file, json.dumps({"format": FORMAT, **description}, indent=1, sort_keys=True).encode())
        super().__init__(root)

    @staticmethod
    def _check_description(file: Path, description: Mapping[str, Any] | None) -> None:
        try:
            found = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} cannot be read ({error}): move the folder away and run again.") from error
        layout = found.get("format") if isinstance(found, dict) else None
        if layout != FORMAT:
            raise ValueError(
                f"{file.parent} has the layout {layout!r}, this program writes {FORMAT}: use another "
                "folder (paths.stores=...)."
            )
        expected = None if description is None else json.loads(json.dumps({"format": FORMAT, **description}))
        if expected is not None and found != expected:
            different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
            raise ValueError(
                f"{file.parent} was made with other settings ({', '.join(different)} differ): its folder has been "
                "renamed or its store.json edited. Move it away and run again."
            )

    @property
    def description(self) -> dict[str, Any]:
        """What ``store.json`` says."""
        return json.loads((self.root / DESCRIPTION).read_text())

    def image_path(self, key: str) -> Path:
        """Where the image of ``key`` is."""
        return self.path(key, IMAGE)

    def image(self, key: str) -> np.ndarray:
        """The image ``(H, W, 3)`` uint8; a transparent one on white."""
        return read_image(self.image_path(key), channels=3)

    def transparent_image(self, key: str) -> np.ndarray:
        """The image ``(H, W, 4)`` uint8 RGBA, colours not multiplied by alpha."""
        return read_rgba(self.image_path(key))

    def is_done(self, job: Job) -> bool:
        """Whether the job has its image, whole as far as its size tells, or has failed for good."""
        if job.key not in self:
            return False
        record = self[job.key]
        if record["verdict"] != "ok":
            return True
        try:
            return self.image_path(job.key).stat().st_size == record["bytes"]
        except FileNotFoundError:
            return False

    def clear(self, job: Job) -> None:
        """Remove what a killed process left half written of a job; only for who has claimed it."""
        for path in self.image_path(job.key).parent.glob(f".{job.key}.*.tmp"):
            path.unlink(missing_ok=True)

    def keep(self, job: Job, image: np.ndarray, facts: Mapping[str, Any]) -> None:
        """Write the image of a job, then its record.

        Raises:
            OSError: the disk is full or cannot be written to; the entry is absent then.
        """
        data = encode_png(image)
        record = {**job.record(), "verdict": "ok", "bytes": len(data), "hash": digest(data), **facts}
        self.add(job.key, {IMAGE: data}, record)

    def give_up(self, job: Job, verdict: str, facts: Mapping[str, Any]) -> None:
        """Record that no image of a job passed, and why the last one did not."""
        self.record(job.key, {**job.record(), "verdict": verdict, **facts})

    def kept(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and record of every image, by copy, source and key."""
        good = [(key, self[key]) for key in self if self[key]["verdict"] == "ok"]
        return iter(sorted(good, key=lambda pair: (pair[1]["copy"], pair[1]["sources"], pair[0])))

    def write_metadata(self) -> None:
        """Bring ``metadata.jsonl`` up to date with what all processes have recorded."""
        with FileLock(self.root / ".metadata.lock"):  # a slower process must not write an older list over a newer
            self.refresh()
            lines = []
            for key, record in self.kept():
                name = self.image_path(key).relative_to(self.root).as_posix()
                rest = {field: value for field, value in record.items() if field not in VARYING}
                lines.append(json.dumps({"file_name": name, **rest}, sort_keys=True) + "\n")
            if lines:
                write_atomically(self.root / METADATA, "".join(lines).encode())
            else:
                (self.root / METADATA).unlink(missing_ok=True)  # it may list images that are gone

    def problems(self) -> list[Problem]:
        """Every image that is missing, changed or no image, and every file that no record knows; reads all files."""
        found = []
        for key, record in self.kept():
            path = self.image_path(key)
            name = path.relative_to(self.root).as_posix()
            if not path.exists():
                found.append(Problem("missing", name, key))
            elif digest(data := path.read_bytes()) != record["hash"]:
                readable = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None if data else False
                found.append(Problem("changed" if readable else "not an image", name, key))
        known = {self.image_path(key) for key, _ in self.kept()}
        for path in sorted([*self.root.glob(".*.tmp"), *self.root.glob("[0-9a-f][0-9a-f]/*")]):
            if path not in known:
                kind = "left over" if path.suffix == ".tmp" else "orphan"
                found.append(Problem(kind, path.relative_to(self.root).as_posix()))
        return found

    def repair(self, problems: Sequence[Problem]) -> None:
        """Delete what is wrong: files that nobody knows, and damaged entries, which the next run makes again.

        Raises:
            RuntimeError: another process works on this store.
        """
        held = [path for path in sorted((self.root / "locks").glob("*.lock")) if self._is_held(path)]
        if held:
            raise RuntimeError(f"{self.root} is being worked on: wait for that run to end, or stop it.")
        gone = {problem.key for problem in problems if problem.key is not None}
        for problem in problems:
            (self.root / problem.path).unlink(missing_ok=True)
        kept = "".join(json.dumps(self[key]) + "\n" for key in self if key not in gone)
        old = sorted((self.root / "records").glob("*.jsonl"))
        self._own_records = self.root / "records" / f"{uuid.uuid4().hex}.jsonl"
        write_atomically(self._own_records, kept.encode())
        for file in old:
            file.unlink()
        self._records, self._offsets = {}, {}
        self.write_metadata()

    def _is_held(self, path: Path) -> bool:
        claim = self.claim(path.stem)
        if claim is not None:
            claim.release()
        return claim is None
