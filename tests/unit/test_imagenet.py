"""The official layouts in small: folders by class, Kaggle's, the development kit's, ImageNet-V2's and -Sketch's."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import ImageFolder
from torchvision.datasets import imagenet as theirs

from genaug.captioning.bank import planned_captions
from genaug.captioning.template import Template
from genaug.data.imagenet import ImageNet
from genaug.data.reading import read_image

CONF = Path(__file__).parents[2] / "conf"

#: WordNet id -> number in ImageNet-V2. As texts the numbers would sort 0, 1, 134, 19, 2, 517.
V2 = {"n01440764": 0, "n01443537": 1, "n01484850": 2, "n01592084": 19, "n02012849": 134, "n03126707": 517}
WNIDS = tuple(V2)
NAMES = ["tench", "goldfish", "great white shark", "chickadee", "crane bird", "crane"]

#: The development kit's numbering is not that of the sorted WordNet ids.
KIT = {"n01592084": 1, "n01440764": 449, "n03126707": 2, "n01443537": 450, "n02012849": 999, "n01484850": 1000}

#: Class of ILSVRC2012_val_00000001 and so on.
VAL = ("n03126707", "n01440764", "n01592084", "n01592084", "n01484850", "n02012849", "n01443537", "n01440764")


def colour(wnid: str) -> tuple[int, int, int]:
    place = WNIDS.index(wnid)
    return 40 * place + 20, 255 - 40 * place, 128


def paint(path: Path, wnid: str, mode: str = "RGB", kind: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95} if kind == "JPEG" else {}
    Image.new("RGB", (24, 18), colour(wnid)).convert(mode).save(path, format=kind, **options)


def write_train(folder: Path) -> None:
    """As in the real one, there are a grey image, one in CMYK, and a PNG that is called JPEG."""
    for wnid in WNIDS:
        for number in (7, 11, 105):
            special = {("n01443537", 7): ("L", "JPEG"), ("n01484850", 11): ("CMYK", "JPEG")}
            special[("n01592084", 105)] = ("RGB", "PNG")
            paint(folder / "train" / wnid / f"{wnid}_{number}.JPEG", wnid, *special.get((wnid, number), ()))


def write_val(folder: Path, by_class: bool) -> None:
    for number, wnid in enumerate(VAL, start=1):
        paint(folder / "val" / (wnid if by_class else "") / f"ILSVRC2012_val_{number:08}.JPEG", wnid)


def write_kaggle_labels(folder: Path) -> None:
    """Lines in no order; most images have several boxes, all of their class."""
    rows = [f"ILSVRC2012_val_{n:08},{wnid} 1 2 20 16 {wnid} 3 3 9 9 " for n, wnid in enumerate(VAL, start=1)]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]) + "\n")


def write_kit(folder: Path) -> Path:
    """``ILSVRC2012_devkit_t12``: beside the classes ``meta.mat`` holds what several of them have in common."""
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    known = sorted((number, wnid) for wnid, number in KIT.items())
    rows = [(number, wnid, f"{wnid}, word", "what it is", 0, [], 0, 1300) for number, wnid in known]
    rows.append((1001, "n00001740", "entity", "all there is", 6, list(KIT.values()), 19, 0))
    synsets = np.empty((len(rows), 1), [(name, "O") for name in names])
    for index, row in enumerate(rows):
        synsets[index, 0] = tuple(np.array(value, np.uint16) if isinstance(value, list) else value for value in row)
    savemat(data / "meta.mat", {"synsets": synsets})
    lines = "".join(f"{KIT[wnid]}\n" for wnid in VAL)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    return data


def write_v2(folder: Path, variant: str = "matched-frequency", wnids: tuple[str, ...] = WNIDS) -> Path:
    root = folder / f"imagenetv2-{variant}-format-val"
    for wnid in wnids:
        paint(root / str(V2[wnid]) / f"{wnid[:0:-1]}ab.jpeg", wnid)
    return root


def write_sketch(folder: Path) -> Path:
    for wnid in WNIDS:
        for number in (1, 2):
            paint(folder / "sketch" / wnid / f"sketch_{number}.JPEG", wnid)
    return folder / "sketch"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``train`` and ``val`` in folders by class."""
    root = tmp_path / "imagenet"
    write_train(root)
    write_val(root, by_class=True)
    return root


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """``train``, and ``val`` in one folder without labels."""
    root = tmp_path / "flat"
    write_train(root)
    write_val(root, by_class=False)
    return root


