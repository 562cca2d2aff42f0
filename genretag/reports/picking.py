"""Which posters a gallery shows: those of its day, genre and condition, and of too many a random sample.

Part files are read one after the other, and of what matches no more than a few times the limit is ever kept: a poster's
place in the sample is a hash of its URI, and the lowest places win. So the same posters are drawn each time, all
versions of a poster stand or fall together, and memory does not grow with the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from genretag.errors import UsageError, one_line, quoted, unreadable_output
from genretag.path_syntax import sql_text
from genretag.reports.gallery_settings import GallerySettings
from genretag.reports.tagged import Model, Tagged, model_of, open_sandbox, read_model, read_rows, shown
from genretag.storage import ObjectInfo, Storage, StorageError, join
from genretag.tagging.held_files import held_files


@dataclass(frozen=True)
class Picked:
    """The posters of a page, whose model said their genres, and how many rows matched."""

    model: Model
    posters: list[Tagged]
    matching: int


def pick(output: str, settings: GallerySettings, storage: Storage) -> Picked:
    """Chooses the posters, of the model that wrote the newest of the part files. Raises `UsageError`."""
    place = join(output, "predictions", *([f"dt={settings.day}"] if settings.day else []))
    try:
        files = sorted(held_files(place, storage), key=lambda info: info.uri.rsplit("/", 2)[1:])
        if not files:
            night = f"of {settings.day} " if settings.day else ""
            raise UsageError(f"there are no predictions {night}in {output}: name what `genretag tag` wrote to")
        model = read_model(files[-1], storage)
        condition = _condition(settings, model)
        return _pick(files, model, condition, settings.limit, storage)
    except (StorageError, OSError, pa.ArrowException, ValueError) as error:
        raise unreadable_output(output, error) from error


def _condition(settings: GallerySettings, model: Model) -> str:
    """SQL for the rows that are wanted, checked to be one condition and no more."""
    genre = "true"
    if settings.genre is not None:
        known = {label.casefold(): label for label in model.labels}
        label = known.get(settings.genre.casefold())
        if label is None:
            raise UsageError(
                f"the model has no genre {quoted(settings.genre)}: it has {one_line(', '.join(model.labels))}"
            )
        genre = f"list_contains(genres, {sql_text(label)})"
    if settings.where is None:
        return genre
    try:
        duckdb.extract_statements(f"select 1 where (\n{settings.where}\n)")
    except duckdb.Error as error:
        raise _wrong(settings.where, error) from error
    return f"{genre} and (\n{settings.where}\n)"


def _pick(files: list[ObjectInfo], model: Model, condition: str, limit: int, storage: Storage) -> Picked:
    database, matching = open_sandbox(), 0
    for rows in _rows_of(files, model, storage):
        database.register("part", rows)
        matching += _take(database, condition)
        database.unregister("part")
        kept = database.execute("select count(*) from picked").fetchall()[0][0]
        if kept > 2 * limit:
            _thin(database, limit)
    if not matching:
        raise UsageError("no poster matches: leave out --genre or --where, or name another --day")
    _thin(database, limit)
    found = database.sql("select * from picked order by uri").to_arrow_table().to_pylist()
    return Picked(model, shown(found, model), matching)


def _rows_of(files: list[ObjectInfo], model: Model, storage: Storage) -> Iterator[pa.Table]:
    """The rows of one model, some thousands at a time; a file of another is left out by its footer."""
    for info in files:
        for rows in read_rows(info, storage):
            if model_of(rows.schema).version != model.version:
                break
            yield rows


def _take(database: duckdb.DuckDBPyConnection, condition: str) -> int:
    """Adds the rows of `part` that match to `picked`, and says how many."""
    chosen = f"select *, hash(uri) as place from part where {condition}"  # noqa: S608 - in a sandbox
    try:
        if not database.execute("from duckdb_tables() where table_name = 'picked'").fetchall():
            database.execute("create table picked as select *, hash(uri) as place from part limit 0")
        return int(database.execute(f"insert into picked {chosen}").fetchall()[0][0])
    except duckdb.Error as error:
        raise _wrong(condition, error) from error


def _thin(database: duckdb.DuckDBPyConnection, limit: int) -> None:
    """Leaves the newest row of each poster, and of these the ones with the lowest places."""
    database.execute(
        "create or replace table picked as select * from picked "
        "qualify row_number() over (partition by uri order by scored_at desc) = 1 order by place limit ?",
        [limit],
    )


def _wrong(condition: str, error: Exception) -> UsageError:
    return UsageError(f"--where {quoted(condition.strip())} is no condition on the predictions: {one_line(error)}")
