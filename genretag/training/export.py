"""Trained weights -> the files of a bundle: the Keras model, and the same network for OpenVINO."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from genretag.bundle import KERAS_FILE, OPENVINO_FILES
from genretag.modeling.network import build_network, scoring_network
from genretag.training.settings import TrainSettings


def bundle_files(
    weights: list[np.ndarray],
    settings: TrainSettings,
    slope: np.ndarray | None = None,
    offset: np.ndarray | None = None,
) -> dict[str, bytes]:
    """Returns the files of a network that gives sigmoid(slope * logits + offset), float (labels,) both; 1 and 0 when
    not given."""
    labels = len(weights[-1])
    network = build_network(settings.backbone, labels, settings.height, settings.width)
    network.set_weights(weights)
    slope = np.ones(labels) if slope is None else slope
    offset = np.zeros(labels) if offset is None else offset
    return network_files(scoring_network(network, slope, offset))


def network_files(scoring: Any) -> dict[str, bytes]:
    """Returns the files of a network of probabilities.

    Its weights are rounded to float16 first: OpenVINO's file keeps them as such, and all engines then compute with the
    same numbers.
    """
    scoring.set_weights([weights.astype(np.float16).astype(np.float32) for weights in scoring.get_weights()])
    with tempfile.TemporaryDirectory() as folder:
        scoring.save(Path(folder) / KERAS_FILE)
        _save_openvino(scoring, Path(folder) / OPENVINO_FILES[0])
        return {name: (Path(folder) / name).read_bytes() for name in (KERAS_FILE, *OPENVINO_FILES)}


def _save_openvino(network: Any, file: Path) -> None:
    import openvino

    with warnings.catch_warnings():  # Keras, of the way in which OpenVINO calls a network with one named input
        warnings.filterwarnings("ignore", "The structure of `inputs`", UserWarning)
        converted = openvino.convert_model(network)
    openvino.save_model(converted, file, compress_to_fp16=True)
