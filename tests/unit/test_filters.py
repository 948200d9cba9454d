"""Filters of made images, with networks whose answers can be had by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from renderers import runner_in

from genaug.data.base import Sample
from genaug.filtering.alpha import Alpha
from genaug.filtering.base import VERDICTS, Candidate, Circumstances, apply_filters
from genaug.filtering.clip_class import ClipClass
from genaug.filtering.clip_negatives import ClipNegatives
from genaug.filtering.clip_pair import ClipPair
from genaug.filtering.confidence import MISLABELLED, TOO_EASY, Confidence, confident_thresholds
from genaug.filtering.mask_iou import MaskIou
from genaug.generation.base import Generator
from genaug.methods.image2image import ImageToImage
from genaug.segmentation.annotated import Annotated
from genaug.segmentation.base import Segmentation, Segmenter
from genaug.synthesis.commands import main as genaug
from genaug.synthesis.images import candidates_of

COLOURS = ("red", "green", "blue")


def dataset(**changes) -> SimpleNamespace:
    given = {
        "name": "colours", "classes": ("Red", "Green", "Blue"), "superclass": "red", "superclasses": ("red",) * 3,
        "channels": 3, "image_size": 8, "multilabel": False,
    }  # fmt: skip
    return SimpleNamespace(**(given | changes))


class ColourClip:
    """Sees the mean colour of a picture, and the last colour that a text names; nothing else is a little of each."""

    fingerprint, scale, batch_size = "ColourClip", 2.0, 4

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.devices: list[str] = []

    def load(self, device: str) -> None:
        self.devices.append(device)

    def unload(self) -> None:
        self.devices.append("nowhere")

    def images(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        self.seen.append(len(arrays))
        return torch.nn.functional.normalize(torch.tensor(np.stack([one.mean((0, 1)) for one in arrays])).float())

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        rows = [[float(text.endswith(colour)) for colour in COLOURS] for text in texts]
        return torch.nn.functional.normalize(torch.tensor([row if any(row) else [1.0, 1.0, 1.0] for row in rows]))


def picture(path: Path, *colour: int, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, len(colour)), colour, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def red_green_blue(tmp_path) -> list[Candidate]:
    """A picture of each colour, all said to be red."""
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    return [
        Candidate(f"k{number}", picture(tmp_path / "made" / f"{number}.png", *colour), 0)
        for number, colour in enumerate(colours)
    ]


@pytest.fixture
def about(tmp_path) -> Circumstances:
    return Circumstances([], dataset(), tmp_path / "stores", "cpu")


def share(mine: float, *others: float) -> float:
    """A softmax's first entry."""
    return math.exp(mine) / sum(map(math.exp, (mine, *others)))


# --- CLIP: the class -----------------------------------------------------------------------------------------------


def test_a_class_must_get_more_than_its_even_share(red_green_blue, about):
    clip = ColourClip()
    said = ClipClass(clip, "{name}").judge(red_green_blue, about)
    assert [one.keep for one in said] == [True, False, False]
    assert [one.score for one in said] == pytest.approx([share(2, 0, 0), share(0, 2, 0), share(0, 2, 0)])
    assert [one.reason for one in said] == ["", "not seen as its class", "not seen as its class"]
    assert clip.devices == ["cpu", "nowhere"]


def test_another_threshold_costs_nothing(red_green_blue, about):
    clip = ColourClip()
    first = ClipClass(clip, "{name}").judge(red_green_blue, about)
    clip.seen.clear()
    for factor, kept in ((0, 3), (0.3, 3), (0.4, 1), (2.3, 1), (2.5, 0)):
        said = ClipClass(clip, "{name}", factor=factor).judge(red_green_blue, about)
        assert sum(one.keep for one in said) == kept
        assert [one.score for one in said] == [one.score for one in first]
    assert clip.seen == []
    assert len(clip.devices) == 2  # loaded for the first only
    ClipClass(clip, "a {name}").judge(red_green_blue, about)
    assert clip.seen == [3]
    names = {ClipClass(clip, *given).fingerprint for given in (("{name}", 1), ("{name}", 2), ("a {name}", 1))}
    assert len(names) == 3


