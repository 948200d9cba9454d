"""The official layout in small: category ids with gaps, crowds, images without annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import run_cli
from PIL import Image

from genaug.data.coco import COCO

#: In no order, with gaps, as in the official files.
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
#: Image id, file, and the categories of its annotations, negative for crowds.
TRAIN = [(9, "000000000009.jpg", (1, 1, 90)), (25, "000000000025.jpg", (-3,)), (30, "000000000030.jpg", ()),
         (34, "000000000034.jpg", (3,)), (36, "000000000036.jpg", (1,))]  # fmt: skip
VAL = [(139, "000000000139.jpg", (3, 1)), (285, "000000000285.jpg", (90,)), (632, "000000000632.jpg", (-1, 3))]


def instances(images: list[tuple[int, str, tuple[int, ...]]]) -> dict[str, Any]:
    annotations = [
        {
            "id": 1000 * image + number,
            "image_id": image,
            "category_id": abs(category),
            "iscrowd": int(category < 0),
            "bbox": [1.0, 2.0, 5.5, 6.0],
            "area": 33.0,
            "segmentation": {"counts": [1, 2], "size": [24, 30]} if category < 0 else [[1, 2, 6, 2, 6, 8]],
        }
        for image, _, categories in images
        for number, category in enumerate(categories)
    ]
    described = [{"id": image, "file_name": file, "width": 30, "height": 24} for image, file, _ in images]
    supers = [{"supercategory": "thing", **category} for category in CATEGORIES]
    return {"info": {}, "licenses": [], "images": described[::-1], "annotations": annotations, "categories": supers}


def write_coco(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for folder, images in (("train2017", TRAIN), ("val2017", VAL)):
        (root / folder).mkdir()
        for image, file, _ in images:
            Image.new("RGB", (30, 24), (image % 250, 60, 0)).save(root / folder / file)
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(instances(images)))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def change(root: Path, folder: str, key: str, value: Any) -> None:
    path = root / "annotations" / f"instances_{folder}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def test_ids_with_gaps_become_labels_in_their_order(root: Path) -> None:
    coco = COCO(root)
    assert list(coco.classes) == ["person", "car", "toothbrush"]
    assert {split: [(s.id, s.label) for s in samples] for split, samples in coco.splits().items()} == {
        "train": [
            ("train2017/000000000009.jpg", (0, 2)),
            ("train2017/000000000025.jpg", (1,)),  # a crowd
            ("train2017/000000000030.jpg", ()),  # nothing
            ("train2017/000000000034.jpg", (1,)),
            ("train2017/000000000036.jpg", (0,)),
        ],
        "test": [
            ("val2017/000000000139.jpg", (0, 1)),
            ("val2017/000000000285.jpg", (2,)),
            ("val2017/000000000632.jpg", (0, 1)),
        ],
    }
    assert all(s.path == root / s.id and s.mask is None and s.unknown == () for s in coco.splits()["train"])


def test_published_counts(root: Path) -> None:
    assert COCO(root).published == {"train": 118287, "test": 5000, "classes": 80}


def test_classes_are_known_without_the_large_file(root: Path) -> None:
    (root / "annotations" / "instances_train2017.json").unlink()
    assert len(COCO(root).classes) == 3


def test_wrong_arguments_are_refused_at_once(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size=0"):
        COCO(root, image_size=0)
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*train2017/.*cocodataset\.org"):
        COCO(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "file",
    ["annotations/instances_val2017.json", "annotations/instances_train2017.json", "val2017/000000000285.jpg"],
)
def test_what_is_missing_is_named(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s){Path(file).name} is missing.*annotations_trainval2017\.zip"):
        COCO(root).splits()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no file of COCO's instances: "),
        ("[]", "no file of COCO's instances: "),
        ('{"categories": []}', "there is no 'images'"),
        ('{"categories": [{"id": 1}], "images": []}', "there is no 'name'"),
        ('{"categories": [{"id": "a", "name": "b"}], "images": []}', "invalid literal"),
    ],
)
def test_a_damaged_file_is_named(root: Path, text: str, words: str) -> None:
    (root / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)instances_train2017\.json.*{words}.*cocodataset\.org"):
        COCO(root).splits()


@pytest.mark.parametrize("wrong", [{"image_id": 7, "category_id": 1}, {"image_id": 9, "category_id": 2}])
def test_annotations_of_what_is_not_there_are_refused(root: Path, wrong: dict[str, int]) -> None:
    change(root, "train2017", "annotations", [{"id": 1, **wrong}])
    with pytest.raises(
        ValueError, match=rf"image {wrong['image_id']} and category {wrong['category_id']}, and the file"
    ):
        COCO(root).splits()


def test_both_files_must_name_the_same_categories(root: Path) -> None:
    change(root, "train2017", "categories", [*CATEGORIES, {"id": 91, "name": "hair brush"}])
    with pytest.raises(ValueError, match=r"name other categories \(4 and 3\)"):
        COCO(root).splits()


def test_a_step_of_training(root: Path, tmp_path: Path) -> None:
    done = run_cli(
        "dataset=coco", f"dataset.root={root}", "dataset.image_size=32", "method=cutmix", "model=tiny",
        "model.width=8", "recipe=demo", "recipe.batch_size=4", "trainer=cpu", "loader.num_workers=0",
        "trainer.max_steps=1", "protocol=last", "logger=none", cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results.json")).read_text(), parse_constant=pytest.fail)
    scores = results["scores"]["test"]
    assert (results["classes"], scores["metric"], scores["n"]) == (3, "map", 3)
    assert {"map", "map_voc2007", "map_voc2010"} <= set(scores)
