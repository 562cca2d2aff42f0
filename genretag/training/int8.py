"""Int8 networks for CPUs: quantize a network on training posters, and try it under each instruction set.

NNCF does post-training quantization. It scales weights by channel, and activations by the ranges that it sees on the
calibration posters. It corrects biases for the shift from rounding (Nagel et al. 2019, arXiv:1906.04721). Weights use
half of the 8-bit range, so that no sum saturates on CPUs without VNNI (`genretag.model.engines.openvino_engine`).

A bundle keeps its int8 network only if the network is as good as the native one. Its probabilities and genres must also
stay nearly the same under every instruction set of this processor. A process chooses its kernels once. So each
instruction set runs in a separate process, `python -m genretag.training.int8`.
"""

import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genretag.model.bundle import INT8_FILES, OPENVINO_FILES, Bundle, load_bundle, write_bundle
from genretag.model.engines import INT8, open_engine
from genretag.model.engines.processors import CAP, this_processor
from genretag.model.thresholds import Profile
from genretag.storage import Storage

CALIBRATION_POSTERS = 300
MAP_IT_MAY_COST = 0.003  # macro mAP on validation posters; if int8 costs as much, the bundle goes without it


def int8_files(files: Mapping[str, bytes], images: np.ndarray) -> dict[str, bytes]:
    """Quantize a bundle's OpenVINO network. Return the content of the int8 network's files, by file name.

    `files` are all files of the bundle, by name. `images` are the calibration posters, uint8 (N, height, width, 3).
    """
    import openvino

    os.environ.setdefault("NNCF_CI", "1")  # turns off NNCF's telemetry
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars there
        import nncf

        nncf.set_log_level(logging.ERROR)
        xml, weights = (files[name] for name in OPENVINO_FILES)
        network = openvino.Core().read_model(model=xml, weights=weights)
        quantized = nncf.quantize(
            network,
            nncf.Dataset([image[np.newaxis] for image in images]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(quantized, Path(folder) / INT8_FILES[0], compress_to_fp16=True)
        return {name: (Path(folder) / name).read_bytes() for name in INT8_FILES}


ALL = "ALL"
# Later instruction sets compute int8 as these do, or with AMX, which `ALL` tries (no cap). Earlier sets are those of
# processors from before 2013 and have no fused multiplication. They round differently, so near a threshold a genre may
# change by chance.
TRIED = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
PROBABILITY_MAY_MOVE = 0.02
POSTERS_MAY_CHANGE = 0.01  # share of posters that may get other genres
BATCH, THREADS = 8, 4


@dataclass(frozen=True)
class Change:
    """Difference of the answers under one instruction set from the answers under all that the processor has."""

    largest_difference: float  # of a probability
    other_genres: float  # share of the posters

    @property
    def is_small(self) -> bool:
        """Return True if the differences are at most `PROBABILITY_MAY_MOVE` and `POSTERS_MAY_CHANGE`."""
        return self.largest_difference <= PROBABILITY_MAY_MOVE and self.other_genres <= POSTERS_MAY_CHANGE

    def facts(self) -> dict[str, float]:
        """Return both differences by field name, rounded to 4 digits, as a bundle records them."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def answers_under_each(bundle: Bundle, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probabilities of a bundle's int8 network, float32 (N, labels), by the name of the instruction set.

    The names are those in `TRIED` that this processor has, and `ALL`, which sets no limit. `images` is uint8 (N,
    height, width, 3). Raises `subprocess.CalledProcessError` if the network does not run under an instruction set.
    """
    own = this_processor(cap="").instruction_sets
    with tempfile.TemporaryDirectory() as folder:
        int8 = {name: bundle.files[name] for name in INT8_FILES}
        write_bundle(replace(bundle, files=int8, facts={}), folder, Storage())
        np.save(Path(folder) / "images.npy", images)
        return {name: _answers(folder, name) for name in (ALL, *(name for name in TRIED if name in own))}


def changes(answers: Mapping[str, np.ndarray], profile: Profile) -> dict[str, Change]:
    """Return how the answers under each instruction set differ from the answers under `ALL`, by the set's name.

    `answers` come from `answers_under_each`. `profile` decides the genres. The result has no entry for `ALL`.
    """
    usual = answers[ALL]
    genres = profile.predicted(usual)
    return {
        name: Change(
            largest_difference=float(np.abs(those - usual).max(initial=0.0)),
            other_genres=float((profile.predicted(those) != genres).any(axis=1).mean()),
        )
        for name, those in answers.items()
        if name != ALL
    }


def _answers(folder: str, cap: str) -> np.ndarray:
    """Return the probabilities of the bundle in `folder`, from a new process that is limited to the set `cap`."""
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != CAP}
    if cap != ALL:
        environment[CAP] = cap
    file = Path(folder) / f"answers-{cap}.npy"
    command = [sys.executable, "-m", "genretag.training.int8", folder, str(file)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return np.load(file)


def _main(folder: str, file: str) -> None:
    """Predict `images.npy` in `folder` with the int8 network of the bundle there. Write probabilities to `file`."""
    bundle = load_bundle(folder, Storage())
    engine = open_engine("openvino", bundle, BATCH, THREADS, INT8)
    np.save(file, engine.predict(np.load(Path(folder) / "images.npy")))


if __name__ == "__main__":
    _main(*sys.argv[1:])
