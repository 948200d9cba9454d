"""Between Hydra and an experiment: names of runs, checks of values, and sweeps that do not get in the way of DDP.

Nothing heavy is imported here: ``--help`` and a wrong override answer at once.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

STAGES = ("all", "synthesize", "train", "evaluate", "check_data", "explain", "assess", "report", "train_generator")
CHOICES = {"stage": STAGES, "protocol": ("heldout", "last", "paper"), "budget": ("steps", "epochs")}

#: What does not change a result: where files go, what is shown, and which part of the run is done now.
NOT_IDENTITY = (
    "hydra", "paths", "logger", "callbacks", "explain", "explainer", "assess", "report", "runs", "stage", "plan_only",
    "loader",
)  # fmt: skip

#: Groups that count only where something refers to them: plain training is the same whatever the segmenter.
TOOLS = ("segmenter", "captioner", "image_captioner", "generator", "clip", "inversion", "finetuning", "saliency")

log = logging.getLogger(__name__)

#: Environment variables with the number of this process among those of its job, where Lightning or SLURM started it.
_RANKS = ("LOCAL_RANK", "SLURM_PROCID")

_PROCESS_GROUP = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def config_hash(cfg: DictConfig, without: tuple[str, ...] = ()) -> str:
    """Eight hexadecimal characters that name a configuration, less :data:`NOT_IDENTITY`, ``without`` and unused tools.

    Interpolations are hashed as written, so that a run has the same name wherever its folders are.

    >>> a, b = OmegaConf.create({"x": 1, "stage": "all"}), OmegaConf.create({"x": 1, "stage": "train"})
    >>> config_hash(a) == config_hash(b)
    True
    >>> tool, user = {"segmenter": {"threshold": 0.5}}, {"method": {"segmenter": "${segmenter}"}}
    >>> config_hash(OmegaConf.create(tool)) == config_hash(OmegaConf.create({}))
    True
    >>> config_hash(OmegaConf.create({**tool, **user})) == config_hash(OmegaConf.create(user))
    False
    """
    tree = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(tree, dict)
    kept = {key: value for key, value in tree.items() if key not in NOT_IDENTITY + without}
    for tool in TOOLS:
        if f"${{{tool}}}" not in json.dumps(kept):
            kept.pop(tool, None)
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=4).hexdigest()


# At import, not at start: the workers of a launcher import this module and nothing else of the application.
OmegaConf.register_new_resolver("run_id", lambda *, _root_: config_hash(_root_), replace=True)
OmegaConf.register_new_resolver(
    "run_folder", lambda dataset, method, *, _root_: run_folder(_root_, dataset, method), replace=True
)


def run_folder(cfg: Any, dataset: str, method: str) -> str:
    """Where the files of a job go, under ``paths.runs``: a run has a folder, and so have checks and comparisons."""
    if cfg.stage == "check_data":
        checked = OmegaConf.create({key: cfg[key] for key in ("dataset", "ood", *TOOLS) if cfg.get(key) is not None})
        return f"checks/{dataset}/{config_hash(checked)}"
    if cfg.stage == "assess":
        tools = {key: cfg[key] for key in TOOLS if cfg.get(key) is not None}
        compared = OmegaConf.create({"runs": cfg.runs, "assess": cfg.assess})
        return f"assessments/{config_hash(OmegaConf.create({'compared': compared, **tools}))}"
    if cfg.stage == "report":
        return f"reports/{config_hash(OmegaConf.create({'reported': {'runs': cfg.runs, 'report': cfg.report}}))}"
    if cfg.stage != "explain":
        return f"{dataset}/{method}/{config_hash(cfg)}"
    compared = OmegaConf.create({key: cfg[key] for key in ("runs", "explain", "explainer") if cfg.get(key) is not None})
    return f"comparisons/{config_hash(OmegaConf.create({'compared': compared}))}"


def task_overrides() -> list[str]:
    """What was asked for on the command line of this job; empty outside a Hydra application."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


# One --help copies the store of Hydra's and its plugins' own configs 190 times, for a second. What is loaded from it is
# copied anyway, so that one store is enough.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


