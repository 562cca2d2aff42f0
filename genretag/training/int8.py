"""Int8 networks for CPUs: quantize a network on training posters, and try it under each instruction set.

NNCF does post-training quantization. It scales weights by channel, and activations by the ranges that it sees on the
calibration posters. It corrects biases for the shift from rounding (Nagel et al. 2019, arXiv:1906.04721). Weights use
half of the 8-bit range, so that no sum saturates on CPUs without VNNI (`genretag.model.engines.openvino_engine`).

A bundle keeps the int8 network only if that network's validation macro mAP is nearly that of the native (not quantized)
network. The int8 network's probabilities and genres must also be nearly the same under every instruction set of this
processor. OpenVINO chooses its kernels once per process. So each instruction set runs in a separate process, `python -m
genretag.training.int8`.
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

from genretag.images import ImageRule
from genretag.model.bundle import INT8_FILES, OPENVINO_FILES, Bundle, load_bundle, write_bundle
from genretag.model.engines import INT8, open_engine
from genretag.model.engines.processors import CAP, this_processor
from genretag.model.openvino_graphs import graph_files, read_graph
from genretag.model.thresholds import Profile
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.reader import Poster, PosterReader
from genretag.storage import Storage

CALIBRATION_POSTERS = 300  # training posters from which NNCF learns the ranges of activations
CALIBRATION_THREADS = 4
MAP_IT_MAY_COST = 0.003  # an int8 network that loses at least this much validation macro mAP is left out


def int8_files(files: Mapping[str, bytes], images: np.ndarray) -> dict[str, bytes]:
    """Quantize a bundle's OpenVINO network. Return the content of the int8 network's files, by file name.

    `files` are all files of the bundle, by name. `images` are the calibration posters, uint8 (N, height, width, 3).
    """
    os.environ.setdefault("NNCF_CI", "1")  # turns off NNCF's telemetry
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars there
        import nncf

        nncf.set_log_level(logging.ERROR)
        graph = read_graph(files, OPENVINO_FILES)
        quantized = nncf.quantize(
            graph,
            nncf.Dataset([image[np.newaxis] for image in images]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
            **_for_transformers(graph),
        )
    return graph_files(quantized, INT8_FILES, half=True)


def _for_transformers(graph: Any) -> dict[str, Any]:
    """Return NNCF's options for a network with attention; for other networks, none.

    Attention keeps NNCF's layout for transformers, and outliers of activations move into the weights (SmoothQuant, Xiao
    et al. 2022, arXiv:2211.10438). The head, the last matrix product, stays in float: it reads features of very
    different ranges and costs next to nothing.
    """
    import nncf

    if not any(map(_is_attention, graph.get_ops())):
        return {}
    last = [node.get_friendly_name() for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"][-1]
    return {"model_type": nncf.ModelType.TRANSFORMER, "ignored_scope": nncf.IgnoredScope(names=[last])}


def _is_attention(node: Any) -> bool:
    """Return True if a node of an OpenVINO graph is attention, or the softmax in it."""
    after = {inputs.get_node().get_type_name() for output in node.outputs() for inputs in output.get_target_inputs()}
    kind = node.get_type_name()
    return kind == "ScaledDotProductAttention" or (kind.lower() == "softmax" and bool(after & {"MatMul", "Einsum"}))


def calibration_images(posters: LabelledPosters, rule: ImageRule, storage: Storage) -> np.ndarray:
    """Return the images of up to `CALIBRATION_POSTERS` posters, uint8 (N, height, width, 3), of those that can be read.

    The posters are evenly spaced among `posters`.
    """
    chosen = posters.uris[:: max(1, len(posters) // CALIBRATION_POSTERS)][:CALIBRATION_POSTERS]
    read = PosterReader(storage, rule, CALIBRATION_THREADS).read_many(chosen)
    return np.stack([poster.image.pixels for poster in read if isinstance(poster, Poster)])


ALL = "ALL"
# oneDNN's names of the instruction sets to try. Newer sets compute int8 in the same way, except AMX. If the processor
# has AMX, `ALL` (no limit) uses it. Older sets, of processors from before 2013, have no fused multiply-add. They round
# differently, so a genre may change by chance if its probability is near the threshold.
TRIED = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
PROBABILITY_MAY_MOVE = 0.02
POSTERS_MAY_CHANGE = 0.01  # share of posters that may get other genres
BATCH, THREADS = 8, 4


@dataclass(frozen=True)
class Change:
    """Change in an int8 network's predictions if the CPU may use only one set of instructions, such as AVX2."""

    largest_difference: float  # between two probabilities of the same poster and label
    other_genres: float  # share of the posters that get other genres

    @property
    def is_small(self) -> bool:
        """Return True if the instruction set hardly changes the int8 network's predictions.

        `largest_difference`, between two probabilities, must be at most `PROBABILITY_MAY_MOVE`. `other_genres`, the
        share of posters that get other genres, must be at most `POSTERS_MAY_CHANGE`.
        """
        return self.largest_difference <= PROBABILITY_MAY_MOVE and self.other_genres <= POSTERS_MAY_CHANGE

    def facts(self) -> dict[str, float]:
        """Return `largest_difference` and `other_genres` by name, rounded to 4 decimals, for `bundle.json`."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def answers_under_each(bundle: Bundle, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probabilities of a bundle's int8 network, float32 (N, labels), by the name of the instruction set.

    The network runs once for each instruction set in `TRIED` that this processor has. In that run, it may use only this
    set and older ones. The entry `ALL` is from a run without a limit. `images` is uint8 (N, height, width, 3). Raises
    `subprocess.CalledProcessError` if the network does not run under an instruction set.
    """
    own = this_processor(cap="").instruction_sets
    with tempfile.TemporaryDirectory() as folder:
        int8 = {name: bundle.files[name] for name in INT8_FILES}
        write_bundle(replace(bundle, files=int8, facts={}), folder, Storage())
        np.save(Path(folder) / "images.npy", images)
        return {name: _answers(folder, name) for name in (ALL, *(name for name in TRIED if name in own))}


def changes(answers: Mapping[str, np.ndarray], profile: Profile) -> dict[str, Change]:
    """Compare an int8 network's predictions under each instruction set with those under `ALL` (no limit).

    Return a `Change` for each set but `ALL`, by the set's name. `answers` has the probabilities under each set, from
    `answers_under_each`. The thresholds of `profile` decide the genres of a poster.
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
    """Return the probabilities of the bundle in `folder`, float32 (N, labels), from a new process.

    The process may use the instruction set `cap` and older ones. If `cap` is `ALL`, the process may use every
    instruction set of the processor.
    """
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
