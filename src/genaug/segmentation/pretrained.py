"""Models by their id on the Hugging Face hub, by local folder or by file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genaug.generation.model_files import files_digest

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def local_model(source: str | Path, remedy: str) -> Path | None:
    """The folder or file that ``source`` names; ``None`` for an id on the hub.

    Raises:
        FileNotFoundError: there is nothing at ``source``, and it cannot be an id, or a folder that holds no model; the
            message ends with ``remedy``.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{source} is a folder without a config.json, so no model. {remedy}")
    if path.exists():
        return path
    if _HUB_ID.fullmatch(str(source)):
        return None
    raise FileNotFoundError(f"There is no model at {source}. {remedy}")


def model_files(path: Path | None) -> list[Path]:
    """The files that make up a local model, sorted by name; none for a model of the hub."""
    if path is None or path.is_file():
        return [] if path is None else [path]
    return sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))


def model_identity(source: str | Path, path: Path | None) -> str:
    """What a model's images or answers follow from: a local one's files, wherever they lie; the id of one of the hub.

    Args:
        source: As configured.
        path: What :func:`local_model` found of it.
    """
    files = model_files(path)
    return files_digest(files[0].parent, [Path(file.name) for file in files], blocks=64) if files else str(source)


@contextmanager
def explained(source: str | Path, remedy: str) -> Iterator[None]:
    """Say what to do where the block cannot load a model.

    Raises:
        FileNotFoundError: the block raised ``OSError``: there is no such model, or no network to get it by.
        ValueError: the block raised it: the model is of another kind, or parts of it are missing.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(f"No model could be loaded from {source}. {remedy}\nThe loader says: {error}") from error


def hub_remedy(segmenter: str, key: str, hub_id: str) -> str:
    """What to download and which key to set, as one sentence.

    >>> print(hub_remedy("sam3", "model", "facebook/sam3"))
    segmenter=sam3 takes an id on the Hugging Face hub or a local folder: where there is a network, run \
`hf download facebook/sam3 --local-dir FOLDER`, and pass segmenter.model=FOLDER.
    """
    return (
        f"segmenter={segmenter} takes an id on the Hugging Face hub or a local folder: where there is a network, run "
        f"`hf download {hub_id} --local-dir FOLDER`, and pass segmenter.{key}=FOLDER."
    )
