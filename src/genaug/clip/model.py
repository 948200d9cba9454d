"""CLIP models of transformers (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genaug.console import hide_loading_bars
from genaug.devices import release_memory
from genaug.generation.model_files import SHIPPED, model_digest
from genaug.segmentation.pretrained import explained, local_model
from genaug.synthesis.store import content_key

T = TypeVar("T")

_REMEDY = (
    "clip.model takes an id on the Hugging Face hub, a local folder, or genaug:tiny_weights, which knows toybirds "
    "alone: where there is a network, run `hf download openai/clip-vit-base-patch32 --local-dir FOLDER`, and pass "
    "clip.model=FOLDER."
)


class Clip:
    """Says how well pictures and texts go together.

    Building one is cheap: arguments are checked and local files looked for. Weights are loaded by :meth:`load` or the
    first call, in float32, from safetensors files where there are any; no code of a model's is run. Pictures are
    brought to the network's size as the model's own folder says.

    A row depends on its own picture or text and not on its neighbours, rounding apart.

    Args:
        model: CLIP, as an id on the Hugging Face hub or a local folder that transformers saved; ``genaug:NAME`` is one
            that comes with this package.
        batch_size: Pictures, or texts, that go through the network together.

    Raises:
        FileNotFoundError: a local folder is not there or holds no model.
        ValueError: ``batch_size`` is below 1.

    Example:
        >>> clip = Clip("genaug:tiny_weights")
        >>> birds = clip.texts(["a photo of a rose-breasted finch", "a photo of a saffron-breasted jay"])
        >>> birds.shape, bool((birds.norm(dim=1) - 1).abs().max() < 1e-5)
        (torch.Size([2, 64]), True)
    """

    def __init__(self, model: str | Path = "openai/clip-vit-base-patch32", batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError(f"clip.batch_size must be at least 1, got {batch_size}.")
        shipped = str(model).startswith(SHIPPED)
        source = Path(__file__).parent / str(model).removeprefix(SHIPPED) if shipped else model
        self.model, self.batch_size = str(model), batch_size
        self._place = local_model(source, _REMEDY)
        self._device: str | None = None
        self._network: Any = None
        self._processor: Any = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a row depends on; of a local model the hash of its files stands for its name, so that it may be moved.

        Raises:
            FileNotFoundError: see :class:`Clip`.
        """
        return {"model": self._identity}

    @cached_property
    def _identity(self) -> str:
        return self.model if self._place is None else model_digest(self._place)

    @cached_property
    def fingerprint(self) -> str:
        """Class name and a hash of the settings: part of the name of every score that is kept."""
        return f"Clip-{content_key(json.dumps(dict(self.settings), sort_keys=True))[:16]}"

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax: ``scale * images @ texts.T`` are CLIP's logits."""
        return float(self._loaded().logit_scale.detach().exp())

    def load(self, device: str) -> None:
        """Load the weights onto ``device`` ("cpu", "cuda:1"); the second time nothing happens.

        Raises:
            FileNotFoundError: the model is not there and cannot be downloaded.
            ValueError: it is another kind of model.
        """
        from transformers import AutoConfig, CLIPModel, CLIPProcessor

        if self._device == device:
            return
        hide_loading_bars()
        with explained(self.model, _REMEDY):
            source = self._place or self.model
            kind = AutoConfig.from_pretrained(source).model_type
            if kind != "clip":
                raise ValueError(f"it is a {kind} model, and clip is needed.")
            network: Any = CLIPModel.from_pretrained(source, dtype=torch.float32)
            self._processor = CLIPProcessor.from_pretrained(source)
        self._network, self._device = network.to(device).eval(), device

    def unload(self) -> None:
        """Give the memory back; the next call loads again."""
        self._network = self._processor = self._device = None
        release_memory()

    def images(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Points of pictures.

        Args:
            arrays: ``(H, W, 3)`` uint8 RGB each; they may differ in size.

        Returns:
            ``(N, D)`` float32 on the CPU, rows of length 1.
        """
        return self._rows(arrays, self._embed_images)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Points of texts; a text that is longer than the model reads is cut off at its end.

        Returns:
            ``(N, D)`` float32 on the CPU, rows of length 1.
        """
        return self._rows(texts, self._embed_texts)

    def _loaded(self) -> Any:
        if self._network is None:
            self.load("cpu")
        return self._network

    def _rows(self, entries: Sequence[T], embed: Callable[[list[T]], Tensor]) -> Tensor:
        network = self._loaded()
        if not len(entries):
            return torch.empty(0, network.config.projection_dim)
        with torch.no_grad():
            batches = [entries[start : start + self.batch_size] for start in range(0, len(entries), self.batch_size)]
            rows = [functional.normalize(embed(list(batch)).float(), dim=-1).cpu() for batch in batches]
        return torch.cat(rows)

    def _embed_images(self, arrays: list[np.ndarray]) -> Tensor:
        pixels = self._processor.image_processor(arrays, return_tensors="pt", input_data_format="channels_last")
        return self._network.get_image_features(pixels["pixel_values"].to(self._device)).pooler_output

    def _embed_texts(self, texts: list[str]) -> Tensor:
        tokens = self._processor.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self._network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._device)
        return self._network.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
