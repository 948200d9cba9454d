"""Loggers that need more than a constructor call, and what of a run goes to them beside its curves."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from genaug.privacy import public
from genaug.reports.pairs import PREDICTIONS
from genaug.reports.tables import LOOKS
from genaug.synthesis.store import write_atomically

#: Pictures of a run's folder, by the names that they are logged under.
PICTURES = {"contact_sheet": "contact_sheet.png", "synthesis": "synthesis.png"}

#: Where a run's folder keeps its name at Weights & Biases.
RUN_ID = "wandb_run_id"


def wandb_logger(
    project: str, group: str, job_type: str, tags: Mapping[str, Any], save_dir: str, name: str | None = None
) -> Any:
    """A Weights & Biases logger, offline unless a key is set; the run is closed when its job ends.

    A run that is gone on with stays one run there. Neither the console, nor the command line, nor the machine is
    recorded: they hold home folders and names, and the run's folder has them.

    Args:
        project: Where the run is filed.
        group: Runs that are looked at together.
        job_type: What the run is in its group.
        tags: Those that have a value become ``key=value``.
        save_dir: The run's folder.
        name: What the run is called.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("logger=wandb needs the wandb extra: pip install 'genaug[wandb]'.") from error
    from pytorch_lightning.loggers import WandbLogger

    quiet = wandb.Settings(console="off", host="-", disable_git=True, x_disable_meta=True, x_disable_machine_info=True)
    return WandbLogger(
        project=project,
        group=group,
        job_type=job_type,
        tags=[f"{key}={value}"[:64] for key, value in tags.items() if value is not None],  # they may have 64 letters
        name=name,
        id=run_id(Path(save_dir)),
        save_dir=save_dir,
        offline="WANDB_API_KEY" not in os.environ,
        settings=quiet,
    )


def run_id(folder: Path) -> str:
    """The name at Weights & Biases of the run in ``folder``, which stays the same when the run is gone on with."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    file = folder / RUN_ID
    if not file.exists():
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return "unused"  # the other processes of a job log nothing
        write_atomically(file, uuid.uuid4().hex[:8].encode())
    return file.read_text()


def log_config(loggers: Sequence[Any], cfg: DictConfig, choices: Mapping[str, Any], scale: int) -> None:
    """Hand the configuration to the loggers that show runs side by side, without keys and absolute paths.

    Args:
        loggers: Of the trainer.
        cfg: The configuration.
        choices: The option chosen of each group.
        scale: Of the method, whether its configuration says so or not.
    """
    for logger in loggers:
        if hasattr(logger, "log_table"):
            config = public(OmegaConf.to_container(cfg, resolve=True))
            config["method"]["scale"] = scale
            logger.log_hyperparams(config | {"choices": {key: choices[key] for key in choices if "/" not in key}})


def log_results(loggers: Sequence[Any], results: Mapping[str, Any], folder: Path) -> None:
    """Hand the end of a run to the loggers that take pictures and tables: scores, cost, what was made and fed."""
    for logger in loggers:
        if not hasattr(logger, "log_table"):
            continue
        logger.log_metrics(numbers(results))
        columns = ["split", "group", "metric", "score", "n"]
        logger.log_table("scores", columns=columns, data=[list(row) for row in score_rows(results)])
        if (folder / PREDICTIONS).exists():
            header, *rows = csv.reader((folder / PREDICTIONS).read_text().splitlines())
            logger.log_table("predictions", columns=header, data=rows)
        for key, file in PICTURES.items():
            if (folder / file).exists():
                logger.log_image(key, [str(folder / file)])


def numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """What is recorded of a run, as single numbers by the names they are logged under.

    >>> run = {"scale": 2, "steps": 4, "scores": {"test": {"metric": "accuracy", "score": 0.5, "n": 8}}}
    >>> numbers(run | {"cost": {"images_per_second": None}, "stage_seconds": {"train": 3.0, "test": 1.0}})
    {'scale': 2, 'steps': 4, 'test/score': 0.5, 'test/n': 8, 'cost/seconds': 4.0}
    """
    found: dict[str, Any] = {key: results.get(key) for key in ("scale", "steps", "train_images", "parameters")}
    found["held_out/score"] = results.get("selection", {}).get("score")
    for split, scores in results["scores"].items():
        found |= {f"{split}/{key}": value for key, value in scores.items()}
        found |= {f"{split}/group/{name}": group["score"] for name, group in scores.get("groups", {}).items()}
    for split, looks in (results.get("explain") or {}).get("splits", {}).items():
        found |= {f"explain/{split}/{measure}": looks[measure]["mean"] for measure in LOOKS}
    found |= {f"cost/{key}": value for key, value in results["cost"].items()}
    found["cost/seconds"] = sum(results["stage_seconds"].values())
    found |= {f"made/{key}": value for key, value in (results.get("made") or {}).items()}
    return {key: value for key, value in found.items() if type(value) in (int, float)}


def score_rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float | None, int]]:
    """A row for each split, and for each of its groups: split, group, metric, score, n."""
    for split, scores in results["scores"].items():
        metric = scores.get("metric", "accuracy")
        yield split, "all", metric, scores["score"], scores["n"]
        for name, group in scores.get("groups", {}).items():
            yield split, name, metric, group["score"], group["n"]
