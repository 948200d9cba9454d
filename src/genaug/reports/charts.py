"""Charts as numbers: where everything stands, for a template to draw as SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genaug.reports.pairs import splits_of
from genaug.reports.statistics import Summary, summarize
from genaug.reports.tables import LOOKS, Row, percent, scale_lines

#: Of a chart, and of what stands around its frame, in pixels.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 250, 42, 14, 10, 40

#: Colours of the page; of more rows than that, every eighth shares one, in another shape.
COLOURS = 8

#: Pixels between marks that would stand on one another, and those that all of them may take to each side.
DODGE, ASIDE = 5, 16


@dataclass(frozen=True)
class Mark:
    """A point with its interval, in pixels.

    Attributes:
        x: From the left.
        y: From the top.
        low: Lower end of the interval, None where it is not known or leaves the frame.
        high: Upper end, likewise.
        stem: Both ends of the line between, cut at the frame; None where no interval is known.
        text: What a person reads.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    stem: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Series:
    """Marks of one colour.

    Attributes:
        label: Whose.
        number: Of the colour and shape.
        rows: Labels of the rows in it, for the filter.
        marks: From left to right.
        joined: "line", "level" (one mark, whose height is drawn through the chart) or "".
    """

    label: str
    number: int
    rows: str
    marks: tuple[Mark, ...]
    joined: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart; ticks are pairs of pixel and text."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    series: tuple[Series, ...]


class Axis:
    """From values to pixels.

    Args:
        low: Smallest value.
        high: Largest value.
        start: Pixel of the smallest.
        end: Pixel of the largest.
        least: The axis does not begin below.
        most: It does not end above.
    """

    def __init__(
        self, low: float, high: float, start: float, end: float, least: float = -math.inf, most: float = math.inf
    ) -> None:
        from matplotlib.ticker import MaxNLocator

        margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10])
        wanted = ticks.tick_values(max(least, low - margin), min(most, high + margin))
        self.values = [float(value) for value in wanted if least <= value <= most]
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high = self.values[0], self.values[-1]
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def contains(self, value: float) -> bool:
        """Whether a value is in the frame."""
        return self.values[0] <= value <= self.values[-1]

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Pixel and text of each tick."""
        step = self.values[1] - self.values[0]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return tuple((self(value), f"{value:.{digits}f}") for value in self.values)


def legend(charts: Sequence[Chart]) -> list[tuple[int, str, str]]:
    """Number, label and rows of every series of some charts."""
    return sorted({(one.number, one.label, one.rows) for chart in charts for one in chart.series})


def scale_charts(rows: Sequence[Row]) -> list[Chart]:
    """Accuracy against synthetic images of each real one: a chart a split, a line a method; none where it is one scale.

    Whiskers are 95 % intervals of the mean over seeds.
    """
    lines = scale_lines(rows)
    if not any(len(found) > 1 for found in lines.values()):
        return []
    scales = sorted({scale for found in lines.values() for scale in found})
    return [chart for split in splits_of(rows) if (chart := _scale_chart(lines, scales, split)) is not None]


def _scale_chart(lines: dict[str, dict[int, Row]], scales: Sequence[int], split: str) -> Chart | None:
    found = {
        name: {scale: summary for scale in sorted(by_scale) if (summary := _score(by_scale[scale], split)) is not None}
        for name, by_scale in lines.items()
    }
    summaries = [summary for by_scale in found.values() for summary in by_scale.values()]
    if not summaries:
        return None
    spreads = [0.0 if math.isnan(one.spread) else one.spread for one in summaries]
    low = min(one.mean - spread for one, spread in zip(summaries, spreads, strict=True))
    high = max(one.mean + spread for one, spread in zip(summaries, spreads, strict=True))
    y = Axis(low, high, HEIGHT - BOTTOM, TOP, 0.0, 100.0)
    widest = max(scales) - min(scales)
    left, right = LEFT + ASIDE, WIDTH - RIGHT - ASIDE
    step = min(DODGE, 2 * ASIDE / len(found))

    def x(scale: int) -> float:
        return left + (scale - min(scales)) / widest * (right - left)

    series = []
    for number, (name, by_scale) in enumerate(found.items()):
        dodge = (number - (len(found) - 1) / 2) * step
        marks = tuple(
            _mark(x(scale) + dodge, summary, y, f"{name}, {scale}X: {_words(summary)}")
            for scale, summary in by_scale.items()
        )
        labels = " ".join(row.label for row in lines[name].values())
        series.append(Series(name, number, labels, marks, "line" if len(marks) > 1 else "level"))
    ticks = tuple((round(x(scale), 1), f"{scale}X") for scale in scales)
    return Chart(split, "synthetic images of each real one", "score %", ticks, y.ticks(), tuple(series))


def _score(row: Row, split: str) -> Summary | None:
    scores = [100 * run["scores"][split]["score"] for run in row.runs if split in run["scores"]]
    return summarize(scores) if scores else None


def _mark(x: float, summary: Summary, axis: Axis, text: str) -> Mark:
    ends: list[float | None] = [None, None]
    stem = None
    if not math.isnan(summary.half_width):
        inside = [min(max(end, axis.values[0]), axis.values[-1]) for end in summary.interval]
        stem = (axis(inside[0]), axis(inside[1]))
        ends = [axis(end) if axis.contains(end) else None for end in summary.interval]
    return Mark(round(x, 1), axis(summary.mean), ends[0], ends[1], stem, text)


def _words(summary: Summary) -> str:
    if math.isnan(summary.half_width):
        return f"{summary.mean:.1f} % (one seed)"
    low, high = summary.interval
    return f"{summary.mean:.1f} % [{low:.1f}, {high:.1f}], {summary.n} seeds"


def look_charts(rows: Sequence[Row]) -> dict[str, list[Chart]]:
    """Where networks look against accuracy: by split a chart for each measure that two rows have."""
    found = {split: [_look_chart(rows, split, measure) for measure in LOOKS] for split in splits_of(rows)}
    kept = {split: [chart for chart in charts if chart is not None] for split, charts in found.items()}
    return {split: charts for split, charts in kept.items() if charts}


def _look_chart(rows: Sequence[Row], split: str, measure: str) -> Chart | None:
    points: dict[int, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        explained = [run for run in row.runs if split in (run.get("explain") or {}).get("splits", {})]
        pairs = [(run["scores"][split]["score"], run["explain"]["splits"][split][measure]["mean"]) for run in explained]
        if known := [(score, look) for score, look in pairs if look is not None]:
            scores, looks = zip(*known, strict=True)
            points[number] = (100 * summarize(scores).mean, summarize(looks).mean)
    if len(points) < 2:
        return None
    xs, ys = zip(*points.values(), strict=True)
    x = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, 0.0, 100.0)
    y = Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    series = tuple(
        Series(
            rows[number].label,
            number,
            rows[number].label,
            (Mark(x(score), y(look), None, None, None, f"{rows[number].label}: {percent(score / 100)} %, {look:.3f}"),),
        )
        for number, (score, look) in points.items()
    )
    return Chart(LOOKS[measure], "score %", LOOKS[measure], x.ticks(), y.ticks(), series)