def test_of_several_classes_the_least_likely_counts(tmp_path, about):
    yellow = picture(tmp_path / "yellow.png", 255, 255, 0)
    said = ClipClass(ColourClip(), "{name}").judge(
        [Candidate("a", yellow, (0, 1)), Candidate("b", yellow, (0, 2))], about
    )
    half = 2 * math.sqrt(0.5)
    assert [one.score for one in said] == pytest.approx([share(half, half, 0), share(0, half, half)])
    assert [one.keep for one in said] == [True, False]


def test_more_images_than_a_batch_come_back_in_order(tmp_path, about):
    many = [Candidate(f"{n:02}", picture(tmp_path / f"{n}.png", 25 * n, 255 - 25 * n, 0), n % 2) for n in range(10)]
    clip = ColourClip()
    said = ClipClass(clip, "{name}").judge(many, about)
    assert clip.seen == [4, 4, 2]
    for candidate, one in zip(many, said, strict=True):
        alone = ClipClass(ColourClip(), "{name}").judge([candidate], Circumstances([], dataset(), about.folder / "b"))
        assert one.score == pytest.approx(alone[0].score, abs=1e-6)


# --- CLIP: with and without ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "drop", "dropped"), [(10, 0.1, 1), (9, 0.1, 0), (10, 0.3, 3), (20, 0.29, 5), (5, 0, 0)]
)
def test_the_lowest_share_is_dropped(tmp_path, about, count, drop, dropped):
    # Ever redder; listed from the reddest down.
    made = [Candidate(f"{n:02}", picture(tmp_path / f"{n}.png", 250 - 10 * n, 10 * n, 100), 0) for n in range(count)]
    said = ClipPair(ColourClip(), "{superclass}", "no blue", drop).judge(made, about)
    assert [one.keep for one in said] == [True] * (count - dropped) + [False] * dropped
    scores = [one.score for one in said]
    assert scores == sorted(scores, reverse=True)
    assert {one.reason for one in said if not one.keep} <= {"among the least likely to show the object"}


def test_equal_scores_are_dropped_by_key(tmp_path, about):
    same = picture(tmp_path / "one.png", 255, 0, 0)
    said = ClipPair(ColourClip(), drop=0.5).judge([Candidate(key, same, 0) for key in ("a", "b", "c")], about)
    assert [one.keep for one in said] == [False, True, True]


def test_each_class_is_asked_for_by_its_own_superclass(tmp_path, about):
    blue = picture(tmp_path / "one.png", 0, 0, 255)
    mixed = dataset(superclass="thing", superclasses=("red", "green", "blue"))
    there = Circumstances([], mixed, about.folder)
    made = [Candidate("a", blue, 0), Candidate("b", blue, 2)]
    scores = [one.score for one in ClipPair(ColourClip(), "{superclass}", "no", 0).judge(made, there)]
    other = 2 / math.sqrt(3)
    assert scores == pytest.approx([share(0, other), share(2, other)])
    # The scores of another dataset's words are not taken for these.
    assert ClipPair(ColourClip(), "{superclass}", "no", 0).judge(made[1:], about)[0].score == pytest.approx(
        share(0, other)
    )


# --- CLIP: the task among other things -----------------------------------------------------------------------------


def test_the_task_must_win_and_who_won_is_the_reason(red_green_blue, about):
    one = ClipNegatives(ColourClip(), "some {superclass}", ["a green", "a blue"])
    said = one.judge(red_green_blue, about)
    assert [judged.reason for judged in said] == ["", "rather: a green", "rather: a blue"]
    assert [judged.keep for judged in said] == [True, False, False]
    assert [judged.score for judged in said] == pytest.approx([share(2, 0, 0), share(0, 2, 0), share(0, 2, 0)])


# --- confidence ----------------------------------------------------------------------------------------------------


class Believer:
    """In the place of a finished run: probabilities of three classes by the file's name."""

    def __init__(self, table: dict[str, Sequence[float]]) -> None:
        self.table, self.asked = table, []
        self.dataset = dataset()

    def probabilities(self, paths, device, batch_size):
        self.asked += [path.name for path in paths]
        return torch.tensor([self.table[path.name] for path in paths])


