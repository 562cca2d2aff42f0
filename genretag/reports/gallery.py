"""`genretag gallery`: a page to browse tagged posters, filter and sort them, and mark wrong genres.

The page is one file. It has the data of its posters as one JSON block, and the thumbnails in blocks of a hundred. The
page reads a block of thumbnails when its posters come into view. A user can mark genres as right or wrong, and save the
marks as a CSV for `genretag train --labels`.

The gallery shows the posters that match `--day`, `--genre` and `--where`. If there are more than `--limit`, the gallery
shows a random sample: the posters whose URIs have the lowest hashes. So each call shows the same sample. A poster that
was tagged several times is shown once, with its newest row. Part files are read one after the other. At most twice
`--limit` rows and one batch of rows are kept, so memory does not grow with the output.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from genretag.data.label_csv import read_labels
from genretag.data.labels import poster_id, with_labels
from genretag.errors import UsageError, one_line, quoted, unreadable_output
from genretag.model.bundle import Bundle, load_bundle
from genretag.model.metrics import cross_entropies
from genretag.output import parquet_files
from genretag.reports.alike import alike
from genretag.reports.evidence_masks import evidence_masks
from genretag.reports.page import render, write_page
from genretag.reports.tagged_posters import (
    Model,
    Picture,
    Tagged,
    model_of,
    open_sandbox,
    read_model,
    read_rows,
    shown,
    thumbnails,
)
from genretag.runtime.session import Session
from genretag.settings import GallerySettings
from genretag.storage import ObjectInfo, Storage, StorageError, join, resolve
from genretag.storage.paths import sql_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectedPosters:
    """The posters to show, the model that tagged them, and the number of matching rows before the sample."""

    model: Model
    posters: list[Tagged]
    matching: int


def pick(output: str, settings: GallerySettings, storage: Storage) -> SelectedPosters:
    """Select the posters to show. Only rows with the model version of the newest Parquet file count.

    `settings` says which rows match, and the largest number of posters. Raises `UsageError` if there are no
    predictions, if no poster matches, or if the genre or condition is wrong. Also raises `UsageError` if the output
    cannot be read.
    """
    place = join(output, "predictions", *([f"dt={settings.day}"] if settings.day else []))
    try:
        files = sorted(parquet_files(place, storage), key=lambda info: info.uri.rsplit("/", 2)[1:])
        if not files:
            night = f"of {settings.day} " if settings.day else ""
            raise UsageError(f"there are no predictions {night}in {output}: name what `genretag tag` wrote to")
        model = read_model(files[-1], storage)
        condition = _condition(settings, model)
        return _pick(files, model, condition, settings.limit, storage)
    except (StorageError, OSError, pa.ArrowException, ValueError) as error:
        raise unreadable_output(output, error) from error


def _condition(settings: GallerySettings, model: Model) -> str:
    """Return the SQL condition for the rows that match `--genre` and `--where`.

    Raises `UsageError` if the model does not know the genre, or if `--where` is not one condition.
    """
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


def _pick(files: list[ObjectInfo], model: Model, condition: str, limit: int, storage: Storage) -> SelectedPosters:
    """Select at most `limit` posters that meet the SQL `condition`, from the rows of `model` in `files`."""
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
    return SelectedPosters(model, shown(found, model), matching)


def _rows_of(files: list[ObjectInfo], model: Model, storage: Storage) -> Iterator[pa.Table]:
    """Yield the rows with `model`'s version, in tables of some thousand rows. Skip files with other model versions."""
    for info in files:
        for rows in read_rows(info, storage):
            if model_of(rows.schema).version != model.version:
                break
            yield rows


def _take(database: duckdb.DuckDBPyConnection, condition: str) -> int:
    """Add the rows of the table `part` that meet the condition to the table `picked`, and return their number.

    Each row gets the hash of its URI as the column `place`. Raises `UsageError` if the condition does not fit the
    columns.
    """
    chosen = f"select *, hash(uri) as place from part where {condition}"  # noqa: S608 - in a sandbox
    try:
        if not database.execute("from duckdb_tables() where table_name = 'picked'").fetchall():
            database.execute("create table picked as select *, hash(uri) as place from part limit 0")
        return int(database.execute(f"insert into picked {chosen}").fetchall()[0][0])
    except duckdb.Error as error:
        raise _wrong(condition, error) from error


