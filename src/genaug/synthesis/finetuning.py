"""Fine-tuned denoisers: learned once from a set of training images, by one process, and kept for later runs."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from genaug.console import track
from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.functional.composite import middle_square
from genaug.generation.base import Generator
from genaug.generation.diffusion import Diffusion
from genaug.generation.lora_training import FineTuned, FineTuning, NewWord
from genaug.generation.textual_inversion import FILES
from genaug.synthesis.runner import Runner, check_writable
from genaug.synthesis.store import content_key, write_atomically
from genaug.synthesis.text_images import json_values

log = logging.getLogger(__name__)

#: Raise it with every change of how pictures are shown or learned from: adapters of another version are not used.
VERSION = "finetuning-1"

#: In an adapter's folder; the first is what ``load_lora_weights`` of diffusers looks for.
LORA, RECORD, CHECKPOINT = "pytorch_lora_weights.safetensors", "record.json", "checkpoint.pt"


def class_token(label: int) -> str:
    """The word of a class, as Diff-Mix names it.

    >>> class_token(3)
    '<class_3>'
    """
    return f"<class_{label}>"


@dataclass(frozen=True)
class Adapter:
    """What a denoiser was fine-tuned to.

    Attributes:
        key: Content key of all it was learned from.
        lora: The LoRA's file.
        vectors: Of each word ``(1, dim)`` for each text encoder.
        record: What its folder says of it.
    """

    key: str
    lora: Path
    vectors: Mapping[str, tuple[Tensor, ...]]
    record: Mapping[str, Any]

    def add_to(self, generator: Generator) -> None:
        """Have all calls of a loaded generator use it, until that is unloaded."""
        generator.add_lora(self.lora)
        generator.add_words(self.vectors)

    def report(self) -> dict[str, Any]:
        """``words``, ``pictures``, ``steps``, ``first_loss``, ``last_loss``, ``seconds`` and ``device``."""
        return {name: value for name, value in self.record.items() if name not in ("key", "files")}


def make_adapter(
    samples: Sequence[Sample],
    dataset: Dataset,
    finetuning: FineTuning,
    generator: Diffusion,
    folder: Path,
    runner: Runner,
) -> Adapter:
    """Fine-tune a generator, or find what an earlier run with the same images and settings learned.

    ``folder/<key>`` has ``pytorch_lora_weights.safetensors`` and ``learned_embeds.safetensors``, with a tensor for each
    word, for ``load_lora_weights`` and ``load_textual_inversion`` of diffusers; ``record.json`` is written last, so an
    adapter is complete or absent. One process learns while others wait; one that is killed is gone on from where it
    last wrote a checkpoint. The generator is loaded only if it has to learn, and unloaded afterwards.

    Args:
        samples: All training images, each of one class; every process must be given the same.
        dataset: For the classes and what they are.
        finetuning: How is learned.
        generator: Whose denoiser.
        folder: Of all adapters.
        runner: Has the devices.

    Raises:
        FloatingPointError: the loss is not finite.
        OSError: the folder cannot be written to.
        ValueError: the model is not fit for it.
    """
    finetuning.check(generator)
    work = _Work(samples, dataset, finetuning, generator, folder)
    # Processes that belong together take part together, whatever each of them finds there.
    if not work.is_done() or runner.trainer.world_size > 1:
        check_writable(folder)
        try:
            runner.everywhere(work.alone)
        finally:
            generator.unload()
    return work.result()


class _Work:
    """The fine-tuning of :func:`make_adapter`."""

    def __init__(
        self, samples: Sequence[Sample], dataset: Dataset, finetuning: FineTuning, generator: Diffusion, folder: Path
    ) -> None:
        self.finetuning, self.generator = finetuning, generator
        # In an order that says nothing of names: the same pictures are the same wherever they lie.
        pictures = sorted((_label(one), content_key(one.path.read_bytes()), one.path) for one in samples)
        self.labels, self.paths = [picture[0] for picture in pictures], [picture[2] for picture in pictures]
        classes = sorted(set(self.labels))
        self.words = [NewWord(class_token(label), dataset.superclasses[label]) for label in classes]
        self.word_of = torch.tensor([classes.index(label) for label in self.labels])
        self.side = finetuning.size or max(generator.size_for(dataset.image_size, dataset.image_size))
        names = ("model", "dtype", "variant", "size", "scheduler", "scheduler_arguments")
        told: list[Any] = [
            VERSION, json_values({name: generator.settings[name] for name in names}), dict(finetuning.settings),
            self.side, [[word.token, word.superclass] for word in self.words],
            [[label, key] for label, key, _ in pictures],
        ]  # fmt: skip
        self.key = content_key(json.dumps(told, sort_keys=True))
        self.root, self.lock = folder / self.key, FileLock(folder / f"{self.key}.lock")

    def is_done(self) -> bool:
        """Whether the adapter is there, and whole as far as the sizes of its files tell."""
        if not (self.root / RECORD).exists():
            return False
        sizes = json.loads((self.root / RECORD).read_text())["files"]
        paths = {self.root / name: size for name, size in sizes.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def result(self) -> Adapter:
        """The adapter that is there."""
        from safetensors.torch import load_file

        tables = [load_file(path) for name in FILES if (path := self.root / name).exists()]
        vectors = {word.token: tuple(table[word.token] for table in tables) for word in self.words}
        return Adapter(self.key, self.root / LORA, vectors, json.loads((self.root / RECORD).read_text()))

    def alone(self, device: str) -> None:
        """Learn, unless another process has it or does."""
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that fine-tunes the generator")
            self.lock.acquire()
        try:
            if not self.is_done():
                self.generator.load(device)
                self._learn(device)
        finally:
            self.lock.release()

    def _learn(self, device: str) -> None:
        started, checkpoint = time.monotonic(), self.root / CHECKPOINT
        word_of = self.word_of.repeat(2) if self.finetuning.mirror else self.word_of
        learned = self.finetuning.learn(self.generator, self.words, self._latents(), word_of, checkpoint)
        files = to_files(learned)
        for name, data in files.items():
            write_atomically(self.root / name, data)
        record = {
            "key": self.key,
            "files": {name: len(data) for name, data in files.items()},
            "words": len(self.words),
            "pictures": len(self.paths),
            "steps": self.finetuning.steps,
            "first_loss": round(learned.first_loss, 6),
            "last_loss": round(learned.last_loss, 6),
            "seconds": round(time.monotonic() - started, 3),
            "device": device,
        }
        write_atomically(self.root / RECORD, json.dumps(record, indent=1).encode())
        checkpoint.unlink(missing_ok=True)

    def _latents(self) -> Tensor:
        """``(N, C, h, w)`` on the CPU of the middle squares of all pictures, the mirrored ones after them."""
        size, mirrors = self.generator.batch_size, (False, True) if self.finetuning.mirror else (False,)
        batches = [self.paths[first : first + size] for first in range(0, len(self.paths), size)]
        parts: dict[bool, list[Tensor]] = {mirrored: [] for mirrored in mirrors}
        for batch in track(batches, len(batches), "encoding"):
            shown = [middle_square(read_image(path, channels=3), self.side) for path in batch]
            for mirrored in mirrors:
                images = [cv2.flip(image, 1) for image in shown] if mirrored else shown
                parts[mirrored].append(self.generator.image_latents(images, self.finetuning.size).cpu())
        return torch.cat([part for mirrored in mirrors for part in parts[mirrored]])


def _label(sample: Sample) -> int:
    """The one class of a sample.

    Raises:
        ValueError: it has several, or none.
    """
    if isinstance(sample.label, tuple):
        raise ValueError(f"{sample.id} shows the classes {sample.label}: a word is learned from images of one class.")
    return sample.label


def to_files(learned: FineTuned) -> dict[str, bytes]:
    """Files that diffusers reads, by name: the LoRA, and for each text encoder the vectors by word."""
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save

    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=dict(learned.lora), safe_serialization=True)
        files = {LORA: Path(folder, LORA).read_bytes()}
    for number in range(len(next(iter(learned.vectors.values())))):
        files[FILES[number]] = save({token: rows[number].contiguous() for token, rows in learned.vectors.items()})
    return files