def check_pixels(splits: dict, wnids: tuple[str, ...] = WNIDS) -> None:
    """Every label must be that of the image's colour, and every image come in RGB."""
    for sample in [sample for samples in splits.values() for sample in samples]:
        pixels = read_image(sample.path)
        assert pixels.shape == (18, 24, 3)
        expected = np.array(colour(wnids[sample.label]), float)
        if sample.id.endswith("n01443537_7.JPEG"):
            expected[:] = expected @ (0.299, 0.587, 0.114)
        assert np.abs(pixels.mean(axis=(0, 1)) - expected).max() < 5, sample.id


# --- classes and splits --------------------------------------------------------------------------------------------


def test_it_agrees_with_an_image_folder(root: Path) -> None:
    imagenet = ImageNet(root)
    assert list(imagenet.classes) == NAMES
    splits = imagenet.splits()
    assert set(splits) == {"train", "test"}
    for split, folder in (("train", "train"), ("test", "val")):
        expected = ImageFolder(root / folder)
        assert tuple(expected.classes) == imagenet.wnids == WNIDS
        assert [(str(sample.path), sample.label) for sample in splits[split]] == expected.samples
        assert all(sample.path == root / sample.id for sample in splits[split])
    check_pixels(splits)


def test_kaggles_download_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    write_train(inner)
    write_val(inner, by_class=False)
    write_kaggle_labels(tmp_path / "kaggle")
    splits = ImageNet(tmp_path / "kaggle").splits()
    assert [WNIDS[sample.label] for sample in splits["test"]] == list(VAL)
    assert splits["test"][0].id == "val/ILSVRC2012_val_00000001.JPEG"
    check_pixels(splits)
    assert [sample.id for sample in splits["train"]][:2] == [
        "train/n01440764/n01440764_105.JPEG",
        "train/n01440764/n01440764_11.JPEG",
    ]
    with pytest.raises(FileNotFoundError, match=r"CLS-LOC has no labels .* LOC_val_solution\.csv .* Put either into"):
        ImageNet(inner).splits()


