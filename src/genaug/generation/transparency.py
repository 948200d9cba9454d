"""Images with an alpha channel in a latent diffusion model: how they become latents, and come back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug.generation.model_files import files_digest

#: Of a VAE that a pipeline brings or a folder holds.
VAE_CONFIG, VAE_WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


class Transparency(ABC):
    """Adds an alpha channel to a latent diffusion model, whose networks it leaves as they are for all other calls.

    Images are ``(N, 4, H, W)`` float32 in [0, 1]: red, green, blue and alpha. Colours are not multiplied by alpha, and
    those of the object go on where alpha is 0 (:func:`genaug.functional.pushpull.fill_holes`), so that no background
    is seen through a soft edge.

    Attributes:
        step: What the sides of an image in pixels are multiples of.
    """

    step: int = 8

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """JSON values of all that changes an image, the weights among them."""

    def check(self, index: Mapping[str, Any]) -> None:  # noqa: B027 - most fit any latent diffusion model
        """Refuse a model that it was not made for, by its ``model_index.json``.

        Raises:
            ValueError: it does not fit.
        """

    def fetch(self) -> None:  # noqa: B027 - files of this machine are looked for when it is built
        """Get what is not on this machine, before hours of other work.

        Raises:
            FileNotFoundError: a file can neither be found nor fetched.
        """

    @abstractmethod
    def load(self, pipeline: Any, device: str) -> None:
        """Load its weights onto ``device``, beside a loaded pipeline of diffusers; the second time nothing happens."""

    @abstractmethod
    def unload(self) -> None:
        """Give up the weights."""

    def active(self, pipeline: Any) -> AbstractContextManager[object]:
        """Inside, the pipeline's denoiser knows transparent latents; afterwards it is what it was, to the bit."""
        return nullcontext()

    @abstractmethod
    def encode(self, pipeline: Any, images: Tensor) -> Tensor:
        """Latents ``(N, 4, h, w)`` of images, scaled as the denoiser takes them; nothing random in it."""

    @abstractmethod
    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        """Images ``(N, 4, H, W)`` around [0, 1] for scaled latents."""


class Exchange(AbstractContextManager["Exchange"]):
    """Some weights of a denoiser, exchanged for others inside a ``with`` and back afterwards.

    No generator function: one that is still open when the program ends would exchange them once more, too late.

    Args:
        denoiser: Whose.
        others: By name of parameter.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with Exchange(layer, {"bias": torch.tensor([5.0])}).applied():
        ...     layer.bias.item()
        5.0
        >>> layer.bias.item() == 5.0
        False
    """

    def __init__(self, denoiser: nn.Module, others: Mapping[str, Tensor]) -> None:
        parameters = dict(denoiser.named_parameters())
        self.pairs = [(parameters[name], other.to("cpu")) for name, other in others.items()]

    @classmethod
    def after(cls, denoiser: nn.Module, change: Callable[[], None]) -> Exchange:
        """For the weights that ``change`` leaves; ``denoiser`` is as before afterwards."""
        before = {name: parameter.detach().to("cpu", copy=True) for name, parameter in denoiser.named_parameters()}
        change()
        after = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in denoiser.named_parameters()
            if not torch.equal(parameter.detach().cpu(), before[name])
        }
        with torch.no_grad():
            for name, parameter in denoiser.named_parameters():
                if name in after:
                    parameter.copy_(before[name])
        return cls(denoiser, after)

    def applied(self) -> Exchange:
        """Inside, the denoiser has the other weights."""
        return self

    def __enter__(self) -> Exchange:
        self._swap()
        return self

    def __exit__(self, *exception: object) -> None:
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        swapped = []
        for parameter, other in self.pairs:
            kept = parameter.detach().to("cpu", copy=True)
            parameter.copy_(other)
            swapped.append((parameter, kept))
        self.pairs = swapped


def fuse_lora(pipeline: Any, file: Path) -> None:
    """Work a LoRA file, in any layout that diffusers reads, into the denoiser's weights, for good."""
    layers, alphas = pipeline.lora_state_dict(str(file.parent), weight_name=file.name)
    pipeline.load_lora_into_unet(layers, network_alphas=alphas, unet=pipeline.unet)
    pipeline.fuse_lora(components=["unet"])
    pipeline.unload_lora_weights()