def choices() -> dict[str, Any]:
    """The file of each configuration group that this job uses; empty outside a Hydra application."""
    from hydra.core.hydra_config import HydraConfig

    return dict(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else {}


def chosen(group: str) -> str | None:
    """The file of a configuration group that this job uses, as "cub" of ``dataset``; None outside an application."""
    return choices().get(group)


class WrongValue(CompactHydraException, ValueError):
    """A value that cannot be used: Hydra prints the message and no traceback."""


@contextlib.contextmanager
def input_checks() -> Iterator[None]:
    """Around what only looks at input: its errors are shown as messages to a person, without a traceback.

    Raises:
        WrongValue: in the place of a ``ValueError`` or ``OSError``, raised directly or while Hydra built something.
    """
    try:
        yield
    except (InstantiationException, ValueError, OSError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, (ValueError, OSError)):
            raise
        raise WrongValue(str(cause)) from error


def check_values(cfg: DictConfig) -> None:
    """Refuse values that no part of the program checks for itself, before anything is imported.

    Raises:
        WrongValue: names the key, what came, and the valid choices.
    """
    if missing := OmegaConf.missing_keys(cfg):
        raise WrongValue(f"Without a value: {', '.join(sorted(missing))}. Add it to the command line as key=value.")
    if type(cfg.seed) is not int:
        raise WrongValue(f"seed={cfg.seed} is not a whole number.")
    for key, known in CHOICES.items():
        if cfg[key] not in known:
            close = difflib.get_close_matches(str(cfg[key]), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise WrongValue(f"{key}={cfg[key]} is not known: choose one of {', '.join(known)}.{hint}")
    if not isinstance(cfg.val_fraction, float) or not 0 < cfg.val_fraction < 1:
        raise WrongValue(f"val_fraction={cfg.val_fraction} must be a number between 0 and 1.")
    check_subset(cfg.subset)


def check_subset(subset: DictConfig) -> None:
    """Refuse subsets that no training split can have.

    Raises:
        WrongValue: names the key, what came, and what is possible.
    """
    shots, imbalance = subset.shots, subset.imbalance
    if shots is not None and (type(shots) is not int or shots < 1):
        raise WrongValue(f"subset.shots={shots} must be a whole number of images per class, 1 or more, or null.")
    if imbalance is not None and (type(imbalance) not in (int, float) or not 0 < imbalance <= 1):
        raise WrongValue(f"subset.imbalance={imbalance} must be a number above 0 and at most 1, as 0.01, or null.")
    if type(subset.seed) is not int:
        raise WrongValue(f"subset.seed={subset.seed} is not a whole number.")


@contextlib.contextmanager
def one_job(cfg: DictConfig) -> Iterator[None]:
    """Around each job: values checked; DDP ranks run this job and not its sweep; W&B closed; the process left clean.

    Lightning starts the other ranks of a job by repeating the command line. In a sweep that line names the whole
    sweep, so each rank would start a sweep of its own, and with a sampling sweeper train on other values than rank 0.
    Inside this context the command line is that of the one job, in the folder it already has.
    """
    argv, environment = sys.argv, {key: os.environ.get(key) for key in _PROCESS_GROUP}
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    try:
        with _noted_failure(cfg):
            check_values(cfg)
            _become_single_job()
            yield
    except BaseException:
        _end_other_ranks()
        _close_wandb(exit_code=1)
        raise
    finally:
        sys.argv = argv
        sys.modules["__main__"].__spec__ = spec
        _close_wandb()
        _leave_process_group(environment)


class JobFailed(CompactHydraException):
    """What a sweep gets to see of a job that failed: a text, which every launcher can hand over."""


@contextlib.contextmanager
def _noted_failure(cfg: DictConfig) -> Iterator[None]:
    """Leave the reason why a job failed in its folder, until it is tried again.

    Raises:
        JobFailed: in a sweep, in the place of the exception. Some exceptions cannot be sent from one process to
            another, which would end the sweep; and all hold what their functions were at work on, such as a network on
            a GPU that the next job needs.
    """
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        yield
        return
    file = Path(cfg.paths.output) / "failed.txt"
    if all(os.environ.get(name, "0") == "0" for name in _RANKS):
        file.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        if not in_sweep() and (isinstance(error, WrongValue) or file.exists()):
            raise  # a person has just been told; or another rank has failed, and this one for lack of it
        failure = _note_failure(file, error)
        if not in_sweep():
            raise
        log.error("%s (%s)", failure, file)
        traceback.clear_frames(error.__traceback__)
        raise JobFailed(failure) from None


def _note_failure(file: Path, error: Exception) -> str:
    """Write the file unless another rank has, and say in a line what it says."""
    from genaug.reports.failures import failures, note_failure

    if not file.exists():
        note_failure(file.parent, task_overrides(), error)
    return failures([file.parent])[0].error


def in_sweep() -> bool:
    """Whether this process runs a job of a sweep; ranks of such a job do not."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _become_single_job() -> None:
    from hydra.core.hydra_config import HydraConfig

    if not in_sweep():
        return
    hydra_cfg: Any = HydraConfig.get()
    sources = {source.provider: source.path for source in hydra_cfg.runtime.config_sources}
    script = Path(sources["main"]).parent / "run.py"  # not __main__: in a launcher's worker that is the worker
    more = [f"--config-dir={sources['command-line']}"] if "command-line" in sources else []
    sys.argv = [str(script), *more, *hydra_cfg.overrides.hydra, *hydra_cfg.overrides.task, "hydra.mode=RUN"]
    # A launcher that started us with ``-m`` left a module spec that Lightning would repeat instead of the script.
    sys.modules["__main__"].__spec__ = None
    with read_write(hydra_cfg), open_dict(hydra_cfg):
        hydra_cfg.run.dir = hydra_cfg.runtime.output_dir


def _close_wandb(exit_code: int = 0) -> None:
    """An open run would swallow the next job's metrics; one that is not told otherwise has not failed."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)


def _end_other_ranks() -> None:
    """End what is left of a job that failed, and Lightning's watch over it.

    Seconds after a rank has died, the watch kills this process, which by then is at the next job.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            ranks: list[subprocess.Popen[bytes]] = thread._child_processes  # type: ignore[attr-defined]
            left, ranks[:] = list(ranks), []
            for rank in left:
                rank.kill()


def _leave_process_group(environment: dict[str, str | None]) -> None:
    """The next job of a sweep forms its own group, at a new port."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for key, value in environment.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def application(main: Callable[[], Any]) -> None:
    """Run a Hydra application; a misspelt key is answered with the keys there are, a sweep ends with what failed."""
    # A study is a group that is there already, though most read that one is added.
    sys.argv[1:] = [re.sub(r"^\+(?=experiment=)", "", argument) for argument in sys.argv[1:]]
    if not {"-m", "--multirun"} & set(sys.argv):
        sys.argv[1:] = [listed(argument) for argument in sys.argv[1:]]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
        if code:
            for line in explain(sys.argv[1:]):
                print(line, file=sys.stderr)
    finally:
        sweeps = sys.modules.get("genaug.sweeps")
        failed = sweeps is not None and sweeps.end_of_sweep()
    if code or failed:
        sys.exit(code or 1)


def listed(argument: str) -> str:
    """Runs to compare may be written without the brackets of a list.

    >>> listed("runs=a,b"), listed("runs=[a,b]"), listed("seed=1")
    ('runs=[a,b]', 'runs=[a,b]', 'seed=1')
    """
    key, _, value = argument.partition("=")
    return f"{key}=[{value}]" if key == "runs" and value and value[0] not in "[\"'" and value != "null" else argument


def explain(overrides: list[str]) -> list[str]:
    """For each override ``a.b.c=value`` whose key does not exist: where it stops, and the keys that are there."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    pairs = [text.split("=", 1) for text in overrides if "=" in text and not text.startswith(("-", "+", "~", "hydra"))]
    conf = Path(sys.argv[0]).resolve().parent / "conf"
    groups = [f"{key}={value}" for key, value in pairs if (conf / key).is_dir()]
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            cfg = compose("config", groups)
    except (HydraException, ValueError):  # the group itself is wrong, and Hydra has said so
        return []
    return [line for key, _ in pairs if not (conf / key).is_dir() for line in _explain_key(cfg, key)]


def _explain_key(cfg: DictConfig, key: str) -> list[str]:
    node: Any = cfg
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig):
            return []
        if part not in node.keys():  # noqa: SIM118 - ``in node`` denies keys that have no value yet
            known = sorted(str(name) for name in node if name != "_target_")
            close = difflib.get_close_matches(part, known, n=1)
            where = f"{'.'.join(walked)} has" if walked else "There are"
            hint = f" Did you mean {close[0]!r}?" if close else ""
            return [f"No key {key!r}. {where}: {', '.join(known)}.{hint}"]
        walked.append(part)
        node = node._get_node(part) if OmegaConf.is_missing(node, part) else node[part]
    return []
