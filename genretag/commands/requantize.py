"""`genretag requantize`: quantize the network of a bundle to int8 again, without training it again."""

from dataclasses import fields

from genretag.commands.train import RUN_NOTE, require_free
from genretag.data.splits import Splits
from genretag.errors import UsageError
from genretag.model.bundle import MANIFEST, Bundle, load_bundle, write_bundle
from genretag.reports.model_card import card_of_training
from genretag.reports.page import draw_if_possible
from genretag.runtime.display import Display
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.training_ids import TRAINING_IDS, training_ids_file
from genretag.storage import Storage, StorageError, join, resolve
from genretag.training.make_bundle import requantize as quantized_anew
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters


def requantize(
    model: str, labels: str, images: str, output: str, session: Session, *, overwrite: bool = False
) -> Bundle:
    """Quantize the network of the bundle at `model` to int8 again, choose thresholds, measure, and write to `output`.

    `labels` (a CSV) and `images` must give the posters that the bundle was trained with. Return the new bundle. If
    `overwrite` is true, replace a bundle at `output`. Raises `UsageError` if the posters differ, if the bundle does
    not record how it was trained, or if `output` cannot take a bundle.
    """
    model, output, session = resolve(model), resolve(output), session.owning(model, output)
    storage = session.storage
    with Display(session) as display:
        display.phase("reading")
        bundle = load_bundle(model, storage)
        settings = _settings_of(bundle, model)
        note = _note_of(model, storage)
        splits = read_labelled_posters(labels, images, settings, storage)
        _require_its_posters(splits, bundle, model)
        require_free(output, storage, overwrite)
        display.phase("starting Ray")
        with ray_session(session) as cluster:
            finished = quantized_anew(bundle, splits, cluster, storage, display)
            display.phase("writing")
            try:
                if note is not None:
                    storage.put(join(output, RUN_NOTE), note)
                storage.put(join(output, TRAINING_IDS), training_ids_file(splits.train.labelled.ids))
                write_bundle(finished.bundle, output, storage)
            except StorageError as error:
                raise UsageError(f"cannot write the bundle to {output}: {error}") from error
        draw_if_possible("the model card", lambda: card_of_training(finished, output, storage))
    return finished.bundle


def _settings_of(bundle: Bundle, model: str) -> TrainSettings:
    """Return the settings that the bundle was trained with. Raises `UsageError` if it does not record them."""
    missing = [name for name in ("training", "data", "calibration", "null") if name not in bundle.facts]
    if missing:
        raise UsageError(
            f"{join(model, MANIFEST)} lacks {', '.join(missing)}, which a later genretag writes: train the model again"
        )
    known = {field.name for field in fields(TrainSettings)}
    return TrainSettings(**{name: value for name, value in bundle.facts["training"].items() if name in known})


def _require_its_posters(splits: Splits[LabelledPosters], bundle: Bundle, model: str) -> None:
    """Raise `UsageError` if the posters or labels of a split differ from those that the bundle was trained with.

    `model` is the location of the bundle, for the message.
    """
    its = bundle.facts["data"]
    for name, part in splits.parts().items():
        if part.fingerprint != its.get(name, {}).get("fingerprint"):
            raise UsageError(
                f"these are not the labelled posters that {model} was trained with: the {len(part)} of the {name} "
                "split have other ids or labels"
            )


def _note_of(model: str, storage: Storage) -> bytes | None:
    """Return the content of `training.json`, the record of the bundle's training, or None if it cannot be read."""
    try:
        return bytes(storage.get(join(model, RUN_NOTE)).data)
    except StorageError:
        return None
