"""Make a bundle of a model of other origin, and compare the bundle with the model's own runtime."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from genretag.errors import UsageError, one_line
from genretag.importing.graphs import Interface, folded, interface_of
from genretag.importing.labels import LabelList
from genretag.importing.settings import ImportSettings
from genretag.importing.sources import Run, Source
from genretag.model.bundle import KERAS_FILE, OPENVINO_FILES, Bundle
from genretag.model.calibration import sigmoid, softmax
from genretag.model.engines import open_engine
from genretag.model.openvino_graphs import convert_keras, graph_files
from genretag.model.thresholds import DEFAULT_PROFILE

TOLERANCE = 1e-3  # largest difference of a probability between the bundle and the model's own runtime
BATCH, THREADS = 4, 2


@dataclass(frozen=True, eq=False)
class Imported:
    """A bundle made of another model. `reference` runs the model itself in the runtime that `runtime` names."""

    bundle: Bundle
    interface: Interface
    reference: Run
    runtime: str


def import_model(source: Source, label_list: LabelList, settings: ImportSettings) -> Imported:
    """Make a bundle of a model. The bundle's network takes uint8 pixels, as all bundles do.

    A bundle of a Keras model has that model too, so that it also runs on GPUs. Raises `UsageError` if the model cannot
    be used as it is described.
    """
    if source.kind == "Keras":
        return _import_keras(source, label_list, settings)
    graph = source.open_graph()
    interface = interface_of(graph, len(label_list.labels), settings)
    files = graph_files(folded(graph, interface, settings), OPENVINO_FILES, half=False)
    reference = source.reference(settings.model_output)
    return Imported(_bundle(source, label_list, settings, interface, files), interface, reference, source.runtime)


def _import_keras(source: Source, label_list: LabelList, settings: ImportSettings) -> Imported:
    """Make a bundle of a Keras model, as `import_model` does."""
    if not (find_spec("keras") and find_spec("tensorflow")):
        raise UsageError("Keras models need Keras on TensorFlow: pip install 'genretag[train]'")
    from genretag.importing.keras_models import load_keras, scoring_model

    model = load_keras(source.file, settings.model_output)
    interface = interface_of(_converted(model), len(label_list.labels), settings)
    if interface.layout != "NHWC":
        raise UsageError("Keras models must take pictures with the colours last (NHWC)")
    scoring = scoring_model(model, interface, settings)
    with tempfile.TemporaryDirectory() as folder:
        scoring.save(Path(folder) / KERAS_FILE)
        files = {
            KERAS_FILE: (Path(folder) / KERAS_FILE).read_bytes(),
            **graph_files(_converted(scoring), OPENVINO_FILES, half=False),
        }
    return Imported(
        _bundle(source, label_list, settings, interface, files), interface, model.predict_on_batch, source.runtime
    )


def _converted(model: Any) -> Any:
    """Convert a Keras model to an `openvino.Model`. Raises `UsageError` if OpenVINO does not support a layer."""
    try:
        return convert_keras(model)
    except Exception as error:  # the converter raises plain `Exception` for what it cannot trace
        raise UsageError(f"OpenVINO cannot convert the model: {one_line(error, 300)}") from error


def _bundle(
    source: Source, label_list: LabelList, settings: ImportSettings, interface: Interface, files: dict[str, bytes]
) -> Bundle:
    """Return the bundle with these files. Its only threshold profile is the default one."""
    described = {name: value for name, value in asdict(settings).items() if name not in ("overwrite", "dry_run")}
    facts = {
        "source": {
            "format": source.kind,
            "file": source.file.name,
            "sha256": hashlib.sha256(source.file.read_bytes()).hexdigest(),
            "layout": interface.layout,
            "activation": interface.activation,
            "settings": described,
        }
    }
    return Bundle(
        labels=label_list.labels,
        thresholds={DEFAULT_PROFILE: label_list.thresholds},
        rule=interface.rule,
        backbone=source.kind,
        files=files,
        facts=facts,
    )


@dataclass(frozen=True)
class Comparison:
    """The bundle's probabilities of some pictures, float32 (N, labels), and the largest difference to its model."""

    probabilities: np.ndarray
    largest_difference: float


def compare(imported: Imported, settings: ImportSettings, pictures: Sequence[np.ndarray]) -> Comparison:
    """Predict pictures, uint8 (height, width, 3) each, with the bundle and with the model's own runtime.

    Raises `UsageError` if they differ by more than `TOLERANCE`, or if the outputs are no probabilities.
    """
    engine = open_engine("openvino", imported.bundle, BATCH, THREADS, "float32")
    ours = engine.predict(np.stack(pictures))
    if not (np.isfinite(ours).all() and ours.min() >= 0 and ours.max() <= 1):
        raise UsageError(
            f"the outputs are no probabilities: they are from {ours.min():g} to {ours.max():g}; set --activation to "
            "sigmoid or softmax, or check --scale, --mean and --deviation"
        )
    theirs = np.concatenate([_reference(imported, settings, picture) for picture in pictures])
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE:
        raise UsageError(
            f"the bundle does not answer like the model in {imported.runtime}: probabilities differ by up to "
            f"{difference:.4f}, and {TOLERANCE} is allowed"
        )
    return Comparison(ours, difference)


def _reference(imported: Imported, settings: ImportSettings, picture: np.ndarray) -> np.ndarray:
    """Return the probabilities of one picture by the model's own runtime, prepared in NumPy: float64 (1, labels)."""
    values = picture[None].astype(np.float32)
    if settings.order == "bgr":
        values = values[..., ::-1]
    if settings.changes_values():
        means, deviations = (np.array(numbers, np.float32) for numbers in (settings.means, settings.deviations))
        values = (values * np.float32(settings.factor) - means) / deviations
    if imported.interface.layout == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    outputs = np.asarray(imported.reference(np.ascontiguousarray(values)), dtype=np.float64).reshape(1, -1)
    if imported.interface.activation == "sigmoid":
        return sigmoid(outputs)
    if imported.interface.activation == "softmax":
        return softmax(outputs)
    return outputs
