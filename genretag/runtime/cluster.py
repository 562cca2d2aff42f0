"""Room in the cluster for a job, and nodes that see its folders: checks before and during the job.

`require_room` says within about a minute if the cluster can never run a job. Ray itself would wait for ever.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from genretag.errors import UsageError, one_line

logger = logging.getLogger(__name__)


WAIT_FOR_NODES_S = 45.0  # a new cluster has its nodes by then
NOTICED_S = 70.0  # until Ray is sure that a node is gone: five checks, 3 s apart, of up to 10 s each
LOOK_EVERY_S = 5.0
ANSWER_S = 60


@dataclass(frozen=True)
class Ask:
    """A request for room in the cluster: `count` actors or tasks at the same time, each with `cpus` and `gpus`."""

    what: str  # for messages, such as "a task that decodes"
    cpus: float
    gpus: float = 0.0
    count: int = 1

    def fits(self, nodes: Sequence[dict[str, Any]]) -> bool:
        """Return whether the living ones of these nodes, as `ray.nodes` lists them, have room when they are idle."""
        return sum(self._on(node["Resources"]) for node in nodes if node["Alive"]) >= self.count

    def _on(self, resources: dict[str, float]) -> int:
        """Return how many of the actors or tasks an idle node with these resources can run at once."""
        needs = [("CPU", self.cpus), ("GPU", self.gpus)]
        return min((int(resources.get(name, 0.0) / share + 1e-9) for name, share in needs if share), default=self.count)

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.what} with {each}" + (f", {self.count} at a time" if self.count > 1 else "")


def require_room(asks: Sequence[Ask], wait_s: float = WAIT_FOR_NODES_S) -> None:
    """Check that the cluster has room for each ask. Wait for nodes for up to `wait_s` seconds in all.

    Ray reserves the room of one ask at a time, and frees it at once. The list of nodes alone proves nothing, because
    Ray lists dead nodes for about a minute. A reservation is a proof, and it makes an autoscaling cluster grow.

    If all fitting nodes are only busy, wait for 70 s or `wait_s`, whichever is longer. Then log a warning and go on.
    Raises `UsageError` if after `wait_s` seconds no nodes could ever fit an ask.
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
    """A regular check that the cluster still has room for all `asks` of a job, which may lose its nodes at any time.

    If a job without results has no room for `wait_s` seconds, the check ends the job. If the job has results, it waits
    for nodes, and a warning says so.
    """

    def __init__(self, asks: Sequence[Ask], wait_s: float, look_every_s: float = LOOK_EVERY_S) -> None:
        self._asks, self._wait_s, self._look_every_s = asks, wait_s, look_every_s
        self._looked_at = self._had_room_at = time.monotonic()
        self._warned = False

    def look(self, begun: Callable[[], bool]) -> None:
        """Check the nodes, at most once per `look_every_s` seconds. Call this method often.

        `begun` says whether the job has results. If it has, or if `wait_s` seconds are not over, only log a warning.
        Raises `UsageError` if `begun()` is false and there has been no room for more than `wait_s` seconds.
        """
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
    """Raise `UsageError` if a node with CPUs cannot see one of these folders. URIs of object stores are skipped.

    `what` names the job in the message, such as `tagging`. A node that does not answer within 60 s is skipped.
    """
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
    for answer in done:  # a node that is busy or gone is no reason to stop
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
    """Return the folders that this node cannot see."""
    return [folder for folder in folders if not os.path.isdir(folder)]  # noqa: PTH112 - the path as it is written


@contextmanager
def _reserved(ask: Ask) -> Iterator[Any]:
    """Yield Ray's placement group for the ask, which may still be pending. Remove the group after the block."""
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
    """Return the message for a cluster that has no room for the ask. The message says what the nodes have."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    largest = [f"{max((r.get(name, 0.0) for r in alive), default=0.0):g} {name}" for name in ("CPU", "GPU")]
    several = "1 node" if len(alive) == 1 else f"{len(alive)} nodes"
    return (
        f"the cluster has no room for {ask}: it has {several}, with {' and '.join(largest)} at most; "
        "add nodes, or wait longer for them with --wait-for-nodes-s"
    )