def test_the_development_kit_is_read_as_torchvision_reads_it(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = write_kit(flat).parent
    with tarfile.open(tmp_path / "kit.tar", "w") as archive:
        archive.add(kit, kit.name)
    monkeypatch.setattr(theirs, "_verify_archive", lambda *_: None)  # its checksum is that of the real one
    theirs.parse_devkit_archive(tmp_path, "kit.tar")
    _, expected = theirs.load_meta_file(tmp_path)
    splits = ImageNet(flat).splits()
    assert [WNIDS[sample.label] for sample in splits["test"]] == list(expected) == list(VAL)
    check_pixels(splits)


@pytest.mark.parametrize("labels", [write_kaggle_labels, write_kit])
def test_chosen_classes_have_one_map_of_labels_in_all_splits(flat: Path, tmp_path: Path, labels) -> None:
    labels(flat)
    wnids = ("n02012849", "n01484850", "n01592084")
    v2, sketch = write_v2(tmp_path), write_sketch(tmp_path)
    some = ImageNet(flat, wnids=wnids, v2_root=v2, sketch_root=sketch)
    assert some.wnids == ("n01484850", "n01592084", "n02012849")  # sorted, whatever order they are asked for in
    assert list(some.classes) == ["great white shark", "chickadee", "crane bird"]
    splits = some.splits()
    counts = {split: np.bincount([sample.label for sample in samples]).tolist() for split, samples in splits.items()}
    assert counts == {"train": [3, 3, 3], "test": [1, 2, 1], "ood_v2": [1, 1, 1], "ood_sketch": [2, 2, 2]}
    check_pixels(splits, some.wnids)
    assert some.name == "imagenet3"


def test_folders_of_v2_are_numbers(root: Path, tmp_path: Path) -> None:
    v2 = write_v2(tmp_path)
    samples = ImageNet(root, v2_root=v2).splits()["ood_v2"]
    by_number = {int(sample.path.parent.name): sample.label for sample in samples}
    assert by_number == {0: 0, 1: 1, 2: 2, 19: 3, 134: 4, 517: 5}
    assert {sample.id.split("/")[0] for sample in samples} == {"imagenetv2-matched-frequency-format-val"}
    check_pixels({"ood_v2": samples})


def test_each_variant_of_v2_has_its_folder(root: Path, tmp_path: Path) -> None:
    around = tmp_path / "imagenetv2"
    names = {"matched-frequency": "matched-frequency", "threshold-0.7": "threshold0.7", "top-images": "top-images"}
    for variant, name in names.items():
        folder = write_v2(around, name)
        imagenet = ImageNet(root, v2_root=around, v2_variant=variant)
        assert {sample.path.parent.parent for sample in imagenet.splits()["ood_v2"]} == {folder}
        assert ImageNet(root, v2_root=folder, v2_variant=variant).splits() == imagenet.splits()
    with pytest.raises(ValueError, match=r"top-images-format-val is another variant than v2_variant=threshold-0\.7"):
        ImageNet(root, v2_root=folder, v2_variant="threshold-0.7").splits()
    with pytest.raises(
        ValueError, match="v2_variant='threshold' is not known: choose one of matched-frequency, thresh"
    ):
        ImageNet(root, v2_variant="threshold")


def test_the_folder_of_sketches_or_the_one_around_it(root: Path, tmp_path: Path) -> None:
    sketch = write_sketch(tmp_path)
    inside, around = (ImageNet(root, sketch_root=folder).splits() for folder in (sketch, sketch.parent))
    assert inside == around
    assert inside["ood_sketch"][0].id == "sketch/n01440764/sketch_1.JPEG"


# --- words ---------------------------------------------------------------------------------------------------------


def test_a_class_without_superclass_goes_by_its_name(root: Path) -> None:
    assert ImageNet(root).superclasses == tuple(NAMES)
    words = {"n01592084": "bird", "n02012849": "bird", "n01798484": "chicken"}  # the last is no class of this folder
    assert ImageNet(root, superclasses=words).superclasses[2:] == ("great white shark", "bird", "bird", "crane")


def test_the_names_of_all_classes_differ(tmp_path: Path) -> None:
    from timm.data import ImageNetInfo

    everything = ImageNet(tmp_path, wnids=ImageNetInfo().label_names())
    assert len(set(everything.classes)) == len(everything.classes) == 1000
    # And there are captions that name none of them.
    assert planned_captions(Template(), 5, 0, everything.classes, everything.superclasses, tmp_path)


def agas() -> object:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("config", ["dataset=imagenet10", "dataset.root=."]).dataset


def test_imagenet10_is_agas() -> None:
    from timm.data import ImageNetInfo

    ten = instantiate(agas())
    assert list(ten.classes) == [
        "chickadee", "water ouzel", "loggerhead", "box turtle", "garter snake", "sea snake",
        "black and gold garden spider", "tick", "ptarmigan", "prairie chicken",
    ]  # fmt: skip
    lemmas = [ImageNetInfo().label_name_to_description(wnid) for wnid in ten.wnids]
    assert all(lemma.startswith(name) for lemma, name in zip(lemmas, ten.classes, strict=True))
    superclasses = "bird bird turtle turtle snake snake spider tick bird chicken"
    assert list(ten.superclasses) == superclasses.split()
    assert ten.published == {"test": 500, "classes": 10}
    assert (ten.name, ten.image_size) == ("imagenet10", 224)


def test_published_counts_are_of_the_splits_that_there_are(root: Path) -> None:
    whole = {"train": 1281167, "test": 50000, "classes": 1000}
    assert ImageNet(root).published == whole
    assert ImageNet(root, v2_root="v2").published == whole | {"ood_v2": 10000}
    assert ImageNet(root, sketch_root="sketch").published == whole | {"ood_sketch": 50889}
    some = ImageNet(root, wnids=WNIDS[:4], v2_root="v2", sketch_root="sketch")
    assert some.published == {"test": 200, "ood_v2": 40, "classes": 4}


# --- what can be wrong ---------------------------------------------------------------------------------------------


def test_missing_labels_name_both_files(flat: Path) -> None:
    both = r"LOC_val_solution\.csv .*ILSVRC2012_validation_ground_truth\.txt with meta\.mat .*dataset\.root"
    with pytest.raises(FileNotFoundError, match=rf"flat has no labels of the validation images\. .*{both}"):
        ImageNet(flat).splits()


@pytest.mark.parametrize("name", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"])
def test_half_a_development_kit_is_named(flat: Path, name: str) -> None:
    (write_kit(flat) / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"data/{name} is missing\. .*LOC_val_solution\.csv"):
        ImageNet(flat).splits()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("2\n449", "0\n449", r"ground_truth\.txt, line 1: the class is '0', expected 1 to 1000"),
        ("2\n449", "2\n1001", r"ground_truth\.txt, line 2: the class is '1001', expected 1 to 1000"),
        ("2\n449", "2\n448", r"ground_truth\.txt, line 2: .*meta\.mat has no class 448"),
        ("999\n", "1\n", r"labels of .*val have no image of n02012849"),
    ],
)
def test_numbers_of_the_development_kit_must_be_classes(flat: Path, old: str, new: str, words: str) -> None:
    file = write_kit(flat) / "ILSVRC2012_validation_ground_truth.txt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=words):
        ImageNet(flat).splits()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("ImageId,Prediction\nILSVRC2012_val_00000001,n01440764", "has no column PredictionString"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001,", "line 2: PredictionString is empty"),
    ],
)
def test_lines_of_kaggles_labels_that_cannot_be_read(flat: Path, content: str, words: str) -> None:
    (flat / "LOC_val_solution.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"LOC_val_solution\.csv.* {words}"):
        ImageNet(flat).splits()


def test_a_missing_validation_image_is_named(flat: Path) -> None:
    write_kaggle_labels(flat)
    (flat / "val" / "ILSVRC2012_val_00000004.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)00000004\.JPEG is missing, one of 1 .*ILSVRC2012_img_val\.tar"):
        ImageNet(flat).splits()


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("wnids", ["n01440764"], "must be two or more different WordNet ids, or null"),
        ("wnids", ["n01440764", "n01440764"], "must be two or more different WordNet ids, or null"),
        ("wnids", ["n01440764", "chickadee"], "'chickadee' is no WordNet id: expected n and eight digits"),
        ("superclasses", {"n1": "bird"}, "'n1' is no WordNet id"),
        ("image_size", 0, "image_size=0 is not possible"),
    ],
)
def test_wrong_arguments_are_refused_at_once(tmp_path: Path, argument: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageNet(tmp_path, **{argument: value})


def test_classes_that_imagenet_has_not(root: Path) -> None:
    for arguments in ({"wnids": ["n01440764", "n00000001"]}, {"superclasses": {"n00000001": "bird"}}):
        with pytest.raises(ValueError, match="n00000001 is none of the 1,000 classes"):
            _ = ImageNet(root, **arguments).classes
    (root / "train" / "n99999999").mkdir()
    with pytest.raises(ValueError, match="n99999999 is none of the 1,000 classes"):
        _ = ImageNet(root).classes


def test_missing_root_says_what_is_expected_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere is missing.*train/<wnid>.*image-net\.org.*CLS-LOC"):
        ImageNet(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"(?s)train is missing.*image-net\.org.*CLS-LOC"):
        _ = ImageNet(tmp_path).classes


@pytest.mark.parametrize("name", ["train/n01592084", "val/n01592084", "val"])
def test_a_missing_folder_is_named(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"(?s){name} is missing\. .*image-net\.org"):
        ImageNet(root, wnids=WNIDS).splits()


def test_a_class_without_images_is_named(root: Path) -> None:
    for path in (root / "train" / "n01592084").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(ValueError, match=r"train/n01592084 has no images \(\.jpeg or \.jpg\)"):
        ImageNet(root).splits()


def test_classes_still_packed(root: Path) -> None:
    (root / "train" / "n01622779.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train holds n01622779\.tar \(1 of the kind\): unpack each"):
        _ = ImageNet(root).classes
    for path in (root / "train").iterdir():
        path.rename(path.with_name(f"class_{path.name}"))
    with pytest.raises(ValueError, match="train has 0 class folders, two are needed"):
        _ = ImageNet(root).classes


def test_validation_images_half_sorted_into_folders(root: Path) -> None:
    paint(root / "val" / "ILSVRC2012_val_00000009.JPEG", WNIDS[0])
    with pytest.raises(ValueError, match=r"val holds class folders and images such as .*00000009\.JPEG beside them"):
        ImageNet(root).splits()


def test_missing_parts_of_v2_and_sketch_are_named(root: Path, tmp_path: Path) -> None:
    v2, sketch = write_v2(tmp_path, wnids=WNIDS[:5]), write_sketch(tmp_path)
    (sketch / WNIDS[1]).rename(sketch / "elsewhere")
    for arguments, words in (
        ({"v2_root": v2}, r"format-val/517 is missing\. dataset\.v2_root .*vaishaal/ImageNetV2"),
        ({"v2_root": tmp_path / "none"}, r"none is missing\. dataset\.v2_root must hold the folder imagenetv2-matched"),
        ({"sketch_root": sketch}, r"sketch/n01443537 is missing\. dataset\.sketch_root .*songweig/imagenet_sketch"),
        ({"sketch_root": tmp_path / "none"}, r"none is missing\. dataset\.sketch_root must be"),
    ):
        with pytest.raises(FileNotFoundError, match=f"(?s){words}"):
            ImageNet(root, **arguments).splits()


@pytest.mark.cli
def test_imagenet10_trains_from_the_command_line(tmp_path: Path) -> None:
    wnids = [str(wnid) for wnid in agas()["wnids"]]
    numbers = (19, 20, 33, 37, 57, 65, 72, 78, 81, 83)
    data = tmp_path / "data"
    for wnid, number in zip(wnids, numbers, strict=True):
        for name in (f"train/{wnid}/{wnid}_1.JPEG", f"train/{wnid}/{wnid}_2.JPEG", f"val/{wnid}/v.JPEG"):
            paint(data / name, WNIDS[0])
        paint(data / "imagenetv2-top-images-format-val" / str(number) / "a.jpeg", WNIDS[0])
        paint(data / "sketch" / wnid / "sketch_1.JPEG", WNIDS[0])
    done = run_cli(
        "dataset=imagenet10", f"dataset.root={data}", f"dataset.v2_root={data}", "dataset.v2_variant=top-images",
        f"dataset.sketch_root={data}", "dataset.image_size=32", "model=tiny", "model.width=8", "recipe=demo",
        "recipe.batch_size=4", "trainer=cpu", "loader.num_workers=0", "trainer.max_steps=1", "protocol=last",
        "logger=none", cwd=tmp_path,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/imagenet10/vanilla/*/results.json")
    results = json.loads(file.read_text())
    assert (results["dataset"], results["classes"]) == ("imagenet10", 10)
    assert {split: scores["n"] for split, scores in results["scores"].items()} == {
        "test": 10, "ood_v2": 10, "ood_sketch": 10,
    }  # fmt: skip
    assert "v2_variant: top-images" in (file.parent / "config.yaml").read_text()