def lora_exchange(pipeline: Any, file: Path) -> Exchange:
    """The denoiser's weights with a LoRA file worked into them, see :func:`fuse_lora`."""
    return Exchange.after(pipeline.unet, lambda: fuse_lora(pipeline, file))


class FourChannelVAE(Transparency):
    """An autoencoder that takes and gives four channels: red, green, blue and alpha, each in -1 to 1.

    Its latents are the denoiser's, as those of the model's own autoencoder are.

    Args:
        folder: A folder of such an autoencoder as diffusers saves it, ``genaug:NAME`` for one that comes with this
            package; None where the model's own autoencoder has four channels. If it has a
            ``pytorch_lora_weights.safetensors``, the denoiser gets that for transparent images.

    Raises:
        FileNotFoundError: there is no autoencoder in ``folder``.
        ValueError: it has not four channels.
    """

    LORA = "pytorch_lora_weights.safetensors"

    def __init__(self, folder: str | None = None) -> None:
        self.folder = None if folder is None else _vae_folder(folder)
        self.lora = self.folder is not None and (self.folder / self.LORA).is_file()
        self._vae: Any = None
        self._exchange: Exchange | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :class:`Transparency`; the hash of the files stands for the folder."""
        if self.folder is None:
            return {"autoencoder": "the model's own"}
        names = [VAE_CONFIG, VAE_WEIGHTS] + [self.LORA] * self.lora
        return {"autoencoder": files_digest(self.folder, map(Path, names), blocks=64)}

    def load(self, pipeline: Any, device: str) -> None:
        """See :class:`Transparency`.

        Raises:
            ValueError: the model's own autoencoder was to be used and has not four channels.
        """
        if self._vae is not None:
            return
        if self.folder is None:
            channels = pipeline.vae.config.in_channels
            if channels != 4:
                raise ValueError(
                    f"generator.transparency needs an autoencoder of four channels, and the model's own has {channels}:"
                    " set generator.transparency.folder to one."
                )
            self._vae = pipeline.vae
            return
        from diffusers import AutoencoderKL

        dtype = pipeline.vae.dtype
        self._vae = AutoencoderKL.from_pretrained(self.folder, dtype=dtype, use_safetensors=True).to(device).eval()
        if self.lora:
            self._exchange = lora_exchange(pipeline, self.folder / self.LORA)

    def unload(self) -> None:
        """See :class:`Transparency`."""
        self._vae = self._exchange = None

    def active(self, pipeline: Any) -> AbstractContextManager[object]:
        """See :class:`Transparency`."""
        return self._exchange.applied() if self._exchange else nullcontext()

    @torch.no_grad()
    def encode(self, pipeline: Any, images: Tensor) -> Tensor:
        """See :class:`Transparency`; the mode of the autoencoder's posterior."""
        pixels = images.to(self._vae.device, self._vae.dtype) * 2 - 1
        return self._vae.encode(pixels).latent_dist.mode() * self._vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        """See :class:`Transparency`."""
        latents = latents.to(self._vae.device, self._vae.dtype) / self._vae.config.scaling_factor
        return self._vae.decode(latents).sample.float() * 0.5 + 0.5


def _vae_folder(name: str) -> Path:
    """The folder of an autoencoder.

    Raises:
        FileNotFoundError: it or its files are not there.
        ValueError: it has not four channels.
    """
    shipped = name.startswith("genaug:")
    folder = Path(__file__).parent / name.removeprefix("genaug:") if shipped else Path(name).expanduser()
    for file in (VAE_CONFIG, VAE_WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"generator.transparency.folder={name!r}: there is no {file} in {folder}. Expected an autoencoder as "
                "diffusers saves it with save_pretrained."
            )
    config = json.loads((folder / VAE_CONFIG).read_text())
    if (config.get("in_channels"), config.get("out_channels")) != (4, 4):
        raise ValueError(
            f"generator.transparency.folder={name!r} takes {config.get('in_channels')} and gives "
            f"{config.get('out_channels')} channels; four are needed for red, green, blue and alpha."
        )
    return folder
