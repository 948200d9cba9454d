"""The official layout in small, and the real photographs where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from genaug.data.pets import Pets
from genaug.data.reading import check_images, read_image, read_mask

DATA = Path(__file__).parents[2].parent / "shared" / "data"

#: Name, class id, species, breed id: ids with a gap, capital letters for cats, in no order.
TRAIN = [
    ("american_bulldog_2", 2, 2, 1), ("american_bulldog_11", 2, 2, 1), ("Abyssinian_100", 1, 1, 1),
    ("Abyssinian_3", 1, 1, 1), ("Maine_Coon_7", 21, 1, 8), ("Maine_Coon_9", 21, 1, 8),
]  # fmt: skip
TEST = [("Maine_Coon_1", 21, 1, 8), ("Abyssinian_1", 1, 1, 1), ("american_bulldog_1", 2, 2, 1)]
SIZE = (30, 24)  # width and height

HEAD = """\
#Image CLASS-ID SPECIES BREED ID
#ID: 1:37 Class ids
#SPECIES: 1:Cat 2:Dog
"""


def lines(images: list[tuple[str, int, int, int]]) -> str:
    return "".join(f"{' '.join(map(str, image))}\n" for image in images)


def trimap() -> np.ndarray:
    """Animal (1) in the middle, with a border (3) of two pixels, on background (2)."""
    pixels = np.full(SIZE[::-1], 2, np.uint8)
    pixels[6:18, 8:22] = 3
    pixels[8:16, 10:20] = 1
    return pixels


def write_pets(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    for name, class_id, _, _ in [*TRAIN, *TEST]:
        Image.new("RGB", SIZE, (10 * class_id, 90, 0)).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(trimap()).save(folder / "annotations" / "trimaps" / f"{name}.png")
        # What the archive brings along from the computer it was made on.
        (folder / "annotations" / "trimaps" / f"._{name}.png").write_bytes(b"\x00\x05\x16\x07")
    (folder / "annotations" / "list.txt").write_text(HEAD + lines([*TRAIN, *TEST]))
    (folder / "annotations" / "trainval.txt").write_text(lines(TRAIN))
    (folder / "annotations" / "test.txt").write_text(lines(TEST))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "oxford-iiit-pet")


def test_ids_with_gaps_become_labels_without(root: Path) -> None:
    pets = Pets(root)
    assert list(pets.classes) == ["Abyssinian", "american bulldog", "Maine Coon"]
    assert list(pets.superclasses) == ["cat", "dog", "cat"]
    splits = pets.splits()
    assert [(s.id, s.label) for s in splits["train"]] == [
        ("images/Abyssinian_100.jpg", 0),
        ("images/Abyssinian_3.jpg", 0),
        ("images/Maine_Coon_7.jpg", 2),
        ("images/Maine_Coon_9.jpg", 2),
        ("images/american_bulldog_11.jpg", 1),
        ("images/american_bulldog_2.jpg", 1),
    ]
    assert [s.label for s in splits["test"]] == [0, 2, 1]
    for sample in [*splits["train"], *splits["test"]]:
        assert sample.path == root / sample.id
        assert read_image(sample.path)[..., 0].mean() == pytest.approx([10, 20, 210][sample.label], abs=3)


def test_animal_and_border_are_the_object(root: Path) -> None:
    for sample in Pets(root).splits()["train"]:
        assert (read_mask(sample.mask, sample.mask_values) == (trimap() != 2)).all()
    (root / "annotations" / "trimaps" / "Maine_Coon_7.png").unlink()
    masks = {sample.id: sample.mask for sample in Pets(root).splits()["train"]}
    assert [name for name, mask in masks.items() if mask is None] == ["images/Maine_Coon_7.jpg"]


def test_root_may_be_the_folder_around_it(root: Path) -> None:
    assert Pets(root.parent).splits() == Pets(root).splits()


def test_torchvision_reads_the_same(root: Path) -> None:
    pets = Pets(root)
    for split, theirs in (("train", "trainval"), ("test", "test")):
        other = OxfordIIITPet(root.parent, theirs, target_types=["category", "segmentation"])
        assert [name.lower() for name in other.classes] == [name.lower() for name in pets.classes]
        # torchvision counts the class ids as they are, so that those of a subset keep their gaps.
        ids = sorted(set(other._labels))
        expected = {
            path.name: (ids.index(label), np.asarray(image), np.asarray(mask))
            for path, label, (image, (_, mask)) in zip(other._images, other._labels, other, strict=True)
        }
        samples = pets.splits()[split]
        assert len(samples) == len(expected)
        for sample in samples:
            label, image, mask = expected[sample.path.name]
            assert sample.label == label
            assert (read_image(sample.path) == image).all()
            assert (read_mask(sample.mask, (1,)) == (mask == 1)).all()


def test_files_that_are_no_jpeg_whatever_their_name(root: Path) -> None:
    inside = (("Abyssinian_3", "P", "GIF"), ("Maine_Coon_7", "RGBA", "PNG"), ("Maine_Coon_9", "CMYK", "JPEG"))
    for name, mode, kind in inside:
        Image.new(mode, SIZE).save(root / "images" / f"{name}.jpg", format=kind)
    samples = Pets(root).splits()["train"]
    assert check_images(samples) == samples
    assert all(read_image(sample.path).shape == (*SIZE[::-1], 3) for sample in samples)


def test_lists_with_the_head_of_the_long_one(root: Path) -> None:
    expected = Pets(root).splits()
    (root / "annotations" / "test.txt").write_text(HEAD + lines(TEST))
    assert Pets(root).splits() == expected


def test_published_counts(root: Path) -> None:
    assert Pets(root).published == {"train": 3680, "test": 3669, "classes": 37}


def test_wrong_arguments_are_refused_at_once(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size=0"):
        Pets(root, image_size=0)
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*trainval\.txt.*Visual Geometry Group"):
        Pets(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["annotations/trainval.txt", "annotations/test.txt", "images/Abyssinian_1.jpg"])
def test_what_is_missing_is_named(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s){Path(file).name} is missing.*annotations\.tar\.gz"):
        Pets(root).splits()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Abyssinian_5 1 1", r"line 7: expected '<breed>_<number> <class id> .* came 'Abyssinian_5 1 1'"),
        ("Abyssinian 1 1 1", "line 7: expected"),
        ("Abyssinian_5 38 1 1", "line 7: the class id is '38', expected 1 to 37"),
        ("Abyssinian_5 x 1 1", "line 7: the class id is 'x'"),
        ("Abyssinian_5 1 3 1", "line 7: the species is '3', expected 1, 2"),
        (
            "Abyssinian_5 2 1 1",
            r"(?s)line 7: Abyssinian_5 has class 2 .*line 1 has american_bulldog_2 .*annotations\.tar",
        ),
        ("Abyssinian_5 1 2 1", r"(?s)line 7: Abyssinian_5 has class 1 and species 2.*Abyssinian_100 and species 1"),
    ],
)
def test_a_wrong_line_is_named(root: Path, line: str, words: str) -> None:
    with (root / "annotations" / "trainval.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=words) as caught:
        Pets(root).splits()
    assert "trainval.txt" in str(caught.value)


def test_real_subset() -> None:
    if not (DATA / "pets3").is_dir():
        pytest.skip("the photographs of pets3 are not on this machine")
    pets = Pets(DATA / "pets3")
    splits = pets.splits()
    assert (len(splits["train"]), len(splits["test"])) == (300, 298)
    assert list(zip(pets.classes, pets.superclasses, strict=True)) == [
        ("Abyssinian", "cat"), ("american bulldog", "dog"), ("Bengal", "cat")
    ]  # fmt: skip
    assert np.bincount([s.label for s in splits["train"]]).tolist() == [100, 100, 100]
    for sample in splits["test"][::30]:
        mask = read_mask(sample.mask, sample.mask_values)
        assert mask.shape == read_image(sample.path).shape[:2]
        assert 0.02 < mask.mean() < 0.95


def test_a_step_of_training(root: Path, tmp_path: Path) -> None:
    done = run_cli(
        "dataset=pets", f"dataset.root={root}", "dataset.image_size=32", "method=deda_mixing", "model=tiny",
        "model.width=8", "recipe=demo", "recipe.batch_size=4", "trainer=cpu", "loader.num_workers=0",
        "trainer.max_steps=1", "protocol=last", "logger=none", cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results.json")).read_text())
    assert (results["dataset"], results["classes"], results["images"]) == ("pets", 3, {"train": 6, "test": 3})
    assert results["scores"]["test"]["metric"] == "accuracy"
    assert results["made"]["masks"]["iou"] == 1
