from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genaug.data.base import Sample
from genaug.segmentation.base import Segmentation, Segmenter, Words
from genaug.segmentation.boxes import GroundingDino, tidy_boxes
from genaug.segmentation.grabcut import GrabCut
from genaug.segmentation.grounded_sam import GroundedSAM
from genaug.segmentation.ladder import Ladder
from genaug.segmentation.masks import make_masks
from genaug.segmentation.sam import SegmentAnything, TransformersSam, load_checkpoint

SAMPLE = Sample("a/1.png", Path("1.png"), 0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the ladder ----------------------------------------------------------------------------------------------------

STEPS = ("class_name", "lower_threshold", "object")


class Scripted:
    """Finds a pixel of what it knows: (word, threshold) pairs by the red value of the image's first pixel."""

    def __init__(self, **known):
        self.known, self.asked = known, []

    def __call__(self, images, words, threshold):
        names = [chr(image[0, 0, 0]) for image in images]
        self.asked.append([(name, word, threshold) for name, word in zip(names, words, strict=True)])
        return [
            (mask_of(image), 0.75) if (word, threshold) in self.known.get(name, ()) else None
            for name, image, word in zip(names, images, words, strict=True)
        ]


def named_image(name, shape=(4, 5)):
    image = np.zeros((*shape, 3), np.uint8)
    image[0, 0, 0] = ord(name)
    return image


def mask_of(image):
    return image[..., 0] > 0


class Corner(Segmenter):
    """The last pixel, whatever is asked."""

    @property
    def settings(self):
        return {}

    def segment(self, image, sample, prompt):
        mask = np.zeros(image.shape[:2], bool)
        mask[-1, -1] = True
        return Segmentation(mask, 0.125, f"corner of a {prompt}")


def climb(ladder, find, names, class_names):
    images = [named_image(name) for name in names]
    words = [Words("bird", name) for name in class_names]
    return ladder.climb(images, [SAMPLE] * len(images), words, find)


def test_each_step_asks_only_for_what_is_still_missing():
    find = Scripted(
        a=[("bird", 0.4)], b=[("Black gull", 0.4)], c=[("bird", 0.2)], d=[("object", 0.4)], e=[("bird", 0.3)]
    )
    classes = ["Red tern", "002.Black_gull", "Red tern", "Red tern", "Red tern"]
    found = climb(Ladder(0.4, 0.2, STEPS, None), find, "abcde", classes)
    assert find.asked == [
        [(name, "bird", 0.4) for name in "abcde"],
        [("b", "Black gull", 0.4), *((name, "Red tern", 0.4) for name in "cde")],
        [(name, "bird", 0.2) for name in "cde"],
        [(name, "object", 0.4) for name in "de"],
    ]
    assert [one.note for one in found] == [
        "superclass",
        "class name",
        "superclass, lower threshold",
        "object",
        "nothing found",
    ]
    assert [one.score for one in found] == [0.75] * 4 + [0.0]
    assert [int(one.mask.sum()) for one in found] == [1, 1, 1, 1, 0]
    assert found[4].mask.shape == (4, 5)


def test_the_fallback_gets_what_no_step_found():
    found = climb(Ladder(0.4, 0.2, (), Corner()), find := Scripted(a=[("bird", 0.4)]), "ab", ["", ""])
    assert [one.note for one in found] == ["superclass", "fallback: corner, corner of a bird"]
    assert np.argwhere(found[1].mask).tolist() == [[3, 4]]
    assert found[1].score == 0.125
    assert len(find.asked) == 1


@pytest.mark.parametrize(
    ("words", "retry", "expected"),
    [
        (Words("bird", "tern"), STEPS, [("bird", 0.4), ("tern", 0.4), ("bird", 0.2), ("object", 0.4)]),
        (Words("bird"), STEPS, [("bird", 0.4), ("bird", 0.2), ("object", 0.4)]),
        (Words("bird", "Bird"), STEPS, [("bird", 0.4), ("bird", 0.2), ("object", 0.4)]),
        (Words("object", "tern"), STEPS, [("object", 0.4), ("tern", 0.4), ("object", 0.2)]),
        (Words("bird", "tern"), ("object", "class_name"), [("bird", 0.4), ("object", 0.4), ("tern", 0.4)]),
        (Words("bird", "tern"), (), [("bird", 0.4)]),
    ],
)
def test_questions_are_not_asked_twice(words, retry, expected):
    assert list(Ladder(0.4, 0.2, retry, None).questions(words).values()) == expected


def test_the_ladder_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="retry=.*'superclass'.* must be some of class_name"):
        Ladder(0.4, 0.2, ["superclass"], None)
    with pytest.raises(ValueError, match="each once"):
        Ladder(0.4, 0.2, ["object", "object"], None)
    for high, low in ((0.2, 0.4), (0.4, 0), (1, 0.4)):
        with pytest.raises(ValueError, match="lower_threshold <= threshold"):
            Ladder(high, low, (), None)


