"""What a run goes on from: the weights, their moving average, the optimiser, the history; written after each epoch."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from genretag.training.worker import Replica

WEIGHTS, STATE, OPTIMIZER = "weights.npz", "state.json", "optimizer.npz"


def report(replica: "Replica", metrics: dict[str, Any], phase_starts: int) -> None:
    """Hands the metrics to Ray Train, and from the first worker the checkpoint to go on from."""
    import ray.train

    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder) / WEIGHTS, replica.average.weights)
        _save(Path(folder) / OPTIMIZER, [*replica.learner.weights, *replica.learner.optimizer.variables])
        state = {"history": replica.history, "phase_starts": phase_starts}
        (Path(folder) / STATE).write_text(json.dumps(state))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore_weights(replica: "Replica") -> None:
    """Loads the last checkpoint's weights and history, if there is one."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        _load(Path(folder) / WEIGHTS, replica.average.weights)
        _load(Path(folder) / OPTIMIZER, replica.learner.weights)
        replica.history = json.loads((Path(folder) / STATE).read_text())["history"]


def restore_optimizer(replica: "Replica", phase_starts: int) -> None:
    """Loads the last checkpoint's optimiser state, if it is of the phase that is to go on."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        if json.loads((Path(folder) / STATE).read_text())["phase_starts"] == phase_starts:
            _load(Path(folder) / OPTIMIZER, [*replica.learner.weights, *replica.learner.optimizer.variables])


def read_checkpoint(checkpoint: Any) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """The moving average's weights of a checkpoint, in the network's order, and the history up to it."""
    with checkpoint.as_directory() as folder:
        with np.load(Path(folder) / WEIGHTS) as arrays:
            weights = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
        return weights, json.loads((Path(folder) / STATE).read_text())["history"]


def _save(file: Path, variables: list[Any]) -> None:
    np.savez(file, *[np.asarray(variable) for variable in variables])


def _load(file: Path, variables: list[Any]) -> None:
    with np.load(file) as arrays:
        for index, variable in enumerate(variables):
            variable.assign(arrays[f"arr_{index}"])