def _thin(database: duckdb.DuckDBPyConnection, limit: int) -> None:
    """In the table `picked`, keep each poster's newest row, and of these the `limit` rows with the lowest `place`.

    The column `place` is the hash of the poster's URI.
    """
    database.execute(
        "create or replace table picked as select * from picked "
        "qualify row_number() over (partition by uri order by scored_at desc) = 1 order by place limit ?",
        [limit],
    )


def _wrong(condition: str, error: Exception) -> UsageError:
    """Return the error for a `--where` that is not a valid SQL condition on the predictions."""
    return UsageError(f"--where {quoted(condition.strip())} is no condition on the predictions: {one_line(error)}")


PAGE = "gallery.html"
BLOCK = 100  # thumbnails in a block
MOST_PROBABLE = 32  # labels of each poster that the page contains, the most probable ones
MASKS = 3  # genres of each poster with an evidence mask
SAY_EVERY_S = 5.0


@dataclass(frozen=True)
class Gallery:
    """The location of a written page (`place`), and counts.

    `posters` is the number of posters in the page, and `without_picture` the number of those without a thumbnail.
    `matching` is the number of rows that match the user's conditions.
    """

    place: str
    posters: int
    matching: int
    without_picture: int


@dataclass(frozen=True)
class Extras:
    """What some galleries have besides: similar posters, and evidence masks.

    `near` has the most similar posters of each poster, as `alike` returns them; None if there are no embeddings.
    `masks` has a pair for each genre of each poster: the label's index, and the mask; None if no bundle was named.
    """

    near: list[list[int]] | None = None
    masks: list[list[tuple[int, str]]] | None = None


def gallery(output: str, settings: GallerySettings, session: Session) -> Gallery:
    """Draw the page of an output's posters and write it. Return its location and counts.

    `output` is the location that `tag` wrote to. If `settings.html` is None, the page goes to `gallery.html` there.
    Raises `UsageError` if no poster matches, or if the output, the labels or the page cannot be read or written.
    """
    output, storage = resolve(output), session.owning(output, settings.model).storage
    truth = _read_truth(settings.labels, settings, storage) if settings.labels else None
    picked = pick(output, settings, storage)
    bundle = load_bundle(settings.model, storage) if settings.model else None
    if bundle and bundle.model_version != picked.model.version:
        raise UsageError(
            f"the posters were tagged by model {picked.model.version}, but --model is {bundle.model_version}: name the "
            "bundle that tagged them, or leave --model out"
        )
    logger.info("%d posters of %d that match", len(picked.posters), picked.matching)
    pictures = [Picture(p.uri, p.etag, p.width, p.height) for p in picked.posters]
    drawn = thumbnails(pictures, storage, progress=_progress(len(pictures), "thumbnails"))
    missing = sum(thumbnail is None for thumbnail in drawn)
    if missing:
        logger.warning("%d of %d posters cannot be shown: gone, or changed since", missing, len(drawn))
    near = alike([p.uri for p in picked.posters], output, storage) if picked.model.embeddings else None
    masks = _masks(picked, pictures, bundle, storage) if bundle else None
    page = gallery_page(picked, drawn, truth, output, settings, Extras(near, masks))
    place = write_page(settings.html or join(output, PAGE), page, storage)
    return Gallery(place, len(picked.posters), picked.matching, missing)


def gallery_page(
    picked: SelectedPosters,
    drawn: Sequence[str | None],
    truth: dict[str, frozenset[str]] | None,
    output: str,
    settings: GallerySettings,
    extras: Extras = Extras(),
) -> bytes:
    """Return the gallery as an HTML page in UTF-8.

    `drawn` has each poster's thumbnail in WebP and base64, or None if there is none. `truth` has the true labels of
    posters by id; it is None if the user named no CSV. `output` is the location that `tag` wrote to.
    """
    blocks = [",".join(t or "" for t in drawn[start : start + BLOCK]) for start in range(0, len(drawn), BLOCK)]
    about = [("Day", settings.day), ("Genre", settings.genre), ("Where", settings.where), ("CSV", settings.labels)]
    return render(
        "gallery.html",
        styles=("page.css", "gallery.css"),
        script="gallery.js",
        facts=_facts(picked, truth, output, extras),
        blocks=blocks,
        picked=picked,
        output=output,
        chosen=[(name, value) for name, value in about if value],
        has_truth=truth is not None,
        has_masks=extras.masks is not None,
    )


