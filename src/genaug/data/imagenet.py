"""ImageNet (ILSVRC 2012) and subsets of its classes, with ImageNet-V2 and ImageNet-Sketch as further tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from genaug.data.base import Dataset, Sample
from genaug.data.imagenet_labels import validation_wnids
from genaug.data.layout import by_id, check_side, check_there, inner_folder, needed

_REMEDY = """\
root must hold train/<wnid>/*.JPEG and val/: what ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of image-net.org
unpack to, and each n01440764.tar of the former to a folder of its name. Or it is what Kaggle's "ImageNet Object
Localization Challenge" unpacks to, with ILSVRC/Data/CLS-LOC/{train,val}."""

_V2_REMEDY = """\
dataset.v2_root must hold the folder {folder}, or be it, with one folder for each class, 0 to 999, as the archive of
ImageNet-V2 ("vaishaal/ImageNetV2" on the Hugging Face hub) unpacks."""

_SKETCH_REMEDY = """\
dataset.sketch_root must be the folder sketch, or the one around it, with sketch/<wnid>/*.JPEG, as ImageNet-Sketch.zip
("songweig/imagenet_sketch" on the Hugging Face hub) unpacks."""

V2_FOLDERS = {
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
    "threshold-0.7": "imagenetv2-threshold0.7-format-val",
    "top-images": "imagenetv2-top-images-format-val",
}

_WNID = re.compile(r"n\d{8}")
_SUFFIXES = (".jpeg", ".jpg")

#: Classes whose first word is that of another class, which keeps it.
_NAMES = {"n02012849": "crane bird", "n03710721": "tank suit"}


class ImageNet(Dataset):
    """ILSVRC 2012 (Russakovsky et al., 2015): 1,281,167 training and 50,000 validation images of 1,000 classes.

    Its validation images are ``test``: the labels of its test images were never published. All splits share one map
    of classes to labels, in the order of their WordNet ids.

    Args:
        root: The folder of ``train`` and ``val``, or the one that holds Kaggle's ``ILSVRC``.
        image_size: Side in pixels that a network is trained on.
        wnids: WordNet ids of the classes to keep; None keeps every class that has a folder in ``train``.
        superclasses: By WordNet id, what the images show in a more general word ("bird"). A class that is not listed
            goes by its own name.
        v2_root: Folder of ImageNet-V2 (Recht et al., 2019), which becomes the split ``ood_v2``; None: no such split.
        v2_variant: Which of its three sets: ``matched-frequency``, ``threshold-0.7`` or ``top-images``.
        sketch_root: Folder of ImageNet-Sketch (Wang et al., 2019), which becomes ``ood_sketch``; None: no such split.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: there is no folder ``root``.
    """

    superclass = "object"

    def __init__(
        self,
        root: str | Path,
        image_size: int = 224,
        wnids: Sequence[str] | None = None,
        superclasses: Mapping[str, str] | None = None,
        v2_root: str | Path | None = None,
        v2_variant: str = "matched-frequency",
        sketch_root: str | Path | None = None,
    ) -> None:
        check_side(image_size)
        if wnids is not None and (len(wnids) < 2 or len(set(wnids)) < len(wnids)):
            raise ValueError(f"wnids={list(wnids)} must be two or more different WordNet ids, or null for all.")
        for wnid in [*(wnids or ()), *(superclasses or ())]:
            if not _WNID.fullmatch(wnid):
                raise ValueError(f"{wnid!r} is no WordNet id: expected n and eight digits, such as n01592084.")
        if v2_variant not in V2_FOLDERS:
            raise ValueError(f"v2_variant={v2_variant!r} is not known: choose one of {', '.join(V2_FOLDERS)}.")
        self.root = needed(Path(root).expanduser(), _REMEDY)
        self.image_size, self.v2_variant = image_size, v2_variant
        self.v2_root = None if v2_root is None else Path(v2_root).expanduser()
        self.sketch_root = None if sketch_root is None else Path(sketch_root).expanduser()
        self.name = "imagenet" if wnids is None else f"imagenet{len(wnids)}"
        self._chosen, self._superclasses = None if wnids is None else tuple(sorted(wnids)), dict(superclasses or {})

    @property
    def classes(self) -> Sequence[str]:
        """The first of each class's names in WordNet ("chickadee"), in the order of the WordNet ids."""
        return self._names

    @cached_property
    def superclasses(self) -> Sequence[str]:
        """See :attr:`Dataset.superclasses`."""
        return tuple(self._superclasses.get(wnid, name) for wnid, name in zip(self.wnids, self._names, strict=True))

    @property
    def published(self) -> Mapping[str, int]:
        """Of chosen classes what follows from 50 validation images of each, and 10 in ImageNet-V2.

        How many of a class's images are in train (732 to 1,300) and in Sketch (about 51) differs.
        """
        if self._chosen is not None:
            count = len(self._chosen)
            known = {"test": 50 * count, "ood_v2": 10 * count, "classes": count}
        else:
            known = {"train": 1_281_167, "test": 50_000, "ood_v2": 10_000, "ood_sketch": 50_889, "classes": 1_000}
        absent = {"ood_v2"} if self.v2_root is None else set()
        absent |= {"ood_sketch"} if self.sketch_root is None else set()
        return {split: number for split, number in known.items() if split not in absent}

    @cached_property
    def wnids(self) -> tuple[str, ...]:
        """WordNet id of each class, sorted."""
        found = self._chosen or tuple(sorted(self._class_folders(self._folder / "train")))
        unknown = [wnid for wnid in [*found, *self._superclasses] if wnid not in self._indices]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is none of the 1,000 classes of ImageNet (ILSVRC 2012).")
        if len(found) < 2:
            raise ValueError(f"{self._folder / 'train'} has {len(found)} class folders, two are needed. {_REMEDY}")
        return found

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train``, ``test`` (ILSVRC's val), and ``ood_v2`` and ``ood_sketch`` where their folders are given.

        Raises:
            FileNotFoundError: the folder of a class, the labels of ``val`` or an image that they name is missing.
            ValueError: a folder has no images, or the layout is not as expected.
        """
        return self._splits

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        train = self._folder / "train"
        splits = {"train": self._listed("train", {wnid: train / wnid for wnid in self.wnids}, _REMEDY)}
        splits["test"] = self._test()
        if self.v2_root is not None:
            splits["ood_v2"] = self._v2(self.v2_root)
        if self.sketch_root is not None:
            folder = inner_folder(needed(self.sketch_root, _SKETCH_REMEDY), "sketch", self.wnids[0])
            splits["ood_sketch"] = self._listed("sketch", {wnid: folder / wnid for wnid in self.wnids}, _SKETCH_REMEDY)
        return splits

    @cached_property
    def _folder(self) -> Path:
        """Of ``train`` and ``val``."""
        return inner_folder(self.root, "ILSVRC/Data/CLS-LOC", "train")

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Of the classes, by label."""
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return tuple(_NAMES.get(wnid) or info.label_name_to_description(wnid).split(",")[0] for wnid in self.wnids)

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Place of each WordNet id among the 1,000 of ILSVRC 2012 in sorted order, ImageNet-V2's folder."""
        from timm.data import ImageNetInfo  # here: it takes seconds to import

        return {wnid: index for index, wnid in enumerate(sorted(ImageNetInfo().label_names()))}

    def _class_folders(self, folder: Path) -> dict[str, Path]:
        """Folders by WordNet id; anything else is no business of ours, but for what was not unpacked."""
        entries = sorted(needed(folder, _REMEDY).iterdir())
        packed = [path.name for path in entries if path.suffix == ".tar" and _WNID.fullmatch(path.stem)]
        if packed:
            raise ValueError(f"{folder} holds {packed[0]} ({len(packed)} of the kind): unpack each. {_REMEDY}")
        return {path.name: path for path in entries if _WNID.fullmatch(path.name) and path.is_dir()}

    def _listed(self, prefix: str, folders: Mapping[str, Path], remedy: str) -> list[Sample]:
        """All images in the folders of the classes, sorted."""
        samples = []
        for label, wnid in enumerate(self.wnids):
            found = [path for path in needed(folders[wnid], remedy).iterdir() if _is_image(path)]
            if not found:
                raise ValueError(f"{folders[wnid]} has no images ({' or '.join(_SUFFIXES)}). {remedy}")
            samples += [Sample(f"{prefix}/{wnid}/{path.name}", path, label) for path in found]
        return by_id(samples)

    def _test(self) -> list[Sample]:
        """ILSVRC's validation images, in folders by class or all in one."""
        val = self._folder / "val"
        folders = self._class_folders(val)
        loose = next((path for path in val.iterdir() if _is_image(path)), None)
        if folders and loose:
            raise ValueError(
                f"{val} holds class folders and images such as {loose.name} beside them: sorting them into folders "
                f"stopped half-way. Move the rest, or unpack it anew. {_REMEDY}"
            )
        if folders:
            return self._listed("val", {wnid: val / wnid for wnid in self.wnids}, _REMEDY)
        labels = {wnid: label for label, wnid in enumerate(self.wnids)}
        samples = [
            Sample(f"val/{image}.JPEG", val / f"{image}.JPEG", labels[wnid])
            for image, wnid in validation_wnids((self.root, self._folder))
            if wnid in labels
        ]
        check_there(samples, _REMEDY)
        untested = set(range(len(labels))) - {sample.label for sample in samples}
        if untested:
            names = ", ".join(self.wnids[label] for label in sorted(untested))
            raise ValueError(f"The labels of {val} have no image of {names}. {_REMEDY}")
        return by_id(samples)

    def _v2(self, root: Path) -> list[Sample]:
        """ImageNet-V2, whose folders are numbers: as texts they would sort 0, 1, 10, 100."""
        name = V2_FOLDERS[self.v2_variant]
        remedy = _V2_REMEDY.format(folder=name)
        folder = inner_folder(needed(root, remedy), name, "0")
        if folder.name in V2_FOLDERS.values() and folder.name != name:
            raise ValueError(f"v2_root={root} is another variant than v2_variant={self.v2_variant}. {remedy}")
        return self._listed(name, {wnid: folder / str(self._indices[wnid]) for wnid in self.wnids}, remedy)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
