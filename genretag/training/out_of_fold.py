"""Out-of-fold probabilities: what a bundle says of its own training posters, without having learned their labels.

A linear probe divides the training posters into folds. For each fold, it fits a head on the other folds, and that head
predicts the fold. A teacher that predicts posters which it learned would hand on their labels, errors included. With
out-of-fold probabilities it hands on what it can see.

A Parquet file next to the bundle has a row for each training poster: a hash of the id, and one probability per label in
the bundle's order. Scoring never reads the file.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genretag.errors import UsageError, one_line
from genretag.model.bundle import Bundle
from genretag.model.calibration import Calibration, sigmoid
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.training_ids import Candidate, id_hashes, read_next_to
from genretag.storage import Storage
from genretag.training.linear_probe import Probe

OUT_OF_FOLD = "out_of_fold.parquet"


def out_of_fold_file(probe: Probe, bundle: Bundle) -> bytes:
    """Return the content of `out_of_fold.parquet`: the out-of-fold logits of `probe`, calibrated as `bundle` is."""
    calibration = Calibration.from_facts(bundle.facts["calibration"], len(bundle.labels))
    probabilities = sigmoid(probe.out_of_fold * calibration.slope + calibration.offset).astype(np.float32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), probabilities.shape[1])
    hashes = id_hashes(probe.train.labelled.ids).astype(np.uint64)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"poster": hashes, "probabilities": rows}), sink)
    return sink.getvalue().to_pybytes()


def out_of_fold_facts(content: bytes) -> dict[str, Any]:
    """Return what a bundle stores about its `out_of_fold.parquet`: the sha256 of `content`."""
    return {"sha256": hashlib.sha256(content).hexdigest()}


def out_of_fold_of(posters: LabelledPosters, teacher: Candidate, storage: Storage) -> np.ndarray:
    """Return the teacher's out-of-fold probabilities of posters, float32 (N, labels of the teacher).

    Posters that the teacher was not trained on are NaN. A teacher without `out_of_fold.parquet` gives NaN for all.
    Raises `UsageError` if the file is missing or is not the bundle's.
    """
    found = np.full((len(posters), len(teacher.bundle.labels)), np.nan, dtype=np.float32)
    facts = teacher.bundle.facts.get("out_of_fold")
    if facts is None:
        return found
    content = read_next_to(teacher.location, OUT_OF_FOLD, facts, storage)
    try:
        table = pq.read_table(pa.BufferReader(content), columns=["poster", "probabilities"])
        values = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(len(table), found.shape[1])
        row_of = {int(poster): row for row, poster in enumerate(table["poster"].to_numpy())}
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(f"{OUT_OF_FOLD} of the teacher at {teacher.location} is damaged: {one_line(error)}") from error
    for number, poster in enumerate(id_hashes(posters.labelled.ids)):
        if (row := row_of.get(int(poster))) is not None:
            found[number] = values[row]
    return found
