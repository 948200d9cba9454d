"""One experiment, from a configuration to ``results.json``: the only file that knows all configuration groups.

The way: check → data → synthesize → train → evaluate → record. A stage whose result exists is not done twice, so the
same command after a kill goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytorch_lightning as pl
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from genaug.callbacks.cost import Cost
from genaug.classifier import Classifier
from genaug.console import hide_meant_warnings
from genaug.data.base import Dataset, Sample
from genaug.data.building import build_dataset
from genaug.data.datamodule import DataModule, choose_splits, cores, network_threads
from genaug.data.images import check_masks
from genaug.data.subsets import training_subset
from genaug.data.transforms import Crop
from genaug.launch import WrongValue, choices, input_checks
from genaug.loggers import log_config, log_results
from genaug.losses import SoftBCE, inverse_frequency
from genaug.methods.base import Made, Method
from genaug.metrics import metric_for
from genaug.mixing.base import Context, Mixer
from genaug.reports.tables import show_run, show_stages
from genaug.results import RESULTS, SELECTION, STAGES, Clock, collect
from genaug.seeding import derive, lent_generator
from genaug.synthesis.runner import Runner, check_writable
from genaug.synthesis.store import content_key, write_atomically

log = logging.getLogger(__name__)

CHECKPOINTS, SHEET, TRAINED_ON = "checkpoints", "synthesis.png", "trained_on"
BEST, LAST, FINAL = "best", "last", "final"

#: How often, in a run, the held-out part is looked at and a checkpoint is written.
LOOKS = 20


@dataclass
class Pieces:
    """Everything the configuration names, built but not yet used: what is wrong is refused here."""

    dataset: Dataset
    method: Method
    crop: Crop
    transform: nn.Module
    mixer: Mixer
    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[[int, int], float]

    @classmethod
    def build(cls, cfg: DictConfig) -> Pieces:
        """Build them; the network's first weights follow from the seed."""
        dataset, method = build_dataset(cfg), instantiate(cfg.method)
        recipe = instantiate(cfg.recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(cfg.seed, "weights"))
            model = instantiate(
                cfg.model,
                num_classes=len(dataset.classes),
                image_size=dataset.image_size,
                channels=dataset.channels,
            )
        return cls(
            dataset=dataset,
            method=method,
            crop=instantiate(cfg.crop),
            transform=instantiate(cfg.transform),
            mixer=instantiate(cfg.mixer),
            model=model,
            loss=SoftBCE() if dataset.multilabel else recipe.loss,
            optimizer=recipe.optimizer,
            schedule=recipe.schedule,
        )


def run(cfg: DictConfig) -> float | None:
    """Run the stages that ``cfg.stage`` asks for.

    Returns:
        The score on the held-out part, for a sweeper to maximise; ``None`` where there is none.

    Raises:
        WrongValue: a value, or a combination of values, cannot be used; raised before the first expensive step.
    """
    hide_meant_warnings()
    if cfg.stage in OTHER_WORK:
        OTHER_WORK[cfg.stage](cfg)
        return None
    # Work is spread over images; and a loader process, forked while OpenCV has threads of its own, can wait for them
    # for ever.
    cv2.setNumThreads(0)
    folder, cost = Path(cfg.paths.output), Cost()
    clock = Clock(folder / STAGES)
    if cfg.stage == "all" and not cfg.plan_only and (results := finished(cfg, folder)):
        log.info("This configuration has been run already: %s (delete the folder to run it again)", folder)
        show_run(results, folder)
        return results["selection"]["score"]
    with input_checks():
        pieces = Pieces.build(cfg)
    if cfg.plan_only:
        with input_checks():
            show_plan(cfg, pieces)
        return None
    if cfg.stage == "evaluate" and not (folder / CHECKPOINTS / f"{FINAL}.ckpt").exists():
        raise WrongValue(
            f"Nothing has been trained in {folder}: run stage=train (or stage=all) with this configuration."
        )
    with clock.stage("data"), input_checks():
        splits = split(cfg, pieces.dataset)
        pieces.loss = weighted_loss(cfg, pieces, splits["train"])
        check_mixer(pieces, splits["train"])
    runner = build_runner(cfg)
    made = synthesize(cfg, pieces, splits["train"], clock, runner)
    if cfg.stage == "synthesize":
        return None
    with input_checks():
        data = build_data(cfg, pieces, splits, made)
    trainer = build_trainer(cfg, data, cost)
    if trainer.strategy.root_device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, network_threads(cfg.loader.num_workers) // trainer.world_size))
    classifier = build_classifier(cfg, pieces, data)
    log_config(trainer.loggers, cfg, choices(), pieces.method.scale)
    if cfg.stage != "evaluate":
        with clock.stage("train"):
            train(trainer, classifier, data, folder)
    if cfg.stage == "train":
        return None
    with clock.stage("evaluate"):
        evaluate(trainer, classifier, data, folder)
    results = collect(cfg, pieces, data, trainer, classifier, made, clock, cost, total_steps(cfg, data))
    if trainer.is_global_zero:
        write_atomically(folder / RESULTS, json.dumps(results, indent=1).encode())
        log_results(trainer.loggers, results, folder)
        show_run(results, folder)
    return results["selection"]["score"]


