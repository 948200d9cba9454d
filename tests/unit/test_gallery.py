from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaug.data.reading import ImageError
from genaug.generation.gallery import Gallery

SCENES = Path(__file__).parents[3] / "shared" / "data" / "scenes8"


def write(path, colour, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two red windmills, a green and a blue kitchen garden, a white ball park."""
    for number in range(2):
        write(tmp_path / "windmill" / f"{number}.png", (200, number, 0))
    write(tmp_path / "kitchen_garden" / "green.png", (0, 200, 0))
    write(tmp_path / "kitchen_garden" / "blue.PNG", (0, 0, 200))
    write(tmp_path / "ball-park" / "white.png", (255, 255, 255))
    (tmp_path / "windmill" / "notes.txt").write_text("no picture")
    write(tmp_path / "windmill" / "._hidden.png", (9, 9, 9))
    return tmp_path


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("A photo of a Windmill, in snow.", ["0.png", "1.png"]),
        ("the garden of a house", ["blue.PNG", "green.png"]),
        ("a kitchen with a windmill", ["0.png", "1.png", "blue.PNG", "green.png"]),
        ("a park", ["white.png"]),
        ("windmills on a beach", ["0.png", "1.png", "blue.PNG", "green.png", "white.png"]),
    ],
)
def test_a_prompt_that_names_a_kind_gets_one_of_its_pictures(folder, prompt, names):
    assert sorted(path.name for path in Gallery(folder).candidates(prompt)) == names


def test_the_seed_chooses_and_every_picture_has_its_turn(folder):
    gallery = Gallery(folder)
    made = gallery.text_to_image(["kitchen"] * 40, range(40), (8, 8))
    assert {tuple(image[0, 0]) for image in made} == {(0, 200, 0), (0, 0, 200)}
    again = Gallery(folder).text_to_image(["kitchen"], [7], (8, 8))[0]
    assert (again == made[7]).all()


def test_the_crop_has_the_size_and_keeps_the_aspect(tmp_path):
    # Each pixel says where it was: 200 wide and 100 high, red counts columns and green rows.
    y, x = np.mgrid[:100, :200]
    Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(tmp_path / "map.png")
    gallery, lefts = Gallery(tmp_path), set()
    for seed in range(5):
        image = gallery.text_to_image(["any"], [seed], gallery.size_for(50, 50))[0].astype(int)
        assert image.shape == (50, 50, 3)
        across, down = image[25, 40, 0] - image[25, 10, 0], image[40, 25, 1] - image[10, 25, 1]
        assert across == pytest.approx(60, abs=1)  # 30 pixels at twice the scale
        assert down == pytest.approx(60, abs=1)
        lefts.add(image[25, 10, 0])
    assert len(lefts) > 2
    wide = gallery.text_to_image(["any"], [0], (20, 200))[0].astype(int)
    assert wide[10, 190, 0] - wide[10, 10, 0] == pytest.approx(180, abs=1)
    assert gallery.text_to_image(["any"], [0], (100, 200))[0].tolist() == np.stack([x, y, 0 * x], -1).tolist()


def test_the_fingerprint_is_of_the_pictures_not_of_their_place(folder, tmp_path_factory):
    before = Gallery(folder).fingerprint
    moved = tmp_path_factory.mktemp("elsewhere") / "gallery"
    folder.rename(moved)
    assert Gallery(moved).fingerprint == before
    write(moved / "windmill" / "0.png", (100, 0, 0))
    changed = Gallery(moved).fingerprint
    (moved / "windmill" / "0.png").rename(moved / "windmill" / "2.png")
    assert len({before, changed, Gallery(moved).fingerprint}) == 3


def test_what_it_cannot_do(folder, tmp_path):
    gallery = Gallery(folder)
    assert gallery.calls == ("text_to_image",)
    assert (gallery.denoiser_steps("text_to_image"), gallery.start_timestep("text_to_image")) == (0, None)
    with pytest.raises(NotImplementedError, match="Gallery does not edit images"):
        gallery.image_to_image([], [], [], 0.5)
    with pytest.raises(FileNotFoundError, match=r"nowhere/\*\.jpg, and there is no such folder.*generator\.folder="):
        Gallery(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no picture in it"):
        Gallery(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"none")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        Gallery(tmp_path / "broken").text_to_image(["any"], [0], (8, 8))
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        gallery.text_to_image(["a", "b"], [0], (8, 8))


@pytest.mark.skipif(not SCENES.is_dir(), reason=f"no photographs in {SCENES}")
def test_photographs():
    gallery = Gallery(SCENES)
    assert len(gallery.pictures) == 320
    assert {path.parent.name for path in gallery.candidates("a bird over the desert at dawn")} == {"desert"}
    images = gallery.text_to_image(["a waterfall", "a kitchen"], [0, 1], (96, 128))
    assert all(image.shape == (96, 128, 3) and image.std() > 10 for image in images)
