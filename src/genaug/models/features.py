"""Features of images from any network of timm, such as DINOv2, to compare images by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from genaug.devices import release_memory
from genaug.generation.model_files import files_digest
from genaug.models.timm_models import check_name


class TimmFeatures:
    """What a network computes before its last layer, as points of length 1.

    Building one is cheap; weights are loaded by :meth:`load` or the first call. Images are resized and normalised as
    the network was trained on them.

    Args:
        name: One of ``timm.list_models()``, with a tag after a dot where one set of pretrained weights is meant.
        weights: A local ``.safetensors`` or ``.pth`` file as timm or the hub has it; None downloads.
        batch_size: Images at once.

    Raises:
        ValueError: there is no such network.
        FileNotFoundError: ``weights`` is not a file.
    """

    def __init__(self, name: str, weights: str | Path | None = None, batch_size: int = 32) -> None:
        check_name(name)
        self.name, self.weights = name, None if weights is None else Path(weights)
        if self.weights is not None and not self.weights.is_file():
            raise FileNotFoundError(f"features.weights: no file at {weights}: give timm's file for {name}, or null.")
        self.batch_size = batch_size
        self._loaded: tuple[Any, Any, str] | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The network, and the hash of its file."""
        file = self.weights
        known = None if file is None else files_digest(file.parent, [Path(file.name)], blocks=64)
        return {"name": self.name, "weights": known}

    def load(self, device: str) -> None:
        """Load the weights onto ``device``; the second time nothing happens.

        Raises:
            ConnectionError: they cannot be downloaded.
        """
        if self._loaded is not None and self._loaded[2] == device:
            return
        import timm
        from timm.data import create_transform, resolve_model_data_config

        file = None if self.weights is None else {"file": str(self.weights)}
        try:
            network = timm.create_model(self.name, pretrained=True, num_classes=0, pretrained_cfg_overlay=file)
        except OSError as error:
            raise ConnectionError(
                f"features: the weights of {self.name} could not be fetched ({error}): fetch them where there is a "
                "network, and give the file's path as features.weights."
            ) from error
        transform = create_transform(**resolve_model_data_config(network), is_training=False)
        self._loaded = network.to(device).eval(), transform, device

    def unload(self) -> None:
        """Give the memory back; the next call loads again."""
        self._loaded = None
        release_memory()

    def images(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Features of images.

        Args:
            arrays: ``(H, W, 3)`` uint8 RGB each, at least one; they may differ in size.

        Returns:
            ``(N, D)`` float32 on the CPU, rows of length 1.
        """
        if self._loaded is None:
            self.load("cpu")
        assert self._loaded is not None
        network, transform, device = self._loaded
        rows = []
        for start in range(0, len(arrays), self.batch_size):
            batch = [transform(Image.fromarray(one)) for one in arrays[start : start + self.batch_size]]
            with torch.inference_mode():
                rows.append(functional.normalize(network(torch.stack(batch).to(device)).float(), dim=-1).cpu())
        return torch.cat(rows).clone()
