"""How well made images go with texts, as CLIP sees it: what its filters share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from genaug.clip.model import Clip
from genaug.console import track
from genaug.data.base import Dataset
from genaug.data.reading import read_image
from genaug.filtering.base import Candidate, as_sample
from genaug.segmentation.masks import superclass_of


def check_prompt(key: str, prompt: str, **names: str) -> None:
    """Refuse a prompt with places that nothing is filled into.

    Args:
        key: Where it comes from, for the message.
        prompt: With ``{name}`` and the like.
        names: What can be filled in, with anything.

    Raises:
        ValueError: the prompt has other places.
    """
    try:
        prompt.format(**names)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        known = " or ".join(f"{{{name}}}" for name in names)
        raise ValueError(f"{key}={prompt!r} cannot be filled in ({error!r}): use {known}.") from error


def superclass(candidate: Candidate, dataset: Dataset) -> str:
    """What the images of the candidate's class show ("bird")."""
    return superclass_of(as_sample(candidate), dataset)


def shares(
    clip: Clip, candidates: Sequence[Candidate], texts: Mapping[str, Sequence[str]], device: str
) -> list[torch.Tensor]:
    """For each image, how CLIP divides its belief over some texts: a softmax of its logits.

    Args:
        clip: The network; loaded onto ``device``, and given up at the end.
        candidates: The images.
        texts: By a candidate's key, the texts that it is compared with.
        device: Where the network computes.

    Returns:
        ``(T,)`` float32 each, of sum 1, in the order of its texts.
    """
    words = list(dict.fromkeys(text for some in texts.values() for text in some))
    places = {text: place for place, text in enumerate(words)}
    starts = range(0, len(candidates), clip.batch_size)
    found = []
    clip.load(device)
    try:
        points, scale = clip.texts(words), clip.scale
        for start in track(starts, len(starts), f"comparing with words, {clip.batch_size} images at once"):
            batch = candidates[start : start + clip.batch_size]
            logits = scale * clip.images([read_image(one.path, channels=3) for one in batch]) @ points.T
            for one, row in zip(batch, logits, strict=True):
                found.append(row[[places[text] for text in texts[one.key]]].softmax(dim=0))
    finally:
        clip.unload()
    return found
