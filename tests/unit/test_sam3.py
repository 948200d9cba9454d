from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genaug.data.base import Sample
from genaug.segmentation.base import Words
from genaug.segmentation.grabcut import GrabCut
from genaug.segmentation.sam3 import SAM3, taken

SAMPLE = Sample("a/1.png", Path("1.png"), 0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a random SAM 3 that is as small as its code lets it be; its tokenizer knows single letters."""
    from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    layers = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 56,
        "pretrain_image_size": 56,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [0],
    }
    text = {
        "model_type": "clip_text_model",
        "vocab_size": len(pieces),
        "hidden_size": 16,
        "intermediate_size": 16,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": len(pieces) - 2,
        "eos_token_id": len(pieces) - 1,
    }
    config = Sam3Config(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 32, "scale_factors": [2.0, 1.0]},
        text_config=text,
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 5},
        mask_decoder_config={"hidden_size": 32, "num_upsampling_stages": 1, "num_attention_heads": 2},
    )
    folder = tmp_path_factory.mktemp("models") / "sam3"
    torch.manual_seed(0)
    network = Sam3Model(config)
    with torch.no_grad():  # weights as small as at the start give every picture the same answer
        for weights in network.parameters():
            weights.mul_(3)
    network.save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])
    Sam3Processor(Sam3ImageProcessor(size={"height": 56, "width": 56}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((40, 60), (70, 50), (40, 60))]


def instances(folder, image, word):
    """Masks ``(n, H, W)`` and scores of all queries, from the network's raw output."""
    from transformers import Sam3Model, Sam3Processor

    processor, network = Sam3Processor.from_pretrained(folder), Sam3Model.from_pretrained(folder).eval()
    inputs = processor(images=image, text=word, return_tensors="pt")
    inputs.pop("original_sizes")
    with torch.inference_mode():
        outputs = network(**inputs)
        scores = outputs.pred_logits[0].sigmoid() * outputs.presence_logits[0].sigmoid()
        masks = torch.nn.functional.interpolate(outputs.pred_masks.sigmoid(), image.shape[:2], mode="bilinear")[0]
    return masks.numpy() > 0.5, scores.numpy()


@pytest.mark.parametrize("objects", ["union", "best"])
def test_masks_of_a_batch_are_what_the_network_says_of_each_image_alone(model, pictures, objects):
    words = ["bird", "gull", "object"]
    alone = [instances(model, image, word) for image, word in zip(pictures, words, strict=True)]
    threshold = float(np.median(np.concatenate([scores for _, scores in alone])))
    segmenter = SAM3(model, threshold=threshold, lower_threshold=threshold, objects=objects)
    found = segmenter._find(pictures, words, threshold)
    assert any(one is not None for one in found)
    for one, (masks, scores) in zip(found, alone, strict=True):
        kept = masks[scores > threshold]
        if not len(kept):
            assert one is None
            continue
        expected = kept.any(axis=0) if objects == "union" else masks[scores.argmax()]
        assert (one[0] != expected).mean() < 0.002
        assert one[1] == pytest.approx(scores.max(), abs=1e-5)


def test_it_climbs_the_ladder_and_gives_its_memory_back(model, pictures):
    best = [instances(model, image, "bird")[1].max() for image in pictures]
    between = float(np.sort(best)[:2].mean())  # one image falls below
    segmenter = SAM3(model, threshold=between, lower_threshold=between / 2, retry=["lower_threshold"])
    found = segmenter.segment_batch(pictures, [SAMPLE] * 3, [Words("bird", "gull")] * 3)
    expected = ["superclass" if score > between else "superclass, lower threshold" for score in best]
    assert [one.note for one in found] == expected
    assert len(set(expected)) == 2
    alone = segmenter.segment(pictures[0], SAMPLE, "bird")
    assert alone.score == pytest.approx(found[0].score, abs=1e-5)
    assert not segmenter.reads_class
    segmenter.unload()
    assert segmenter._network is None


def test_union_best_and_nothing():
    masks = np.array([[[1, 1, 0]], [[0, 0, 1]], [[0, 0, 0]]], bool)
    scores = np.array([0.25, 0.5, 0.375])
    union, score = taken(masks, scores, "union")
    assert (union.tolist(), score) == ([[True, True, True]], 0.5)
    best, score = taken(masks, scores, "best")
    assert (best.tolist(), score) == ([[False, False, True]], 0.5)
    assert taken(masks[2:], scores[2:], "union") is None
    assert taken(masks[:0], scores[:0], "best") is None


def test_wrong_arguments_and_missing_models(tmp_path):
    for arguments, message in (
        ({"objects": "first"}, "'first'"),
        ({"batch_size": 0}, "batch_size"),
        ({"threshold": 0.2}, "lower_threshold"),
        ({"retry": ["again"]}, "again"),
    ):
        with pytest.raises(ValueError, match=message):
            SAM3(**arguments)
    with pytest.raises(FileNotFoundError, match=r"no model at .*facebook/sam3.*segmenter\.model=.*licence"):
        SAM3(f"{tmp_path}/none")


def test_the_fingerprint_follows_weights_and_settings_but_not_speed(model, tmp_path):
    import shutil

    shutil.copytree(model, tmp_path / "moved")
    assert SAM3(model, batch_size=9).fingerprint == SAM3(tmp_path / "moved").fingerprint
    (tmp_path / "moved" / "config.json").write_text("{}")
    changed = [SAM3(tmp_path / "moved"), SAM3(), SAM3(model, threshold=0.6), SAM3(model, fallback=GrabCut())]
    assert len({SAM3(model).fingerprint, *(one.fingerprint for one in changed)}) == 5