# --- boxes ---------------------------------------------------------------------------------------------------------


def test_of_overlapping_boxes_the_best_is_left():
    # The first two overlap by 80 of 120 pixels: 2/3. The last is all outside.
    corners = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [0, 12, 4, 16], [40, 0, 50, 10]], np.float32)
    scores = np.array([0.5, 0.6, 0.9, 0.95], np.float32)
    kept = tidy_boxes(corners, scores, (20, 30), nms=0.6)
    assert kept.corners.tolist() == [[0, 12, 4, 16], [2, 0, 12, 10]]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.6])
    assert len(tidy_boxes(corners, scores, (20, 30), nms=0.7).scores) == 3
    assert tidy_boxes(corners[:0], scores[:0], (20, 30), nms=0.7).corners.shape == (0, 4)


def test_boxes_are_cut_to_the_image():
    kept = tidy_boxes(np.array([[-3.5, 2, 99, 99]]), np.array([0.5]), (20, 30), nms=0.6)
    assert kept.corners.tolist() == [[0, 2, 30, 20]]


class Detector:
    """The boxes it was given; notes how it was asked."""

    def __init__(self, *boxes):
        self.boxes, self.asked = boxes, []

    def __call__(self, images, texts, threshold, text_threshold, nms):
        self.asked.append((list(texts), threshold, text_threshold))
        corners, scores = (
            np.array([box for _, box in self.boxes]).reshape(-1, 4),
            np.array([score for score, _ in self.boxes]),
        )
        keep = scores > threshold
        return [tidy_boxes(corners[keep], scores[keep], image.shape[:2], nms) for image in images]


def filled_boxes(images, corners):
    """Every pixel in some box."""
    masks = [np.zeros(image.shape[:2], bool) for image in images]
    for mask, boxes in zip(masks, corners, strict=True):
        for left, top, right, bottom in boxes.astype(int):
            mask[top:bottom, left:right] = True
    return masks


def with_models(detector, **arguments):
    segmenter = GroundedSAM(**arguments)
    segmenter._models = detector, filled_boxes
    return segmenter


TWO = (0.5, (0, 0, 2, 2)), (0.7, (4, 1, 7, 3))


@pytest.mark.parametrize(("objects", "pixels"), [("union", 4 + 6), ("best", 6)])
def test_union_or_best(objects, pixels):
    segmenter = with_models(Detector(*TWO), objects=objects)
    found = segmenter.segment(np.zeros((5, 8, 3), np.uint8), SAMPLE, "bird")
    assert found.mask[1:3, 4:7].all()
    assert found.mask.sum() == pixels
    assert found.score == pytest.approx(0.7)
    assert found.note == "superclass"


