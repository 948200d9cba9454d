"""Files of every kind, written here with known pixels, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaug.data.base import Sample
from genaug.data.reading import ImageError, check_images, image_size, read_image, read_mask, read_rgba

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}

#: The EXIF standard: orientation -> where the stored row 0 and the stored column 0 belong in the picture.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def save(path: Path, values: object, **options: object) -> Path:
    image = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values))
    image.save(path, **options)
    return path


def quadrants(height: int = 32, width: int = 64) -> np.ndarray:
    """Red, green / blue, yellow, each a quarter of the picture."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, YELLOW
    return picture


def corner(picture: np.ndarray, sides: set[str]) -> np.ndarray:
    """The colour well inside the quarter that touches two sides."""
    height, width = picture.shape[:2]
    return picture[
        height // 4 if "top" in sides else 3 * height // 4, width // 4 if "left" in sides else 3 * width // 4
    ]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_orientation_puts_every_corner_in_its_place(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    path = save(tmp_path / f"a{suffix}", quadrants(), exif=exif, **options)
    picture = read_image(path)
    assert image_size(path) == picture.shape[:2]
    row, column = ORIENTATIONS[orientation]
    assert picture.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
    for sides, colour in (
        ({row, column}, RED),
        ({row, OPPOSITE[column]}, GREEN),
        ({OPPOSITE[row], column}, BLUE),
        ({OPPOSITE[row], OPPOSITE[column]}, YELLOW),
    ):
        np.testing.assert_allclose(corner(picture, sides).astype(int), colour, atol=6)


def test_alpha_and_the_colours_under_it_are_read_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4)).astype(np.uint8)
    pixels[0, 0] = 10, 20, 30, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_rgba(tmp_path / "a.png")
    np.testing.assert_array_equal(picture, pixels)
    assert picture.flags.writeable
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 255, 255]  # on white
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    opaque = read_rgba(tmp_path / "b.png")
    np.testing.assert_array_equal(opaque[..., :3], pixels[..., :3])
    assert (opaque[..., 3] == 255).all()
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"c.png"):
        read_rgba(tmp_path / "c.png")


def test_common_jpeg_is_the_decoded_pixels_and_may_be_written_to(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", quadrants(), quality=90)
    picture = read_image(path)
    np.testing.assert_array_equal(picture, np.asarray(Image.open(path)))
    assert picture.dtype == np.uint8
    assert picture.flags.writeable
    assert picture.flags.c_contiguous


#: 65535 / 255 = 257 steps a level: 128 is just below half a level, 129 just above.
SIXTEEN_BITS = np.array([[0, 128, 129, 257], [385, 386, 32896, 65535]], np.uint16)
EIGHT_BITS = [[0, 0, 1, 1], [1, 2, 128, 255]]


@pytest.mark.parametrize(
    ("name", "values", "mode"),
    [
        ("a.png", SIXTEEN_BITS, "I;16"),
        ("a.tif", SIXTEEN_BITS, "I;16"),
        ("big_endian.tif", SIXTEEN_BITS.astype(">u2"), "I;16B"),
        ("a.pgm", SIXTEEN_BITS, "I"),
        ("int32.tif", SIXTEEN_BITS.astype(np.int32), "I"),
    ],
)
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str, values: np.ndarray, mode: str) -> None:
    path = save(tmp_path / name, values)
    with Image.open(path) as stored:
        assert stored.mode == mode, "the fixture does not test what it says"
    np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], EIGHT_BITS)
    picture = read_image(path)
    assert picture.shape == (2, 4, 3)
    for channel in range(3):
        np.testing.assert_array_equal(picture[..., channel], EIGHT_BITS)


def test_16_bit_grey_is_turned_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read_image(save(tmp_path / "a.png", SIXTEEN_BITS, exif=exif), channels=1)
    assert picture[..., 0].tolist() == [[1, 0], [2, 0], [128, 1], [255, 1]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([[0.0, 0.5, 1.0]], [0, 128, 255]), ([[0.0, 127.6, 255.0]], [0, 128, 255]), ([[0.0, 0.0, 0.0]], [0, 0, 0])],
)
def test_float_grey_of_either_scale(tmp_path: Path, values: list, expected: list[int]) -> None:
    path = save(tmp_path / "a.tif", np.array(values, np.float32))
    assert read_image(path, channels=1)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("values", [[[0.0, 300.0]], [[-0.1, 1.0]], [[0.0, np.nan]], [[0.0, np.inf]]])