@pytest.fixture
def finished_run(tmp_path):
    run = tmp_path / "runs" / "colours" / "vanilla" / "ab12"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0")
    (run / "checkpoints" / "final.ckpt").write_bytes(b"weights")
    return run


def test_the_mean_of_each_class_is_its_threshold():
    assert confident_thresholds([0.9, 0.5, 0.2], [1, 1, 0], 3).tolist() == pytest.approx([0.2, 0.7, math.inf])


def test_what_a_network_is_too_sure_of_is_dropped(tmp_path, finished_run, monkeypatch):
    table = {
        "real0.png": [0.9, 0.1, 0.0], "real1.png": [0.5, 0.3, 0.2], "real2.png": [0.2, 0.6, 0.2],  # limits 0.7 and 0.6
        "easy.png": [0.75, 0.2, 0.05], "wrong.png": [0.3, 0.65, 0.05], "good.png": [0.65, 0.3, 0.05],
        "unsure.png": [0.4, 0.55, 0.05], "new.png": [0.0, 0.01, 0.99], "edge.png": [0.4, 0.6, 0.0],
    }  # fmt: skip
    believer = Believer(table)
    monkeypatch.setattr(Confidence, "_load", staticmethod(lambda run, dataset: believer))
    paths = {name: picture(tmp_path / "all" / name, 9 * number, 0, 0) for number, name in enumerate(table)}
    real = [Sample(name, paths[name], label) for name, label in (("real0.png", 0), ("real1.png", 0), ("real2.png", 1))]
    made = [Candidate(name, path, 0) for name, path in paths.items() if not name.startswith("real")]
    about = Circumstances(real, dataset(), tmp_path / "stores")
    said = dict(zip([one.key for one in made], Confidence(finished_run).judge(made, about), strict=True))
    assert {name: one.reason for name, one in said.items()} == {
        "easy.png": TOO_EASY, "wrong.png": MISLABELLED, "good.png": "", "unsure.png": "",
        "new.png": "",  # the network knows no image of that class, so it cannot be too sure of it
        "edge.png": "",
    }  # fmt: skip
    assert said["wrong.png"].score == pytest.approx(0.65)
    assert sorted(believer.asked) == sorted(table)
    Confidence(finished_run).judge(made, about)
    assert len(believer.asked) == len(table)  # nothing is looked at twice
    (finished_run / "checkpoints" / "final.ckpt").write_bytes(b"others")
    Confidence(finished_run).judge(made, about)
    assert len(believer.asked) == 2 * len(table)  # by another network


def test_without_a_run_everything_is_kept_and_said_so(red_green_blue, about, caplog):
    assert all(one.keep for one in Confidence().judge(red_green_blue, about))
    assert "keeps every image" in caplog.text


def test_a_folder_that_is_no_finished_run_and_one_of_other_classes_are_refused(
    tmp_path, finished_run, monkeypatch, red_green_blue
):
    with pytest.raises(ValueError, match=r"(?s)confidence.run=.*nowhere.*method=vanilla.*<dataset>/<method>/<hash>"):
        Confidence(tmp_path / "nowhere")
    from genaug.explaining import finished

    other = SimpleNamespace(dataset=dataset(classes=("Red", "Green"), name="two"))
    monkeypatch.setattr(finished.FinishedRun, "load", lambda folder: other)
    real = [Sample("a", red_green_blue[0].path, 0)]
    with pytest.raises(ValueError, match="trained on other classes .2 of two. than colours has .3."):
        Confidence(finished_run).judge(red_green_blue, Circumstances(real, dataset(), tmp_path / "stores"))
    with pytest.raises(ValueError, match="images of one class, and colours has several"):
        Confidence(finished_run).judge(
            red_green_blue, Circumstances(real, dataset(multilabel=True), tmp_path / "stores")
        )


# --- masks ---------------------------------------------------------------------------------------------------------