def train_generator(cfg: DictConfig) -> None:
    """Train a generator, not a classifier."""
    from genaug.generation.training import chosen_recipe

    log.info("the trained generator: %s", instantiate(chosen_recipe(cfg).task)(cfg))


def explain(cfg: DictConfig) -> None:
    """Compare finished runs by where their networks look."""
    from genaug.explaining.finished import explain_runs

    explain_runs(cfg)


def check_data(cfg: DictConfig) -> None:
    """Look at every file of a dataset.

    Raises:
        WrongValue: the counts are not the published ones, or a file cannot be used.
    """
    from genaug.data.checking import check, report

    with input_checks():
        dataset = build_dataset(cfg)
        findings = check(dataset, workers=cores())
    report(dataset, findings, Path(cfg.paths.output))
    if problems := findings.problems():
        raise WrongValue(f"{dataset.name} is not what it should be: {'; '.join(problems)}")


def assess(cfg: DictConfig) -> None:
    """Measure what the methods of finished runs made."""
    from genaug.assessing.runs import assess_runs

    assess_runs(cfg)


def report(cfg: DictConfig) -> None:
    """Write one page about many runs."""
    from genaug.reports.page import report_runs

    report_runs(cfg)


#: Stages that are no part of an experiment.
OTHER_WORK = {
    "train_generator": train_generator,
    "explain": explain,
    "check_data": check_data,
    "assess": assess,
    "report": report,
}