def test_values_of_unknown_scale_are_refused(tmp_path: Path, values: list) -> None:
    path = save(tmp_path / "a.tif", np.array(values, np.float32))
    with pytest.raises(ImageError, match=r"a\.tif: holds grey values .* expected floats from 0 to 1"):
        read_image(path)


def test_integers_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(ImageError, match="from 0 to 70000; expected integers of 8 or 16 bits"):
        read_image(path)


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([9, 9, 9, *RED, *BLUE])
    path = save(tmp_path / "a.png", image, transparency=bytes([0, 255, 255]))
    assert read_image(path)[0].tolist() == [[255, 255, 255], [*RED], [*BLUE]]
    assert read_image(save(tmp_path / "a.gif", image))[0].tolist() == [[9, 9, 9], [*RED], [*BLUE]]


def test_alpha_is_shown_on_white(tmp_path: Path) -> None:
    # Black at alpha 128: 255 * (1 - 128/255) = 127.
    rgba = save(tmp_path / "rgba.png", np.array([[[10, 20, 30, 255], [0, 0, 0, 128], [0, 0, 0, 0]]], np.uint8))
    assert read_image(rgba)[0].tolist() == [[10, 20, 30], [127, 127, 127], [255, 255, 255]]
    la = save(tmp_path / "la.png", np.array([[[70, 255], [0, 128], [0, 0]]], np.uint8))
    assert read_image(la)[0].tolist() == [[70] * 3, [127] * 3, [255] * 3]
    assert read_image(la, channels=1)[0].tolist() == [[70], [127], [255]]
    keyed = save(tmp_path / "keyed.png", np.array([[RED, GREEN]], np.uint8), transparency=GREEN)
    assert read_image(keyed)[0].tolist() == [[*RED], [255, 255, 255]]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    ink = np.zeros((16, 32, 4), np.uint8)
    ink[:, :16] = (0, 255, 255, 0)  # magenta and yellow give red
    ink[:, 16:] = (255, 0, 0, 0)  # cyan
    picture = read_image(save(tmp_path / "a.jpg", Image.fromarray(ink, mode="CMYK"), quality=95))
    np.testing.assert_allclose(picture[8, 4].astype(int), RED, atol=4)
    np.testing.assert_allclose(picture[8, 28].astype(int), (0, 255, 255), atol=4)


def test_one_bit_grey_and_colour_as_grey(tmp_path: Path) -> None:
    bits = save(tmp_path / "bits.png", np.array([[True, False, True]]))
    assert read_image(bits)[0].tolist() == [[255] * 3, [0] * 3, [255] * 3]
    grey = save(tmp_path / "grey.png", np.array([[7, 200]], np.uint8))
    assert read_image(grey)[0].tolist() == [[7] * 3, [200] * 3]
    assert read_image(grey, channels=1)[0].tolist() == [[7], [200]]
    # ITU-R 601: 0.299 R, 0.587 G, 0.114 B
    colour = save(tmp_path / "colour.png", np.array([[RED, GREEN, BLUE]], np.uint8))
    assert read_image(colour, channels=1)[0].tolist() == [[76], [150], [29]]


def test_channels_are_one_or_three(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="channels=4"):
        read_image(save(tmp_path / "a.png", quadrants()), channels=4)


