"""Whether a cluster can do a job at all: said within a minute, where Ray itself would wait for ever."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genretag.errors import UsageError, one_line

WAIT_FOR_NODES_S = 45.0  # a cluster that has just started gets its nodes by then
LOOK_EVERY_S = 0.5
ANSWER_S = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """What a job needs room for: `count` of these at the same time."""

    what: str
    cpus: float
    gpus: float = 0.0
    count: int = 1

    def fits(self, nodes: Sequence[dict[str, Any]]) -> bool:
        """Whether nodes that do nothing else have room."""
        return sum(self._on(node["Resources"]) for node in nodes if node["Alive"]) >= self.count

    def _on(self, resources: dict[str, float]) -> int:
        needs = [("CPU", self.cpus), ("GPU", self.gpus)]
        return min((int(resources.get(name, 0.0) / share + 1e-9) for name, share in needs if share), default=self.count)

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.what} with {each}" + (f", {self.count} at a time" if self.count > 1 else "")


def require_room(asks: Sequence[Ask], wait_s: float = WAIT_FOR_NODES_S) -> None:
    """Waits for nodes with room for each ask, were it alone. Raises `UsageError` where there are none after `wait_s`.

    One ask is left waiting in Ray meanwhile, so that a cluster which grows on demand does.
    """
    import ray

    deadline = time.monotonic() + wait_s
    for ask in asks:
        if ask.fits(ray.nodes()):
            continue
        logger.warning("the cluster has no room for %s: waiting %.0f s for nodes", ask, deadline - time.monotonic())
        options: dict[str, Any] = {"num_cpus": ask.cpus, "num_gpus": ask.gpus, "max_retries": 0}
        demand = ray.remote(**options)(_nothing).remote()
        try:
            while not ask.fits(ray.nodes()):
                if time.monotonic() > deadline:
                    raise UsageError(_no_room(ask, ray.nodes()))
                time.sleep(LOOK_EVERY_S)
        finally:
            ray.cancel(demand, force=True)


def require_seen(folders: Sequence[str], what: str) -> None:
    """Raises `UsageError` where a node that computes cannot see one of these folders; object stores are passed over."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    local = [folder for folder in folders if "://" not in folder]
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    here = ray.get_runtime_context().get_node_id()
    if not local or all(node["NodeID"] == here for node in nodes):
        return
    looks = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": there}
        looks[ray.remote(**options)(_missing).remote(local)] = node["NodeManagerAddress"]
    done, _ = ray.wait(list(looks), num_returns=len(looks), timeout=ANSWER_S)
    for answer in done:  # a node that is too busy to answer, or has gone, is no reason to give up
        try:
            missing = ray.get(answer)
        except ray.exceptions.RayError as error:
            logger.warning("the node at %s could not be asked: %s", looks[answer], one_line(error))
            continue
        if missing:
            raise UsageError(
                f"the node at {looks[answer]} cannot see {missing[0]}: {what} on several nodes needs an s3:// place, "
                "or a folder that all nodes share"
            )


def _missing(folders: Sequence[str]) -> list[str]:
    return [folder for folder in folders if not os.path.isdir(folder)]  # noqa: PTH112 - as it is written


def _nothing() -> None:
    """What waits in Ray for room."""


def _no_room(ask: Ask, nodes: Sequence[dict[str, Any]]) -> str:
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    largest = [f"{max((r.get(name, 0.0) for r in alive), default=0.0):g} {name}" for name in ("CPU", "GPU")]
    several = "1 node" if len(alive) == 1 else f"{len(alive)} nodes"
    return (
        f"the cluster has no room for {ask}: it has {several}, with {' and '.join(largest)} at most; "
        "add nodes, or wait longer for them with --wait-for-nodes-s"
    )
