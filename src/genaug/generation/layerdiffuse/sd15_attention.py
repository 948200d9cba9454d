"""LayerDiffuse's change of Stable Diffusion 1.5's attention (arXiv:2402.17113).

Each of the 32 attention modules gets a LoRA of its four matrices, and after it an attention over the frames that are
made together (object, background, blend). Of one frame the only key has the weight 1, whatever query and key are: what
is left are three linear layers on each pixel. The file's queries and keys are checked and not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from genaug.generation.layerdiffuse.weights import WeightFile
from genaug.generation.transparency import Exchange

#: Of the LoRA in the published file.
RANK = 256
MATRICES = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
LINEAR = ("temporal_i", "temporal_q", "temporal_k", "temporal_v", "temporal_o")
#: Those that count where there is one frame.
KEPT = ("temporal_n", "temporal_i", "temporal_v", "temporal_o")
EPSILON = 1e-6


class Sd15Attention(AbstractContextManager["Sd15Attention"]):
    """Inside a ``with`` the denoiser is changed; afterwards it has its own modules and weights, to the bit.

    Args:
        unet: Denoiser of Stable Diffusion 1.5.
        file: With tensors named ``hookers.layers.{0-31}.…``.
        device: Where the layers that are added go.

    Raises:
        FileNotFoundError: the file can neither be found nor fetched.
        ValueError: it does not fit the denoiser.
    """

    def __init__(self, unet: nn.Module, file: WeightFile, device: str) -> None:
        names = attention_names(unet)
        attentions: list[Any] = [unet.get_submodule(name) for name in names]
        tensors = file.tensors()
        rank = _rank(tensors)
        expected = {
            f"{_layer(number)}{name}": shape
            for number, attention in enumerate(attentions)
            for name, shape in layer_shapes(attention, rank).items()
        }
        file.check(tensors, expected)
        merged: dict[str, Tensor] = {}
        self._places: list[tuple[nn.Module, str, Any, FramedAttention]] = []
        for number, (name, attention) in enumerate(zip(names, attentions, strict=True)):
            layer = {key: tensors[f"{_layer(number)}{key}"].float() for key in layer_shapes(attention, rank)}
            for lora, matrix in MATRICES.items():
                weight = attention.get_submodule(matrix).weight.detach().cpu()
                delta = layer[f"{lora}.0.up.weight"] @ layer[f"{lora}.0.down.weight"]
                merged[f"{name}.{matrix}.weight"] = (weight.float() + delta).to(weight.dtype)
            parent, _, child = name.rpartition(".")
            framed = FramedAttention(attention, layer).to(device, attention.to_q.weight.dtype)
            self._places.append((unet.get_submodule(parent), child, attention, framed))
        self._exchange = Exchange(unet, merged)

    def __enter__(self) -> Sd15Attention:
        self._exchange.__enter__()
        for parent, child, _, framed in self._places:
            setattr(parent, child, framed)
        return self

    def __exit__(self, *exception: object) -> None:
        for parent, child, attention, _ in self._places:
            setattr(parent, child, attention)
        self._exchange.__exit__(*exception)


class FramedAttention(nn.Module):
    """An attention module, and attention over a single frame after it.

    It stands in the module's place, as a processor is lost when the pipeline sets others (attention slicing) and a
    denoiser that is compiled already takes no notice of a hook.

    Args:
        attention: The module of diffusers.
        layer: Its tensors in the file, without the beginning of their names.
    """

    def __init__(self, attention: nn.Module, layer: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.attention = attention
        width = layer["temporal_n.weight"].shape[0]
        with torch.device("meta"):  # no random numbers for weights that are replaced
            self.temporal_n = nn.LayerNorm(width, EPSILON)
            self.temporal_i = nn.Linear(width, width)
            self.temporal_v = nn.Linear(width, width)
            self.temporal_o = nn.Linear(width, width)
        for name in KEPT:
            kept = {key: layer[f"{name}.{key}"] for key in ("weight", "bias")}
            self.get_submodule(name).load_state_dict(kept, strict=True, assign=True)
        self.requires_grad_(False)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What is to be added to the hidden states ``(N, pixels, width)``."""
        answer = self.attention(hidden_states, *args, **kwargs)
        framed = self.temporal_i(self.temporal_n(hidden_states + answer))
        return answer + self.temporal_o(self.temporal_v(framed))


def attention_names(unet: nn.Module) -> list[str]:
    """Names of a denoiser's attention modules in the file's order: the way down, the way up, the middle."""
    from diffusers.models.attention_processor import Attention

    return [
        f"{part}.{name}"
        for part in ("down_blocks", "up_blocks", "mid_block")
        for name, module in unet.get_submodule(part).named_modules()
        if isinstance(module, Attention)
    ]


def layer_shapes(attention: Any, rank: int = RANK) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one attention module's tensors in the file, without the beginning of their names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for lora, matrix in MATRICES.items():
        outputs, inputs = attention.get_submodule(matrix).weight.shape
        shapes |= {f"{lora}.0.down.weight": (rank, inputs), f"{lora}.0.up.weight": (outputs, rank)}
    width = attention.to_k.weight.shape[0]
    shapes |= {"temporal_n.weight": (width,), "temporal_n.bias": (width,)}
    for name in LINEAR:
        shapes |= {f"{name}.weight": (width, width), f"{name}.bias": (width,)}
    return shapes


def _layer(number: int) -> str:
    return f"hookers.layers.{number}."


def _rank(tensors: Mapping[str, Tensor]) -> int:
    """Of the file's LoRA; that of the published one where the file is another."""
    first = tensors.get(f"{_layer(0)}to_q_lora.0.down.weight")
    return RANK if first is None else first.shape[0]
