"""What a mixer does, as a picture.

``python -m genaug.mixing.preview dataset=toybirds mixer=guided_sr [out=preview.png]``; the command line is otherwise
that of ``run.py``. A row is a sample of the first training batch, mixed: the image, its partners, their saliency, how
much of each pixel is the image's own, and what the network would be fed, with its label. The network has the weights
that it would start training with.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from genaug.classifier import Normalize
from genaug.console import hide_meant_warnings
from genaug.data.datamodule import DataModule
from genaug.functional.boxes import inside_boxes
from genaug.launch import check_values, input_checks
from genaug.mixing.base import Context, Mixer
from genaug.pictures import label_text, save_sheet
from genaug.seeding import derive

log = logging.getLogger(__name__)

CONF = Path(__file__).parents[3] / "conf"

#: Samples shown, partners shown of each, and batches drawn until one is mixed.
ROWS, PARTNERS, TRIES = 6, 3, 50


@dataclass(frozen=True)
class Mixed:
    """A batch before and after, and what is known of the way between.

    Attributes:
        images: ``(B, C, H, W)`` that went in.
        targets: ``(B, K)`` that went in.
        mixed: ``(B, C, H, W)`` that came out.
        labels: ``(B, K)`` that came out.
        notes: What the mixer said, see :meth:`genaug.mixing.base.Context.note`.
        saliency: ``(B, H, W)`` of what went in, where the mixer looks at saliency.
    """

    images: Tensor
    targets: Tensor
    mixed: Tensor
    labels: Tensor
    notes: dict[str, Tensor]
    saliency: Tensor | None


def mix_once(mixer: Mixer, images: Tensor, targets: Tensor, context: Context, seed: int) -> Mixed:
    """Mix a batch as the first training step in which the mixer does something would.

    Args:
        mixer: Mixes with some probability.
        images: ``(B, C, H, W)``.
        targets: ``(B, K)``.
        context: Network, loss and masks of the batch.
        seed: Of the run.
    """
    notes: dict[str, Tensor] = {}
    for step in range(TRIES):
        generator = torch.Generator().manual_seed(derive(seed, "mix", step, 0))
        asked = Context(context.model, context.loss, context.masks, notes=notes)
        mixed, labels = mixer(images, targets, generator, asked)
        if not torch.equal(mixed, images):
            break
    saliency = None if mixer.saliency is None else mixer.saliency(images, targets, context)
    return Mixed(images, targets, mixed, labels, notes, saliency)


def tiles(batch: Mixed, normalize: Normalize, classes: Sequence[str]) -> Iterator[tuple[np.ndarray, str]]:
    """The pictures ``(H, W, C)`` uint8 of the rows with their texts, every row as many."""
    before, after = (list(normalize.invert(images).numpy()) for images in (batch.images, batch.mixed))
    partners = partners_of(batch)
    own = own_share(batch)
    for row in range(min(ROWS, len(before))):
        for number, one in enumerate([row, *partners[row]]):
            name = label_text(batch.targets[one].tolist(), classes)
            yield before[one], name if number == 0 else f"with + {name}"
            if batch.saliency is not None:
                yield heat(batch.saliency[one].numpy()), "saliency"
        if own is not None:
            yield heat(own[row].numpy(), top=1.0), f"own share {own[row].mean():.2f}"
        yield after[row], label_text(batch.labels[row].tolist(), classes)


def partners_of(batch: Mixed) -> list[list[int]]:
    """Indices of the partners of each sample that are shown, none where the mixer does not say."""
    partners = batch.notes.get("partners")
    if partners is None:
        return [[] for _ in batch.images]
    return partners.view(len(batch.images), -1)[:, :PARTNERS].tolist()


def own_share(batch: Mixed) -> Tensor | None:
    """Share of each pixel that is the image's own, ``(B, H, W)``, where the mixer says what came from where."""
    count, (height, width) = len(batch.images), batch.images.shape[-2:]
    if "own" in batch.notes:
        return batch.notes["own"].float().cpu()
    if "boxes" in batch.notes:
        return 1 - inside_boxes(batch.notes["boxes"], height, width).float().expand(count, -1, -1)
    return None


def heat(values: np.ndarray, top: float | None = None) -> np.ndarray:
    """A map ``(H, W)`` from 0 to ``top``, its largest value if that is not given, as colours ``(H, W, 3)``."""
    top = float(values.max()) if top is None else top
    grey = np.clip(values * (255 / max(top, 1e-30)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1])


def first_batch(cfg: DictConfig) -> tuple[Mixed, Normalize, Sequence[str]]:
    """Compose what the configuration names and mix the first training batch of the real images.

    Returns:
        The batch, the normalisation of its images, and the names of the classes.

    Raises:
        WrongValue: A value, or a combination of values, cannot be used.
    """
    from genaug.experiment import (
        Pieces,
        check_mixer,
        split,
        weighted_loss,
    )  # after the configuration is known to be right: it is heavy

    with input_checks():
        pieces = Pieces.build(cfg)
        splits = split(cfg, pieces.dataset)
        if pieces.method.view is not None:
            log.warning("the real images are shown, without what method=%s makes of them", pieces.method.name)
            pieces.method.view = None
        pieces.loss = weighted_loss(cfg, pieces, splits["train"])
        check_mixer(pieces, splits["train"])
    data = DataModule(
        pieces.dataset,
        splits,
        pieces.crop,
        pieces.transform,
        cfg.recipe.batch_size,
        cfg.seed,
        num_workers=0,
        masks=pieces.mixer.needs_masks,
    )
    batch = next(iter(data.train_dataloader()))
    normalize = Normalize(pieces.dataset.channels, cfg.recipe.normalize)
    context = Context(pieces.model.train(), pieces.loss, batch.get("mask"))
    with input_checks():  # a mixer that this network cannot serve says so now
        mixed = mix_once(pieces.mixer, normalize(batch["image"]), batch["target"], context, cfg.seed)
    return mixed, normalize, pieces.dataset.classes


def preview(overrides: Sequence[str], out: Path) -> None:
    """Write the picture of a configuration.

    Args:
        overrides: As on the command line of ``run.py``.
        out: The PNG file.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"paths.output={out.resolve().parent}", *overrides])  # there is no run that has one
    check_values(cfg)
    batch, normalize, classes = first_batch(cfg)
    pictures, texts = zip(*tiles(batch, normalize, classes), strict=True)
    save_sheet(pictures, texts, out, columns=len(pictures) // min(ROWS, len(batch.images)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; the exit status is 1 where the configuration is wrong."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    out = next((Path(word.removeprefix("out=")) for word in words if word.startswith("out=")), Path("preview.png"))
    hide_meant_warnings()
    try:
        preview([word for word in words if not word.startswith("out=")], out)
    except (HydraException, OmegaConfBaseException, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