class Bright(Segmenter):
    """What is bright is the object."""

    settings = {}

    def segment(self, image, sample, prompt):
        return Segmentation(image.mean(axis=2) > 128, None, "bright")


def square(path: Path, rows: slice, columns: slice, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[rows, columns] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_the_object_must_stay_where_it_was(tmp_path):
    nothing = slice(0, 0)
    real = [
        Sample("there", square(tmp_path / "there.png", slice(0, 4), slice(0, 4)), 0),
        Sample("empty", square(tmp_path / "empty.png", nothing, nothing), 0),
    ]
    places = {
        "a-kept": (slice(0, 4), slice(0, 3), 8),  # 12 of 16
        "b-half": (slice(0, 4), slice(0, 2), 8),  # 8 of 16
        "c-moved": (slice(4, 8), slice(4, 8), 8),
        "d-gone": (nothing, nothing, 8),
        "e-larger": (slice(0, 8), slice(0, 8), 16),  # the same in a picture of twice the side
    }
    made = [
        Candidate(key, square(tmp_path / "made" / f"{key}.png", rows, columns, side), 0, ("there",))
        for key, (rows, columns, side) in places.items()
    ]
    made.append(Candidate("f-new", made[0].path, 0, ("empty",)))
    about = Circumstances(real, dataset(), tmp_path / "stores")
    said = MaskIou(Bright(), 0.5, workers=1).judge(made, about)
    assert [one.score for one in said] == [0.75, 0.5, 0.0, 0.0, 1.0, None]
    assert [one.keep for one in said] == [True, True, False, False, True, True]
    assert [one.reason for one in said] == ["", "", "the object is elsewhere", "no object found", "", ""]
    assert [one.keep for one in MaskIou(Bright(), 0.6).judge(made, about)] == [True, False, False, False, True, True]
    with pytest.raises(ValueError, match="1 of 2 have none among the training images"):
        MaskIou(Bright()).judge([made[0], Candidate("g", made[0].path, 0)], about)


# --- alpha ---------------------------------------------------------------------------------------------------------


def test_a_fair_share_must_be_opaque(tmp_path, about):
    pixels = np.zeros((10, 10, 4), np.uint8)
    paths = []
    for name, opaque in (("object", 30), ("nothing", 1), ("everything", 99)):
        pixels[..., 3] = 127
        pixels.reshape(-1, 4)[:opaque, 3] = 128
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    paths.append(picture(tmp_path / "rgb.png", 1, 2, 3))
    made = [Candidate(path.stem, path, 0) for path in paths]
    said = Alpha().judge(made, about)
    assert [one.score for one in said] == pytest.approx([0.3, 0.01, 0.99, 1.0])
    assert [one.reason for one in said] == ["", "too little is opaque", "too much is opaque", "too much is opaque"]
    assert [one.keep for one in Alpha(0, 1).judge(made, about)] == [True] * 4


# --- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClipClass(ColourClip(), factor=-1), "clip_class.factor=-1 must be at least 0"),
        (lambda: ClipClass(ColourClip(), "a {thing}"), r"clip_class.prompt='a {thing}'.*use {name} or {a_name}"),
        (lambda: ClipPair(ColourClip(), drop=1), r"clip_pair.drop=1 must be a share in \[0, 1\)"),
        (lambda: ClipPair(ColourClip(), negative="{name}"), r"clip_pair.negative='{name}'.*use {superclass}"),
        (lambda: ClipNegatives(ColourClip(), negatives=[]), "negatives is empty"),
        (lambda: ClipNegatives(ColourClip(), "a {}"), "clip_negatives='a {}' cannot be filled in"),
        (lambda: MaskIou(Bright(), 0), r"mask_iou.min_iou=0 must be in \(0, 1\]"),
        (lambda: MaskIou(Annotated()), "segmenter=annotated needs: choose segmenter=grabcut"),
        (lambda: Alpha(0.5, 0.5), "alpha.least < alpha.most"),
    ],
)
def test_what_cannot_be_used_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- in a method ---------------------------------------------------------------------------------------------------


