from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from genaug.data.base import Sample
from genaug.data.reading import read_image, read_mask
from genaug.functional.masks import iou, mask_box
from genaug.segmentation.annotated import Annotated
from genaug.segmentation.grabcut import GrabCut, box_ellipse, centred_box
from genaug.segmentation.grounded_sam import GroundedSAM
from genaug.segmentation.masks import make_masks
from genaug.segmentation.sam3 import SAM3
from genaug.segmentation.u2net import U2Net, network_input

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
WEIGHTS = DATA / "models" / "u2netp.onnx"
needs_photos = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no photographs and weights in {DATA}")


def sample(**fields):
    return Sample("a/1.png", Path("1.png"), 0, **fields)


@pytest.fixture(autouse=True)
def one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def planted():
    """A red ellipse on textured green, and its mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :260]
    mask = ((x - 140) / 60) ** 2 + ((y - 90) / 40) ** 2 <= 1
    image = rng.normal((40, 150, 50), 25, (200, 260, 3))
    image[mask] = rng.normal((190, 40, 40), 25, (mask.sum(), 3))
    return image.clip(0, 255).astype(np.uint8), mask


# --- annotated -----------------------------------------------------------------------------------------------------


def test_annotated_reads_the_mask(tmp_path):
    mask = np.eye(5, 7, dtype=bool)
    Image.fromarray(mask.astype(np.uint8) * 3).save(tmp_path / "m.png")
    found = Annotated().segment(np.zeros((5, 7, 3), np.uint8), sample(mask=tmp_path / "m.png"), "bird")
    assert (found.mask == mask).all()
    assert (found.score, found.note) == (None, "annotated")


def test_annotated_refuses_a_missing_mask_and_one_of_another_size(tmp_path):
    image = np.zeros((5, 7, 3), np.uint8)
    with pytest.raises(ValueError, match=r"a/1\.png has no .*segmenter=u2net"):
        Annotated().segment(image, sample(), "bird")
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="5x7 pixels, its image 7x5"):
        Annotated().segment(image, sample(mask=tmp_path / "m.png"), "bird")


# --- grabcut -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "note"), [((75.0, 45.0, 130.0, 90.0), "box"), (None, "centre"), ((0, 0, 260, 200), "centre")]
)
def test_grabcut_finds_the_planted_ellipse(planted, box, note):
    image, mask = planted
    found = GrabCut().segment(image, sample(box=box), "bird")
    assert found.note == note
    assert iou(found.mask, mask) > 0.95


def test_grabcut_finds_it_when_the_image_is_scaled_down(planted):
    image, mask = planted
    found = GrabCut(max_side=130).segment(image, sample(), "bird")
    assert found.mask.shape == (200, 260)
    assert iou(found.mask, mask) > 0.9


@pytest.fixture
def faint():
    """A faint object in noise, and a box around it: GrabCut's mask depends on where its clusters start."""
    rng = np.random.default_rng(1)
    image = rng.normal((90, 130, 70), 40, (60, 80, 3))
    image[20:40, 25:50] = rng.normal((130, 100, 80), 40, (20, 25, 3))
    return cv2.GaussianBlur(image.clip(0, 255).astype(np.uint8), (0, 0), 2), sample(box=(10.0, 10.0, 50.0, 40.0))


def test_grabcut_does_not_depend_on_what_was_drawn_before_or_on_the_thread(faint):
    first = GrabCut().segment(*faint, "bird").mask

    def after(seed):
        cv2.setRNGSeed(seed)
        return GrabCut().segment(*faint, "bird").mask

    with ThreadPoolExecutor(3) as pool:
        assert all((mask == first).all() for mask in pool.map(after, range(6)))


def test_the_faint_object_would_show_a_generator_that_is_not_seeded(faint, monkeypatch):
    seed_by = cv2.setRNGSeed
    found = []
    for seed in range(6):
        monkeypatch.setattr(cv2, "setRNGSeed", lambda _, seed=seed: seed_by(seed))
        found.append(GrabCut().segment(*faint, "bird"))
    assert {one.note for one in found} == {"box"}
    assert len({one.mask.tobytes() for one in found}) > 1


@pytest.mark.parametrize("box", [(3.0, 4.0, 1.0, 1.0), (3.2, 4.1, 0.3, 0.2), (19.0, 29.0, 5.0, 5.0)])
def test_grabcut_falls_back_to_an_ellipse_in_a_tiny_box(box):
    found = GrabCut().segment(np.zeros((30, 20, 3), np.uint8), sample(box=box), "bird")
    assert found.note == "fallback"
    assert mask_box(found.mask) == (int(box[0]), int(box[1]), 1, 1)


def test_grabcut_falls_back_on_an_image_of_one_colour():
    found = GrabCut(margin=0.25).segment(np.full((40, 80, 3), 90, np.uint8), sample(), "bird")
    assert found.note == "fallback"
    assert mask_box(found.mask) == (20, 10, 40, 20)
    assert found.mask.sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)


