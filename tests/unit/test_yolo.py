"""Folders as Ultralytics lays them out, in small, and the real photographs where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image

from genaug.data.reading import read_mask
from genaug.data.yolo import YOLO, pixel_values

DATA = Path(__file__).parents[2].parent / "shared" / "data"
CUT = DATA / "coco128"

#: Image and the class ids of its lines; None: there is no text file.
IMAGES: dict[str, tuple[int, ...] | None] = {
    "a": (0, 2, 0), "b": (1,), "c": None, "d": (), "e": (2, 1), "f": (0,), "g": (2,), "h": (1, 0), "i": (2, 0),
    "j": (1, 2), "k": (0, 1, 2), "l": (0,),
}  # fmt: skip
YAML = "path: .\ntrain: images/train2017\nnames:\n  0: person\n  1: traffic light\n  2: dog\n"


def mask_of(classes: tuple[int, ...] | None) -> np.ndarray:
    """A block of each class with a value of its own, on the value of some stuff, 120."""
    pixels = np.full((24, 30), 120, np.uint8)
    for number in set(classes or ()):
        pixels[4:20, 1 + 9 * number : 9 + 9 * number] = 20 + number
    return pixels


def write_yolo(root: Path, inside: str = "", images=IMAGES) -> Path:
    """Write ``images``, ``labels`` and ``masks``, all in the folder ``inside`` of each."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels", "masks"):
        (root / name / inside).mkdir(parents=True)
    (root / "data.yaml").write_text(YAML)
    for name, classes in images.items():
        pixels = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / inside / f"{name}.jpg")
        Image.fromarray(mask_of(classes)).save(root / "masks" / inside / f"{name}.png")
        if classes is not None:
            lines = [f"{number} 0.5 0.5 0.25 0.3\n" for number in classes]
            (root / "labels" / inside / f"{name}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "street")


def shown(dataset: YOLO) -> dict[str, tuple[int, ...]]:
    return {s.path.stem: s.label for samples in dataset.splits().values() for s in samples}


EXPECTED = {name: tuple(sorted(set(classes or ()))) for name, classes in IMAGES.items()}


def test_each_image_shows_the_classes_of_its_file(root: Path) -> None:
    yolo = YOLO(root)
    assert (yolo.name, yolo.multilabel, list(yolo.classes)) == ("street", True, ["person", "traffic light", "dog"])
    assert YOLO(root, name="roads").name == "roads"
    assert shown(yolo) == EXPECTED
    splits = yolo.splits()
    assert {name: len(samples) for name, samples in splits.items()} == {"train": 10, "test": 2}
    for samples in splits.values():
        assert [s.id for s in samples] == sorted(f"images/{s.path.name}" for s in samples)
        assert all(s.mask is None for s in samples)


def test_the_draw_depends_on_its_seed_alone(root: Path) -> None:
    tests = [[s.id for s in YOLO(root, split_seed=seed, test_fraction=0.5).splits()["test"]] for seed in (0, 0, 1, 2)]
    assert tests[0] == tests[1]
    assert len({tuple(one) for one in tests}) == 3
    assert len(tests[0]) == 6


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [person, traffic light, dog]", ["person", "traffic light", "dog"]),
        ("nc: 3\nnames: ['1', '2', '3']", ["1", "2", "3"]),
        ("names: [7, 8, 9]", ["7", "8", "9"]),
        ("names: {2: dog, 0: person, 1: traffic light}", ["person", "traffic light", "dog"]),
        ("names:\n  0: person\n  1: light\n  2: dog\n  17: rarely seen", ["person", "light", "dog", "rarely seen"]),
    ],
)
def test_names_as_a_list_or_by_id(root: Path, text: str, names: list[str]) -> None:
    (root / "data.yaml").write_text(text)
    assert list(YOLO(root).classes) == names
    assert shown(YOLO(root)) == EXPECTED


def test_ids_with_gaps_become_labels_without(root: Path) -> None:
    (root / "data.yaml").write_text("names: {0: person, 1: light, 18: dog}")
    for file in (root / "labels").iterdir():
        file.write_text(file.read_text().replace("2 0.5", "18 0.5"))
    assert shown(YOLO(root)) == EXPECTED


