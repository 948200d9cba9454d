"""The official layout in small, and the real photographs where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image

from genaug.data.cub import CUB
from genaug.data.subsets import few_shot

DATA = Path(__file__).parents[2].parent / "shared" / "data"

CLASSES = {7: "007.Parakeet_Auklet", 12: "012.Yellow_headed_Blackbird", 140: "140.Summer_Tanager"}

#: id, class, file, train, box: ids with gaps and in no order.
IMAGES = [
    (905, 140, "t_1.jpg", 1, (1.5, 2.0, 10.0, 8.0)),
    (17, 7, "p_2.jpg", 1, (0.0, 1.0, 5.0, 6.0)),
    (3, 12, "y_3.jpg", 0, (2.0, 2.0, 3.0, 3.0)),
    (44, 7, "p_1.jpg", 1, (3.0, 1.0, 4.0, 4.0)),
    (18, 7, "p_0.jpg", 0, (1.0, 1.0, 2.0, 2.0)),
    (61, 12, "y_1.jpg", 1, (4.0, 0.0, 6.0, 7.0)),
    (90, 140, "t_0.jpg", 1, (1.0, 1.0, 9.0, 9.0)),
    (62, 12, "y_2.jpg", 1, (1.0, 3.0, 6.0, 7.0)),
]


def write_cub(folder: Path) -> Path:
    folder.mkdir(parents=True)
    tables: dict[str, list[str]] = {
        "images": [],
        "image_class_labels": [],
        "train_test_split": [],
        "bounding_boxes": [],
        "classes": [f"{class_id} {name}" for class_id, name in CLASSES.items()],
    }
    for image, class_id, file, train, box in IMAGES:
        path = folder / "images" / CLASSES[class_id] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), (class_id, 0, 0)).save(path)
        tables["images"].append(f"{image} {CLASSES[class_id]}/{file}")
        tables["image_class_labels"].append(f"{image} {class_id}")
        tables["train_test_split"].append(f"{image} {train}")
        tables["bounding_boxes"].append(f"{image} {' '.join(map(str, box))}")
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cub(tmp_path / "CUB_200_2011")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def trained(dataset: str, root: Path, cwd: Path, *overrides: str) -> dict:
    """``results.json`` of one training step, as the command line makes it in ``cwd``."""
    done = run_cli(
        f"dataset={dataset}",
        f"dataset.root={root}",
        "dataset.image_size=32",
        "model=tiny",
        "model.width=8",
        "recipe=demo",
        "recipe.batch_size=4",
        "trainer=cpu",
        "loader.num_workers=0",
        "trainer.max_steps=1",
        "logger=none",
        *overrides,
        cwd=cwd,
    )
    assert done.rc == 0, done.stderr
    [file] = cwd.glob(f"runs/{dataset}/vanilla/*/results.json")
    return json.loads(file.read_text())


def test_ids_with_gaps_become_labels_without(root: Path) -> None:
    cub = CUB(root)
    assert list(cub.classes) == ["Parakeet Auklet", "Yellow headed Blackbird", "Summer Tanager"]
    train, test = cub.splits()["train"], cub.splits()["test"]
    assert [(s.id, s.label) for s in train] == [
        ("images/007.Parakeet_Auklet/p_1.jpg", 0),
        ("images/007.Parakeet_Auklet/p_2.jpg", 0),
        ("images/012.Yellow_headed_Blackbird/y_1.jpg", 1),
        ("images/012.Yellow_headed_Blackbird/y_2.jpg", 1),
        ("images/140.Summer_Tanager/t_0.jpg", 2),
        ("images/140.Summer_Tanager/t_1.jpg", 2),
    ]
    assert [(s.id, s.label) for s in test] == [
        ("images/007.Parakeet_Auklet/p_0.jpg", 0),
        ("images/012.Yellow_headed_Blackbird/y_3.jpg", 1),
    ]
    # Each image has its own box, and the path leads to its own pixels (red = class id).
    assert [s.box for s in train] == [
        (3, 1, 4, 4),
        (0, 1, 5, 6),
        (4, 0, 6, 7),
        (1, 3, 6, 7),
        (1, 1, 9, 9),
        (1.5, 2, 10, 8),
    ]
    for sample in [*train, *test]:
        assert sample.path == root / sample.id
        assert np.asarray(Image.open(sample.path))[..., 0].mean() == pytest.approx(list(CLASSES)[sample.label], abs=3)


def test_root_may_be_the_folder_around_it(root: Path) -> None:
    assert CUB(root.parent).splits() == CUB(root).splits()


def test_masks_are_taken_where_they_are(root: Path) -> None:
    assert all(sample.mask is None for sample in CUB(root).splits()["train"])
    mask = root / "segmentations" / CLASSES[7] / "p_1.png"
    mask.parent.mkdir(parents=True)
    Image.new("L", (16, 12)).save(mask)
    masks = {sample.id: sample.mask for sample in CUB(root).splits()["train"]}
    assert masks.pop("images/007.Parakeet_Auklet/p_1.jpg") == mask
    assert set(masks.values()) == {None}


def test_first_classes(root: Path) -> None:
    cub = CUB(root, classes=2)
    assert list(cub.classes) == ["Parakeet Auklet", "Yellow headed Blackbird"]
    assert [s.label for s in cub.splits()["train"]] == [0, 0, 1, 1]
    assert [s.label for s in cub.splits()["test"]] == [0, 1]
    with pytest.raises(ValueError, match="classes=4, but .* has 3"):
        _ = CUB(root, classes=4).classes


def test_classes_without_images_do_not_count(root: Path) -> None:
    with (root / "classes.txt").open("a") as file:
        file.write("8 008.Rhinoceros_Auklet\n")
    assert len(CUB(root).classes) == 3


@pytest.mark.parametrize(("argument", "value"), [("classes", 1), ("image_size", 0)])
def test_wrong_arguments_are_refused_at_once(root: Path, argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        CUB(root, **{argument: value})


def test_missing_root_says_what_is_expected_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*images\.txt.*Caltech-UCSD Birds"):
        CUB(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["images", "image_class_labels", "train_test_split", "bounding_boxes", "classes"])
def test_missing_index_file_is_named(root: Path, name: str) -> None:
    (root / f"{name}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s){name}\.txt is missing.*CUB_200_2011\.tgz"):
        CUB(root).splits()


def test_missing_photograph_is_named(root: Path) -> None:
    (root / "images" / CLASSES[7] / "p_1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"p_1\.jpg \(one of 1 images listed\) is missing"):
        CUB(root).splits()


def test_index_files_must_fit_together(root: Path) -> None:
    edit(root / "bounding_boxes.txt", "905 ", "906 ")
    with pytest.raises(ValueError, match=r"bounding_boxes\.txt lacks 1 ids .* such as 905"):
        CUB(root).splits()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("train_test_split", "17 1", "17 2"),
        ("image_class_labels", "17 7", "17 seven"),
        ("bounding_boxes", "17 0.0 1.0 5.0 6.0", "17 0.0 1.0 5.0"),
        ("images", "17 007.Parakeet_Auklet/p_2.jpg", "17"),
    ],
)
def test_unreadable_line_is_named(root: Path, name: str, old: str, new: str) -> None:
    edit(root / f"{name}.txt", old, new)
    with pytest.raises(ValueError, match=rf"{name}\.txt, line 2: .*{new}"):
        CUB(root).splits()


def test_a_class_needs_training_images(root: Path) -> None:
    edit(root / "train_test_split.txt", "905 1", "905 0")
    edit(root / "train_test_split.txt", "90 1", "90 0")
    with pytest.raises(ValueError, match="No training images .* Summer Tanager"):
        CUB(root).splits()


def test_folder_numbers_stay_known(root: Path) -> None:
    assert CUB(root).class_ids == (7, 12, 140)
    assert CUB(root, classes=2).class_ids == (7, 12)


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        ({}, {"train": 5994, "test": 5794, "classes": 200}),
        ({"split": "alia"}, {"train": 4994, "val": 1000, "test": 5794, "classes": 200}),
        ({"classes": 2, "split": "alia"}, {}),
    ],
)
def test_published_counts_are_those_of_the_whole(root: Path, arguments: dict, published: dict) -> None:
    assert CUB(root, **arguments).published == published


def write_flock(folder: Path) -> Path:
    """Two classes of eight training images and one of test; the order of images.txt is not that of the names."""
    tables: dict[str, list[str]] = {
        "images": [],
        "image_class_labels": [],
        "train_test_split": [],
        "bounding_boxes": [],
    }
    rng = np.random.default_rng(0)
    for number in range(9):
        for class_id in (7, 12):
            image, file = 100 - 10 * number + class_id % 2, f"{CLASSES[class_id]}/{(5 * number) % 9}.jpg"
            (folder / "images" / CLASSES[class_id]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)).save(folder / "images" / file)
            tables["images"].append(f"{image} {file}")
            tables["image_class_labels"].append(f"{image} {class_id}")
            tables["train_test_split"].append(f"{image} {int(number != 3)}")
            tables["bounding_boxes"].append(f"{image} 1 2 9 8")
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
    (folder / "classes.txt").write_text("\n".join(f"{class_id} {CLASSES[class_id]}" for class_id in (7, 12)))
    return folder


def test_alias_split_holds_back_the_last_five_of_each_class_as_listed(tmp_path: Path) -> None:
    cub = CUB(write_flock(tmp_path), split="alia")
    splits = cub.splits()
    # The names' order in the list, less the fourth (6), which is of test: 0 5 1 | 2 7 3 8 4.
    wanted = {"train": "015", "val": "23478", "test": "6"}
    ids = {
        name: [f"images/{CLASSES[class_id]}/{number}.jpg" for class_id in (7, 12) for number in numbers]
        for name, numbers in wanted.items()
    }
    assert {name: [sample.id for sample in split] for name, split in splits.items()} == ids
    assert cub.name == "cub_alia"
    assert [sample.label for sample in splits["val"]] == [0] * 5 + [1] * 5
    assert CUB(tmp_path).splits()["train"] == sorted([*splits["train"], *splits["val"]], key=lambda sample: sample.id)


def test_alias_split_needs_more_than_five(root: Path) -> None:
    with pytest.raises(ValueError, match=r"holds back 5 .* Parakeet Auklet has 2 in .*train_test_split\.txt"):
        CUB(root, split="alia").splits()
    with pytest.raises(ValueError, match="split='half' is not known: choose one of official, alia"):
        CUB(root, split="half")


@pytest.mark.cli
def test_a_run_chooses_on_what_alia_holds_back(tmp_path: Path) -> None:
    results = trained("cub_alia", write_flock(tmp_path / "CUB_200_2011"), tmp_path)
    assert results["images"] == {"train": 6, "val": 10, "test": 2}
    assert (results["dataset"], results["classes"], results["scores"]["test"]["n"]) == ("cub_alia", 2, 2)
    assert results["selection"]["score"] is not None


@pytest.fixture(scope="module")
def cub40() -> Path:
    if not (DATA / "cub40").is_dir():
        pytest.skip("the photographs of cub40 are not on this machine")
    return DATA / "cub40"


def test_real_subset(cub40: Path) -> None:
    cub = CUB(cub40)
    splits = cub.splits()
    assert (len(splits["train"]), len(splits["test"]), len(cub.classes)) == (1200, 1090, 40)
    assert (cub.classes[0], cub.classes[39]) == ("Black footed Albatross", "Olive sided Flycatcher")
    assert np.bincount([s.label for s in splits["train"]]).tolist() == [30] * 40
    for sample in [*splits["train"], *splits["test"]][::40]:
        assert sample.path.parent.name.startswith(f"{sample.label + 1:03}.")
        with Image.open(sample.path) as image:
            x, y, width, height = sample.box
            assert 0 <= x < x + width <= image.width + 1
            assert 0 <= y < y + height <= image.height + 1


def test_real_split_of_alia(cub40: Path) -> None:
    splits = CUB(cub40, split="alia").splits()
    files, flags = ((cub40 / f"{name}.txt").read_text().splitlines() for name in ("images", "train_test_split"))
    training: dict[str, list[str]] = {}
    for file, flag in zip(files, flags, strict=True):
        assert file.split()[0] == flag.split()[0]
        if flag.endswith("1"):
            path = file.split()[1]
            training.setdefault(path.split("/")[0], []).append(f"images/{path}")
    assert {s.id for s in splits["val"]} == {name for names in training.values() for name in names[-5:]}
    assert {s.id for s in splits["train"]} == {name for names in training.values() for name in names[:-5]}
    assert (len(splits["train"]), len(splits["val"]), len(splits["test"])) == (1000, 200, 1090)


def test_real_few_shots(cub40: Path) -> None:
    def draw(seed: int) -> list:
        return few_shot(CUB(cub40).splits()["train"], shots=10, seed=seed)

    assert np.bincount([s.label for s in draw(0)]).tolist() == [10] * 40
    assert draw(0) == draw(0)
    # Two draws of 10 out of 30 share 10/3 on average in each of 40 classes: 133, with a deviation of about 8.
    shared = {s.id for s in draw(0)} & {s.id for s in draw(1)}
    assert 100 < len(shared) < 166


def test_the_check_fails_where_the_counts_are_not_as_published(root: Path, tmp_path: Path) -> None:
    done = run_cli("stage=check_data", "dataset=cub", f"dataset.root={root}", cwd=tmp_path)
    assert done.rc == 1
    assert "cub is not what it should be: train: 6 here, 5994 published; test: 2 here, 5794 published" in done.stderr
    assert "Traceback" not in done.stderr
    assert "5,994" in done.stdout  # the table has been shown
