"""Charts as SVG, drawn by the server: one path a colour, so that a month weighs a kilobyte."""

from collections.abc import Sequence
from dataclasses import dataclass

from portal.core import i18n
from portal.core.i18n import _

HOUR, DAY, MONTH = "hour", "day", "month"
STEP_WIDTH = 10


@dataclass(frozen=True, slots=True)
class ChartSeries:
    """One colour of a chart: its CSS class, its label, the sum of its values, and its SVG path."""

    kind: str
    label: str
    total: int
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What `macros/chart.html` draws: `layers` in the order in which they cover each other; `axis` are its labels from
    left to right, `most` is the highest value (empty: not said)."""

    width: int
    layers: Sequence[ChartSeries]
    axis: Sequence[str]
    most: str = ""


def build_bars_path(heights: Sequence[int], values: Sequence[float]) -> str:
    """The path of a bar of each height upwards from 0, STEP_WIDTH wide with the gap around it; where the layer's own
    value is 0, there is none."""
    path, gap = ["M1.5 0"], 0
    for height, value in zip(heights, values, strict=True):
        if value:
            path.append(f"{f'h{gap}' if gap else ''}v-{height}h7V0")
            gap = 3
        else:
            gap += STEP_WIDTH
    return "".join(path)


def build_line_path(heights: Sequence[int]) -> str:
    """The path of a line through these heights above 0, STEP_WIDTH apart."""
    return "M" + "L".join(f"{number * STEP_WIDTH} {-height}" for number, height in enumerate(heights))


def format_step(unit: str, at: int, timezone: str, *, with_day: bool = False) -> str:
    """When a step of a chart begins, in words.

    Args:
        unit: HOUR, DAY or MONTH.
        at: milliseconds.
        timezone: IANA name.
        with_day: before the hour, where there are hours of several days.
    """
    if unit == MONTH:
        return i18n.format_month(at, timezone)
    day = i18n.format_day(at, timezone)
    if unit == DAY:
        return day
    hour = i18n.format_time(at, timezone)
    return f"{day}, {hour}" if with_day else hour


def format_step_heading(unit: str) -> str:
    """The name of the column that says when each step begins."""
    return {HOUR: _("Time"), DAY: _("Day"), MONTH: _("Month")}[unit]
