"""LayerDiffuse's changes of SDXL's weights, in the three layouts that are published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from genaug.generation.layerdiffuse.weights import WeightFile
from genaug.generation.transparency import Exchange, lora_exchange

#: ``layer_xl_transparent_attn.safetensors`` is in ComfyUI's layout: 0 is the up matrix of a LoRA, 1 the down matrix.
_COMFY = re.compile(
    r"diffusion_model\.(?P<part>input|middle|output)_blocks?\.(?P<number>\d+)(\.1)?"
    r"\.(?P<rest>transformer_blocks\..+\.weight)::lora::(?P<side>[01])"
)
_DOWN = (".lora_A.weight", ".lora.down.weight", "_lora.down.weight", ".lora_down.weight")


def lora(pipeline: Any, file: WeightFile) -> Exchange:
    """The denoiser's weights with a LoRA worked into them; its file is in ComfyUI's layout or any diffusers reads.

    Raises:
        FileNotFoundError: the file can neither be found nor fetched.
        ValueError: it does not fit the denoiser.
    """
    from safetensors import safe_open

    path = file.path()
    with safe_open(path, "pt") as opened:
        names = list(opened.keys())
    if any("::" in name for name in names):
        return _sums(pipeline.unet, comfy_deltas(file.tensors(), pipeline.unet.config.layers_per_block, file), file)
    exchange = lora_exchange(pipeline, path)
    # diffusers leaves out what it does not know with a warning.
    held = sum(name.endswith(_DOWN) for name in names)
    if not exchange.pairs or len(exchange.pairs) != held:
        raise ValueError(
            f"{file.argument}={file.place!r} holds a LoRA of {held} weights, and diffusers has changed "
            f"{len(exchange.pairs)} of the denoiser's: it is for another model, or in a layout that is not known. "
            "For SDXL there is rootonchair/diffuser_layerdiffuse:diffuser_layer_xl_transparent_attn.safetensors."
        )
    return exchange


def offset(pipeline: Any, file: WeightFile) -> Exchange:
    """The denoiser's weights plus those of the file.

    Raises:
        FileNotFoundError: the file can neither be found nor fetched.
        ValueError: it does not fit the denoiser.
    """
    return _sums(pipeline.unet, file.tensors(), file)


def comfy_deltas(tensors: Mapping[str, Tensor], layers: int, file: WeightFile) -> dict[str, Tensor]:
    """What is added to each weight of a denoiser, by diffusers' names, from a LoRA in ComfyUI's layout.

    Args:
        tensors: Of the file.
        layers: Of each block of the denoiser; its blocks are counted through in the file.
        file: For messages.

    Raises:
        ValueError: a name is not of that layout, or one of two matrices is missing.
    """
    found = {name: _COMFY.fullmatch(name) for name in tensors}
    unknown = [name for name, match in found.items() if match is None]
    if unknown:
        raise _unexpected(file, unknown)
    sides: dict[str, dict[str, Tensor]] = {}
    for name, match in found.items():
        assert match is not None
        block = _block(match["part"], int(match["number"]), layers)
        sides.setdefault(f"{block}.{match['rest']}", {})[match["side"]] = tensors[name].float()
    single = [name for name, pair in sides.items() if len(pair) < 2]
    if single:
        raise ValueError(f"{file.argument}={file.place!r}: one of the two matrices is missing for {single[0]}")
    return {name: pair["0"] @ pair["1"] for name, pair in sides.items()}


def _block(part: str, number: int, layers: int) -> str:
    """Where diffusers has a transformer that is counted through on the way down (from 1) or up (from 0)."""
    if part == "middle":
        return "mid_block.attentions.0"
    stage, layer = divmod(number - (part == "input"), layers + 1)
    return f"{'down' if part == 'input' else 'up'}_blocks.{stage}.attentions.{layer}"


def _sums(unet: nn.Module, deltas: Mapping[str, Tensor], file: WeightFile) -> Exchange:
    weights = {name: weight.detach() for name, weight in unet.named_parameters()}
    file.check(deltas, {name: tuple(weights[name].shape) for name in deltas if name in weights})
    return Exchange(
        unet,
        {
            name: (weights[name].cpu().float() + delta.float()).to(weights[name].dtype)
            for name, delta in deltas.items()
            if delta.any()
        },
    )


def _unexpected(file: WeightFile, names: Iterable[str]) -> ValueError:
    return ValueError(
        f"{file.argument}={file.place!r} has tensors that no LoRA of SDXL's attention in ComfyUI's layout has, among "
        f"them {next(iter(names))}. The same LoRA for diffusers is "
        "rootonchair/diffuser_layerdiffuse:diffuser_layer_xl_transparent_attn.safetensors."
    )
