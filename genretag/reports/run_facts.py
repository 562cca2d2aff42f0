"""Read the data of the morning report (the page about one run): records of runs, and a few rows of part files.

Each run writes a record, `run.json`, with the counts of its workers. The report takes all counts from these records.
Rows are read only for the contact sheets (grids of posters) and the examples of failures. The number of these rows is
limited. So the report of a large run costs no more than that of a small run.
"""

import json
import logging
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import pyarrow as pa

from genretag.errors import UsageError, one_line
from genretag.output import parquet_files
from genretag.output.run_record import RECORD_FORMAT, RunRecord
from genretag.reports.tagged_posters import Model, Tagged, model_of, open_sandbox, read_rows, shown
from genretag.storage import ObjectInfo, Storage, StorageError, join
from genretag.storage.paths import sql_text

logger = logging.getLogger(__name__)

EARLIER_RUNS = 14  # at most, that a run is compared with
FILES, ROWS_OF_A_FILE = 8, 50_000  # at most: part files that are read, and rows of each file
ON_A_SHEET = 14  # posters
EXAMPLES = 3  # failed posters of each reason
READS_AT_ONCE = 8


@dataclass(frozen=True)
class FailureKind:
    """Failed posters of a run with the same stage and reason.

    `posters` is their number, `message` the message of one of them, and `examples` the URIs of at most `EXAMPLES` of
    them. If no row of such a failure was read, `message` and `examples` are empty.
    """

    stage: str
    reason: str
    posters: int
    message: str
    examples: list[str]


@dataclass(frozen=True)
class Sheets:
    """Scored posters of the run for the contact sheets (grids of posters), chosen from the first rows of some files.

    `looked_at` is the number of rows from which the posters were chosen. A sheet has at most `ON_A_SHEET` posters.
    `at_random` is a random sample. `most_certain` and `least_certain` have the posters whose most probable genre has
    the highest and the lowest probability.
    """

    model: Model
    looked_at: int
    at_random: list[Tagged]
    most_certain: list[Tagged]
    least_certain: list[Tagged]


def run_ids(output: str, storage: Storage) -> list[str]:
    """Return the ids of an output's runs that have a record, the newest last. If there is none, return an empty list.

    Raises `UsageError` if the output cannot be read.
    """
    try:
        uris = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    except StorageError as error:
        if error.reason == "not_found":
            return []
        raise UsageError(f"cannot read the runs of {output}: {error}") from error
    return sorted(uri.split("/")[-2] for uri in uris if uri.endswith("/run.json"))


def read_record(output: str, run_id: str, storage: Storage) -> RunRecord:
    """Return the record of the run `run_id`, from its file `run.json`.

    Raises `UsageError` if there is no record, or if the record does not fit this version of genretag.
    """
    place = join(output, "runs", run_id, "run.json")
    try:
        values = json.loads(bytes(storage.get(place).data))
        if values.get("format_version", RECORD_FORMAT) != RECORD_FORMAT:
            raise UsageError(f"{place} is of a newer genretag: update genretag")
        known = {field.name for field in fields(RunRecord)}
        return RunRecord(**{name: value for name, value in values.items() if name in known})
    except StorageError as error:
        raise UsageError(f"there is no record of a run {one_line(run_id, 60)} in {output}: {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{place} is no record of this genretag ({one_line(error)}): tag with this version") from error


def earlier_records(record: RunRecord, storage: Storage) -> list[RunRecord]:
    """Return the records of earlier runs to compare with, the newest first, at most `EARLIER_RUNS`.

    An earlier run counts if it scored posters with the same model and profile (named set of thresholds) as `record`.
    Only the last 2 * `EARLIER_RUNS` runs before `record` are searched. A record that cannot be read is left out.
    """
    before = [name for name in run_ids(record.output, storage) if name < record.run_id]
    newest = before[: -2 * EARLIER_RUNS - 1 : -1]  # twice as many as needed, because some runs scored nothing

    def read(run_id: str) -> RunRecord | None:
        try:
            return read_record(record.output, run_id, storage)
        except UsageError as error:
            logger.info("%s", error)
            return None

    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        found = [r for r in threads.map(read, newest) if r is not None]
    alike = (r for r in found if (r.model_version, r.profile) == (record.model_version, record.profile) and r.scored)
    return list(islice(alike, EARLIER_RUNS))


def sheets(record: RunRecord, storage: Storage) -> Sheets | None:
    """Return posters for the report's grids, or None if the run scored no poster or its part files are gone."""
    tables = _rows(record, "predictions", storage)
    if not tables:
        return None
    model = model_of(tables[0].schema)
    rows = pa.concat_tables([table for table in tables if model_of(table.schema) == model])
    database = open_sandbox()
    database.register("part", rows)

    def first(order: str) -> list[Tagged]:
        found = database.sql(f"select * from part order by {order} limit {ON_A_SHEET}")  # noqa: S608 - our own names
        return shown(found.to_arrow_table().to_pylist(), model)

    return Sheets(
        model,
        len(rows),
        first(f"hash(uri || {sql_text(record.run_id)})"),
        first(f"{model.certainty} desc, uri"),
        first(f"{model.certainty}, uri"),
    )


