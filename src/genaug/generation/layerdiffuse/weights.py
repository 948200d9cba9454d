"""Weight files: a local one or one of the Hugging Face hub, and what is in it compared with what should be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from genaug.generation.model_files import files_digest

_HUB = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*):(?P<file>\w[\w./-]*)")
#: How many names of tensors a message has.
_NAMED = 4


class WeightFile:
    """A safetensors file.

    Args:
        argument: What the file is for, as it is called on the command line.
        place: A path, or ``owner/repository:file.safetensors`` on the hub.

    Raises:
        FileNotFoundError: there is no file at that path.
        ValueError: it is no safetensors file.
    """

    def __init__(self, argument: str, place: str) -> None:
        self.argument, self.place = argument, place
        if not place.endswith(".safetensors"):
            raise ValueError(f"{argument}={place!r} is no safetensors file; weights are read from those only.")
        self.local = None if _HUB.fullmatch(place) else Path(place).expanduser()
        if self.local is not None and not self.local.is_file():
            raise FileNotFoundError(
                f"{argument}={place!r}: there is no such file. Expected a path, or OWNER/REPOSITORY:FILE.safetensors "
                "for a file on the Hugging Face hub."
            )

    @property
    def identity(self) -> str:
        """Hash of a local file, so that it may be moved; the name of one on the hub."""
        return self.place if self.local is None else files_digest(self.local.parent, [Path(self.local.name)], blocks=64)

    def path(self) -> Path:
        """Where it lies; one on the hub is fetched if it is not in the cache.

        Raises:
            FileNotFoundError: it can neither be found nor fetched.
        """
        if self.local is not None:
            return self.local
        from huggingface_hub import hf_hub_download

        repository, _, file = self.place.partition(":")
        try:
            return Path(hf_hub_download(repository, file))
        except OSError as error:
            raise FileNotFoundError(
                f"{self.argument}: {file} of https://huggingface.co/{repository} is not in the local cache and cannot "
                f"be fetched ({error}). Where there is a network, `hf download {repository} {file} --local-dir FOLDER` "
                f"fetches it; then pass {self.argument}=FOLDER/{file}."
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU.

        Raises:
            FileNotFoundError: the file can neither be found nor fetched.
        """
        from safetensors.torch import load_file

        return load_file(self.path())

    def tensors_like(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """All tensors by name, after a check of names and shapes.

        Raises:
            FileNotFoundError: the file can neither be found nor fetched.
            ValueError: it has other tensors than ``shapes`` says.
        """
        tensors = self.tensors()
        self.check(tensors, shapes)
        return tensors

    def check(self, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare what the file has with what it should have.

        Raises:
            ValueError: names or shapes differ.
        """
        missing = [name for name in shapes if name not in tensors]
        unexpected = [name for name in tensors if name not in shapes]
        wrong = [
            f"{name} {tuple(tensors[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if name in tensors and tuple(tensors[name].shape) != tuple(shape)
        ]
        kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        found = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
        if found:
            raise ValueError(f"{self.argument}={self.place!r} does not hold the weights it should. {'; '.join(found)}.")

    def fill(self, module: nn.Module) -> nn.Module:
        """Give a module, built on the device "meta", the weights of this file in float32, for evaluation.

        Raises:
            FileNotFoundError: the file can neither be found nor fetched.
            ValueError: it has other weights than the module.
        """
        tensors = self.tensors_like({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
        return module.eval().requires_grad_(False)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
