"""De-DA: Decoupled Data Augmentation (Chen et al. 2024).

Offline, each training image is decoupled into its class-dependent part (CDP: the object as an RGBA cut-out) and its
class-independent part (CIP: the scene with the object filled in). A diffusion model makes synthetic versions of each
CDP (:mod:`genaug.synthesis.object_edits`). During training, real and synthetic CDPs are placed on the CIPs of other
images (section 3, Table 6).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from filelock import FileLock

from genaug.console import track
from genaug.data.base import Dataset, Sample
from genaug.data.images import RealImages, Source, target_of
from genaug.data.reading import read_image
from genaug.functional.composite import cut_out, paste, resize, resize_quickly, rotate, visible_areas
from genaug.functional.cutouts import on_white
from genaug.functional.masks import coverage, dilate, mask_box
from genaug.functional.pushpull import fill_holes
from genaug.pictures import save_sheet
from genaug.seeding import derive
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import Masks, make_masks
from genaug.synthesis.images import labels_of
from genaug.synthesis.jobs import Stage
from genaug.synthesis.object_edits import EditedObjects, ObjectEdits, Subject
from genaug.synthesis.per_source import with_class
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import Store, content_key
from genaug.threads import thread_pool

log = logging.getLogger(__name__)

#: Raise it with every change of how parts come about: stores of another version are not used.
VERSION = "decouple-3"

#: What there is of an image that could not be segmented.
NO_PARTS: Mapping[str, Any] = {"cdp": False, "cip": False, "place": [0.5, 0.5, 1.0]}

CipFrom = Literal["other_image", "other_class", "own"]
Placement = Literal["random", "original"]
LabelArea = Literal["visible", "full"]


class Parts:
    """The decoupled parts of a list of samples, read from a store on demand.

    Args:
        store: Where objects and scenes are.
        samples: Whose.
        masks: Of the samples; those without one have no parts.
        edited: The synthetic objects, if there are any.

    Attributes:
        has_cdp: ``(n,)`` bool: which samples have a usable object.
        has_cip: ``(n,)`` bool: which have a scene that can be filled.
        synthetic: Numbers of the synthetic objects that each sample has.
    """

    def __init__(
        self, store: Store, samples: Sequence[Sample], masks: Masks, edited: EditedObjects | None = None
    ) -> None:
        self.store, self.samples, self.masks, self.edited = store, list(samples), masks, edited
        self.keys = [masks.key(sample.id) if sample.id in masks else "" for sample in self.samples]
        records = [store[key] if key else NO_PARTS for key in self.keys]
        self.has_cdp = np.array([record["cdp"] for record in records], dtype=bool)
        self.has_cip = np.array([record["cip"] for record in records], dtype=bool)
        #: ``(n, 3)``: where the object was: centre x and y as fractions, its long side / the image's short side.
        self.places = np.array([record["place"] for record in records], dtype=np.float64)
        kept: Mapping[str, tuple[int, ...]] = {} if edited is None else edited.kept
        self.synthetic = [kept.get(sample.id, ()) for sample in self.samples]

    def cdp(self, index: int, copy: int = 0) -> np.ndarray:
        """Object of sample ``index``, ``(h, w, 4)`` uint8: real, or synthetic from ``copy`` 1 on."""
        return self.part(index, copy)[0]

    def part(self, index: int, copy: int = 0) -> tuple[np.ndarray, Sequence[float]]:
        """An object as of :meth:`cdp`, and its place as in :attr:`places`.

        Raises:
            KeyError: there is no such synthetic object; :attr:`synthetic` says which there are.
        """
        if copy == 0:
            return self.store.array(self.keys[index], "cdp-0.npy"), self.places[index]
        if copy not in self.synthetic[index] or self.edited is None:
            raise KeyError(f"{self.samples[index].id} has the synthetic objects {self.synthetic[index]}, not {copy}")
        return self.edited.part(self.samples[index].id, copy)

    def cip(self, index: int) -> np.ndarray:
        """Scene of sample ``index``: ``(H, W, 3)`` uint8, the object filled in."""
        return self.store.array(self.keys[index], "cip.npy")

    def sheet(self, path: Path, count: int = 8) -> None:
        """Write a picture of ``count`` objects: the real one, its synthetic ones, its scene, two combinations."""
        both = np.flatnonzero(self.has_cdp & self.has_cip)
        chosen = [int(index) for index in both[:: max(1, len(both) // count)][:count]]
        rows = [self._row(index) for index in chosen]
        if rows:
            images, texts = zip(*(pair for row in rows for pair in row), strict=True)
            save_sheet(images, texts, path, columns=len(rows[0]))

    def _row(self, index: int) -> list[tuple[np.ndarray, str]]:
        """What :meth:`sheet` shows of a sample, with texts; all rows have the same columns."""
        shown: dict[str, np.ndarray | None] = {} if self.edited is None else self.edited.whole(self.samples[index].id)
        shown["object"] = on_white(self.cdp(index))
        for copy in range(1, max((copy for kept in self.synthetic for copy in kept), default=0) + 1):
            there = copy in self.synthetic[index]
            shown[f"synthetic {copy}"] = on_white(self.cdp(index, copy)) if there else None
        nothing = np.full((1, 1, 3), 255, np.uint8), "did not pass"
        row = [nothing if image is None else (image, name) for name, image in shown.items()]
        row.append((self.cip(index), "scene"))
        if self.has_cip.sum() > 1:
            classes = 1 + max(label for one in self.samples for label in (*labels_of(one.label), *one.unknown))
            settings = OnlineCombination(p_aug=1.0, p_syn=0.0 if self.edited is None else 0.5, p_mix=0.0)
            combined = settings(RealImages(self.samples, classes), self)
            for number in (1, 2):
                rng = np.random.default_rng(derive(0, "sheet", self.samples[index].id, number))
                row.append((combined.draw(index, rng)[0], "combination"))
        return row

    def report(self) -> dict[str, Any]:
        """Mask quality, how many images gave an object and a scene, and what became of the synthetic objects."""
        return {
            "images": len(self.keys),
            "without_mask": self.keys.count(""),
            "objects": int(self.has_cdp.sum()),
            "scenes": int(self.has_cip.sum()),
            "synthetic": sum(map(len, self.synthetic)),
            "masks": self.masks.report(),
            "edit": None if self.edited is None else self.edited.report(),
            "cost": {} if self.edited is None else self.edited.report()["cost"],
        }


class Decouple:
    """Offline part: masks, cut-outs, filled scenes and synthetic objects, each made once and found again by content.

    Args:
        segmenter: Makes the masks; several objects of an image form one mask. An image that it cannot segment, where
            only a part of a dataset is annotated, gives neither object nor scene.
        dilation: Pixels by which the hole is grown before it is filled, as a fraction of the scene's short side:
            keeps the object's rim out of the scene. Not given in the paper.
        min_object: Smallest share of the image a mask may cover to be used as an object.
        min_scene: Smallest share that must remain around the hole for a scene: an object that fills the frame
            leaves nothing to fill from, and its image gives no scene.
        workers: Threads.
        edit: Makes the synthetic objects; None makes none.

    Raises:
        ValueError: a fraction lies outside [0, 1).
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dilation: float = 0.02,
        min_object: float = 0.005,
        min_scene: float = 0.05,
        workers: int = 2,
        edit: ObjectEdits | None = None,
    ) -> None:
        for name, value in {"dilation": dilation, "min_object": min_object, "min_scene": min_scene}.items():
            if not 0 <= value < 1:
                raise ValueError(f"method.synthesis.{name}={value} is not a fraction: give a number in [0, 1).")
        self.segmenter, self.dilation = segmenter, dilation
        self.min_object, self.min_scene, self.workers = min_object, min_scene, workers
        self.edit = edit

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :class:`genaug.methods.base.Synthesis`.

        All images are counted: which of them have no usable object is known once they are segmented.
        """
        samples = self._segmentable(samples)
        stages = [Stage("masks", len(samples)), Stage("decoupled images", len(samples))]
        return stages if self.edit is None else stages + self.edit.plan(with_class(samples), dataset)

    def make(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, side: int, runner: Runner) -> Parts:
        """Decouple ``samples``; what an earlier run made is kept.

        Args:
            samples: The training images.
            dataset: For the word the segmenter is given.
            folder: Of all stores.
            side: What training resizes to: a scene's short side and an object's long side need no more.
            runner: Knows the device that masks are made on.

        Raises:
            ValueError: the images are grey, the generator cannot do what it is asked for, or no sample has a usable
                object or scene.
            FileNotFoundError: there is no generator.
        """
        if dataset.channels != 3:
            raise ValueError(
                f"De-DA makes parts in RGB, and dataset.channels={dataset.channels}: set dataset.channels=3."
            )
        if self.edit is not None:
            self.edit.check()
        able = self._segmentable(samples)
        if left := len(samples) - len(able):
            log.warning("%d of %d images have no mask to be cut along: they stay as they are", left, len(samples))
        masks = make_masks(able, self.segmenter, dataset, folder / "masks", self.workers, runner.device)
        settings = (str(value) for value in (side, self.dilation, self.min_object, self.min_scene))
        store = Store(folder / "parts" / content_key(self.segmenter.fingerprint, VERSION, *settings))
        self._fill(store, able, masks, side)
        parts = Parts(store, samples, masks)
        if not parts.has_cdp.any() or not parts.has_cip.any():
            raise ValueError(
                f"De-DA needs objects and scenes; the masks of {len(samples)} images gave {parts.has_cdp.sum()} objects"
                f" and {parts.has_cip.sum()} scenes. Look at the masks in {folder / 'masks'}, or change the segmenter."
            )
        if self.edit is None:
            return parts
        usable = [sample for sample, has in zip(samples, parts.has_cdp, strict=True) if has]
        subjects = [self._subject(sample, masks, store) for sample in with_class(usable)]
        return Parts(
            store, samples, masks, self.edit.make(subjects, dataset, masks, folder, side, runner, self.workers)
        )

    def _segmentable(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The samples that the segmenter can do; all where it can do none, which it then says itself."""
        return [sample for sample in samples if self.segmenter.can_segment(sample)] or samples

    def _subject(self, sample: Sample, masks: Masks, store: Store) -> Subject:
        """The object of a sample that has one, for the generator."""
        record, key = store[masks.key(sample.id)], content_key(masks.key(sample.id), self.segmenter.fingerprint)
        return Subject(sample, key, tuple(record["box"]), tuple(record["size"]))

    def _fill(self, store: Store, samples: Sequence[Sample], masks: Masks, side: int) -> None:
        """Decouple what the store does not have; ranks that start together do not all do it."""

        def one(sample: Sample) -> None:
            image = read_image(sample.path)
            files, record = self.decouple(image, masks[sample.id], side)
            store.add(masks.key(sample.id), files, record)

        store.root.mkdir(parents=True, exist_ok=True)
        with FileLock(store.root / ".lock"), thread_pool(self.workers) as pool:
            store.refresh()
            missing = [sample for sample in samples if masks.key(sample.id) not in store]
            for _ in track(pool.map(one, missing), total=len(missing), description="decoupling"):
                pass

    def decouple(self, image: np.ndarray, mask: np.ndarray, side: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Cut one image ``(H, W, 3)`` along ``mask`` ``(H, W)``.

        Returns:
            The arrays that exist (``cdp-0.npy`` RGBA, ``cip.npy`` RGB), and the record for the store.
        """
        height, width = mask.shape
        files: dict[str, np.ndarray] = {}
        place = [0.5, 0.5, 1.0]
        box = mask_box(mask)
        if box is not None and coverage(mask) >= self.min_object:
            files["cdp-0.npy"] = self._object(image, mask, box, side)
            x, y, w, h = box
            place = [(x + w / 2) / width, (y + h / 2) / height, max(w, h) / min(width, height)]
        scene = self._scene(image, mask, side)
        if scene is not None:
            files["cip.npy"] = scene
        record = {"cdp": "cdp-0.npy" in files, "cip": scene is not None, "place": place}
        return files, record | {"box": box, "size": [height, width]}

    def _object(self, image: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], side: int) -> np.ndarray:
        cutout = cut_out(image, mask, box)
        # Where alpha is 0 the object's own colours go on: a resized edge must not show the old background.
        cutout[..., :3] = fill_holes(np.ascontiguousarray(cutout[..., :3]), cutout[..., 3] > 0)
        scale = min(1.0, side / max(cutout.shape[:2]))
        return resize(cutout, max(1, round(cutout.shape[1] * scale)), max(1, round(cutout.shape[0] * scale)))

    def _scene(self, image: np.ndarray, mask: np.ndarray, side: int) -> np.ndarray | None:
        """The image at training size with its object filled in by push–pull, or nothing if too little is left."""
        scale = side / min(mask.shape)
        width, height = max(side, round(mask.shape[1] * scale)), max(side, round(mask.shape[0] * scale))
        small = resize(image, width, height)
        # In floats, and the way the image is resized: a pixel with any share of the object in it is part of the hole.
        hole = resize(mask.astype(np.float32), width, height) > 0
        known = ~dilate(hole, max(1, round(self.dilation * side)))
        if coverage(known) < self.min_scene:
            return None
        return small if known.all() else fill_holes(small, known)


class OnlineCombination:
    """Training view: with probability ``p_aug`` an image gives way to its object on another scene (section 3).

    The object is the replaced image's own, real or synthetic, so that classes keep their frequencies. What the paper
    leaves open is an argument with a stated default: ``size``, ``flip``, ``rotation``, ``cip``, ``label_area``.

    In multi-label data the object is all that an image shows, with all its labels. An image without a label is never
    replaced, and gives its scene. What is unknown in an object or a scene is unknown in the combination, unless an
    object shows it.

    Args:
        p_aug: Probability that a real image is replaced (Table 6: 0.5).
        p_syn: Probability that an object is a synthetic one, where it has any (Table 6: 0.25).
        p_mix: Probability that a replaced image gets a second object of another class (Table 6: 0.5; Figure 8c's
            text finds 0.25 best on CUB); of several labels, the first must lack one. The label then follows the
            objects' areas in pixels, on the whole scene: the recipe's crop comes after it, as it does for real images,
            and may cut off part of an object.
        cip: Whose scene: ``other_image`` of any class, ``other_class`` (no label in common), or ``own`` (no
            replacement; Figure 9 b and c).
        placement: ``random`` size and position, or ``original`` (Figure 9 b and d).
        size: Range of the object's long side, as a share of the scene's short side, drawn uniformly.
        flip: Probability of a horizontal flip of an object.
        rotation: Largest rotation of an object either way, in degrees.
        label_area: ``visible`` counts pixels the second object hides only for the second; ``full`` counts them twice.

    Raises:
        ValueError: a probability outside [0, 1], an unusable range, or an unknown choice.
    """

    def __init__(
        self,
        p_aug: float = 0.5,
        p_syn: float = 0.25,
        p_mix: float = 0.5,
        cip: CipFrom = "other_image",
        placement: Placement = "random",
        size: tuple[float, float] = (0.4, 0.9),
        flip: float = 0.5,
        rotation: float = 0.0,
        label_area: LabelArea = "visible",
    ) -> None:
        for name, value in {"p_aug": p_aug, "p_syn": p_syn, "p_mix": p_mix, "flip": flip}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"method.view.{name}={value} is not a probability: give a number in [0, 1].")
        for name, choice, known in (
            ("cip", cip, get_args(CipFrom)),
            ("placement", placement, get_args(Placement)),
            ("label_area", label_area, get_args(LabelArea)),
        ):
            if choice not in known:
                raise ValueError(f"method.view.{name}={choice!r} is not known: choose one of {', '.join(known)}.")
        if len(size) != 2 or not 0 < size[0] <= size[1] <= 1:
            raise ValueError(
                f"method.view.size={list(size)} must be [smallest, largest] with 0 < smallest <= largest <= 1."
            )
        if rotation < 0:
            raise ValueError(f"method.view.rotation={rotation} must be an angle of at least 0 degrees.")
        self.p_aug, self.p_syn, self.p_mix = p_aug, p_syn, p_mix
        self.cip, self.placement, self.size = cip, placement, (float(size[0]), float(size[1]))
        self.flip, self.rotation, self.label_area = flip, rotation, label_area

    def __call__(self, real: Source, made: Parts) -> Combined:
        """The source that draws real images and combinations."""
        if self.p_syn > 0 and made.edited is None:
            log.info("method.view.p_syn=%g has no effect: there are no synthetic objects", self.p_syn)
        return Combined(real, made, self)


class Combined:
    """Real images, some of them replaced by combinations of parts; see :class:`OnlineCombination`."""

    def __init__(self, real: Source, parts: Parts, settings: OnlineCombination) -> None:
        self.real, self.parts, self.settings = real, parts, settings
        self.samples, self.num_classes = real.samples, real.num_classes
        self.labels = [frozenset(labels_of(sample.label)) for sample in real.samples]
        placeable = parts.has_cdp & np.array([bool(labels) for labels in self.labels])
        self.replaceable = placeable & parts.has_cip if settings.cip == "own" else placeable
        self.scenes, self.objects = np.flatnonzero(parts.has_cip), np.flatnonzero(placeable)
        self.classes = frozenset[int]().union(*(self.labels[i] for i in self.objects))
        self._check()

    def _check(self) -> None:
        """Every draw below ends: what is looked for exists.

        Raises:
            ValueError: all scenes belong to one image, an image has no scene that shares no class with it, or all
                objects are of the same classes.
        """
        if self.settings.cip == "other_image" and len(self.scenes) < 2:
            raise ValueError("cip=other_image needs scenes of at least two images; there are fewer. Use cip=own.")
        if self.settings.cip == "other_class":
            self._check_scenes()
        alone = not any(self._has_partner(index) for index in map(int, self.objects))
        if self.settings.p_mix > 0 and len(self.objects) and alone:
            raise ValueError("p_mix > 0 needs objects of at least two classes. Set method.view.p_mix=0.")

    def _check_scenes(self) -> None:
        """Whatever image is replaced, some scene shares no class with it."""
        kinds = {self.labels[i] for i in self.scenes}
        for index in map(int, self.objects):
            if all(self.labels[index] & kind for kind in kinds):
                raise ValueError(
                    f"{self.samples[index].id} shares a class with all others: cip=other_class needs scenes of at "
                    "least two classes. Use cip=other_image."
                )

    def _has_partner(self, index: int) -> bool:
        """Whether some object is of a class that object ``index`` is not."""
        return bool(self.classes - self.labels[index])

    def __len__(self) -> int:
        return len(self.real)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`genaug.data.images.Source.draw`."""
        if not self.replaceable[index] or rng.random() >= self.settings.p_aug:
            return self.real.draw(index, rng)
        scene = self._scene_for(index, rng)
        canvas = self.parts.cip(scene)
        first_alpha, first_at = self._place(canvas, index, rng)
        label = self._label(index)
        if rng.random() < self.settings.p_mix and self._has_partner(index):
            other = self._partner(index, rng)
            second_alpha, second_at = self._place(canvas, other, rng)
            label = self._mixed_label(label, (first_alpha, first_at), self._label(other), (second_alpha, second_at))
        # What nobody could name was not cut out of its scene either.
        unknown = [one for one in self.samples[scene].unknown if label[one] == 0]
        label[unknown] = np.nan
        return canvas, label

    def _label(self, index: int) -> np.ndarray:
        return target_of(self.samples[index], self.num_classes)

    def _scene_for(self, index: int, rng: np.random.Generator) -> int:
        if self.settings.cip == "own":
            return index
        if self.settings.cip == "other_class":
            return self._drawn(self.scenes, lambda other: not self.labels[index] & self.labels[other], rng)
        while (scene := int(rng.choice(self.scenes))) == index:
            pass
        return scene

    def _partner(self, index: int, rng: np.random.Generator) -> int:
        """A random object of a class that object ``index`` is not."""
        return self._drawn(self.objects, lambda other: bool(self.labels[other] - self.labels[index]), rng)

    @staticmethod
    def _drawn(among: np.ndarray, suits: Callable[[int], bool], rng: np.random.Generator) -> int:
        """A random one of ``among`` that suits; there is one."""
        for _ in range(32):
            other = int(rng.choice(among))
            if suits(other):
                return other
        return int(rng.choice([other for other in map(int, among) if suits(other)]))

    def _place(self, canvas: np.ndarray, index: int, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
        """Resize, flip and paste object ``index`` into ``canvas``; returns its alpha and top left corner."""
        cutout, (centre_x, centre_y, own_size) = self._object(index, rng)
        height, width = canvas.shape[:2]
        original = self.settings.placement == "original"
        share = own_size if original else rng.uniform(*self.settings.size)
        scale = share * min(width, height) / max(cutout.shape[:2])
        scale = min(scale, width / cutout.shape[1], height / cutout.shape[0])
        cutout = resize_quickly(cutout, max(1, round(cutout.shape[1] * scale)), max(1, round(cutout.shape[0] * scale)))
        room_x, room_y = width - cutout.shape[1], height - cutout.shape[0]
        if original:
            x = int(np.clip(round(centre_x * width - cutout.shape[1] / 2), 0, room_x))
            y = int(np.clip(round(centre_y * height - cutout.shape[0] / 2), 0, room_y))
        else:
            x, y = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
        return paste(canvas, cutout, x, y), (x, y)

    def _object(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, Sequence[float]]:
        """Object ``index``, real or synthetic, with the random transformations of the combination, and its place."""
        copies = self.parts.synthetic[index]
        copy = copies[int(rng.integers(len(copies)))] if copies and rng.random() < self.settings.p_syn else 0
        cutout, place = self.parts.part(index, copy)
        if self.settings.placement == "original":
            return cutout, place
        if rng.random() < self.settings.flip:
            cutout = cv2.flip(cutout, 1)
        if self.settings.rotation:
            cutout = rotate(cutout, rng.uniform(-self.settings.rotation, self.settings.rotation))
        return cutout, place

    def _mixed_label(
        self,
        first: np.ndarray,
        first_part: tuple[np.ndarray, tuple[int, int]],
        second: np.ndarray,
        second_part: tuple[np.ndarray, tuple[int, int]],
    ) -> np.ndarray:
        """Labels weighted by the objects' areas, the second object lying over the first."""
        if self.settings.label_area == "visible":
            areas = visible_areas(*first_part, *second_part)
        else:
            areas = cv2.sumElems(first_part[0])[0], cv2.sumElems(second_part[0])[0]
        weight = areas[1] / max(areas[0] + areas[1], 1e-9)
        # What is unknown of an object that cannot be seen does not matter.
        first, second = first if weight < 1 else np.zeros_like(first), second if weight > 0 else np.zeros_like(second)
        return ((1 - weight) * first + weight * second).astype(np.float32)
