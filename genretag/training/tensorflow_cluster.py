"""Ray Train's backend for TensorFlow: what each worker's environment holds before the worker imports TensorFlow.

Ray has such a backend too (`ray.train.tensorflow`), but it imports TensorFlow in the driver and in the controller, one
after the other. Both would wait for seconds, and neither needs TensorFlow before the first training step.

Import this module where training starts, because it imports Ray Train.
"""

import json
import os
import socket
from typing import Any

from ray.train.backend import Backend, BackendConfig


class TensorflowCluster(BackendConfig):
    """Configuration of Ray Train for `MultiWorkerMirroredStrategy`."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose `on_start` Ray Train calls each time it has started workers."""
        return _TensorflowBackend


class _TensorflowBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002 - Ray's signature
        """Set the environment of all workers of `worker_group`."""
        import ray

        addresses = worker_group.execute(_free_address)
        ray.get(
            [
                worker_group.execute_single_async(rank, _set_environment, addresses, rank)
                for rank in range(len(addresses))
            ]
        )


def _free_address() -> str:
    """Return `host:port` of a free port of this worker."""
    import ray

    host = ray.util.get_node_ip_address()
    with socket.socket() as opened:
        opened.bind(("", 0))
        port = opened.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _set_environment(addresses: list[str], rank: int) -> None:
    """Set the environment of worker number `rank`, before it imports TensorFlow.

    `TF_CONFIG` names the workers' `addresses`. TensorFlow uses oneDNN by default only on CPUs with AVX-512 VNNI. But
    training is faster with oneDNN on other CPUs too, also because oneDNN keeps memory that TensorFlow would free and
    allocate again in each step. If the user has set `TF_ENABLE_ONEDNN_OPTS`, its value stays.
    """
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
