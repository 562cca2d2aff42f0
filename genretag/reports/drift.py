"""How far tonight's genres are from those of earlier runs: the population stability index (PSI), with its limit.

PSI = sum over genres of (share now - share before) * ln(share now / share before). By its users' convention (credit
scoring, where it comes from) below .1 nothing happened and above .25 much did. Chance alone makes it about
(genres - 1) * (1 / now + 1 / before) for counts of `now` and `before`, more than .1 on a small night; so a warning
also needs more than chance gives in one of twenty nights, by the chi-square distribution that PSI then follows
(Yurdakul and Naranjo 2020, "Statistical properties of the population stability index").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt

LIMIT = 0.1
HALF = 0.5  # added to each count, so that a genre that was never seen has a logarithm
ONE_IN_TWENTY = 1.6449  # standard deviations


@dataclass(frozen=True)
class Drift:
    """The index of the night, and what of it chance may be."""

    psi: float
    by_chance: float  # which chance alone exceeds in one of twenty nights
    limit: float

    @property
    def warns(self) -> bool:
        """Whether to look into it."""
        return self.psi > max(self.limit, self.by_chance)


def drift(now: Mapping[str, int], before: Mapping[str, int], limit: float = LIMIT) -> Drift | None:
    """Compares counts by genre; none where either side has none at all."""
    names = sorted(now.keys() | before.keys())
    total_now, total_before = sum(now.values()), sum(before.values())
    if not (total_now and total_before) or len(names) < 2:
        return None
    shares = [
        (
            (now.get(name, 0) + HALF) / (total_now + HALF * len(names)),
            (before.get(name, 0) + HALF) / (total_before + HALF * len(names)),
        )
        for name in names
    ]
    psi = sum((new - old) * log(new / old) for new, old in shares)
    return Drift(psi, chi_square_95(len(names) - 1) * (1 / total_now + 1 / total_before), limit)


def chi_square_95(freedom: int) -> float:
    """The 95th percentile of chi-square, by Wilson and Hilferty (1931): within 3 % from one degree of freedom on."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + ONE_IN_TWENTY * sqrt(spread)) ** 3
