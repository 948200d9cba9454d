"""Where a model's files are, and what can be read from them without loading weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Before the name of a folder that the package brings along.
SHIPPED = "genaug:"
#: Bytes read at one place of a file.
BLOCK = 1 << 20
_KINDS = frozenset({".json", ".model", ".safetensors", ".txt"})


def locate(model: str) -> Path | None:
    """The folder of ``model``; None where that is the name of a model on the Hugging Face hub.

    Args:
        model: A folder, ``genaug:NAME`` for one that the package brings along, or ``owner/name`` of a hub model.

    Raises:
        FileNotFoundError: there is no such folder, or no ``model_index.json`` in it.
    """
    shipped = model.startswith(SHIPPED)
    folder = Path(__file__).parent / model.removeprefix(SHIPPED) if shipped else Path(model).expanduser()
    if not folder.is_dir():
        if not shipped and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
            return None
        raise FileNotFoundError(missing(model, "there is no such folder"))
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(missing(model, f"{folder} has no model_index.json"))
    return folder


def read_config(model: str, name: str) -> dict[str, Any]:
    """Read a JSON file of a model; of a hub model that file alone is fetched, where it is not in the cache.

    Args:
        model: As in :func:`locate`.
        name: Its path within the model ("scheduler/scheduler_config.json").

    Raises:
        FileNotFoundError: it can neither be found nor fetched.
    """
    folder = locate(model)
    try:
        if folder is None:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(model, name))
        else:
            path = folder / name
        return json.loads(path.read_text())
    except OSError as error:
        raise FileNotFoundError(missing(model, f"{name}: {error}")) from error


def missing(model: str, came: str) -> str:
    """What to tell whoever asked for a model that cannot be read."""
    return (
        f"generator.model={model!r} cannot be read ({came}). Expected a folder with model_index.json as diffusers "
        "saves it, or the name of a Hugging Face model that is in the local cache or can be fetched. Where there is a "
        f"network, `hf download {model} --local-dir FOLDER` fetches one (a model with conditions needs `hf auth login` "
        "first); then pass generator.model=FOLDER."
    )


def model_digest(folder: Path) -> str:
    """Hash of the weights and configurations in a folder, whatever its name."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix in _KINDS and path.is_file())
    return files_digest(folder, (path for path in paths if not path.parts[0].startswith(".")), blocks=64)


def files_digest(folder: Path, names: Iterable[Path], blocks: int) -> str:
    """Hash of the names, the sizes and samples of the content of files, 32 hexadecimal characters.

    A file of at most ``blocks`` MiB is read whole, of a longer one as many evenly spaced MiB and at most twice
    as many: reading tens of gigabytes in each process would take longer than the work, and training changes all
    of a model's weights.

    Args:
        folder: Where the files are.
        names: Relative to ``folder``; their order does not count.
        blocks: Samples of a long file.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(names):
        path = folder / name
        size = path.stat().st_size
        digest.update(f"{name.as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in range(0, size, BLOCK * max(1, size // (BLOCK * blocks))):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
