"""SAM and SAM 2: the object in a box (Kirillov et al. 2023, arXiv:2304.02643; Ravi et al. 2024, arXiv:2408.00714)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

#: Boxes that masks are drawn for at once: their masks of full size lie in memory together.
BOXES_AT_ONCE = 16
#: Width of the image encoder to the name segment-anything has for it.
_TYPES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


class BoxSam(ABC):
    """Draws one mask over all boxes of an image.

    A box gives three masks; the one the model itself thinks best counts, as in AGA's published code.
    """

    @abstractmethod
    def __call__(self, images: Sequence[np.ndarray], corners: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Mask ``(H, W)`` bool of each RGB image ``(H, W, 3)`` uint8: the union of what its boxes hold.

        Args:
            images: May differ in size.
            corners: ``(n, 4)`` float32 for each image: left, top, right, bottom in pixels.
        """


class TransformersSam(BoxSam):
    """SAM or SAM 2 of transformers.

    Args:
        source: Id on the hub or local folder; its ``config.json`` says which of the two it is.
        device: Where it computes.

    Raises:
        OSError: there is no such model.
        ValueError: it is another kind of model.
    """

    def __init__(self, source: str | Path, device: str) -> None:
        from transformers import AutoConfig, Sam2Model, Sam2Processor, SamModel, SamProcessor

        kind = AutoConfig.from_pretrained(source).model_type
        # SAM 2 is published as a model for video; the part for images is loaded from the same files.
        kinds: dict[str, tuple[Any, Any]] = {
            "sam": (SamModel, SamProcessor),
            "sam2": (Sam2Model, Sam2Processor),
            "sam2_video": (Sam2Model, Sam2Processor),
        }
        if kind not in kinds:
            raise ValueError(f"segmenter.sam={source} is a {kind} model; one of {', '.join(kinds)} is needed.")
        model, processor = kinds[kind]
        self.device = device
        self.model = model.from_pretrained(source).to(device).eval()
        self.processor = processor.from_pretrained(source)

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], corners: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See :meth:`BoxSam.__call__`; the images are encoded together, then each one's boxes."""
        inputs = self.processor(
            images=list(images), return_tensors="pt", input_data_format="channels_last", device=self.device
        )
        encoded = self.model.get_image_embeddings(inputs["pixel_values"].to(self.device))
        masks = []
        for i, image in enumerate(images):
            # SAM scales the long side and pads; SAM 2 squashes to a square.
            sizes = {"original_sizes": [image.shape[:2]]}
            if "reshaped_input_sizes" in inputs:
                sizes["reshaped_input_sizes"] = [tuple(int(side) for side in inputs["reshaped_input_sizes"][i])]
                height, width = sizes["reshaped_input_sizes"][0]
            else:
                height, width = inputs["pixel_values"].shape[-2:]
            scale = np.array([width / image.shape[1], height / image.shape[0]] * 2, np.float32)
            one = [level[i : i + 1] for level in encoded] if isinstance(encoded, list) else encoded[i : i + 1]
            masks.append(self._union(one, torch.from_numpy(corners[i] * scale), sizes))
        return masks

    def _union(self, encoded: Any, boxes: torch.Tensor, sizes: dict[str, list[tuple[int, ...]]]) -> np.ndarray:
        """Mask over all ``boxes`` ``(n, 4)``, in pixels of the network's input, of one encoded image."""
        mask = np.zeros(sizes["original_sizes"][0], bool)
        for some in boxes.split(BOXES_AT_ONCE):
            drawn = self.model(image_embeddings=encoded, input_boxes=some[None].to(self.device), multimask_output=True)
            best = drawn.iou_scores[0].argmax(dim=-1)
            small = drawn.pred_masks[0, torch.arange(len(some)), best]
            (full,) = self.processor.post_process_masks([small[None]], **sizes)
            mask |= full[0].any(dim=0).cpu().numpy()
        return mask


def load_checkpoint(path: Path) -> Sam:
    """A model of the segment-anything package from one of its checkpoint files; which size it has shows in its weights.

    Raises:
        ValueError: the file is no checkpoint of segment-anything.
    """
    from segment_anything import sam_model_registry

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kind = _TYPES[state["image_encoder.pos_embed"].shape[-1]]
    except Exception as error:  # what a damaged or foreign file raises is not agreed on
        raise ValueError(
            f"segmenter.sam={path} is not a checkpoint of segment-anything ({type(error).__name__}: {error}). "
            "Such a file is sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth from "
            "https://dl.fbaipublicfiles.com/segment_anything/; a model of transformers is given as its folder."
        ) from error
    model = sam_model_registry[kind]()
    model.load_state_dict(state)
    return model


class SegmentAnything(BoxSam):
    """SAM of the segment-anything package, as AGA's published code uses it.

    Args:
        model: See :func:`load_checkpoint`.
        device: Where it computes.
    """

    def __init__(self, model: Sam, device: str) -> None:
        from segment_anything.utils.transforms import ResizeLongestSide

        self.device = device
        self.model = model.to(device).eval()
        self.transform = ResizeLongestSide(model.image_encoder.img_size)

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], corners: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See :meth:`BoxSam.__call__`."""
        inputs = [torch.from_numpy(self.transform.apply_image(image)).permute(2, 0, 1) for image in images]
        encoded = self.model.image_encoder(torch.stack([self.model.preprocess(one.to(self.device)) for one in inputs]))
        masks = []
        for i, image in enumerate(images):
            shape = (image.shape[0], image.shape[1])
            boxes = torch.from_numpy(self.transform.apply_boxes(corners[i], shape)).float()
            sizes = (inputs[i].shape[1], inputs[i].shape[2]), shape
            masks.append(self._union(encoded[i : i + 1], boxes, *sizes))
        return masks

    def _union(
        self, encoded: torch.Tensor, boxes: torch.Tensor, input_size: tuple[int, int], shape: tuple[int, int]
    ) -> np.ndarray:
        """Mask over all ``boxes`` ``(n, 4)``, in pixels of the network's input, of one encoded image."""
        mask = np.zeros(shape, bool)
        for some in boxes.split(BOXES_AT_ONCE):
            sparse, dense = self.model.prompt_encoder(points=None, boxes=some.to(self.device), masks=None)
            small, quality = self.model.mask_decoder(
                image_embeddings=encoded,
                image_pe=self.model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            best = small[torch.arange(len(some)), quality.argmax(dim=-1)]
            full = self.model.postprocess_masks(best[None], input_size, shape)[0] > self.model.mask_threshold
            mask |= full.any(dim=0).cpu().numpy()
        return mask
