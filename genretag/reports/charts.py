"""Numbers -> places on an SVG canvas. The macros in `templates/charts.html` draw them.

Small marks that stand in rows of a table, or panels side by side: their text is the page's own, so that it stays as
large on a phone, and their colours are the page's, so that they follow light and dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np


@dataclass(frozen=True)
class Axis:
    """A range of values along `length` units of the canvas; `up` for one whose values grow upwards."""

    low: float
    high: float
    length: float
    up: bool = False

    def place(self, value: float) -> float:
        """Where a value stands; beyond the range, at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return round(self.length * (1 - share if self.up else share), 2)

    def ticks(self, about: int = 3) -> list[tuple[float, str]]:
        """Round values in the range: place and text."""
        step = _round_step((self.high - self.low) / max(about, 1))
        digits = max(0, -floor(log10(step))) if step < 1 else 0
        first = ceil(self.low / step - 1e-9)
        values = [number * step for number in range(first, floor(self.high / step + 1e-9) + 1)]
        return [(self.place(value), f"{value:.{digits}f}") for value in values]


UNIT = Axis(0.0, 1.0, 100.0)
UNIT_UP = Axis(0.0, 1.0, 100.0, up=True)


@dataclass(frozen=True)
class Curve:
    """A line in a panel, with what is written at its end."""

    points: str  # of an SVG polyline
    end: tuple[float, float]
    text: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def curve(x: Sequence[float], y: Sequence[float], width: float, height: float, digits: int = 3) -> Curve:
    """A line through the points of a series over the range that it has, its last value at its end."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if isfinite(b)]
    if not known:
        return Curve("", (0, 0), "–", [], [])
    low, high = min(b for _, b in known), max(b for _, b in known)
    margin = (high - low) * 0.12 or abs(high) * 0.1 or 0.1
    across = Axis(known[0][0], known[-1][0], width)
    down = Axis(low - margin, high + margin, height, up=True)
    places = [(across.place(a), down.place(b)) for a, b in known]
    return Curve(polyline(places), places[-1], f"{known[-1][1]:.{digits}f}", across.ticks(4), down.ticks(5))


def polyline(places: Sequence[tuple[float, float]]) -> str:
    """The `points` of an SVG polyline."""
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def columns(counts: Sequence[int], width: float, height: float) -> list[tuple[float, float, float]]:
    """A histogram's columns: x, y and height of each, by the square root, so that few are seen beside many."""
    most = max([*counts, 1])
    step = width / max(len(counts), 1)
    heights = [round(height * (count / most) ** 0.5, 2) for count in counts]
    return [(round(i * step, 2), round(height - tall, 2), tall) for i, tall in enumerate(heights)]


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points of a curve, evenly along x, with both ends."""
    if len(x) <= most:
        return x, y
    wanted = np.linspace(x.min(), x.max(), most)
    order = np.lexsort((-y, x))  # of points above each other the highest
    at = order[np.unique(np.clip(np.searchsorted(x[order], wanted), 0, len(x) - 1))]
    return x[at], y[at]


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`."""
    if not (isfinite(rough) and rough > 0):
        return 1.0
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