def test_polygons_and_hidden_files(root: Path) -> None:
    (root / "labels" / "d.txt").write_text("2 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n\n")
    (root / "images" / "._a.jpg").write_bytes(b"\x00\x05\x16\x07")
    (root / "images" / "notes.txt").write_text("none of an image")
    assert shown(YOLO(root)) == EXPECTED | {"d": (2,)}


def test_folders_of_other_names(root: Path) -> None:
    for old, new in (("images", "photos"), ("labels", "boxes"), ("data.yaml", "classes.yaml"), ("masks", "things")):
        (root / old).rename(root / new)
    yolo = YOLO(root, images="photos", labels="boxes", names="classes.yaml", masks="things")
    assert shown(yolo) == EXPECTED
    for sample in yolo.splits()["train"]:
        assert sample.id == f"photos/{sample.path.name}"
        assert sample.mask == root / "things" / f"{sample.path.stem}.png"


def parts(root: Path, **inside: str) -> Path:
    """The images shared out to folders, each given by the letters of its images."""
    for folder, letters in inside.items():
        write_yolo(root, folder, {letter: IMAGES[letter] for letter in letters})
    return root


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ({"train": "abc", "val": "de", "test": "f"}, {"train": "abc", "val": "de", "test": "f"}),
        ({"train": "abc", "val": "de"}, {"train": "abc", "test": "de"}),
        ({"train": "abc", "test": "de"}, {"train": "abc", "test": "de"}),
    ],
)
def test_folders_of_splits_are_the_splits(tmp_path: Path, inside, expected) -> None:
    splits = YOLO(parts(tmp_path / "x", **inside)).splits()
    assert {name: "".join(s.path.stem for s in samples) for name, samples in splits.items()} == expected
    assert splits["train"][0].id == "images/train/a.jpg"
    assert splits["train"][0].label == (0, 2)


def test_what_lies_beside_folders_of_splits_is_not_used(tmp_path: Path, caplog) -> None:
    root = parts(tmp_path / "x", train="abc", val="de", old="fg")
    assert sum(map(len, YOLO(root).splits().values())) == 5
    assert "2 images outside of" in caplog.text


def test_other_folders_are_no_splits(tmp_path: Path) -> None:
    yolo = YOLO(parts(tmp_path / "x", train2017="abcdef", more="ghijkl"))
    assert set(yolo.splits()) == {"train", "test"}
    assert shown(yolo) == EXPECTED


def test_masks_by_their_values(root: Path, caplog) -> None:
    for values in ("20-22", [20, 21, 22]):
        for sample in YOLO(root, masks="masks", mask_values=values).splits()["train"]:
            expected = mask_of(IMAGES[sample.path.stem])
            assert (read_mask(sample.mask, sample.mask_values) == (expected < 120)).all()
    assert not caplog.text
    assert YOLO(root, masks="masks").splits()["train"][0].mask_values is None
    (root / "masks" / "e.png").unlink()
    masks = [s.mask for samples in YOLO(root, masks="masks").splits().values() for s in samples]
    assert masks.count(None) == 1
    assert "1 of 12 images have no mask, such as" in caplog.text


@pytest.mark.parametrize("given", [[], "", "1-", "5-1", "a-b", "1-2-3", [-1], ["x"], [70000], 5])
def test_values_that_no_pixel_has_are_refused(given) -> None:
    with pytest.raises(ValueError, match="mask_values=.* is not possible: take pixel values such as"):
        pixel_values(given)


@pytest.mark.parametrize(("argument", "value"), [("image_size", 0), ("test_fraction", 1.0), ("mask_values", "all")])
def test_wrong_arguments_are_refused_at_once(root: Path, argument: str, value) -> None:
    with pytest.raises(ValueError, match=f"{argument}="):
        YOLO(root, **{argument: value})


def test_missing_root_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*images/a\.jpg.*names: "):
        YOLO(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["images", "data.yaml"])
