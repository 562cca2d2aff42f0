"""When further epochs are no longer worth their time."""

from collections.abc import Mapping, Sequence


def stops_early(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the best `macro_map` is `patience` or more epochs old; `history` has one entry per epoch.

    An equal value is no better one. With a patience of 0, never.
    """
    if not patience or not history:
        return False
    scores = [epoch["macro_map"] for epoch in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience
