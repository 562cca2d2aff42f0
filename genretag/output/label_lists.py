"""List form of predictions: a list of labels and a list of their probabilities, for models with very many labels.

A column for each label does not fit into most warehouses above a thousand labels. In the list form, a row has the
columns `labels` and `probabilities`, two lists of the same length, the most probable label first. A label is listed if
its probability is at least the floor, if it is predicted, or if it is among the `ALWAYS` most probable labels.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genretag.model.thresholds import Profile, most_probable
from genretag.settings import COLUMNS, LISTS

LABELS, PROBABILITIES = "labels", "probabilities"
FLOATS = pa.list_(pa.float32())
ALWAYS = 10  # most probable labels that each row lists, whatever their probability
MOST_COLUMNS = 1_000  # with more labels than this, the list form is the default


def form_for(labels: int, chosen: str | None) -> str:
    """Return the form of predictions of a model: `chosen`, or `lists` for more than `MOST_COLUMNS` labels."""
    return chosen or (LISTS if labels > MOST_COLUMNS else COLUMNS)


def listed_labels(probabilities: np.ndarray, predicted: np.ndarray, floor: float) -> np.ndarray:
    """Return which labels a row lists: float32 (N, L), bool (N, L) -> bool (N, L)."""
    listed = (probabilities >= np.float32(floor)) | predicted
    np.put_along_axis(listed, most_probable(ALWAYS, probabilities), True, axis=1)
    return np.asarray(listed)


def genre_lists(labels: Sequence[str], probabilities: np.ndarray, predicted: np.ndarray) -> pa.ListArray:
    """Return the predicted labels of each poster, most probable first: float32 (N, L), bool (N, L) -> N lists.

    Probabilities are between 0 and 1. Equally probable labels keep the order of `labels`.
    """
    offsets, _, columns = _in_order(probabilities, predicted)
    return pa.ListArray.from_arrays(offsets, pa.array(list(labels)).take(pa.array(columns)))


def label_lists(labels: Sequence[str], probabilities: np.ndarray, listed: np.ndarray) -> dict[str, pa.ListArray]:
    """Return the columns `labels` and `probabilities` by name: float32 (N, L), bool (N, L) -> N lists each.

    The order within a list is that of `genre_lists`.
    """
    offsets, rows, columns = _in_order(probabilities, listed)
    return {
        LABELS: pa.ListArray.from_arrays(offsets, pa.array(list(labels)).take(pa.array(columns))),
        PROBABILITIES: pa.ListArray.from_arrays(offsets, pa.array(probabilities[rows, columns])),
    }


def _in_order(probabilities: np.ndarray, chosen: np.ndarray) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return the offsets of the lists of chosen labels, and the row and the column of each list element, in order.

    `probabilities` are float32 (N, L), and `chosen` is bool (N, L).
    """
    places = np.flatnonzero(chosen)
    rows, columns = np.divmod(places, chosen.shape[1])
    # one integer key sorts by row, falling probability and label: floats from 0 to 1 sort like their low 30 bits
    bits = (np.take(probabilities, places) + np.float32(0)).view(np.uint32)  # + 0 makes -0 a 0
    label_bits = chosen.shape[1].bit_length()
    keys = (rows << (30 + label_bits)) | ((0x3FFFFFFF - bits.astype(np.int64)) << label_bits) | columns
    keys.sort()
    offsets = _offsets(np.bincount(rows, minlength=len(chosen)))
    return offsets, keys >> (30 + label_bits), keys & ((1 << label_bits) - 1)


def genres_of_lists(rows: pa.Table, labels: Sequence[str], profile: Profile) -> pa.ListArray:
    """Return the genres that another threshold profile gives to rows of the list form: N lists of string.

    `labels` are those of the model, in the order of the profile's thresholds.
    """
    listed, values = (rows[name].combine_chunks() for name in (LABELS, PROBABILITIES))
    names = listed.flatten()
    thresholds = np.array(profile.thresholds, dtype=np.float32)
    numbers = pc.index_in(names, value_set=pa.array(list(labels))).to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(listed).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(lengths)), lengths)
    predicted = values.flatten().to_numpy() >= thresholds[numbers]
    if profile.at_most is not None:
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        predicted &= place < profile.at_most
    offsets = _offsets(np.bincount(row[predicted], minlength=len(lengths)))
    return pa.ListArray.from_arrays(offsets, names.filter(pa.array(predicted)))


def _offsets(lengths: np.ndarray) -> pa.Array:
    """Return the offsets of lists with these lengths: int (N,) -> int32 (N + 1,)."""
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