def test_what_is_missing_is_named(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    yolo = YOLO(root)  # building one looks at nothing but root
    with pytest.raises(FileNotFoundError, match=rf"(?s){name} is missing.*dataset\.images, dataset\.labels"):
        yolo.splits()


def test_folders_with_nothing_that_belongs_to_the_images_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)No image has labels: expected files such as .*masks/a\.txt"):
        YOLO(root, labels="masks").splits()
    with pytest.raises(FileNotFoundError, match=r"masks=.*labels has no mask for any image: .*labels/a\.png"):
        YOLO(root, masks="labels").splits()
    with pytest.raises(FileNotFoundError, match=r"There is no image in .*labels"):
        YOLO(root, images="labels").splits()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.2", r"e\.txt, line 3: expected '<class id> <x> .* came '2 0.5 0.5 0.2'"),
        ("3 0.5 0.5 0.2 0.2", r"e\.txt, line 3: the class id, of which .*data\.yaml has the names, is '3', .* 0 to 2"),
        ("dog 0.5 0.5 0.2 0.2", r"e\.txt, line 3: the class id.* is 'dog'"),
    ],
)
def test_a_wrong_line_is_named(root: Path, line: str, words: str) -> None:
    with (root / "labels" / "e.txt").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=words):
        YOLO(root).splits()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [a, b", "cannot be read as YAML"),
        ("train: images", "has no names of classes"),
        ("- a\n- b", "has no names of classes"),
        ("names: person", "has no names of classes"),
        ("names: []", "has no names of classes"),
        ("names: [yes, no]", "names has 0: True; expected a number and a name, in quotes"),
        ("names: {a: person}", "names has 'a': 'person'"),
        ("names: {0: [person]}", "names has 0: "),
    ],
)
def test_wrong_names_are_refused(root: Path, text: str, words: str) -> None:
    (root / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)data\.yaml.*{words}.*data\.yaml   "):
        _ = YOLO(root).classes


def test_real_photographs() -> None:
    if not CUT.is_dir():
        pytest.skip("the photographs of coco128 are not on this machine")
    yolo = YOLO(
        CUT, labels="yolo_boxes", names="object_detection_config.yaml", masks="semantic_masks", mask_values="1-90"
    )
    samples = [sample for split in yolo.splits().values() for sample in split]
    assert (len(samples), len(yolo.classes), yolo.classes[0], yolo.classes[79]) == (128, 80, "person", "toothbrush")
    assert sum(sample.mask is not None for sample in samples) == 100
    assert sum(0 in sample.label for sample in samples) > 40  # people are everywhere
    # The masks call categories by other numbers than the labels: those of COCO, of which 1 to 90 are things.
    agree = [(read_mask(s.mask, (1,)).any(), 0 in s.label) for s in samples if s.mask is not None]
    assert np.mean([seen == said for seen, said in agree]) > 0.9


@pytest.mark.parametrize("method", ["deda_mixing", "cutmix"])
def test_a_step_of_training(root: Path, tmp_path: Path, method: str) -> None:
    more = ("method.view.p_aug=1", "segmenter=annotated") if method == "deda_mixing" else ()
    (root / "masks" / "e.png").unlink()
    done = run_cli(
        "dataset=yolo", f"dataset.root={root}", "dataset.masks=masks", "dataset.mask_values=20-22",
        "dataset.test_fraction=0.4", "dataset.image_size=32", f"method={method}", *more, "model=tiny",
        "model.width=8", "recipe=demo", "recipe.batch_size=4", "trainer=cpu", "loader.num_workers=0",
        "trainer.max_steps=2", "protocol=last", "logger=none", cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results.json")).read_text(), parse_constant=pytest.fail)
    scores = results["scores"]["test"]
    assert (results["dataset"], results["images"]) == ("street", {"train": 7, "test": 5})
    assert (scores["metric"], scores["n"]) == ("map", 5)
    assert {"map", "map_voc2007", "map_voc2010"} <= set(scores)
    if method == "deda_mixing":
        assert results["made"]["images"] == 7
        assert results["made"]["without_mask"] + results["made"]["masks"]["n"] == 7
