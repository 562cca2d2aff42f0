"""An int8 network under every instruction set of this processor: a bundle has it only where all say the same.

A process chooses its kernels once, so each set is tried in a process of its own: `python -m` this module.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genretag.bundle import INT8_FILES, Bundle, load_bundle, write_bundle
from genretag.engines import INT8, open_engine
from genretag.engines.processors import CAP, this_processor
from genretag.profiles import Profile
from genretag.storage import Storage

ALL = "ALL"
# Later ones compute int8 as these do, or with AMX, which is tried without a cap. Earlier ones, of processors of before
# 2013, have no fused multiplication: they round otherwise, and by chance to another genre where a threshold is near.
TRIED = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
PROBABILITY_MAY_MOVE = 0.02
POSTERS_MAY_CHANGE = 0.01  # share with other genres
BATCH, THREADS = 8, 4


@dataclass(frozen=True)
class Change:
    """How far the answers under an instruction set are from those under all that the processor has."""

    largest_difference: float  # of a probability
    other_genres: float  # share of the posters

    @property
    def is_small(self) -> bool:
        """Whether it keeps to the bound."""
        return self.largest_difference <= PROBABILITY_MAY_MOVE and self.other_genres <= POSTERS_MAY_CHANGE

    def facts(self) -> dict[str, float]:
        """What a bundle says of it."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def answers_under_each(bundle: Bundle, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a bundle's int8 network says under each instruction set, and under `ALL` that the processor has.

    `images` is uint8 (N, height, width, 3), what is said float32 (N, labels). Raises `subprocess.CalledProcessError`
    where a set does not compute.
    """
    own = this_processor(cap="").instruction_sets
    with tempfile.TemporaryDirectory() as folder:
        int8 = {name: bundle.files[name] for name in INT8_FILES}
        write_bundle(replace(bundle, files=int8, facts={}), folder, Storage())
        np.save(Path(folder) / "images.npy", images)
        return {name: _answers(folder, name) for name in (ALL, *(name for name in TRIED if name in own))}


def changes(answers: Mapping[str, np.ndarray], profile: Profile) -> dict[str, Change]:
    """What each instruction set changes in `answers_under_each`, by its name; `profile` decides the genres."""
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
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != CAP}
    if cap != ALL:
        environment[CAP] = cap
    file = Path(folder) / f"answers-{cap}.npy"
    command = [sys.executable, "-m", "genretag.training.instruction_sets", folder, str(file)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return np.load(file)


def _main(folder: str, file: str) -> None:
    bundle = load_bundle(folder, Storage())
    engine = open_engine("openvino", bundle, BATCH, THREADS, INT8)
    np.save(file, engine.predict(np.load(Path(folder) / "images.npy")))


if __name__ == "__main__":
    _main(*sys.argv[1:])
