"""Posters apart by the values of a column: each value a slice, many numbers in quartiles."""

from collections import Counter
from collections.abc import Sequence
from math import isfinite

import numpy as np

NUMBERS_FROM = 12  # a column with more values than this, all of them numbers, is cut into quartiles
MOST_SLICES = 20  # of a column of text: the rarest values are one slice together
NOTHING, OTHERS = "(blank)", "(others)"


def slices(values: Sequence[str]) -> dict[str, np.ndarray]:
    """The slices of posters by their cells: name -> bool (N,). Every poster is in one of them."""
    cells = [value.strip() for value in values]
    numbers = _numbers(cells)
    names = _quartiles(numbers) if numbers is not None else _commonest(cells)
    known = np.array([name or NOTHING for name in names])
    order = sorted(set(known.tolist()), key=lambda name: (name in (NOTHING, OTHERS), _place(name, names, numbers)))
    return {name: known == name for name in order}


def _numbers(cells: Sequence[str]) -> np.ndarray | None:
    """The cells as float64 (N,), blank ones NaN; none where they are no numbers or have few values."""
    if len(set(cells) - {""}) <= NUMBERS_FROM:
        return None
    try:
        numbers = np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return None
    return numbers if all(isfinite(n) for n, cell in zip(numbers, cells, strict=True) if cell) else None


def _quartiles(numbers: np.ndarray) -> list[str]:
    """The name of each number's quartile, which says the least and the most in it; "" for NaN."""
    known = numbers[~np.isnan(numbers)]
    quarter = np.searchsorted(np.quantile(known, (0.25, 0.5, 0.75)), numbers, side="right")
    names = np.full(len(numbers), "", dtype=object)
    for number in range(4):
        chosen = (quarter == number) & ~np.isnan(numbers)
        if chosen.any():
            names[chosen] = f"{numbers[chosen].min():g} to {numbers[chosen].max():g}"
    return list(names)


def _commonest(cells: Sequence[str]) -> list[str]:
    counts = Counter(cells)
    if len(counts) <= MOST_SLICES:
        return list(cells)
    kept = {cell for cell, _ in counts.most_common(MOST_SLICES - 1)}
    return [cell if cell in kept else OTHERS for cell in cells]


def _place(name: str, names: Sequence[str], numbers: np.ndarray | None) -> tuple[float, str]:
    """Slices of numbers stand in their order, others in that of the alphabet."""
    if numbers is None or name in (NOTHING, OTHERS):
        return 0.0, name
    return float(numbers[names.index(name)]), name