def _masks(
    picked: SelectedPosters, pictures: list[Picture], bundle: Bundle, storage: Storage
) -> list[list[tuple[int, str]]]:
    """Return the evidence masks of each poster, for its first `MASKS` genres, or else for its most probable label."""
    labels = [list(poster.genres[:MASKS]) or list(poster.probabilities)[:1] for poster in picked.posters]
    masks = evidence_masks(pictures, labels, bundle, storage, _progress(len(pictures), "evidence"))
    return [list(zip(some, found, strict=False)) for some, found in zip(labels, masks, strict=True)]


def _facts(
    picked: SelectedPosters, truth: dict[str, frozenset[str]] | None, output: str, extras: Extras
) -> dict[str, Any]:
    """Return the data for the page's script: labels, thresholds and posters.

    Probabilities and thresholds are in thousandths. Posters refer to labels by indices into the list `labels`. Of a
    model with very many labels (the list form), the page has only the labels that its posters need.
    """
    model = picked.model
    number = {label: at for at, label in enumerate(model.labels)}
    wrong = _disagreement(picked, truth) if truth is not None else [None] * len(picked.posters)
    said = [list(poster.probabilities.items())[:MOST_PROBABLE] for poster in picked.posters]
    known = [(truth or {}).get(poster_id(poster.id)) for poster in picked.posters]
    right = [None if names is None else [number[name] for name in sorted(names) if name in number] for names in known]
    needed = list(range(len(model.labels)))
    if model.lists:
        used = {label for poster in picked.posters for label in poster.genres}
        used |= {label for pairs in said for label, _ in pairs} | {label for some in right for label in some or ()}
        needed = sorted(used)
    place = {label: at for at, label in enumerate(needed)}

    def one(at: int, poster: Tagged) -> list[Any]:
        genres = [place[label] for label in poster.genres]
        pairs = [value for label, p in said[at] for value in (place[label], round(1000 * p))]
        labels = None if (some := right[at]) is None else [place[label] for label in some]
        day = f"{poster.scored_at:%Y-%m-%d}"
        near = extras.near[at] if extras.near else []
        masks = [[place[label], mask] for label, mask in extras.masks[at]] if extras.masks else []
        return [poster.id, poster.uri, genres, pairs, labels, wrong[at], day, near, masks]

    return {
        "key": hashlib.sha256(f"{output}\0{model.version}".encode(errors="surrogatepass")).hexdigest()[:16],
        "labels": [model.labels[label] for label in needed],
        "thresholds": [round(1000 * model.thresholds[label]) for label in needed],
        "block": BLOCK,
        "posters": [one(at, poster) for at, poster in enumerate(picked.posters)],
    }


def _disagreement(picked: SelectedPosters, truth: dict[str, frozenset[str]]) -> list[int | None]:
    """Return each poster's cross-entropy in thousandths of a nat, or None if `truth` lacks the poster.

    A high value means that the predictions are far from the CSV's labels.
    """
    found: list[int | None] = []
    for poster in picked.posters:
        known = truth.get(poster_id(poster.id))
        if known is None:
            found.append(None)
            continue
        hot = np.array([[label in known for label in picked.model.labels]], dtype=np.uint8)
        said = np.array([[poster.probabilities.get(label, 0.0) for label in range(len(picked.model.labels))]])
        found.append(round(1000 * float(cross_entropies(hot, said)[0])))
    return found


def _read_truth(labels: str, settings: GallerySettings, storage: Storage) -> dict[str, frozenset[str]]:
    """Return the labels in the CSV at `labels`, by poster id. Raises `UsageError` if it cannot be read."""
    place = resolve(labels)
    try:
        content = bytes(storage.get(place).data)
    except StorageError as error:
        raise UsageError(f"cannot read the labels: {error}") from error
    labelled, _ = read_labels(content, place, settings, min_positives=1)
    known = with_labels(labelled, labelled.labels)
    return {
        poster: frozenset(label for label, on in zip(known.labels, row, strict=True) if on)
        for poster, row in zip(known.ids, known.multi_hot, strict=True)
    }


def _progress(posters: int, what: str) -> Any:
    """Return a function that logs the number of finished posters, at most once in `SAY_EVERY_S` seconds."""
    last = time.monotonic()

    def say(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > SAY_EVERY_S:
            last = time.monotonic()
            logger.info("%s: %d of %d", what, done, posters)

    return say


def describe(found: Gallery) -> str:
    """Return a line for the terminal: how many posters the page shows, how many match, and where the page is."""
    sampled = f" of {found.matching:,} that match, drawn at random" if found.matching > found.posters else ""
    return one_line(f"{found.posters:,} posters{sampled}: {found.place}", 2_000)
