"""The workspace and the report at Weights & Biases that compare runs, as code: ``genaug dashboard``.

Panels are chosen by what the runs here have recorded, under the names it was logged by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genaug.loggers import PICTURES, numbers
from genaug.reports.tables import LOOKS, find_runs
from genaug.synthesis.store import write_atomically

NAME = "genaug"
SCALE, METHOD = "method.scale", "method.name"

#: The picture that only runs have that made something.
MADE = "synthesis"

#: Panels in a row of a report, each so many of its 24 columns wide.
ACROSS, WIDE, HIGH = 2, 12, 8


def sections(runs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Panels by heading, for runs as their ``results.json`` has them; a heading without panels is left out."""
    import wandb_workspaces.reports.v2 as wr

    logged = list(dict.fromkeys(name for run in runs for name in numbers(run)))
    splits = list(dict.fromkeys(split for run in runs for split in run["scores"]))
    first, others = splits[:1], splits[1:]
    groups = [name for name in logged if "/group/" in name]
    looks = [f"explain/{split}/{measure}" for measure in LOOKS for split in splits]
    explained = [f"explain/{split}" for run in runs for split in (run.get("explain") or {}).get("splits", {})]

    def bars(metric: str) -> Any:
        return wr.BarPlot(
            title=metric,
            metrics=[metric],
            groupby=wr.Config(METHOD),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )

    def against_scale(split: str) -> Any:
        return wr.ScatterPlot(
            title=f"{split}/score against scale",
            x=wr.Config(SCALE),
            y=wr.SummaryMetric(f"{split}/score"),
            legend_template="${run:displayName}",
        )

    curves = ["train/loss", *(["val/score"] if "held_out/score" in logged else [])]
    sheets = [key for key in PICTURES if key != MADE or any(run.get("made") for run in runs)]
    pictures = [*sheets, *dict.fromkeys(explained), *(["explain/curves"] if explained else [])]
    found = {
        "Accuracy against scale": [against_scale(split) for split in splits],
        "Method by method": [bars(f"{split}/score") for split in first],
        "Out of distribution": [bars(f"{split}/score") for split in others] + [bars(name) for name in groups],
        "Where networks look": [bars(name) for name in looks if name in logged],
        "Cost": [bars(name) for name in logged if name.startswith("cost/")],
        "Training": [wr.LinePlot(title=name, x="trainer/global_step", y=[name]) for name in curves],
        "Samples": [wr.MediaBrowser(title=key, media_keys=[key], num_columns=2) for key in pictures],
        "Scores": [wr.WeavePanelSummaryTable(table_name="scores")],
    }
    return {heading: panels for heading, panels in found.items() if panels}


def workspace(runs: Sequence[dict[str, Any]], project: str, entity: str) -> Any:
    """The workspace; seeds of a method at a scale are one group."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name=heading, panels=panels, is_open=True) for heading, panels in sections(runs).items()],
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(METHOD), ws.Config(SCALE)]),
    )


def report(runs: Sequence[dict[str, Any]], project: str, entity: str) -> Any:
    """The report: a heading and a grid of panels for each section."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for heading, panels in sections(runs).items():
        for place, panel in enumerate(panels):
            panel.layout = wr.Layout(x=WIDE * (place % ACROSS), y=HIGH * (place // ACROSS), w=WIDE, h=HIGH)
        # A set of runs without a name of its project is of that of the report; with one, the server is asked for it.
        shown = wr.Runset(groupby=[f"config.{METHOD}", f"config.{SCALE}"])
        blocks += [wr.H2(heading), wr.PanelGrid(runsets=[shown], panels=panels)]
    described = f"{len(runs)} runs; mean and standard deviation over the runs of a method."
    return wr.Report(project=project, entity=entity, title=NAME, description=described, blocks=blocks)


def dashboard(folders: Sequence[Path], project: str, entity: str | None, offline: Path | None) -> str:
    """Make both at Weights & Biases, or write them to a file.

    Args:
        folders: Hold the runs, some or all, that were logged.
        project: Where they were logged to.
        entity: The user or team whose it is; None for the one that is logged in.
        offline: A JSON file, in the place of a server.

    Returns:
        Where they are.

    Raises:
        RuntimeError: wandb-workspaces is not installed.
        FileNotFoundError: there are no finished runs.
    """
    runs = find_runs(folders)
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ModuleNotFoundError as error:
        raise RuntimeError("genaug dashboard needs the wandb extra: pip install 'genaug[wandb]'.") from error
    if offline is None:
        entity = entity or str(wandb.Api().default_entity)
        return f"{workspace(runs, project, entity).save().url}\n{report(runs, project, entity).save().url}"
    makers: dict[str, Callable[..., Any]] = {"workspace": workspace, "report": report}
    models = {name: serialised(make(runs, project, entity or "")) for name, make in makers.items()}
    write_atomically(offline, json.dumps(models, indent=1).encode())
    return str(offline)


def serialised(made: Any) -> dict[str, Any]:
    """What would be sent, as JSON values. The library has no public name for it."""
    return json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))