def truncated(path: Path) -> Path:
    """A JPEG that lacks the second half of its bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = save(path, noise, quality=95).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def test_damaged_files_are_named_with_the_reason(tmp_path: Path) -> None:
    page, empty = tmp_path / "page.jpg", tmp_path / "empty.jpg"
    page.write_text("<!DOCTYPE html> not found")
    empty.touch()
    with pytest.raises(ImageError, match=r"cut\.jpg: .*truncated"):
        read_image(truncated(tmp_path / "cut.jpg"))
    with pytest.raises(ImageError, match=r"page\.jpg: is not an image .*<!DOCTYPE html>"):
        read_image(page)
    with pytest.raises(ImageError, match=r"empty\.jpg: is empty"):
        read_image(empty)
    with pytest.raises(ImageError, match=r"page\.jpg: is not an image"):
        read_mask(page)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow also warns of some of the damage
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp"])
def test_any_damage_is_an_image_error(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    data = save(tmp_path / f"good{suffix}", rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).read_bytes()
    path, failures = tmp_path / f"bad{suffix}", 0
    for cut in rng.integers(1, len(data) * 3 // 4, 40):
        path.write_bytes(data[:cut])
        try:
            read_image(path)
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017
            failures += 1
    assert failures > 30


def test_masks_count_non_zero_as_object(tmp_path: Path) -> None:
    expected = [[False, True, True]]
    grey = save(tmp_path / "grey.png", np.array([[0, 1, 255]], np.uint8))
    assert read_mask(grey).tolist() == expected
    assert read_mask(grey).dtype == bool
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    palette.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0])  # indices count: index 1 is object although it is black
    assert read_mask(save(tmp_path / "palette.png", palette)).tolist() == expected
    assert read_mask(save(tmp_path / "bits.png", np.array(expected))).tolist() == expected
    assert read_mask(save(tmp_path / "wide.png", np.array([[0, 1, 65535]], np.uint16))).tolist() == expected
    assert read_mask(save(tmp_path / "rgb.png", np.array([[[0, 0, 0], BLUE, RED]], np.uint8))).tolist() == expected
    cutout = np.array([[[9, 9, 9, 0], [9, 9, 9, 1], [*RED, 255]]], np.uint8)
    assert read_mask(save(tmp_path / "rgba.png", cutout)).tolist() == expected


def test_mask_is_not_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", np.array([[0, 1, 1], [0, 0, 1]], np.uint8), exif=exif)
    assert read_mask(path).tolist() == [[False, True, True], [False, False, True]]


def sample(path: Path, mask: Path | None = None) -> Sample:
    return Sample(path.name, path, 0, mask=mask)


def test_all_bad_files_are_reported_at_once(tmp_path: Path) -> None:
    good = [sample(save(tmp_path / f"good{i}.png", quadrants())) for i in range(3)]
    assert check_images(good) == good
    cut = sample(truncated(tmp_path / "cut.jpg"))
    missing = sample(tmp_path / "missing.jpg")
    with pytest.raises(ImageError) as caught:
        check_images([good[0], cut, good[1], missing, good[2]])
    message = str(caught.value)
    assert "2 of 5 images" in message
    assert "cut.jpg: " in message
    assert "truncated" in message
    assert "missing.jpg: No such file" in message
    assert "good" not in message
    assert "on_bad_image=skip" in message


def test_long_lists_of_bad_files_are_cut(tmp_path: Path) -> None:
    bad = []
    for i in range(23):
        (tmp_path / f"bad{i:02}.jpg").write_text("no image")
        bad.append(sample(tmp_path / f"bad{i:02}.jpg"))
    with pytest.raises(ImageError, match=r"bad19\.jpg.*\n  \.\.\. and 3 more") as caught:
        check_images(bad)
    assert "bad20" not in str(caught.value)


def test_skip_keeps_the_good_ones_in_order_and_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [sample(save(tmp_path / f"{name}.png", quadrants())) for name in "cab"]
    cut = sample(truncated(tmp_path / "cut.jpg"))
    assert check_images([good[0], cut, good[1], good[2]], on_bad_image="skip") == good
    assert "cut.jpg" in caplog.text
    assert "1 of 4 images" in caplog.text


def test_unknown_choice_is_refused_even_without_images() -> None:
    with pytest.raises(ValueError, match="on_bad_image='drop' is not known: choose one of raise, skip"):
        check_images([], on_bad_image="drop")


def test_a_mask_must_lie_on_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", quadrants(32, 64), exif=exif)
    right = save(tmp_path / "right.png", np.ones((64, 32), bool))
    wrong = save(tmp_path / "wrong.png", np.ones((32, 64), bool))
    assert len(check_images([sample(path, right)])) == 1
    with pytest.raises(ImageError, match=r"wrong\.png: is 64x32, but its image, upright, is 32x64"):
        check_images([sample(path, wrong)])
