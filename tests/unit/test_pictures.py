from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from genaug.pictures import label_text, save_sheet

CLASSES = ["crow", "gull", "wren"]


@pytest.mark.parametrize(
    ("row", "limit", "expected"),
    [
        ([0.0, 1.0, 0.0], 2, "gull"),
        ([0.25, 0.0, 0.75], 2, "0.75 wren + 0.25 crow"),
        ([0.2, 0.5, 0.3], 2, "0.50 gull + 0.30 wren"),
        ([0.2, 0.5, 0.3], 3, "0.50 gull + 0.30 wren + 0.20 crow"),
        ([0.004, 0.996, 0.0], 2, "gull"),  # too little to be named
        ([1.0, 0.0, 1.0], 2, "1.00 wren + 1.00 crow"),  # several classes
        ([0.3, 0.0, 0.0], 2, "0.30 crow"),  # of several classes, beside an image without any
        ([float("nan"), 1.0, 0.0], 2, "gull"),  # what is unknown is left out
        ([0.0, 0.0, 0.0], 2, ""),
    ],
)
def test_the_classes_of_a_label(row, limit, expected):
    assert label_text(row, CLASSES, limit) == expected


def test_a_label_of_another_length_is_refused():
    with pytest.raises(ValueError, match="shorter|longer"):
        label_text([1.0, 0.0], CLASSES)


def block(colour, height=20, width=20):
    return np.full((height, width, 3), colour, np.uint8)


def test_images_stand_in_rows_each_in_its_square(tmp_path):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    save_sheet([block(c) for c in colours], ["x"] * 5, tmp_path / "s.png", columns=3, tile=40)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    # 3 squares of 40 with a margin of 6 around each; two rows of 40 and a line of text of 30.
    assert sheet.shape == (2 * (40 + 30 + 6) + 6, 3 * 46 + 6, 3)
    for number, colour in enumerate(colours):
        y, x = 6 + number // 3 * 76, 6 + number % 3 * 46
        assert (sheet[y : y + 40, x : x + 40] == colour).all()
        assert (sheet[y + 40 : y + 70, x : x + 40] < 128).any()  # text below
    assert (sheet[82:122, 98:138] == (250, 250, 248)).all()  # the sixth place is empty


def test_the_aspect_is_kept_and_the_image_centred(tmp_path):
    save_sheet([block((9, 9, 9), height=10, width=40)], [""], tmp_path / "s.png", tile=80)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    rows, columns = np.nonzero((sheet == 9).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6 + 30, 6 + 49, 6, 85)


def test_small_images_are_shown_as_pixels(tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = pixels[1, 1] = 255
    save_sheet([pixels], [""], tmp_path / "s.png", tile=10)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))[6:16, 6:16]
    assert (sheet == np.kron(pixels, np.ones((5, 5, 1), np.uint8))).all()


def test_grey_images(tmp_path):
    save_sheet([np.full((4, 4, 1), 77, np.uint8)], [""], tmp_path / "s.png", tile=8)
    assert (np.asarray(Image.open(tmp_path / "s.png"))[6:14, 6:14] == 77).all()


def test_mixed_labels_take_two_lines(tmp_path):
    for name, text in (("one", "0.50 gull"), ("two", "0.50 gull + 0.30 wren")):
        save_sheet([block((9, 9, 9))], [text], tmp_path / f"{name}.png", tile=100)
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png"))[108:136] for name in ("one", "two"))
    dark = [(lines < 128).any(axis=(1, 2)) for lines in (one, two)]
    assert not dark[0][13:].any()
    assert dark[1][13:].any()
    assert (one[:13] == two[:13]).all()


def test_images_and_texts_must_match(tmp_path):
    with pytest.raises(ValueError, match="shorter|longer"):
        save_sheet([block((9, 9, 9))] * 2, ["x"], tmp_path / "s.png")
    assert not list(tmp_path.iterdir())
