"""Words for classes, learned from their pictures: each once, by any number of processes, and kept for later runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from genaug.console import counting
from genaug.generation.base import Call
from genaug.generation.diffusion import Diffusion
from genaug.generation.textual_inversion import FILES, TextualInversion, from_files, to_files
from genaug.seeding import derive
from genaug.synthesis.runner import LONG_WAIT, WAIT, Runner, check_writable
from genaug.synthesis.store import Claim, Store, content_key
from genaug.synthesis.text_images import json_values

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A word that is wanted.

    Attributes:
        token: Its name in prompts, such as ``<jay>``: in angle brackets, without capitals.
        word: What its learning starts from, such as "bird".
        keys: Content keys of the pictures, in their order.
        pictures: Gives the pictures, of one size; called only if the word has to be learned. ``(H, W, 3)`` uint8 each,
            for edit_transparent ``(H, W, 4)`` with colours not multiplied by alpha.
    """

    token: str
    word: str
    keys: tuple[str, ...]
    pictures: Callable[[], list[np.ndarray]]


class Concepts:
    """Learned words.

    Args:
        keys: By token, the content key of what was learned.
        records: By token, what the store says of it.
        vectors: By token, ``(n, dim)`` for each text encoder.

    Attributes:
        vectors: For :meth:`genaug.generation.base.Generator.add_words`.
        keys: Parts of the content keys of all images that are made with the words.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        records: Mapping[str, Mapping[str, Any]],
        vectors: Mapping[str, tuple[Tensor, ...]],
    ) -> None:
        self.keys, self.vectors, self._records = dict(keys), dict(vectors), dict(records)

    def report(self) -> dict[str, Any]:
        """What was learned.

        Returns:
            ``words``; ``steps`` of each; ``last_timestep``; ``seconds`` they took, in this run or an earlier one, each
            counted once; ``first_loss`` and ``last_loss``, means over the words, see
            :class:`genaug.generation.textual_inversion.Learned`.
        """
        records = {self.keys[token]: record for token, record in self._records.items()}.values()
        if not records:
            return {"words": 0}
        some = next(iter(records))
        means = {name: sum(one[name] for one in records) / len(records) for name in ("first_loss", "last_loss")}
        return {
            "words": len(self.keys),
            "steps": some["steps"],
            "last_timestep": some["last_timestep"],
            "seconds": round(sum(one["seconds"] for one in records), 3),
            **{name: round(mean, 6) for name, mean in means.items()},
        }


def concept_keys(
    requests: Sequence[Request], inversion: TextualInversion, generator: Diffusion, call: Call, strength: float
) -> dict[str, str]:
    """The content key of each word, by token; known before anything is learned or loaded.

    Raises:
        NotImplementedError: the generator does not offer the call.
        ValueError: the generator learns no words, ``strength`` is out of range, a token is asked for twice, or a
            request has no pictures.
    """
    for request in requests:
        if not request.keys:
            raise ValueError(f"{request.token} is to be learned from no picture at all: leave this class out")
    if len({request.token for request in requests}) < len(requests):
        raise ValueError(f"each word is learned once, got {sorted(request.token for request in requests)}")
    last = inversion.last_timestep(generator, call, strength)
    transparent = json_values(generator.transparent_settings) if call == "edit_transparent" else None
    # Guidance and steps do not count: words are learned without the one, and the other is in the last timestep.
    names = ("model", "dtype", "variant", "size", "scheduler", "scheduler_arguments")
    model = json_values({name: generator.settings[name] for name in names})
    common = [model, transparent, json_values(inversion.settings), call, last]
    return {
        request.token: content_key(json.dumps([*common, request.word, *request.keys], sort_keys=True))
        for request in requests
    }


def learn_concepts(
    requests: Sequence[Request],
    inversion: TextualInversion,
    generator: Diffusion,
    call: Call,
    strength: float,
    folder: Path,
    runner: Runner,
) -> Concepts:
    """Learn the words that are not there yet; the generator is loaded only if one is missing, and unloaded afterwards.

    What a word becomes depends on its own request alone. A run that is killed loses the words in work; several
    processes, and other runs on the same folder, share the words out.

    Args:
        requests: All words; every process must be given the same.
        inversion: How they are learned.
        generator: Whose words they will be.
        call: What they will be used for.
        strength: Of that call.
        folder: Of all words, of whatever generators.
        runner: Has the devices.

    Raises:
        FloatingPointError: a loss is not finite.
        NotImplementedError: the generator does not offer the call.
        OSError: the folder cannot be written to.
        ValueError: see :func:`concept_keys`, or pictures or a token are not as :class:`Request` says.
    """
    keys = concept_keys(requests, inversion, generator, call, strength)
    work = _Learning(requests, keys, inversion, generator, call, strength, Store(folder), runner)
    # Processes that belong together take part together, whatever each of them finds still missing.
    if work.missing() or (requests and runner.trainer.world_size > 1):
        check_writable(work.store.root)
        try:
            runner.everywhere(work.share)
        finally:
            generator.unload()
    return work.learned()


class _Learning:
    """The words of :func:`learn_concepts`, and their store."""

    def __init__(
        self,
        requests: Sequence[Request],
        keys: Mapping[str, str],
        inversion: TextualInversion,
        generator: Diffusion,
        call: Call,
        strength: float,
        store: Store,
        runner: Runner,
    ) -> None:
        #: Equal requests under other names are learned once.
        self.requests = {keys[request.token]: request for request in reversed(requests)}
        self.order = list(dict.fromkeys(keys[request.token] for request in requests))
        self.keys, self.inversion, self.generator, self.call, self.store = keys, inversion, generator, call, store
        self.last_timestep = inversion.last_timestep(generator, call, strength)
        self.runner = runner

    def missing(self) -> list[str]:
        """Keys of the words that are not there, or whose files are not."""
        return [key for key in self.order if not self._is_done(key)]

    def _is_done(self, key: str) -> bool:
        return key in self.store and all(path.is_file() for path in self._paths(key))

    def _paths(self, key: str) -> list[Path]:
        return [self.store.path(key, name) for name in FILES[: self.store[key]["encoders"]]]

    def learned(self) -> Concepts:
        """All words, from the store."""
        self.store.refresh()
        records = {token: self.store[key] for token, key in self.keys.items()}
        vectors = {token: from_files(self._paths(key)) for token, key in self.keys.items()}
        return Concepts(self.keys, records, vectors)

    def share(self, device: str) -> None:
        """Learn this process's words, then what the others have not got to, until all are there."""
        with counting(len(self.missing()), "learning words") as advance:
            for key, claim in self._claimed():
                try:
                    self.generator.load(device)
                    self._learn(key, device)
                    claim.finish()
                finally:
                    claim.release()
                advance(1)

    def _claimed(self) -> Iterator[tuple[str, Claim]]:
        """Words that are missing and now this process's to learn, until none is missing."""
        rank, world, waited = self.runner.trainer.global_rank, self.runner.trainer.world_size, 0.0
        order = [*self.order[rank::world], *(key for other in range(world) for key in self.order[other::world])]
        left = list(dict.fromkeys(order))
        while left := [key for key in left if not self._is_done(key)]:
            before = len(left)
            for key in left:
                claim = self.store.claim(key)
                if claim is None:
                    continue
                self.store.refresh()  # another process may have learned it and let go in between
                if self._is_done(key):
                    claim.finish()
                else:
                    yield key, claim
            self.store.refresh()
            left = [key for key in left if not self._is_done(key)]
            if len(left) == before:
                if waited <= LONG_WAIT < waited + WAIT:
                    log.info("waiting for %d words that another process is learning", len(left))
                time.sleep(WAIT)
                waited += WAIT

    def _learn(self, key: str, device: str) -> None:
        request, started = self.requests[key], time.monotonic()
        learned = self.inversion.learn(
            self.generator, self.call, request.token, request.word, self._latents(request), self.last_timestep,
            derive(self.inversion.seed, key),
        )  # fmt: skip
        record = {
            "token": request.token,
            "word": request.word,
            "pictures": len(request.keys),
            "encoders": len(learned.vectors),
            "steps": self.inversion.steps,
            "last_timestep": self.last_timestep,
            "first_loss": learned.first_loss,
            "last_loss": learned.last_loss,
            "seconds": round(time.monotonic() - started, 3),
            "device": device,
        }
        self.store.add(key, to_files(request.token, learned.vectors), record)

    def _latents(self, request: Request) -> Tensor:
        """``(N, C, h, w)`` of all pictures, the mirrored ones after them."""
        pictures = request.pictures()
        if len(pictures) != len(request.keys):
            raise ValueError(f"{request.token} has {len(request.keys)} keys for {len(pictures)} pictures")
        if self.inversion.mirror:
            pictures = pictures + [cv2.flip(picture, 1) for picture in pictures]
        transparent, size = self.call == "edit_transparent", self.generator.batch_size
        encode = self.generator.transparent_latents if transparent else self.generator.image_latents
        parts = [encode(pictures[first : first + size]) for first in range(0, len(pictures), size)]
        if len({part.shape[2:] for part in parts}) > 1:
            raise ValueError(f"the pictures of {request.token} are not of one size")
        return torch.cat(parts)
