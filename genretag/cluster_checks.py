"""Whether a cluster can do a job at all: said within a minute, where Ray itself would wait for ever."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from genretag.errors import UsageError, one_line

WAIT_FOR_NODES_S = 45.0  # a cluster that has just started gets its nodes by then
NOTICED_S = 70.0  # until Ray knows for sure that a node is gone: five checks, 3 s apart, of which each may take 10 s
LOOK_EVERY_S = 5.0
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
    """Waits until each ask, were it alone, has got its place. Raises `UsageError` where there is none after `wait_s`.

    That a node is there is no proof: for a minute Ray names those that have died, too. So a place is asked for, which
    is also what makes a cluster grow that grows on demand. Where nodes are merely busy, the job may begin to wait.
    """
    began = time.monotonic()
    for ask in asks:
        with _reserved(ask) as place:
            warned = False
            while not place.wait(timeout_seconds=1):
                nodes, waited_s = _nodes(), time.monotonic() - began
                if ask.fits(nodes):
                    if waited_s > max(wait_s, NOTICED_S):
                        logger.warning("the nodes with room for %s are all busy: it waits for them", ask)
                        break
                elif waited_s > wait_s:
                    raise UsageError(_no_room(ask, nodes))
                elif not warned:
                    logger.warning("the cluster has no room for %s: waiting %.0f s for nodes", ask, wait_s - waited_s)
                    warned = True


class RoomWatch:
    """Looks every few seconds whether there is still room for a job, which may lose all its nodes at any time.

    Before anything is done that ends the job after `wait_s`; later nodes are waited for, and a warning says so.
    """

    def __init__(self, asks: Sequence[Ask], wait_s: float, look_every_s: float = LOOK_EVERY_S) -> None:
        self._asks, self._wait_s, self._look_every_s = asks, wait_s, look_every_s
        self._looked_at = self._had_room_at = time.monotonic()
        self._warned = False

    def look(self, begun: Callable[[], bool]) -> None:
        """Call this often. Raises `UsageError` where nothing has `begun`, and there has been no room for too long."""
        now = time.monotonic()
        if now < self._looked_at + self._look_every_s:
            return
        self._looked_at, nodes = now, _nodes()
        lacking = next((ask for ask in self._asks if not ask.fits(nodes)), None)
        if lacking is None:
            self._had_room_at, self._warned = now, False
            return
        if now > self._had_room_at + self._wait_s and not begun():
            raise UsageError(_no_room(lacking, nodes))
        if not self._warned:
            logger.warning("the cluster has no room for %s any more: waiting for nodes", lacking)
            self._warned = True


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


@contextmanager
def _reserved(ask: Ask) -> Iterator[Any]:
    """A place of the ask in Ray, taken or waited for, during the block."""
    from ray.util import placement_group, remove_placement_group

    share = {name: value for name, value in (("CPU", ask.cpus), ("GPU", ask.gpus)) if value}
    place = placement_group([share] * ask.count)
    try:
        yield place
    finally:
        remove_placement_group(place)


def _nodes() -> list[dict[str, Any]]:
    import ray

    return ray.nodes()


def _no_room(ask: Ask, nodes: Sequence[dict[str, Any]]) -> str:
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    largest = [f"{max((r.get(name, 0.0) for r in alive), default=0.0):g} {name}" for name in ("CPU", "GPU")]
    several = "1 node" if len(alive) == 1 else f"{len(alive)} nodes"
    return (
        f"the cluster has no room for {ask}: it has {several}, with {' and '.join(largest)} at most; "
        "add nodes, or wait longer for them with --wait-for-nodes-s"
    )
