"""`genretag bundle`: make a bundle of a model that genretag did not train."""

import tempfile
from pathlib import Path

import numpy as np

from genretag.commands.train import require_free
from genretag.demo.posters import draw_posters
from genretag.errors import UsageError
from genretag.images import ImageRule, decode
from genretag.importing.labels import read_label_list
from genretag.importing.make_bundle import Comparison, Imported, compare, import_model
from genretag.importing.settings import ImportSettings
from genretag.importing.sources import fetch_source
from genretag.model.bundle import Bundle, write_bundle
from genretag.model.thresholds import most_probable
from genretag.output.label_lists import form_for
from genretag.runtime.session import Session
from genretag.scoring.inventory import read_inventory
from genretag.scoring.reader import Poster, PosterReader
from genretag.settings import LISTS
from genretag.storage import Storage, StorageError, resolve

PICTURES = 8  # to compare the bundle with the model's own runtime
SHOWN = 3  # most probable labels of a picture


def bundle(
    model: str, labels: str, output: str, settings: ImportSettings, session: Session, images: str | None = None
) -> tuple[Bundle, list[str]]:
    """Make a bundle of the model at `model` and write it to `output`. Return it, and lines that describe it.

    `labels` is a file with the model's labels. The bundle and the model's own runtime predict some pictures of `images`
    (None: drawn posters), and must agree. If `settings.dry_run` is true, write nothing. Raises `UsageError` if the
    model cannot become a bundle.
    """
    output, storage = resolve(output), session.owning(output, model).storage
    if not settings.dry_run:
        require_free(output, storage, settings.overwrite)
    label_list = read_label_list(resolve(labels), settings, storage)
    with tempfile.TemporaryDirectory(prefix="genretag-") as folder:
        imported = import_model(fetch_source(model, Path(folder), storage), label_list, settings)
        pictures = _pictures(images, imported.bundle.rule, storage)
        compared = compare(imported, settings, list(pictures.values()))
    lines = _described(imported, settings, compared, list(pictures) if images else [])
    if not settings.dry_run:
        try:
            write_bundle(imported.bundle, output, storage)
        except StorageError as error:
            raise UsageError(f"cannot write the bundle to {output}: {error}") from error
    return imported.bundle, lines


def _pictures(images: str | None, rule: ImageRule, storage: Storage) -> dict[str, np.ndarray]:
    """Return some pictures by name, uint8 (height, width, 3). If `images` is None, draw them.

    Raises `UsageError` if `images` has no picture that can be decoded.
    """
    if images is None:
        return {str(n): decode(poster.data, rule).pixels for n, poster in enumerate(draw_posters(PICTURES, seed=1))}
    uris = read_inventory(images, storage)["uri"].to_pylist()
    chosen = uris[:: max(1, len(uris) // PICTURES)][:PICTURES]
    read = PosterReader(storage, rule, PICTURES).read_many(chosen)
    found = {uri: poster.image.pixels for uri, poster in zip(chosen, read, strict=True) if isinstance(poster, Poster)}
    if not found:
        raise UsageError(f"none of {len(chosen)} pictures of {images} can be decoded: name other --images")
    return found


def _described(imported: Imported, settings: ImportSettings, compared: Comparison, names: list[str]) -> list[str]:
    """Return lines that say what the bundle takes and returns, and the most probable labels of the pictures `names`."""
    made = imported.bundle
    lines = [f"{made.backbone} model with {len(made.labels):,} labels, the first is {made.labels[0]!r}"]
    lines += imported.interface.describe(settings)
    if form_for(len(made.labels), None) == LISTS:
        lines.append("`tag` writes lists of labels, because a column for each label would be too many (see tag --form)")
    lines.append(
        f"{len(compared.probabilities)} pictures compared with {imported.runtime}: probabilities differ by at most "
        f"{compared.largest_difference:.1e}"
    )
    for name, probabilities in zip(names, compared.probabilities, strict=False):
        best = most_probable(SHOWN, probabilities[None])[0]
        lines.append(f"  {name}: " + ", ".join(f"{made.labels[label]} {probabilities[label]:.2f}" for label in best))
    return lines