def test_prompts_and_thresholds_as_the_detector_gets_them():
    detector = Detector()
    segmenter = with_models(
        detector, prompt="all {}s", box_threshold=0.4, text_threshold=0.3, lower_threshold=0.2, retry=STEPS
    )
    words = [Words("bird", "Sabre_wing"), Words("bird", "St. Bernard")]
    found = segmenter.segment_batch([np.zeros((5, 8, 3), np.uint8)] * 2, [SAMPLE] * 2, words)
    assert [one.note for one in found] == ["nothing found"] * 2
    assert detector.asked == [
        (["all birds."] * 2, 0.4, 0.3),
        (["all sabre wings.", "all st bernards."], 0.4, 0.3),
        (["all birds."] * 2, 0.2, pytest.approx(0.15)),
        (["all objects."] * 2, 0.4, 0.3),
    ]
    assert GroundedSAM()._text("Bird.") == "bird."


def test_a_faint_box_is_found_at_the_lower_threshold():
    found = with_models(Detector((0.3, (0, 0, 2, 2)))).segment(np.zeros((5, 8, 3), np.uint8), SAMPLE, "bird")
    assert (found.note, found.mask.sum()) == ("superclass, lower threshold", 4)


def test_an_empty_mask_is_nothing_found():
    segmenter = with_models(Detector(TWO[0]), fallback=GrabCut(), retry=[])
    segmenter._models = segmenter._models[0], lambda images, corners: [np.zeros(images[0].shape[:2], bool)]
    found = segmenter.segment(np.zeros((16, 16, 3), np.uint8), SAMPLE, "bird")
    assert found.note == "fallback: grabcut, fallback"


# --- tiny models, saved and loaded as real ones ----------------------------------------------------------------------


def make_detector(folder):
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "bird", "gull", "object", "##s", "a"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    config = GroundingDinoConfig(
        **dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_n_points", "decoder_n_points"), 2),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 8),
        d_model=32,
        num_queries=6,
        max_text_len=16,
        backbone_config=SwinConfig(
            window_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, image_size=64, out_indices=[2, 3, 4]
        ),
        text_config={
            "model_type": "bert",
            "vocab_size": len(words),
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "max_position_embeddings": 16,
        },
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


DECODER = {
    "hidden_size": 16,
    "mlp_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
    "iou_head_depth": 2,
}


def make_sam(folder):
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config=DECODER,
    )
    SamModel(config).save_pretrained(folder)
    images = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(images).save_pretrained(folder)


def make_sam2(folder):
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 1, 1],
                "window_size_per_stage": [4, 4, 4, 2],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config=DECODER,
    )
    Sam2Model(config).save_pretrained(folder)
    Sam2Processor(Sam2ImageProcessor(size={"height": 64, "width": 64})).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with random models that are as small as their code lets them be."""
    folder = tmp_path_factory.mktemp("models")
    for name, make in {"dino": make_detector, "sam": make_sam, "sam2": make_sam2}.items():
        torch.manual_seed(0)
        make(folder / name)
    return folder


@pytest.fixture(scope="module")
def pictures():
    """Three noisy pictures, the first and the last of one size."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((40, 60), (70, 50), (40, 60))]


CORNERS = [
    np.array([[5, 5, 30, 30], [20, 10, 50, 35]], np.float32),
    np.array([[1.5, 20, 45, 66]], np.float32),
    np.linspace([2, 2, 20, 20], [30, 15, 58, 38], 20).astype(np.float32),  # more than are drawn at once
]