def failure_kinds(record: RunRecord, storage: Storage) -> list[FailureKind]:
    """Return the run's failures by stage and reason, the most frequent first, with examples from a few files."""
    examples: dict[str, list[tuple[str, str]]] = {}
    for table in _rows(record, "failures", storage) if record.failures else []:
        columns = (table[name].to_pylist() for name in ("stage", "reason", "uri", "message"))
        for stage, reason, uri, message in zip(*columns, strict=True):
            some = examples.setdefault(f"{stage}: {reason}", [])
            if len(some) < EXAMPLES:
                some.append((uri, message))
    kinds = []
    for name, count in sorted(record.failures.items(), key=lambda item: -item[1]):
        stage, _, reason = name.partition(": ")
        some = examples.get(name, [])
        kinds.append(FailureKind(stage, reason, count, some[0][1] if some else "", [uri for uri, _ in some]))
    return kinds


def _rows(record: RunRecord, kind: str, storage: Storage) -> list[pa.Table]:
    """Return rows of this run from at most `FILES` of its part files, in tables that are not empty.

    `kind` is `predictions` or `failures`. If `compact` has merged the files of the run, read files of the whole day
    instead.
    """
    night = list(parquet_files(join(record.output, kind, f"dt={record.dt}"), storage))
    own = [info for info in night if f"/part-{record.run_id}-" in info.uri]
    files = sorted(own or night, key=lambda info: info.uri)
    chosen = random.Random(record.run_id).sample(files, min(FILES, len(files)))  # noqa: S311 - a sample, no secret
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        tables = threads.map(lambda info: _of_run(info, record.run_id, storage), chosen)
        return [table for table in tables if len(table)]


def _of_run(info: ObjectInfo, run_id: str, storage: Storage) -> pa.Table:
    """Return the rows of a run among the first `ROWS_OF_A_FILE` rows of a part file."""
    import pyarrow.compute as pc

    tables = list(read_rows(info, storage, ROWS_OF_A_FILE))
    rows = pa.concat_tables(tables) if tables else pa.table({"run_id": pa.array([], pa.string())})
    return rows.filter(pc.equal(rows["run_id"], run_id))


def busy_shares(record: RunRecord) -> dict[str, tuple[float, float]]:
    """Return for each stage the seconds of work of all its threads, and the busy share of their time (at most 1).

    The keys are `fetch`, `decode` and `predict`. If the record has no plan of the actors, no scoring time or no work,
    return an empty dictionary.
    """
    plan, scoring = record.actors, record.seconds.get("score", 0.0)
    if not (plan and scoring and record.busy_s):
        return {}
    from genretag.scoring.reader import DECODES_AT_ONCE

    readers = plan["fetch_actors"] or plan["predict_actors"]
    threads = int(record.settings.get("fetch_threads", 1))
    slots = {
        "fetch": readers * threads,
        "decode": readers * min(threads, DECODES_AT_ONCE),
        "predict": plan["predict_actors"],
    }
    return {stage: (busy, min(1.0, busy / (slots[stage] * scoring))) for stage, busy in record.busy_s.items()}


def phases(record: RunRecord) -> list[tuple[str, float]]:
    """Return the phases of the run in order of time, as pairs of name and seconds.

    The last pair is the time that belongs to no phase (`the rest`).
    """
    spent = record.seconds
    scoring = spent.get("score", 0.0)
    named = [
        ("listing", spent.get("inventory", 0.0)),
        ("worklist", spent.get("worklist", 0.0)),
        ("Ray’s start and end", max(0.0, spent.get("ray", 0.0) - scoring)),
        ("scoring", scoring),
    ]
    return [*named, ("the rest", max(0.0, spent.get("total", 0.0) - sum(seconds for _, seconds in named)))]


def what_bounded(record: RunRecord, shares: dict[str, tuple[float, float]], spent: Sequence[tuple[str, float]]) -> str:
    """Return a sentence about the bottleneck of the run: the phase that took longest, or the busiest stage of scoring.

    `shares` come from `busy_shares`, and `spent` from `phases`.
    """
    if not record.scored + record.failed:
        return "Nothing was new, so nothing was scored."
    total, by_name = record.seconds.get("total", 0.0), dict(spent)
    if by_name["scoring"] < 0.5 * total:
        most = max((name for name in by_name if name != "scoring"), key=lambda name: by_name[name])
        return f"Scoring took less than half of the time. Most of the other time went to {most}."
    if not shares:
        return "Most of the time went to scoring."
    stage, (_, share) = max(shares.items(), key=lambda item: item[1][1])
    if share < 0.5:
        return "No stage was busy for half of the scoring time: actors were starting, or waited for CPUs."
    return {
        "fetch": "Fetching limited the speed. More --fetch-threads help, if the store allows it.",
        "decode": "Decoding limited the speed. More CPUs or smaller pictures help.",
        "predict": "The network limited the speed. More CPUs or a GPU help.",
    }[stage]


def thresholds_of(record: RunRecord) -> dict[str, Any]:
    """Return the threshold of each label. If the record is of an old genretag without thresholds, they are None."""
    return {label: record.thresholds.get(label) for label in record.genres}
