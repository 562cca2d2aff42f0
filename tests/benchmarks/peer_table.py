"""Tables of peers.py: the rates of all programs, and the parts of genretag's lead from engine and pipeline."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from peer_contestants import GENRETAG, Contestant

SAME_LABELS = 0.9  # not all, because resize filters differ
RATES = ("steady_rate", "rate")


@dataclass(frozen=True)
class Run:
    """One run of one program."""

    name: str
    round: int
    seconds: float
    rate: float  # posters/s of the whole command
    steady_rate: float
    missing: int
    twice: int
    same_label: float  # the share of posters with genretag's first label in the same precision
    error: str

    @property
    def right(self) -> bool:
        return not (self.error or self.missing or self.twice) and self.same_label >= SAME_LABELS


def rates_table(runs: list[Run], contestants: list[Contestant], absent: dict[Contestant, str]) -> Iterator[str]:
    """Yield the lines of a Markdown table of rates, each with its ratio to genretag's rate in the same precision.

    `absent` has the contestants that cannot run here, with the reason.
    """
    ratio = "x genretag in this precision"
    yield from _head(
        "program", "precision", "posters/s steady", ratio, "posters/s with start-up", ratio, "same first label"
    )
    for contestant in contestants:
        cells = [contestant.title, contestant.precision]
        for rate in RATES:
            ours = _median(runs, GENRETAG[contestant.precision], rate)
            cells += [_spread(_rates(runs, contestant, rate)), _ratio(_median(runs, contestant, rate), ours)]
        own = [run for run in runs if run.name == contestant.name]
        wrong = "" if all(run.right for run in own) else ", **wrong**"
        yield _row(*cells, f"{min(run.same_label for run in own):.1%}{wrong}")
    for contestant, reason in absent.items():
        yield _row(contestant.title, contestant.precision, reason, "", "", "", "")


def lead_table(runs: list[Run], contestants: list[Contestant]) -> Iterator[str]:
    """Yield the lines of a Markdown table that divides genretag's lead in int8 over programs in float32.

    The lead over a program is the product of two ratios. The first one is the program in int8 over the same program in
    float32, which comes from the engine. The second one is genretag over the program in int8, which comes from the
    pipeline.
    """
    parts = ("lead of genretag", "from the engine", "from the pipeline")
    yield from _head("program in float32", *(f"{part}, steady" for part in parts), *(f"{part}, all" for part in parts))
    of = {(contestant.program, contestant.precision): contestant for contestant in contestants}
    for contestant in contestants:
        in_int8 = of.get((contestant.program, "int8"))
        if contestant.precision == "float32" and in_int8:
            cells = [contestant.title]
            for rate in RATES:
                usual, int8, ours = (_median(runs, one, rate) for one in (contestant, in_int8, GENRETAG["int8"]))
                cells += [_ratio(ours, usual), _ratio(int8, usual), _ratio(ours, int8)]
            yield _row(*cells)


def _head(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield "|---" * len(columns) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rates(runs: list[Run], contestant: Contestant, rate: str) -> list[float]:
    return [getattr(run, rate) for run in runs if run.name == contestant.name]


def _median(runs: list[Run], contestant: Contestant, rate: str) -> float:
    return median(_rates(runs, contestant, rate))


def _spread(rates: list[float]) -> str:
    return f"{median(rates):.1f} ({min(rates):.1f}..{max(rates):.1f})" if any(rates) else "–"


def _ratio(rate: float, other: float) -> str:
    return f"{rate / other:.2f}" if rate and other else "–"
