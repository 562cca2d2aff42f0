"""Read the labels of a model, in the order of its outputs: a text file, a CSV or a JSON file."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from genretag.data.labels import column_names
from genretag.errors import UsageError, one_line, quoted
from genretag.importing.settings import ImportSettings
from genretag.storage import Storage, StorageError

USUAL_COLUMNS = ("label", "name", "tag")


@dataclass(frozen=True)
class LabelList:
    """The labels of a model in the order of its outputs, and a threshold for each label."""

    labels: tuple[str, ...]
    thresholds: tuple[float, ...]


def read_label_list(location: str, settings: ImportSettings, storage: Storage) -> LabelList:
    """Read the labels at `location`. The extension tells the format.

    - `.csv`: a column of labels, and possibly a column of thresholds, both named by `settings`;
    - `.json`: a list of labels, or an object from output number to label, such as `id2label` of a `config.json`;
    - any other: one label per line; empty lines at the end do not count.

    Raises `UsageError` if the file cannot be read, or if its labels cannot name the columns of a table.
    """
    try:
        text = bytes(storage.get(location).data).decode("utf-8-sig")
    except (StorageError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the labels: {one_line(error)}") from error
    extension = location.rpartition(".")[2].lower()
    if settings.threshold_column is not None and extension != "csv":
        raise UsageError("threshold_column needs the labels in a .csv file")
    thresholds: list[float] | None = None
    if extension == "csv":
        labels, thresholds = _from_csv(text, location, settings)
    elif extension == "json":
        labels = _from_json(text, location)
    else:
        labels = [line.strip() for line in text.rstrip().splitlines()]
    if not labels:
        raise UsageError(f"{location} has no labels")
    if "" in labels:
        raise UsageError(f"label {labels.index('') + 1} in {location} is empty: each output needs a label")
    column_names(labels)
    return LabelList(tuple(labels), tuple(thresholds or [settings.threshold] * len(labels)))


def _from_csv(text: str, location: str, settings: ImportSettings) -> tuple[list[str], list[float] | None]:
    """Return the labels and the thresholds in a CSV. Without `settings.threshold_column`, the thresholds are None."""
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = list(rows[0]) if rows else []
    named = [name for name in USUAL_COLUMNS if name in columns]
    column = settings.label_column or next(iter(named or (columns if len(columns) == 1 else [])), None)
    if column is None:
        raise UsageError(f"{location} has the columns {', '.join(map(quoted, columns))}: name one with --label-column")
    for name in (column, settings.threshold_column):
        if name is not None and name not in columns:
            raise UsageError(f"{location} has no column {quoted(name)}: it has {', '.join(map(quoted, columns))}")
    labels = [(row[column] or "").strip() for row in rows]
    if settings.threshold_column is None:
        return labels, None
    return labels, [_threshold(row[settings.threshold_column], label) for row, label in zip(rows, labels, strict=True)]


def _threshold(text: str | None, label: str) -> float:
    """Return the threshold that a CSV has for a label. Raises `UsageError` if it is not a number from 0 to 1."""
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"the threshold of {quoted(label)} must be a number from 0 to 1, not {quoted(text or '')}")
    return value


def _from_json(text: str, location: str) -> list[str]:
    """Return the labels in a JSON list, or in an object from output number to label."""
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{location} is not JSON: {one_line(error)}") from error
    if isinstance(found, dict):
        found = found.get("id2label", found)
    if isinstance(found, dict):
        places = [str(place) for place in range(len(found))]
        if sorted(found) != sorted(places):
            raise UsageError(f"{location} must map each output number, from 0, to a label")
        found = [found[place] for place in places]
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise UsageError(f"{location} must have a list of labels, or an object from output number to label")
    return [label.strip() for label in found]
