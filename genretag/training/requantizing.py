"""A bundle whose int8 network is made anew, on its own training posters, without training it again."""

from dataclasses import fields

from genretag.bundle import MANIFEST, Bundle, load_bundle, write_bundle
from genretag.display import Display
from genretag.errors import UsageError
from genretag.ray_session import ray_session
from genretag.reports.training_card import card_of_training
from genretag.reports.writing import draw_if_possible
from genretag.session import Session
from genretag.storage import Storage, StorageError, join, resolve
from genretag.training.finishing import requantize as quantized_anew
from genretag.training.job import RUN_NOTE, require_free
from genretag.training.labelled_posters import LabelledPosters, read_labelled_posters
from genretag.training.settings import TrainSettings
from genretag.training.training_ids import TRAINING_IDS, training_ids_file


def requantize(
    model: str, labels: str, images: str, output: str, session: Session, *, overwrite: bool = False
) -> Bundle:
    """Quantizes a bundle again, chooses its thresholds and measures it, as training does; writes it to `output`.

    Raises `UsageError` where a person must act, above all where these are not the posters that it was trained with.
    """
    model, output, storage = resolve(model), resolve(output), session.storage
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
                storage.put(join(output, TRAINING_IDS), training_ids_file(splits["train"].labelled.ids))
                write_bundle(finished.bundle, output, storage)
            except StorageError as error:
                raise UsageError(f"cannot write the bundle to {output}: {error}") from error
        draw_if_possible("the model card", lambda: card_of_training(finished, output, storage))
    return finished.bundle


def _settings_of(bundle: Bundle, model: str) -> TrainSettings:
    missing = [name for name in ("training", "data", "calibration", "null") if name not in bundle.facts]
    if missing:
        raise UsageError(
            f"{join(model, MANIFEST)} lacks {', '.join(missing)}, which a later genretag writes: train the model again"
        )
    known = {field.name for field in fields(TrainSettings)}
    return TrainSettings(**{name: value for name, value in bundle.facts["training"].items() if name in known})


def _require_its_posters(splits: dict[str, LabelledPosters], bundle: Bundle, model: str) -> None:
    its = bundle.facts["data"]
    for name, part in splits.items():
        if part.fingerprint != its.get(name, {}).get("fingerprint"):
            raise UsageError(
                f"these are not the labelled posters that {model} was trained with: the {len(part)} of the {name} "
                "split have other ids or labels"
            )


def _note_of(model: str, storage: Storage) -> bytes | None:
    """What training noted beside the bundle; none where it is not there."""
    try:
        return bytes(storage.get(join(model, RUN_NOTE)).data)
    except StorageError:
        return None