def finished(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The results of a run that needs nothing more; None where callbacks are asked for that have not reported yet."""
    if not (folder / RESULTS).exists():
        return None
    results = json.loads((folder / RESULTS).read_text())
    sections = {getattr(get_class(one._target_), "section", None) for one in cfg.callbacks.values()}
    return results if sections - {None} <= set(results) else None


def save_config(cfg: DictConfig, folder: Path) -> None:
    """The configuration as it ran, beside its results."""
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())


def split(cfg: DictConfig, dataset: Dataset) -> dict[str, Sequence[Sample]]:
    """The splits of this run; what is held out of the training split is held out of the subset asked for."""
    splits = dict(dataset.splits())
    splits["train"] = training_subset(splits.get("train", []), **cfg.subset)
    return choose_splits(splits, cfg.protocol, cfg.val_fraction, cfg.seed)


def weighted_loss(cfg: DictConfig, pieces: Pieces, samples: Sequence[Sample]) -> Callable[[Tensor, Tensor], Tensor]:
    """The recipe's loss, which counts rare classes of ``samples``, the training split, for more where it is asked to.

    Raises:
        ValueError: the weighting is not known, or the images have several labels.
    """
    asked = cfg.recipe.class_weights
    if asked is None:
        return pieces.loss
    if asked != "inverse":
        raise ValueError(f"recipe.class_weights={asked} is not known: choose inverse or null.")
    if pieces.dataset.multilabel:
        raise ValueError(
            f"recipe.class_weights={asked} weighs images by their class, and those of {pieces.dataset.name} have "
            "several labels: set recipe.class_weights=null."
        )
    counts = Counter(sample.label for sample in samples)
    weight = inverse_frequency([counts[label] for label in range(len(pieces.dataset.classes))])
    return instantiate(cfg.recipe.loss, weight=weight)


def check_mixer(pieces: Pieces, samples: Sequence[Sample]) -> None:
    """Refuse a mixer whose saliency the network, the data or the method cannot serve.

    Raises:
        ValueError: the network has nothing to show; or masks are needed, and there are none, or they cannot be moved.
    """
    saliency, side = pieces.mixer.saliency, pieces.dataset.image_size
    if saliency is None:
        return
    if saliency.needs_masks and pieces.method.view is not None:
        raise ValueError(
            f"The mixer looks at ground-truth masks, and method={pieces.method.name} makes new images that have none. "
            "Choose another saliency, such as saliency=spectral_residual."
        )
    if saliency.needs_masks:
        check_masks(samples, pieces.transform)
    images, targets = torch.zeros(2, pieces.dataset.channels, side, side), torch.zeros(2, len(pieces.dataset.classes))
    with lent_generator(0):  # the network may draw numbers
        saliency(images, targets, Context(pieces.model, pieces.loss, masks=torch.zeros(2, side, side)))


def show_plan(cfg: DictConfig, pieces: Pieces) -> None:
    """Print what the offline stage would do."""
    stores, stages = Path(cfg.paths.stores), []
    if pieces.method.synthesis is not None:
        stages = pieces.method.synthesis.plan(split(cfg, pieces.dataset)["train"], pieces.dataset, stores)
    show_stages(stages, stores)


def build_runner(cfg: DictConfig) -> Runner:
    """Offline work on the devices that training runs on; in full precision, for a generator chooses its own."""
    trainer = instantiate(
        cfg.trainer, precision="32-true", max_epochs=1, max_steps=-1, logger=False, enable_checkpointing=False
    )
    if trainer.is_global_zero:
        save_config(cfg, Path(cfg.paths.output))
    return Runner(trainer, Path(cfg.paths.stores))


def synthesize(cfg: DictConfig, pieces: Pieces, samples: Sequence[Sample], clock: Clock, runner: Runner) -> Made | None:
    """The method's offline stage; what is there already is not made again."""
    if pieces.method.synthesis is None:
        return None
    stores = Path(cfg.paths.stores)
    with input_checks():
        if cfg.recipe.batch_size % runner.trainer.world_size:
            raise ValueError(
                f"batch_size={cfg.recipe.batch_size} cannot be shared by {runner.trainer.world_size} processes: take a "
                "multiple."
            )
        if not stores.exists():
            check_writable(stores)
        pieces.method.synthesis.plan(samples, pieces.dataset, stores)  # what cannot be done is refused here
    with clock.stage("synthesize"):
        made = pieces.method.synthesis.make(samples, pieces.dataset, stores, pieces.crop.side, runner)
    log.info("made: %s", made.report())
    if runner.trainer.is_global_zero:
        made.sheet(Path(cfg.paths.output) / SHEET)
    return made


def build_trainer(cfg: DictConfig, data: DataModule, cost: Cost) -> pl.Trainer:
    """The trainer with its loggers and callbacks; it looks at the held-out part :data:`LOOKS` times in a run."""
    folder = Path(cfg.paths.output) / CHECKPOINTS
    epochs = cfg.trainer.max_epochs
    if cfg.trainer.max_steps > 0:  # a budget in steps takes the place of one in epochs
        epochs = -(-cfg.trainer.max_steps // steps_of_epoch(cfg, data))
    every = max(1, epochs // LOOKS)
    last = ModelCheckpoint(
        folder, LAST, every_n_epochs=every, save_on_train_epoch_end=True, enable_version_counter=False
    )
    best = ModelCheckpoint(
        folder, BEST, monitor="val/score", mode="max", save_weights_only=True, enable_version_counter=False
    )
    looks = [best] if "val" in data.splits else []
    return instantiate(
        cfg.trainer,
        max_epochs=-1 if cfg.trainer.max_steps > 0 else epochs,
        check_val_every_n_epoch=every,
        logger=[instantiate(one) for one in cfg.logger.values()] if cfg.logger else False,
        callbacks=[cost, *(instantiate(one) for one in cfg.callbacks.values()), *looks, last],
        default_root_dir=cfg.paths.output,
    )


def steps_of_epoch(cfg: DictConfig, data: DataModule) -> int:
    """Optimizer steps of an epoch; a last batch that would not be full is left out."""
    return max(1, data.epoch_images // cfg.recipe.batch_size)


def total_steps(cfg: DictConfig, data: DataModule) -> int:
    """Optimizer steps of the whole training: the budget in steps, or that of the epochs."""
    if cfg.trainer.max_steps > 0:
        return cfg.trainer.max_steps
    return cfg.trainer.max_epochs * steps_of_epoch(cfg, data)


def build_data(
    cfg: DictConfig, pieces: Pieces, splits: Mapping[str, Sequence[Sample]], made: Made | None
) -> DataModule:
    """The loaders, training through the method's view.

    With ``budget=steps`` an epoch has as many images as in plain training, whatever the method adds: every method gets
    the same steps, the same looks at the held-out part and the same checkpoints.
    """
    view = pieces.method.view
    return DataModule(
        pieces.dataset,
        splits,
        crop=pieces.crop,
        transform=pieces.transform,
        batch_size=cfg.recipe.batch_size,
        seed=cfg.seed,
        view=None if view is None else lambda real: view(real, made),
        num_workers=cfg.loader.num_workers,
        epoch_images=len(splits["train"]) if cfg.budget == "steps" else None,
        masks=pieces.mixer.needs_masks,
        cache=Path(cfg.paths.cache, "decoded") if cfg.loader.cache else None,
    )


def build_classifier(cfg: DictConfig, pieces: Pieces, data: DataModule) -> Classifier:
    """The network with its recipe."""
    return Classifier(
        model=pieces.model,
        mixer=pieces.mixer,
        loss=pieces.loss,
        optimizer=pieces.optimizer,
        schedule=pieces.schedule,
        steps=total_steps(cfg, data),
        metric=lambda: metric_for(pieces.dataset),
        test_names=data.test_names,
        channels=pieces.dataset.channels,
        seed=cfg.seed,
        normalize=cfg.recipe.normalize,
    )


def train(trainer: pl.Trainer, classifier: Classifier, data: DataModule, folder: Path) -> None:
    """Train, from the last checkpoint if there is one, and keep the weights that are to be evaluated."""
    final, last = folder / CHECKPOINTS / f"{FINAL}.ckpt", folder / CHECKPOINTS / f"{LAST}.ckpt"
    check_same_images(data, folder)
    if final.exists():
        log.info("trained already: %s", final)
        return
    if last.exists():
        log.info("resuming from %s", last)
    trainer.fit(classifier, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    if "val" in data.splits:
        score = select(trainer, classifier, data)
        if trainer.is_global_zero:
            write_atomically(folder / SELECTION, json.dumps({"score": score}).encode())
    trainer.save_checkpoint(final, weights_only=True)  # the last file: with it the stage is done


def check_same_images(data: DataModule, folder: Path) -> None:
    """Refuse to go on from checkpoints that were trained on other images.

    Raises:
        WrongValue: what the training draws from has changed: the files, or what a generator at the same path makes.
    """
    file, images = folder / TRAINED_ON, content_key(*(sample.id for sample in data.train_source.samples))
    if file.exists() and file.read_text() != images:
        raise WrongValue(
            f"{folder} was trained on other images than this configuration gives now: a folder or a model has changed. "
            "Delete it to train anew."
        )
    write_atomically(file, images.encode())


def select(trainer: pl.Trainer, classifier: Classifier, data: DataModule) -> float:
    """Leave the classifier with its best weights: those of the last look that was best, or those it ended with.

    The end of training need not be the time of a look, and in a short run there was none before it.
    """
    [last] = trainer.validate(classifier, data, verbose=False, weights_only=True)
    looks = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
    if not looks or looks[0].best_model_score is None or last["val/score"] >= float(looks[0].best_model_score):
        return last["val/score"]
    load_weights(classifier, Path(looks[0].best_model_path))
    return float(looks[0].best_model_score)


def load_weights(classifier: Classifier, file: Path) -> None:
    """Load a checkpoint's weights and nothing else."""
    classifier.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["state_dict"])


def evaluate(trainer: pl.Trainer, classifier: Classifier, data: DataModule, folder: Path) -> None:
    """Score the kept weights on every test split."""
    load_weights(classifier, folder / CHECKPOINTS / f"{FINAL}.ckpt")
    trainer.test(classifier, data, verbose=False)
