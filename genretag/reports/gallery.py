"""The gallery: a page to leaf through tagged posters, to filter and sort them, and to mark what is wrong.

One file holds everything. Its posters' facts are one JSON block; the thumbnails lie in blocks of a hundred after it,
which the page reads when they come into view. The marks that are saved from it are a CSV for `genretag train --labels`.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.errors import UsageError, one_line
from genretag.label_csv.reading import read_labels
from genretag.labels import poster_id, with_labels
from genretag.modeling.metrics import cross_entropies
from genretag.reports.gallery_settings import GallerySettings
from genretag.reports.page import render
from genretag.reports.picking import Picked, pick
from genretag.reports.tagged import Tagged
from genretag.reports.thumbnails import Picture, thumbnails
from genretag.reports.writing import write_page
from genretag.session import Session
from genretag.storage import Storage, StorageError, join, resolve

PAGE = "gallery.html"
BLOCK = 100  # thumbnails that the page reads at once
MOST_PROBABLE = 32  # labels of a poster that the page knows of
SAY_EVERY_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gallery:
    """Where the page lies, and what is in it."""

    place: str
    posters: int
    matching: int
    without_picture: int


def gallery(output: str, settings: GallerySettings, session: Session) -> Gallery:
    """Draws the page of an output's posters and writes it. Raises `UsageError` where a person must act."""
    output, storage = resolve(output), session.storage
    truth = _read_truth(settings.labels, settings, storage) if settings.labels else None
    picked = pick(output, settings, storage)
    logger.info("%d posters of %d that match", len(picked.posters), picked.matching)
    pictures = [Picture(p.uri, p.etag, p.width, p.height) for p in picked.posters]
    drawn = thumbnails(pictures, storage, progress=_progress(len(pictures)))
    missing = sum(thumbnail is None for thumbnail in drawn)
    if missing:
        logger.warning("%d of %d posters cannot be shown: gone, or changed since", missing, len(drawn))
    page = gallery_page(picked, drawn, truth, output, settings)
    place = write_page(settings.html or join(output, PAGE), page, storage)
    return Gallery(place, len(picked.posters), picked.matching, missing)


def gallery_page(
    picked: Picked,
    drawn: Sequence[str | None],
    truth: dict[str, frozenset[str]] | None,
    output: str,
    settings: GallerySettings,
) -> bytes:
    """The page, in UTF-8. `truth` has the labels of some posters by id, where a CSV was given."""
    blocks = [",".join(t or "" for t in drawn[start : start + BLOCK]) for start in range(0, len(drawn), BLOCK)]
    about = [("Day", settings.day), ("Genre", settings.genre), ("Where", settings.where), ("CSV", settings.labels)]
    return render(
        "gallery.html",
        styles=("page.css", "gallery.css"),
        script="gallery.js",
        facts=_facts(picked, truth, output),
        blocks=blocks,
        picked=picked,
        output=output,
        chosen=[(name, value) for name, value in about if value],
        has_truth=truth is not None,
    )


def _facts(picked: Picked, truth: dict[str, frozenset[str]] | None, output: str) -> dict[str, Any]:
    """What the page's script reads. Probabilities are in thousandths, numbers of labels index `labels`."""
    model = picked.model
    number = {label: at for at, label in enumerate(model.labels)}
    wrong = _disagreement(picked, truth) if truth is not None else [None] * len(picked.posters)

    def one(poster: Tagged, disagreement: int | None) -> list[Any]:
        p = np.array(poster.probabilities)
        order = np.argsort(-p, kind="stable")[:MOST_PROBABLE]
        known = (truth or {}).get(poster_id(poster.id))
        labels = None if known is None else [number[label] for label in sorted(known) if label in number]
        said = [int(value) for at in order for value in (at, round(1000 * p[at]))]
        return [poster.id, poster.uri, list(poster.genres), said, labels, disagreement, f"{poster.scored_at:%Y-%m-%d}"]

    return {
        "key": hashlib.sha256(f"{output}\0{model.version}".encode(errors="surrogatepass")).hexdigest()[:16],
        "labels": list(model.labels),
        "thresholds": [round(1000 * t) for t in model.thresholds],
        "block": BLOCK,
        "posters": [one(poster, wrong[at]) for at, poster in enumerate(picked.posters)],
    }


def _disagreement(picked: Picked, truth: dict[str, frozenset[str]]) -> list[int | None]:
    """The cross-entropy of each poster that the CSV has, in thousandths of a nat."""
    found: list[int | None] = []
    for poster in picked.posters:
        known = truth.get(poster_id(poster.id))
        if known is None:
            found.append(None)
            continue
        hot = np.array([[label in known for label in picked.model.labels]], dtype=np.uint8)
        found.append(round(1000 * float(cross_entropies(hot, np.array([poster.probabilities]))[0])))
    return found


def _read_truth(labels: str, settings: GallerySettings, storage: Storage) -> dict[str, frozenset[str]]:
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


def _progress(posters: int) -> Any:
    last = time.monotonic()

    def say(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > SAY_EVERY_S:
            last = time.monotonic()
            logger.info("thumbnails: %d of %d", done, posters)

    return say


def describe(found: Gallery) -> str:
    """One line for the terminal."""
    sampled = f" of {found.matching:,} that match, drawn at random" if found.matching > found.posters else ""
    return one_line(f"{found.posters:,} posters{sampled}: {found.place}", 2_000)
