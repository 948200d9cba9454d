"""Captions of photographs by BLIP (Li et al. 2022, arXiv:2201.12086), as ALIA has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from genaug.captioning.image_captions import ImageCaptioner
from genaug.console import hide_loading_bars, track
from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.devices import release_memory
from genaug.segmentation.pretrained import explained, local_model, model_identity
from genaug.synthesis.store import Store, content_key

REMEDY = (
    "image_captioner.model must be a BLIP model for captions on the Hugging Face hub or a local folder that holds one: "
    "where there is a network, run `hf download Salesforce/blip-image-captioning-large --local-dir FOLDER`, and pass "
    "image_captioner.model=FOLDER."
)


class Blip(ImageCaptioner):
    """The likeliest caption of each image, word by word, with nothing said to begin with.

    An image is squashed to the model's square, so a batch may mix sizes, and what it says depends on no batch.

    Args:
        model: Id on the Hugging Face hub or local folder.
        max_tokens: Length at which a caption is cut; 20 is the model's own.
        batch_size: Images at once.

    Raises:
        FileNotFoundError: a local folder is not there or holds no model.
        ValueError: a number is below 1.
    """

    def __init__(
        self, model: str = "Salesforce/blip-image-captioning-large", max_tokens: int = 20, batch_size: int = 8
    ) -> None:
        if max_tokens < 1 or batch_size < 1:
            raise ValueError(f"max_tokens and batch_size must be at least 1, got {max_tokens} and {batch_size}")
        self._path = local_model(model, REMEDY)
        self.model, self.max_tokens, self.batch_size = model, max_tokens, batch_size
        self._loaded: tuple[Any, Any] | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model — a local one by its files, not by where they lie — and the length."""
        return {
            "model": model_identity(self.model, self._path),
            "max_tokens": self.max_tokens,
        }

    def describe(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, device: str = "cpu") -> list[str]:
        """See :meth:`ImageCaptioner.describe`; the model is loaded if a caption is missing, and given up at the end.

        Raises:
            FileNotFoundError: the model is not there and cannot be downloaded.
            ValueError: it is no BLIP model.
        """
        store = Store(Path(folder) / self.fingerprint)
        keys = [content_key(sample.path.read_bytes()) for sample in samples]
        if any(key not in store for key in keys):
            store.root.mkdir(parents=True, exist_ok=True)
            with FileLock(store.root / ".lock"):
                store.refresh()  # another process may have written them in the meantime
                missing = {key: one for key, one in zip(keys, samples, strict=True) if key not in store}
                self._fill(store, missing, device)
        return [str(store[key]["caption"]) for key in keys]

    def _fill(self, store: Store, missing: Mapping[str, Sample], device: str) -> None:
        """Caption what is missing, batch by batch; a batch is recorded before the next begins."""
        keys = list(missing)
        batches = [keys[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]
        try:
            for batch in track(batches, len(batches), f"captions, {self.batch_size} images at once"):
                images = [read_image(missing[key].path, channels=3) for key in batch]
                for key, caption in zip(batch, self._write(images, device), strict=True):
                    store.record(key, {"id": missing[key].id, "caption": caption})
        finally:
            self._loaded = None
            release_memory()

    def _write(self, images: Sequence[np.ndarray], device: str) -> list[str]:
        if self._loaded is None:
            self._loaded = self._load(device)
        model, processor = self._loaded
        inputs = processor(images=list(images), return_tensors="pt", input_data_format="channels_last").to(device)
        with torch.inference_mode():
            tokens = model.generate(
                pixel_values=inputs["pixel_values"], max_new_tokens=self.max_tokens, do_sample=False
            )
        return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    def _load(self, device: str) -> tuple[Any, Any]:
        from transformers import BlipForConditionalGeneration, BlipProcessor

        hide_loading_bars()
        source = self._path or self.model
        with explained(self.model, REMEDY):
            model: Any = BlipForConditionalGeneration.from_pretrained(source)
            return model.to(device).eval(), BlipProcessor.from_pretrained(source)
