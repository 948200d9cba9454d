"""A folder of made files that a kill cannot corrupt.

Every entry has a key (a hash of what it was made from), some files and one record. Files are written to a temporary
name and renamed, and the record is appended last, so an entry is complete or absent: a run that was killed loses at
most the entries in flight, and running again makes only what is missing. Each process appends to a record file of its
own, so any number of processes can fill one store.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout


def content_key(*parts: bytes | str) -> str:
    """Hash of ``parts`` as 32 hexadecimal characters: the key of what is made from them.

    >>> content_key("a", "bc") == content_key("ab", "c")  # the boundaries count
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def fingerprint(tool: object, settings: Mapping[str, Any], *more: str) -> str:
    """Name of a tool in the names of what it makes: its class, and a hash of class and settings.

    Args:
        tool: A generator, a segmenter, a captioner.
        settings: JSON values of every argument that changes what it makes.
        more: What else does, as hashes of its files.
    """
    kind = type(tool)
    parts = [kind.__module__, kind.__qualname__, json.dumps(dict(settings), sort_keys=True), *more]
    return f"{kind.__name__}-{content_key(*parts)[:16]}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` is either complete or not there, whenever the process dies.

    Raises:
        OSError: the disk is full or the folder cannot be written to; nothing is left at ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def encode_array(value: np.ndarray) -> bytes:
    """A uint8 array in numpy's own format.

    Raises:
        TypeError: the array is not uint8.
    """
    if value.dtype != np.uint8:
        raise TypeError(f"a store keeps arrays of uint8, which array() can read back; got {value.dtype}")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(value), allow_pickle=False)
    return buffer.getvalue()


def read_array(path: Path) -> np.ndarray:
    """Read a uint8 array in numpy's format; ``np.load`` takes longer to parse its header than to read an image.

    Raises:
        ValueError: the file is no such array.
    """
    data = np.fromfile(path, dtype=np.uint8)
    length = int.from_bytes(data[8:10].tobytes(), "little")
    header = data[10 : 10 + length].tobytes()
    if data[:8].tobytes() != b"\x93NUMPY\x01\x00" or b"'|u1', 'fortran_order': False" not in header:
        raise ValueError(
            f"{path} is not an array of bytes as the store writes them: delete it and its record, run again."
        )
    shape = header[header.index(b"(") + 1 : header.index(b")")]
    return data[10 + length :].reshape([int(side) for side in shape.split(b",") if side.strip()])


@dataclass(frozen=True)
class Claim:
    """The right to make an entry.

    Attributes:
        lock: Held as long as the claim is.
    """

    lock: BaseFileLock

    def release(self) -> None:
        """Let others have it."""
        self.lock.release()

    def finish(self) -> None:
        """The entry is recorded: nobody needs the lock's file any more.

        It goes while it is held; who had opened it before finds the record when it gets the lock.
        """
        Path(self.lock.lock_file).unlink(missing_ok=True)
        self.lock.release()


class Store:
    """Entries by key: files under ``root/<first two characters>/``, records under ``root/records/``.

    Args:
        root: Folder of the store; made when the first entry is added.

    Example:
        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> store.add("ab12", {"mask.npy": np.eye(2, dtype=np.uint8)}, {"score": 0.5})
        >>> again = Store(store.root)
        >>> "ab12" in again, again["ab12"]["score"], int(again.array("ab12", "mask.npy").sum())
        (True, 0.5, 2)
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._records: dict[str, dict[str, Any]] = {}
        self._offsets: dict[Path, int] = {}
        self._own_records = self.root / "records" / f"{uuid.uuid4().hex}.jsonl"
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have recorded since; of two records of an entry the later one counts.

        The last line of a killed process may be torn: its entry counts as absent.
        """
        for file in sorted((self.root / "records").glob("*.jsonl")):
            with file.open("rb") as lines:
                lines.seek(self._offsets.get(file, 0))
                data = lines.read()
            self._offsets[file] = self._offsets.get(file, 0) + data.rfind(b"\n") + 1  # a torn line may yet be ended
            for line in data.splitlines():
                with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                    record = json.loads(line)
                    known = self._records.get(record["key"])
                    if known is None or known.get("time", 0) <= record.get("time", 0):
                        self._records[record["key"]] = record

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._records[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def path(self, key: str, name: str) -> Path:
        """Where the file ``name`` of entry ``key`` is."""
        return self.root / key[:2] / f"{key}.{name}"

    def array(self, key: str, name: str) -> np.ndarray:
        """The array file ``name`` of entry ``key``, uint8, the caller's to change."""
        return read_array(self.path(key, name))

    def add(self, key: str, files: Mapping[str, bytes | np.ndarray], record: Mapping[str, Any]) -> None:
        """Write the files of an entry, then its record.

        Args:
            key: See :func:`content_key`.
            files: File name to content; a uint8 array is stored in numpy's format.
            record: JSON values to keep beside the files.

        Raises:
            TypeError: an array is not uint8.
        """
        for name, value in files.items():
            write_atomically(self.path(key, name), value if isinstance(value, bytes) else encode_array(value))
        self.record(key, record)

    def claim(self, key: str) -> Claim | None:
        """The right to make the entry ``key``, until it is given up or this process dies; None if another has it."""
        lock = FileLock(self.root / "locks" / f"{key}.lock", thread_local=False)
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return Claim(lock)

    def record(self, key: str, record: Mapping[str, Any]) -> None:
        """Append the record of an entry whose files, if it has any, are written."""
        entry = {"key": key, **record, "time": time.time()}
        self._own_records.parent.mkdir(parents=True, exist_ok=True)
        with self._own_records.open("a") as file:
            # The newline in front keeps a record whole after one that a full disk cut short.
            file.write("\n" + json.dumps(entry) + "\n")
        self._records[key] = entry