class Planted(Generator):
    """Gives a picture of the prompt's colour; of the sources whose first pixel says so, something else."""

    def __init__(self) -> None:
        self.calls_made = 0
        self.batch_size = 4

    settings = {}

    def size_for(self, height, width):
        return height, width

    def denoiser_steps(self, call, strength=1.0):
        return 1

    def start_timestep(self, call, strength=1.0):
        return 1

    def image_to_image(self, images, prompts, seeds, strength):
        self.calls_made += 1
        made = []
        for image, prompt in zip(images, prompts, strict=True):
            colour = [255 * prompt.endswith(name) for name in COLOURS]
            kind = int(image[0, 0, 0])
            if kind == 1:  # blank
                made.append(np.zeros_like(image))
                continue
            if kind == 2:  # the wrong class
                colour = colour[1:] + colour[:1]
            noise = np.random.default_rng(kind).integers(0, 9, image.shape)
            made.append(np.clip(np.broadcast_to(colour, image.shape) * 0.9 + noise, 0, 255).astype(np.uint8))
        return made


@pytest.fixture
def planted(tmp_path) -> list[Sample]:
    """Ten sources; the second will come out blank, the third as another class."""
    return [
        Sample(f"{number}", picture(tmp_path / "sources" / f"{number}.png", number, 9, 9), number % 3)
        for number in range(10)
    ]


def made_with(samples, generator, folder, *filters):
    one = ImageToImage(generator, prompt="{name}", filters=filters)
    return one.make(samples, dataset(), folder / "stores", 8, runner_in(folder / "stores", retries=0))


def test_planted_images_are_caught_counted_and_recorded(planted, tmp_path):
    generator, clip = Planted(), ColourClip()
    made = made_with(planted, generator, tmp_path, ClipClass(clip, "{name}"), ClipPair(clip, "red", "blue", drop=0.25))
    report = made.report()
    assert report["verdicts"] == {"ok": 9, "black": 1}
    assert report["filters"]["clip_class"] == {"seen": 9, "dropped": 1, "reasons": {"not seen as its class": 1}}
    assert report["filters"]["clip_pair"]["seen"] == 8
    assert report["filters"]["clip_pair"]["dropped"] == 2
    assert report["images"] == len(made.samples) == 6
    assert not set(made.sources) & {"1", "2"}
    lines = [json.loads(line) for line in (made.store.root / VERDICTS).open()]
    assert len(lines) == 9 + 8
    assert {line["reason"] for line in lines if line["keep"]} == {""}
    assert all(line["score"] is not None for line in lines)


def test_changed_filters_judge_again_and_make_nothing(planted, tmp_path, capsys):
    generator, clip = Planted(), ColourClip()
    first = made_with(planted, generator, tmp_path, ClipClass(clip, "{name}"))
    calls, looks = generator.calls_made, len(clip.seen)
    second = made_with(planted, generator, tmp_path, ClipClass(clip, "{name}", factor=0))
    none = made_with(planted, generator, tmp_path)
    assert generator.calls_made == calls
    assert len(clip.seen) == looks
    assert first.store.root == second.store.root == none.store.root
    assert [len(one.samples) for one in (first, second, none)] == [8, 9, 9]
    assert genaug(["verify", str(first.store.root)]) == 0  # the verdicts are no stranger in the store
    capsys.readouterr()
    assert genaug(["verdicts", str(first.store.root)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2].split()[:3] == [ClipClass(clip, "{name}", factor=0).fingerprint, "kept", "9"]


def test_verdicts_of_a_store_that_nobody_judged_say_what_to_do(planted, tmp_path, capsys):
    made = made_with(planted, Planted(), tmp_path)
    assert genaug(["verdicts", str(made.store.root)]) == 1
    assert "No filter has judged" in capsys.readouterr().err


def test_a_second_process_finds_the_scores(planted, tmp_path):
    made = made_with(planted, Planted(), tmp_path)
    candidates = candidates_of(made.store, made.jobs)
    clip = ColourClip()
    for _ in range(2):
        about = Circumstances(planted, dataset(), tmp_path / "stores")
        apply_filters([ClipClass(clip, "{name}")], candidates, about, made.store.root)
    assert sum(clip.seen) == len(candidates)
