"""What a recipe and a subset ask of training, from the command line to the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TinyFolder, run_cli
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from torch.nn import functional as F

from genaug import experiment
from genaug.data.base import Sample
from genaug.data.folder import Folder
from genaug.explaining.finished import FinishedRun, check_comparable
from genaug.launch import WrongValue
from genaug.mixing.preview import first_batch


def configured(data: TinyFolder, output: Path, **changes: object) -> DictConfig:
    here = {"paths__output": output, "paths__stores": output / "stores"}
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return compose("config", data.overrides(**here, **changes))


def run(data: TinyFolder, output: Path, **changes: object) -> Path:
    experiment.run(configured(data, output, **{"trainer__max_steps": 2, "logger": "none", **changes}))
    return output


def images(folder: Path) -> dict[str, int]:
    return json.loads((folder / "results.json").read_text())["images"]


# --- subsets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"subset__shots": 4, "protocol": "last"}, {"train": 12}),
        ({"subset__shots": 4, "protocol": "heldout", "val_fraction": 0.25}, {"train": 9, "val": 3}),
        ({"subset__shots": 4, "protocol": "paper"}, {"train": 12, "val": 17}),
        # 12, 12 * 0.25 ** 0.5, 12 * 0.25
        ({"subset__imbalance": 0.25, "protocol": "last"}, {"train": 12 + 6 + 3}),
        ({"subset__shots": 4, "subset__imbalance": 0.25, "protocol": "last"}, {"train": 4 + 2 + 1}),
    ],
)
def test_any_dataset_is_thinned_out_in_training_only(changes, expected, tiny_folder, tmp_path):
    assert images(run(tiny_folder, tmp_path, recipe__batch_size=4, **changes)) == {**expected, "test": 17}


def test_each_seed_draws_its_own_subset(tiny_folder, tmp_path):
    def drawn(**changes: object) -> list[str]:
        cfg = configured(tiny_folder, tmp_path, protocol="last", subset__shots=4, **changes)
        return [sample.id for sample in experiment.split(cfg, experiment.Pieces.build(cfg).dataset)["train"]]

    assert drawn(seed=0) == drawn() == drawn(seed=1, subset__seed=0)
    assert drawn(seed=1) != drawn()


def test_what_no_class_has_is_refused(tiny_folder, tmp_path):
    with pytest.raises(WrongValue, match=r"subset.shots=13 needs 13 images .* there are 12: lower subset.shots"):
        run(tiny_folder, tmp_path, subset__shots=13)


@pytest.mark.cli
def test_a_wrong_subset_is_named_on_the_command_line(tiny_folder, tmp_path):
    done = run_cli(*tiny_folder.overrides(), "subset.shots=none", cwd=tmp_path)
    assert done.rc == 1
    assert "subset.shots=none must be a whole number of images per class, 1 or more, or null." in done.stderr


# --- weights of classes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["demo", "vit_finetune"])
def test_the_loss_weighs_the_classes_of_this_runs_training_split(recipe, tiny_folder, tmp_path):
    cfg = configured(
        tiny_folder, tmp_path, protocol="last", subset__imbalance=0.25, recipe=recipe, recipe__class_weights="inverse"
    )
    pieces = experiment.Pieces.build(cfg)
    loss = experiment.weighted_loss(cfg, pieces, experiment.split(cfg, pieces.dataset)["train"])
    assert loss.weight.tolist() == pytest.approx([3 / 12, 3 / 6, 1.0])
    assert loss.label_smoothing == {"demo": 0.0, "vit_finetune": 0.1}[recipe]
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 2, 0])
    if recipe == "demo":
        expected = F.cross_entropy(logits, labels, weight=torch.tensor([0.25, 0.5, 1.0]))
        torch.testing.assert_close(loss(logits, F.one_hot(labels, 3).float()), expected)


def test_the_mixer_is_given_the_weighted_loss(tiny_folder, tmp_path, monkeypatch):
    built = []
    build = experiment.build_classifier
    monkeypatch.setattr(experiment, "build_classifier", lambda *given: built.append(build(*given)) or built[-1])
    run(
        tiny_folder, tmp_path, protocol="last", subset__imbalance=0.5, recipe__class_weights="inverse",
        method="guided_ap", mixer__p=1,
    )  # fmt: skip
    [classifier] = built
    assert classifier.loss.weight.tolist() == pytest.approx([6 / 12, 6 / 8, 1.0])
    assert "loss.weight" not in torch.load(tmp_path / "checkpoints" / "final.ckpt", weights_only=True)["state_dict"]
    # The context hands out classifier.loss itself (tests/unit/test_classifier.py); and the preview's has the weights.
    asked = []
    monkeypatch.setattr(
        "genaug.mixing.preview.mix_once", lambda mixer, images, targets, context, seed: asked.append(context.loss)
    )
    cfg = configured(tiny_folder, tmp_path, protocol="last", subset__imbalance=0.5, recipe__class_weights="inverse")
    first_batch(cfg)
    assert asked[0].weight.tolist() == classifier.loss.weight.tolist()


def test_an_unknown_weighting_is_refused(tiny_folder, tmp_path):
    with pytest.raises(WrongValue, match="recipe.class_weights=some is not known: choose inverse or null"):
        run(tiny_folder, tmp_path, recipe__class_weights="some")


def test_classes_of_images_with_several_labels_are_not_weighed(tiny_folder, tmp_path):
    cfg = configured(tiny_folder, tmp_path, recipe__class_weights="inverse")
    pieces = experiment.Pieces.build(cfg)
    pieces.dataset.multilabel = True
    with pytest.raises(ValueError, match=r"have several labels: set recipe.class_weights=null"):
        experiment.weighted_loss(cfg, pieces, [])


# --- normalisation -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tiny_folder, tmp_path_factory) -> list[Path]:
    """The same run with normalised images and with images in [0, 1]."""
    changes = {"protocol": "last", "method": "cutmix"}
    folders = [tmp_path_factory.mktemp(name) for name in ("normalised", "scaled")]
    return [
        run(tiny_folder, folder, recipe__normalize=normalize, **changes)
        for folder, normalize in zip(folders, ("true", "false"), strict=True)
    ]


def test_the_contact_sheet_shows_the_images_either_way(two):
    sheets = [np.asarray(Image.open(folder / "contact_sheet.png")) for folder in two]
    assert np.array_equal(*sheets)


def test_the_network_is_fed_other_numbers(two):
    first, second = (torch.load(folder / "checkpoints" / "final.ckpt", weights_only=True) for folder in two)
    assert any(not torch.equal(first["state_dict"][name], second["state_dict"][name]) for name in first["state_dict"])


def test_a_finished_run_is_explained_with_its_own(two):
    runs = [FinishedRun.load(folder) for folder in two]
    black = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    assert runs[0].normalize(black).max() < -1.5
    assert runs[1].normalize(black).unique().tolist() == [0]
    assert runs[1].normalize(black + 255).unique().tolist() == [1]
    with pytest.raises(ValueError, match="their recipe.normalize differ"):
        check_comparable(runs)


def test_the_preview_shows_the_images_either_way(tiny_folder, tmp_path):
    batches = [
        first_batch(configured(tiny_folder, tmp_path, mixer="cutmix", recipe__normalize=normalize))
        for normalize in ("true", "false")
    ]
    for part in ("images", "mixed"):
        one, other = (normalize.invert(getattr(batch, part)) for batch, normalize, _ in batches)
        assert torch.equal(one, other)
    assert batches[1][0].images.min() >= 0


# --- selection -----------------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(monkeypatch) -> dict[str, float]:
    """Makes of the folder a dataset with two groups, of which the second counts nine times as much."""
    plain = Folder.splits

    def splits(self: Folder) -> dict[str, list[Sample]]:
        return {
            name: [replace(sample, group=index % 2) for index, sample in enumerate(samples)]
            for name, samples in plain(self).items()
        }

    monkeypatch.setattr(Folder, "splits", splits)
    monkeypatch.setattr(Folder, "groups", ("even", "odd"))
    monkeypatch.setattr(Folder, "group_shares", (0.1, 0.9))
    return {"even": 0.1, "odd": 0.9}


@pytest.mark.parametrize("score", ["weighted_accuracy", "macro_f1", "accuracy"])
def test_the_datasets_score_chooses_the_weights(score, grouped, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "score", score)
    folder = run(tiny_folder, tmp_path, protocol="paper", trainer__max_steps=12, recipe__optimizer__lr=0.01)
    found = json.loads((folder / "results.json").read_text())
    test = found["scores"]["test"]
    assert found["selection"]["weights"] == "best on test"
    assert (test["metric"], test["score"]) == (score, test[score])
    # The split that the weights were chosen on is the one they are tested on: the same score of the same weights.
    assert found["selection"]["score"] == pytest.approx(test["score"])
    by_group = sum(grouped[name] * one["score"] for name, one in test["groups"].items())
    assert test["weighted_accuracy"] == pytest.approx(by_group)
    assert len({test[one] for one in ("weighted_accuracy", "macro_f1", "accuracy")}) == 3


# --- published recipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["alia_finetune", "alia_iwildcam", "vit_finetune", "fgvc_scratch_densenet"])
def test_a_recipe_trains(recipe, tiny_folder, tmp_path):
    small = {"recipe__batch_size": 6, "protocol": "last", "callbacks": "none"}
    folder = run(tiny_folder, tmp_path, recipe=recipe, **small)
    assert json.loads((folder / "results.json").read_text())["scores"]["test"]["n"] == 17
