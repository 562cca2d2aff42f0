"""The morning report, `runs/<run_id>/run.html`: what happened last night, and whether its genres look like others'."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genretag.errors import UsageError
from genretag.reports import night_facts
from genretag.reports.charts import columns
from genretag.reports.drift import LIMIT, Drift, drift
from genretag.reports.night_facts import Sheets
from genretag.reports.page import render
from genretag.reports.tagged import Tagged
from genretag.reports.thumbnails import Picture, thumbnails
from genretag.reports.writing import write_page
from genretag.storage import Storage, join, resolve
from genretag.tagging.run_record import RunRecord

PAGE = "run.html"
DEADLINE_S = 20.0  # for all pictures together: a store that hangs does not hold up the end of a night
WITHOUT = "(no genre)"


@dataclass(frozen=True)
class GenreRow:
    """One genre tonight and before: shares of the scored posters."""

    name: str
    posters: int
    share: float
    before: float | None


@dataclass(frozen=True)
class Reported:
    """Where a report lies, and what it found."""

    place: str
    record: RunRecord
    drift: Drift | None


def report(output: str, run_id: str | None, storage: Storage, limit: float = LIMIT) -> Reported:
    """Draws the report of a run, the newest one when not named, and writes it. Raises `UsageError`."""
    output = resolve(output)
    if run_id is None:
        known = night_facts.run_ids(output, storage)
        if not known:
            raise UsageError(f"there is no published run in {output}: name what `genretag tag` wrote to")
        run_id = known[-1]
    record = night_facts.read_record(output, run_id, storage)
    earlier = night_facts.earlier_records(record, storage)
    page, found = morning_report(record, earlier, storage, limit)
    return Reported(write_page(join(output, "runs", run_id, PAGE), page, storage), record, found)


def describe(found: Reported) -> str:
    """One line for the terminal."""
    record, moved = found.record, found.drift
    genres = f", genres {'HAVE DRIFTED' if moved.warns else 'as before'} (PSI {moved.psi:.3f})" if moved else ""
    return f"night of {record.dt}: {record.scored:,} scored, {record.failed_posters:,} failed{genres}: {found.place}"


def write_report(record: RunRecord, storage: Storage) -> str:
    """Draws the report of a night that has just been published; returns where it lies."""
    page, _ = morning_report(record, night_facts.earlier_records(record, storage), storage)
    return write_page(join(record.output, "runs", record.run_id, PAGE), page, storage)


def morning_report(
    record: RunRecord, earlier: Sequence[RunRecord], storage: Storage, limit: float = LIMIT
) -> tuple[bytes, Drift | None]:
    """The page, in UTF-8, and the drift that it tells of."""
    sheets = night_facts.sheets(record, storage) if record.scored else None
    found = drift(_counts([record]), _counts(earlier), limit) if earlier else None
    shares, spent = night_facts.busy_shares(record), night_facts.phases(record)
    genres = genre_rows(record, earlier)
    page = render(
        "morning_report.html",
        record=record,
        earlier=earlier,
        drift=found,
        genres=genres,
        unseen=[row.name for row in genres if not (row.posters or row.before or row.name == WITHOUT)],
        histograms=_histograms(record),
        failures=night_facts.failure_kinds(record, storage),
        spent=spent,
        total=record.seconds.get("total", 0.0),
        shares=shares,
        bounded=night_facts.what_bounded(record, shares, spent),
        rate=record.scored / record.seconds["score"] if record.seconds.get("score") else None,
        sheets=_drawn(sheets, storage) if sheets else [],
        looked_at=sheets.looked_at if sheets else 0,
        settings={name: value for name, value in record.settings.items() if value not in (None, (), [])},
    )
    return page, found


def genre_rows(record: RunRecord, earlier: Sequence[RunRecord]) -> list[GenreRow]:
    """Each genre with its share tonight and before, the commonest first."""
    if not record.scored:
        return []
    before, scored_before = _counts(earlier), sum(r.scored for r in earlier)
    rows = [
        GenreRow(name, count, count / record.scored, before[name] / scored_before if scored_before else None)
        for name, count in _counts([record]).items()
    ]
    return sorted(rows, key=lambda row: (row.name == WITHOUT, -row.posters))


def _counts(records: Sequence[RunRecord]) -> Counter[str]:
    """How many posters of these runs got each genre, and how many none."""
    counts: Counter[str] = Counter()
    for record in records:
        if record.genres:  # one that an earlier genretag wrote has none
            counts.update(record.genres)
            counts.update({WITHOUT: record.without_genre})
    return counts


def _histograms(record: RunRecord) -> list[tuple[str, list[tuple[float, float, float]], float | None, float]]:
    """Of each label its columns, its threshold and the width of a column."""
    thresholds = night_facts.thresholds_of(record)
    return [
        (label, columns(counts, 100, 44), thresholds.get(label), 100 / max(len(counts), 1))
        for label, counts in record.histograms.items()
        if sum(counts)
    ]


def _drawn(sheets: Sheets, storage: Storage) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Title, words and posters of each sheet, with their pictures."""
    named = [
        ("At random", "What an ordinary poster of this night got.", sheets.at_random),
        ("Most certain", "The posters with the highest probability of any genre.", sheets.most_certain),
        ("Least certain", "The posters whose most probable genre is the least probable.", sheets.least_certain),
    ]
    posters = {p.uri: p for _, _, some in named for p in some}
    pictures = [Picture(p.uri, p.etag, p.width, p.height) for p in posters.values()]
    drawn = dict(zip(posters, thumbnails(pictures, storage, deadline_s=DEADLINE_S), strict=True))

    def one(poster: Tagged) -> dict[str, Any]:
        top = sorted(range(len(sheets.model.labels)), key=lambda i: -poster.probabilities[i])[:3]
        said = [(sheets.model.labels[i], poster.probabilities[i], i in poster.genres) for i in top]
        return asdict(poster) | {"thumbnail": drawn[poster.uri], "said": said}

    return [(title, words, [one(poster) for poster in some]) for title, words, some in named]
