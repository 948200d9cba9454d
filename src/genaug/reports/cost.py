"""What rows cost: images made, seconds, and hours of GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genaug.reports.pairs import images_seen
from genaug.reports.statistics import summarize
from genaug.reports.tables import NOTHING, Results, Row

EXPLAINED = (
    "Mean over seeds. Making: seconds of all devices together, whenever and by whichever run the images were made; "
    "GPU-hours: of making, training and testing on GPUs."
)


def cost_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of what each row cost, a line a row."""
    header, cells = making_table(rows)
    header += ["training s", "images seen", "device", "GPU-hours", "GPU memory GiB"]
    for row, line in zip(rows, cells, strict=True):
        memory = [
            run["cost"]["device_peak_memory_mib"] for run in row.runs if run["cost"].get("device_peak_memory_mib")
        ]
        line += [
            _mean([run["stage_seconds"]["train"] for run in row.runs if "train" in run["stage_seconds"]], 1),
            "/".join(dict.fromkeys(f"{images_seen(run):,}" for run in row.runs)),
            "/".join(dict.fromkeys(run.get("device", NOTHING) for run in row.runs)),
            _mean([gpu_hours(run) for run in row.runs], 2),
            _mean([one / 1024 for one in memory], 1),
        ]
    return header, cells


def making_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of what each row made and what that cost, a line a row."""
    columns = {
        "made": ["/".join(dict.fromkeys(made_by(run) for run in row.runs)) for row in rows],
        **making_columns(rows),
        "making s": [_mean([making_seconds(run) for run in row.runs], 1) for row in rows],
    }
    return ["method", *columns], [[row.label, *line] for row, *line in zip(rows, *columns.values(), strict=True)]


@dataclass(frozen=True)
class MakingCost:
    """What the images of a run cost whenever they were made, by whatever run: the store keeps it beside each image.

    Attributes:
        images: Made, those that a filter dropped or that were given up among them.
        denoiser_steps: Of all that was made for them, retries and backgrounds included.
        seconds: In renderers, summed over devices; loading and learning apart.
        training_steps: In which the generator learned words or was fine-tuned first.
    """

    images: int
    denoiser_steps: int
    seconds: float
    training_steps: int

    @classmethod
    def of(cls, run: Results) -> MakingCost | None:
        """None where a run made no images, or was recorded before costs were."""
        made = run.get("made") or {}
        parts = list((made.get("cost") or {}).values())
        if not parts or not parts[-1]["images"]:
            return None
        steps, seconds = (sum(part[what] for part in parts) for what in ("denoiser_steps", "seconds"))
        return cls(parts[-1]["images"], steps, seconds, _training_steps(made))


def _training_steps(made: dict[str, Any]) -> int:
    """Of a fine-tuning, and of all words that were learned, each by itself."""
    places = [made, made.get("edit") or {}]
    words = [place["words"] for place in places if (place.get("words") or {}).get("words")]
    tuned = [place["finetuning"] for place in places if place.get("finetuning")]
    return sum(one["words"] * one["steps"] for one in words) + sum(one["steps"] for one in tuned)


def making_columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Columns of what made images cost, by header; none where nothing was made. See :class:`MakingCost`."""
    costs = [[cost for run in row.runs if (cost := MakingCost.of(run))] for row in rows]

    def column(cell: Callable[[list[MakingCost]], str]) -> list[str]:
        return [cell(found) if found else NOTHING for found in costs]

    def speed(found: Sequence[MakingCost]) -> str:
        speeds = [cost.images / cost.seconds for cost in found if cost.seconds]
        return f"{summarize(speeds).mean:.2f}" if speeds else NOTHING

    if not any(costs):
        return {}
    columns = {
        "made/s": column(speed),
        "denoiser steps/made": column(
            lambda found: f"{summarize([cost.denoiser_steps / cost.images for cost in found]).mean:.1f}"
        ),
    }
    if any(cost.training_steps for found in costs for cost in found):
        columns["generator's training steps"] = column(
            lambda found: "/".join(map(str, sorted({cost.training_steps for cost in found})))
        )
    return columns


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{summarize(values).mean:,.{digits}f}" if values else NOTHING


def _parts(run: Results) -> Mapping[str, Mapping[str, Any]]:
    """What was made, by its kind: how many images, in how many seconds, on which devices."""
    return (run.get("made") or {}).get("cost") or {}


def made_by(run: Results) -> str:
    """How many images a run's method made, by kind.

    >>> made_by({"made": {"cost": {"images": {"images": 1200}, "backgrounds": {"images": 40}}}})
    '1,200 images, 40 backgrounds'
    >>> made_by({"made": None})
    '0'
    """
    return ", ".join(f"{part['images']:,} {kind}" for kind, part in _parts(run).items() if "images" in part) or "0"


def making_seconds(run: Results) -> float:
    """Device seconds in which all that a run used was made."""
    return sum(part.get("seconds", 0.0) for part in _parts(run).values())


def on_gpu(device: str) -> bool:
    """Whether the name of a device is that of a GPU.

    >>> on_gpu("4 x NVIDIA A100"), on_gpu("1 x cpu"), on_gpu("cuda:0"), on_gpu("cpu")
    (True, False, True, False)
    """
    return bool(device) and device.rpartition(" x ")[2] != "cpu"


def gpu_hours(run: Results) -> float:
    """Hours of GPUs: of making the images, and of training and testing on all devices of the run.

    >>> gpu_hours({"device": "2 x NVIDIA A100", "stage_seconds": {"train": 1800, "evaluate": 0}, "made": None})
    1.0
    """
    made = sum(part.get("seconds", 0.0) for part in _parts(run).values() if _any_gpu(part.get("devices", ())))
    device, seconds = run.get("device", ""), run["stage_seconds"]
    trained = seconds.get("train", 0.0) + seconds.get("evaluate", 0.0) if on_gpu(device) else 0.0
    count = device.partition(" x ")[0]
    return (made + trained * (int(count) if count.isdecimal() else 1)) / 3600


def _any_gpu(devices: Iterable[str]) -> bool:
    return any(on_gpu(device) for device in devices)