@torch.inference_mode()
def test_boxes_of_a_batch_are_those_of_each_image_alone(models, pictures):
    detector = GroundingDino(models / "dino", "cpu")
    texts = ["birds.", "a gull.", "birds. a gull."]
    found = detector(pictures, texts, threshold=0.3, text_threshold=0.0, nms=1.0)
    for image, text, boxes in zip(pictures, texts, found, strict=True):
        inputs = detector.processor(images=image, text=text, return_tensors="pt")
        outputs = detector.model(**inputs)
        scores = outputs.logits[0].sigmoid().amax(dim=-1).numpy()
        x, y, width, height = (outputs.pred_boxes[0] * torch.tensor([image.shape[1], image.shape[0]] * 2)).T.numpy()
        corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        order = [index for index in np.argsort(-scores) if scores[index] > 0.3]
        assert order
        np.testing.assert_allclose(boxes.scores, scores[order], atol=1e-5)
        limit = np.array([image.shape[1], image.shape[0]] * 2)
        np.testing.assert_allclose(boxes.corners, corners[order].clip(0, limit), atol=1e-3)
    assert detector(pictures, texts, 0.3, text_threshold=0.9999999, nms=1.0)[0].scores.size == 0


@pytest.mark.parametrize("name", ["sam", "sam2"])
@torch.inference_mode()
def test_masks_of_a_batch_are_what_the_processor_makes_of_each_box_alone(models, pictures, name):
    sam = TransformersSam(models / name, "cpu")
    masks = sam(pictures, CORNERS)
    assert 0.02 < np.mean([mask.mean() for mask in masks]) < 0.98
    for image, corners, mask in zip(pictures, CORNERS, masks, strict=True):
        expected = np.zeros(image.shape[:2], bool)
        for box in corners.tolist():
            inputs = sam.processor(images=image, input_boxes=[[box]], return_tensors="pt")
            sizes = [inputs.pop("original_sizes")]
            if name == "sam":
                sizes.append(inputs.pop("reshaped_input_sizes"))
            outputs = sam.model(**inputs, multimask_output=True)
            (full,) = sam.processor.post_process_masks(outputs.pred_masks, *sizes)
            expected |= full[0, outputs.iou_scores[0, 0].argmax()].numpy()
        assert (mask != expected).mean() < 0.002  # rounding: a pixel or two where the network is undecided


def test_it_runs_from_words_to_masks_and_in_batches_as_one_by_one(models, pictures):
    from PIL import Image

    arguments = {"detector": models / "dino", "text_threshold": 0.0, "box_threshold": 0.3, "nms": 0.9}
    segmenter = GroundedSAM(sam=models / "sam", batch_size=3, **arguments)
    words = [Words("bird", "gull")] * 3
    together = segmenter.segment_batch(pictures, [SAMPLE] * 3, words)
    for image, one in zip(pictures, together, strict=True):
        alone = segmenter.segment(image, SAMPLE, "bird")
        assert one.note == alone.note == "superclass"
        assert one.score == pytest.approx(alone.score, abs=1e-5)
        assert one.score > 0.3
        assert (one.mask != alone.mask).mean() < 0.002
    folder = models / "pictures"
    folder.mkdir()
    samples = [Sample(f"{i}.png", folder / f"{i}.png", 0) for i in range(3)]
    for sample, image in zip(samples, pictures, strict=True):
        Image.fromarray(image).save(sample.path)
    gulls = SimpleNamespace(superclass="bird", superclasses=("bird",), classes=("gull",))
    masks = make_masks(samples, segmenter, gulls, folder, workers=2, device="cpu")
    for sample, one in zip(samples, together, strict=True):
        assert (masks[sample.id] != one.mask).mean() < 0.002
    assert masks.report()["notes"] == {"superclass": 3}
    assert segmenter._models is None  # the memory is given back


# --- the segment-anything package ------------------------------------------------------------------------------------


def tiny_sam():
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=8, embed_dim=16, depth=1, num_heads=2, out_chans=16, use_rel_pos=True
    )
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=4)
    decoder = MaskDecoder(
        transformer_dim=16,
        transformer=TwoWayTransformer(depth=1, embedding_dim=16, num_heads=2, mlp_dim=16),
        iou_head_depth=2,
        iou_head_hidden_dim=16,
    )
    return Sam(encoder, prompts, decoder)


