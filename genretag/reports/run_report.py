"""Morning report, `runs/<run_id>/run.html`: what happened in a run, and how far its genres drifted.

The drift from earlier runs is the population stability index (PSI):

    PSI = sum over genres of (share now - share before) * ln(share now / share before)

PSI comes from credit scoring. By convention there, a PSI below .1 means no change, and above .25 a large change. Chance
alone makes PSI about (genres - 1) * (1 / now + 1 / before), where `now` and `before` are the total counts. For a small
run, chance alone makes PSI more than .1. So the report warns only if PSI also exceeds a second limit, which chance
alone exceeds in one of twenty runs. The second limit comes from the chi-square distribution, which PSI follows if only
chance acts. Source: Yurdakul and Naranjo 2020, "Statistical properties of the population stability index".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log, sqrt
from typing import Any

from genretag.errors import UsageError
from genretag.output.run_record import RunRecord
from genretag.reports import run_facts
from genretag.reports.page import columns, render, write_page
from genretag.reports.run_facts import Sheets
from genretag.reports.tagged_posters import Picture, Tagged, thumbnails
from genretag.storage import Storage, join, resolve

LIMIT = 0.1
HALF = 0.5  # added to each count, so that an unseen genre has a logarithm
ONE_IN_TWENTY = 1.6449  # 95th percentile of the normal distribution, in standard deviations


@dataclass(frozen=True)
class Drift:
    """Drift of a run: the population stability index (`psi`), and the limits for a warning.

    `limit` is the limit that the user set. `by_chance` is the value that chance alone exceeds in one of twenty runs.
    """

    psi: float
    by_chance: float  # chance alone exceeds this value in one of twenty runs
    limit: float

    @property
    def warns(self) -> bool:
        """Return True if PSI (the drift) is above the limit and above what chance explains."""
        return self.psi > max(self.limit, self.by_chance)


def drift(now: Mapping[str, int], before: Mapping[str, int], limit: float = LIMIT) -> Drift | None:
    """Return the drift from `before` to `now`, which are numbers of posters by genre.

    `limit` is only copied into the result. Return None if `now` or `before` has no posters, or if there are fewer than
    two genres.
    """
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
    """Return the 95th percentile of the chi-square distribution with `freedom` degrees of freedom, at least 1.

    The approximation of Wilson and Hilferty (1931) is within 3 % of the exact value.
    """
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + ONE_IN_TWENTY * sqrt(spread)) ** 3


PAGE = "run.html"
DEADLINE_S = 20.0  # for all pictures together, so that a store that hangs does not delay the end of a run
WITHOUT = "(no genre)"
GENRES_SHOWN = 200  # the most frequent ones, of a model with very many labels


@dataclass(frozen=True)
class GenreRow:
    """A genre of a run: the number of posters with it, and their share of the scored posters.

    `before` is the share in the earlier runs, or None if there is no earlier run.
    """

    name: str
    posters: int
    share: float
    before: float | None


@dataclass(frozen=True)
class DrawnReport:
    """Location of a written report, the record of its run, and the drift (None if nothing can be compared)."""

    place: str
    record: RunRecord
    drift: Drift | None


def report(output: str, run_id: str | None, storage: Storage, limit: float = LIMIT) -> DrawnReport:
    """Draw the report of a run again and write it next to the run's record. If `run_id` is None, take the newest run.

    The page warns if the drift is above `limit` and above what chance explains. Raises `UsageError` if there is no such
    run, or if the page cannot be written.
    """
    output = resolve(output)
    if run_id is None:
        known = run_facts.run_ids(output, storage)
        if not known:
            raise UsageError(f"there is no published run in {output}: name what `genretag tag` wrote to")
        run_id = known[-1]
    record = run_facts.read_record(output, run_id, storage)
    earlier = run_facts.earlier_records(record, storage)
    page, found = morning_report(record, earlier, storage, limit)
    return DrawnReport(write_page(join(output, "runs", run_id, PAGE), page, storage), record, found)


def describe(found: DrawnReport) -> str:
    """Return a line for the terminal: how many posters were scored and failed, the drift, and where the page is."""
    record, moved = found.record, found.drift
    genres = f", genres {'HAVE DRIFTED' if moved.warns else 'as before'} (PSI {moved.psi:.3f})" if moved else ""
    return f"night of {record.dt}: {record.scored:,} scored, {record.failed_posters:,} failed{genres}: {found.place}"


def write_report(record: RunRecord, storage: Storage) -> str:
    """Draw the report of a run that has just ended, and write it next to the run's record. Return its location.

    Raises `UsageError` if the page cannot be written.
    """
    page, _ = morning_report(record, run_facts.earlier_records(record, storage), storage)
    return write_page(join(record.output, "runs", record.run_id, PAGE), page, storage)


def morning_report(
    record: RunRecord, earlier: Sequence[RunRecord], storage: Storage, limit: float = LIMIT
) -> tuple[bytes, Drift | None]:
    """Return the morning report (the page about one run) as HTML in UTF-8, and the drift of genres that it shows.

    The drift is None if `earlier` is empty, or if there are no genres to compare.
    """
    sheets = run_facts.sheets(record, storage) if record.scored else None
    found = drift(_counts([record]), _counts(earlier), limit) if earlier else None
    shares, spent = run_facts.busy_shares(record), run_facts.phases(record)
    genres = genre_rows(record, earlier)
    page = render(
        "morning_report.html",
        record=record,
        earlier=earlier,
        drift=found,
        genres=genres if len(genres) <= GENRES_SHOWN else [*genres[: GENRES_SHOWN - 1], genres[-1]],
        more_genres=max(0, len(genres) - GENRES_SHOWN),
        unseen=[row.name for row in genres if not (row.posters or row.before or row.name == WITHOUT)],
        histograms=_histograms(record),
        failures=run_facts.failure_kinds(record, storage),
        spent=spent,
        total=record.seconds.get("total", 0.0),
        shares=shares,
        bounded=run_facts.what_bounded(record, shares, spent),
        rate=record.scored / record.seconds["score"] if record.seconds.get("score") else None,
        sheets=_drawn(sheets, storage) if sheets else [],
        looked_at=sheets.looked_at if sheets else 0,
        settings={name: value for name, value in record.settings.items() if value not in (None, (), [])},
    )
    return page, found


def genre_rows(record: RunRecord, earlier: Sequence[RunRecord]) -> list[GenreRow]:
    """Return the rows of the table of genres, the most frequent genre first, and posters without a genre last.

    If the run scored nothing, return an empty list.
    """
    if not record.scored:
        return []
    now, before, scored_before = _counts([record]), _counts(earlier), sum(r.scored for r in earlier)
    rows = [
        GenreRow(name, now[name], now[name] / record.scored, before[name] / scored_before if scored_before else None)
        for name in dict.fromkeys([*now, *before])
    ]
    return sorted(rows, key=lambda row: (row.name == WITHOUT, -row.posters))


def _counts(records: Sequence[RunRecord]) -> Counter[str]:
    """Return the number of posters of these runs by genre. The key `WITHOUT` counts posters without a genre."""
    counts: Counter[str] = Counter()
    for record in records:
        if record.genres:  # a record of an earlier genretag has none
            counts.update(record.genres)
            counts.update({WITHOUT: record.without_genre})
    return counts


def _histograms(record: RunRecord) -> list[tuple[str, list[tuple[float, float, float]], float | None, float]]:
    """Return a histogram of each label's probabilities: label, bars (x, y, height), threshold and width of a bar.

    The threshold is None if the record has none. A label without posters is left out.
    """
    thresholds = run_facts.thresholds_of(record)
    return [
        (label, columns(counts, 100, 44), thresholds.get(label), 100 / max(len(counts), 1))
        for label, counts in record.histograms.items()
        if sum(counts)
    ]


def _drawn(sheets: Sheets, storage: Storage) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return each contact sheet (grid of posters) for the template: its title, a sentence about it, and its posters.

    A poster is a dictionary with a thumbnail (None if there is no picture) and its three most probable genres.
    """
    named = [
        ("At random", "A random sample of the posters of this run.", sheets.at_random),
        ("Most certain", "The posters with the highest probability of any genre.", sheets.most_certain),
        ("Least certain", "The posters whose most probable genre is the least probable.", sheets.least_certain),
    ]
    posters = {p.uri: p for _, _, some in named for p in some}
    pictures = [Picture(p.uri, p.etag, p.width, p.height) for p in posters.values()]
    drawn = dict(zip(posters, thumbnails(pictures, storage, deadline_s=DEADLINE_S), strict=True))

    def one(poster: Tagged) -> dict[str, Any]:
        top = list(poster.probabilities.items())[:3]
        said = [(sheets.model.labels[label], value, label in poster.genres) for label, value in top]
        return asdict(poster) | {"thumbnail": drawn[poster.uri], "said": said}

    return [(title, words, [one(poster) for poster in some]) for title, words, some in named]
