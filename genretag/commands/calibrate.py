"""`genretag calibrate`: calibrate any bundle on labelled posters, quantize it, and choose its thresholds."""

import logging
from importlib.util import find_spec

import numpy as np

from genretag.commands.train import require_free
from genretag.data.labels import with_labels
from genretag.data.splits import SplitRule
from genretag.errors import UsageError
from genretag.model.bundle import Bundle, load_bundle, write_bundle
from genretag.runtime.display import Display
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session
from genretag.scoring.labelled_posters import FoundPosters, find_posters, known_labels, read_label_file
from genretag.scoring.training_ids import TRAINING_IDS, Candidate, trained_on
from genretag.settings import CalibrateSettings
from genretag.storage import Storage, StorageError, join, resolve
from genretag.training.calibrate import LEAST_POSTERS, Parts, calibrated_bundle

logger = logging.getLogger(__name__)


def calibrate(
    model: str, labels: str, images: str, output: str, settings: CalibrateSettings, session: Session
) -> Bundle:
    """Calibrate the bundle at `model` on labelled posters, and write the new bundle to `output`. Return it.

    Half of the posters (by default) decide the calibration, the thresholds and whether there is an int8 network. The
    others measure. Raises `UsageError` if the posters cannot be used, or if `output` cannot take a bundle.
    """
    if find_spec("sklearn") is None or (settings.int8 and find_spec("nncf") is None):
        raise UsageError("calibrate needs scikit-learn and NNCF: pip install 'genretag[train]'")
    model, output, session = resolve(model), resolve(output), session.owning(model, output)
    storage = session.storage
    with Display(session) as display:
        display.phase("reading")
        bundle = load_bundle(model, storage)
        require_free(output, storage, settings.overwrite)
        found = find_posters(read_label_file(labels, storage), labels, images, storage, settings, min_positives=0)
        parts = _parts(found, Candidate(model, bundle), settings, storage)
        display.phase("starting Ray")
        with ray_session(session) as cluster:
            finished = calibrated_bundle(bundle, parts, cluster, storage, display, int8=settings.int8)
        display.phase("writing")
        try:
            if "training_ids" in bundle.facts:
                storage.put(join(output, TRAINING_IDS), storage.get(join(model, TRAINING_IDS)).data)
            write_bundle(finished, output, storage)
        except StorageError as error:
            raise UsageError(f"cannot write the bundle to {output}: {error}") from error
    return finished


def _parts(found: FoundPosters, candidate: Candidate, settings: CalibrateSettings, storage: Storage) -> Parts:
    """Return the posters that decide and the posters that measure. Posters that the bundle learned from are left out.

    Raises `UsageError` if the CSV has none of the bundle's labels, or if a part has too few posters.
    """
    labels = candidate.bundle.labels
    there = known_labels(found, labels)
    covered = np.array([number for number, label in enumerate(labels) if label in there], dtype=np.int64)
    if len(covered) < len(labels):
        logger.warning("the CSV has %d of %d labels: the others get the common temperature", len(covered), len(labels))
    known = FoundPosters(with_labels(found.labelled, labels), found.images)
    splits = known.split(SplitRule(settings.seed, 0.0, settings.test_share), storage)
    parts = {"deciding": splits.train, "test": splits.test}
    if "source" not in candidate.bundle.facts:
        for name, posters in parts.items():
            learned = trained_on(posters, candidate, storage)
            parts[name] = posters.where(~learned)
            if learned.any():
                logger.info("%d posters left out, the bundle was trained on them", learned.sum())
    else:
        logger.info("the bundle does not say what it was trained on: its training posters would make it look too good")
    for name, posters in parts.items():
        if len(posters) < LEAST_POSTERS:
            raise UsageError(f"{len(posters)} posters for the part {name} are too few: label at least {LEAST_POSTERS}")
    return Parts(parts["deciding"], parts["test"], covered)