def test_masks_are_those_of_the_package_itself(pictures):
    from segment_anything import SamPredictor

    model = tiny_sam()
    masks = SegmentAnything(model, "cpu")(pictures, CORNERS)
    assert 0.02 < np.mean([mask.mean() for mask in masks]) < 0.98
    predictor = SamPredictor(model)
    for image, corners, mask in zip(pictures, CORNERS, masks, strict=True):
        predictor.set_image(image)
        expected = np.zeros(image.shape[:2], bool)
        for box in corners:
            three, quality, _ = predictor.predict(box=box, multimask_output=True)
            expected |= three[quality.argmax()]
        assert (mask != expected).mean() < 0.002


@pytest.mark.slow
def test_a_checkpoint_is_loaded_by_the_size_of_its_weights(tmp_path):
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    model = sam_model_registry["vit_b"]()
    path = tmp_path / "sam_vit_b.pth"
    torch.save(model.state_dict(), path)
    loaded = load_checkpoint(path).state_dict()
    path.unlink()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("content", [b"no weights", None])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "sam.pth"
    if content is None:
        torch.save({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 16)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)sam\.pth is not a checkpoint of segment-anything.*sam_vit_h_4b8939"):
        load_checkpoint(path)


# --- arguments and errors ------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused():
    for arguments, message in (
        ({"prompt": "bird"}, "must have {}"),
        ({"text_threshold": 1.0}, "text_threshold=1"),
        ({"nms": 0}, "nms=0"),
        ({"objects": "first"}, "'first'"),
        ({"batch_size": 0}, "batch_size"),
        ({"box_threshold": 0.1}, "lower_threshold"),
    ):
        with pytest.raises(ValueError, match=message):
            GroundedSAM(**arguments)


def test_missing_models_say_what_to_download_and_which_key_to_set(tmp_path, models):
    with pytest.raises(FileNotFoundError, match=r"no/folder\. .*grounding-dino-tiny.*segmenter\.detector="):
        GroundedSAM(detector=f"{tmp_path}/no/folder")
    with pytest.raises(FileNotFoundError, match=r"(?s)sam\.pth.*segmenter\.sam=.*sam_vit_h_4b8939"):
        GroundedSAM(sam=tmp_path / "sam.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty is a folder without a config\.json.*segmenter\.detector="):
        GroundedSAM(detector=tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "grounding-dino"}')
    with pytest.raises(FileNotFoundError, match=r"(?s)empty\. segmenter=grounded_sam.*segmenter\.detector=.*loader"):
        GroundedSAM(detector=tmp_path / "empty").load("cpu")
    with pytest.raises(ValueError, match=r"(?s)dino is a grounding-dino model; one of sam, sam2"):
        GroundedSAM(detector=models / "dino", sam=models / "dino").load("cpu")


def test_the_fingerprint_follows_contents_and_settings_but_not_places_and_speed(models, tmp_path):
    import shutil

    def fingerprint(detector="dino", sam="sam", **arguments):
        return GroundedSAM(detector=models / detector, sam=models / sam, **arguments).fingerprint

    shutil.copytree(models / "sam", tmp_path / "moved")
    moved = GroundedSAM(detector=models / "dino", sam=tmp_path / "moved")
    assert fingerprint(batch_size=9) == fingerprint() == moved.fingerprint
    changed = [
        fingerprint(sam="sam2"),
        fingerprint(prompt="all {}s"),
        fingerprint(objects="best"),
        fingerprint(nms=0.5),
        fingerprint(retry=[]),
        fingerprint(fallback=GrabCut()),
        fingerprint(fallback=GrabCut(margin=0.1)),
        GroundedSAM().fingerprint,
        GroundedSAM(detector="IDEA-Research/grounding-dino-base").fingerprint,
    ]
    assert len({fingerprint(), *changed}) == len(changed) + 1
    assert fingerprint(retry=[], lower_threshold=0.1) == fingerprint(retry=[])  # nothing asks for it