def test_an_ellipse_touches_the_sides_of_its_box():
    ellipse = box_ellipse((100, 120), (10, 20, 80, 40))
    assert mask_box(ellipse) == (10, 20, 80, 40)
    assert ellipse.sum() == pytest.approx(np.pi * 40 * 20, rel=0.01)
    assert (ellipse == np.zeros_like(ellipse) | np.pad(ellipse[20:60, 10:90][::-1], ((20, 40), (10, 30)))).all()
    assert centred_box((100, 200), 0.05) == pytest.approx((10, 5, 180, 90))


def test_grabcut_refuses_a_box_outside_the_image_and_wrong_arguments():
    with pytest.raises(ValueError, match=r"a/1\.png lies outside its 20x30 image"):
        GrabCut().segment(np.zeros((30, 20, 3), np.uint8), sample(box=(25.0, 1.0, 4.0, 4.0)), "bird")
    for arguments in ({"iterations": 0}, {"max_side": 4}, {"margin": 0.5}, {"margin": 0}):
        with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
            GrabCut(**arguments)


# --- u2net ---------------------------------------------------------------------------------------------------------


def test_network_input_is_divided_by_the_maximum_and_normalised():
    image = np.full((500, 200, 3), (25, 50, 100), np.uint8)
    pixels = network_input(image)
    assert pixels.shape == (1, 3, 320, 320)
    red, green, blue = (0.25 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225
    np.testing.assert_allclose(pixels.transpose(0, 2, 3, 1), np.full((1, 320, 320, 3), (red, green, blue)), rtol=1e-5)
    assert np.isfinite(network_input(np.zeros((10, 10, 3), np.uint8))).all()


def test_missing_weights_say_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)none\.onnx.*u2netp\.onnx.*rembg.*segmenter\.weights="):
        U2Net(tmp_path / "none.onnx")
    (tmp_path / "some.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match="threshold"):
        U2Net(tmp_path / "some.onnx", threshold=1)
    with pytest.raises(ValueError, match="threads"):
        U2Net(tmp_path / "some.onnx", threads=0)


@needs_photos
def test_u2net_finds_the_objects_of_photographs(tmp_path):
    photos = sorted((DATA / "ecssd100" / "images").glob("*.jpg"))[::12][:8]
    samples = [Sample(photo.name, photo, 0, mask=DATA / "ecssd100" / "masks" / f"{photo.stem}.png") for photo in photos]
    things = SimpleNamespace(superclass="thing", superclasses=("thing",), classes=("thing",))
    masks = make_masks(samples, U2Net(WEIGHTS), things, tmp_path, workers=2)
    report = masks.report()
    assert report["iou_n"] == 8
    assert report["iou"] > 0.8
    expected = [iou(masks[one.id], read_mask(one.mask)) for one in samples]
    assert report["iou"] == pytest.approx(np.mean(expected))


@needs_photos
def test_u2net_agrees_with_another_runtime_and_scores_by_mean_saliency():
    photo = next((DATA / "ecssd100" / "images").glob("*.jpg"))
    image, segmenter = read_image(photo), U2Net(WEIGHTS)
    net = cv2.dnn.readNetFromONNX(str(WEIGHTS))
    net.setInput(network_input(image))
    raw = net.forward(net.getUnconnectedOutLayersNames()[0])[0, 0]
    scaled = (raw - raw.min()) / (raw.max() - raw.min())
    expected = cv2.resize(scaled, (image.shape[1], image.shape[0]))
    saliency = segmenter.saliency(image)
    np.testing.assert_allclose(saliency, expected, atol=1e-3)
    found = segmenter.segment(image, sample(), "thing")
    assert (found.mask == (saliency > 0.5)).all()
    assert found.score == pytest.approx(saliency[saliency > 0.5].mean())


# --- fingerprints and yamls ----------------------------------------------------------------------------------------


def test_a_fingerprint_follows_class_settings_and_weights_but_not_speed(tmp_path):
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    different = [Annotated(), GrabCut(), GrabCut(margin=0.1), U2Net(first), U2Net(first, threshold=0.4), U2Net(second)]
    assert len({segmenter.fingerprint for segmenter in different}) == len(different)
    assert GrabCut().fingerprint == GrabCut(5, 0.05, 320).fingerprint
    second.write_bytes(b"one")
    assert U2Net(first, threads=2).fingerprint == U2Net(second).fingerprint


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("annotated", Annotated),
        ("grabcut", GrabCut),
        ("u2net", U2Net),
        ("grounded_sam", GroundedSAM),
        ("sam3", SAM3),
    ],
)
def test_yaml_gives_the_class_its_defaults(name, kind, tmp_path):
    arguments = yaml.safe_load((ROOT / "conf" / "segmenter" / f"{name}.yaml").read_text())
    assert arguments.pop("_target_") == f"{kind.__module__}.{kind.__qualname__}"
    required = {}
    if name == "u2net":
        assert arguments.pop("weights") == "${paths.models}/u2netp.onnx"
        required["weights"] = tmp_path / "u2netp.onnx"
        required["weights"].write_bytes(b"x")
    assert kind(**required, **arguments).settings == kind(**required).settings
