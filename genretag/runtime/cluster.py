"""Checks that a cluster can run a job: free CPUs and GPUs for its actors, and nodes that see its folders.

If the cluster can never run the job, `require_room` raises an error within about a minute. Ray itself would wait for
ever.
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


WAIT_FOR_NODES_S = 45.0  # a new cluster usually has all its nodes by then
NOTICED_S = 70.0  # until Ray lists a lost node as dead: five checks, 3 s apart, of up to 10 s each
LOOK_EVERY_S = 5.0
ANSWER_S = 60


@dataclass(frozen=True)
class Ask:
    """Resources that a job needs: `count` actors or tasks at the same time, each with `cpus` CPUs and `gpus` GPUs."""

    what: str  # for messages, such as "a task that decodes"
    cpus: float
    gpus: float = 0.0
    count: int = 1

    def fits(self, nodes: Sequence[dict[str, Any]]) -> bool:
        """Return whether the cluster could run all `self.count` actors or tasks at once if nothing else ran.

        `nodes` is what `ray.nodes` returned. Dead nodes do not count.
        """
        return sum(self._on(node["Resources"]) for node in nodes if node["Alive"]) >= self.count

    def _on(self, resources: dict[str, float]) -> int:
        """Return how many of the `Ask`'s actors or tasks an idle node with `resources` can run at once."""
        needs = [("CPU", self.cpus), ("GPU", self.gpus)]
        return min((int(resources.get(name, 0.0) / share + 1e-9) for name, share in needs if share), default=self.count)

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.what} with {each}" + (f", {self.count} at a time" if self.count > 1 else "")


def require_room(asks: Sequence[Ask], wait_s: float = WAIT_FOR_NODES_S) -> None:
    """Check that the cluster has enough CPUs and GPUs for each of `asks` (resources that a job needs).

    Wait for nodes for up to `wait_s` seconds in all. The check reserves the resources of one `Ask` after the other, and
    frees each reservation at once. Ray's list of nodes is not enough for this check, because it shows lost nodes as
    alive for about a minute. A reservation also makes an autoscaling cluster add nodes.

    If the nodes are large enough but busy, wait for 70 s or `wait_s`, whichever is longer. Then log a warning and check
    the next `Ask`. Raises `UsageError` if, after `wait_s` seconds, the nodes are too few or too small even when idle.
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
    """A check, repeated during a job, that the cluster has the CPUs and GPUs of `asks` (resources that the job needs).

    Nodes may be lost at any time. If the cluster lacks these resources, `look` logs a warning, and the job waits for
    nodes. If a job without results has waited for `wait_s` seconds, `look` raises an error.
    """

    def __init__(self, asks: Sequence[Ask], wait_s: float, look_every_s: float = LOOK_EVERY_S) -> None:
        self._asks, self._wait_s, self._look_every_s = asks, wait_s, look_every_s
        self._looked_at = self._had_room_at = time.monotonic()
        self._warned = False

    def look(self, begun: Callable[[], bool]) -> None:
        """Check the nodes, at most once per `look_every_s` seconds. Call this method often.

        `begun` returns whether the job has results. If the cluster lacks resources that the job needs, log one warning.
        Raises `UsageError` if the cluster has lacked them for more than `wait_s` seconds and the job has no results.
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
    """Raise `UsageError` if one of the local folders `folders` does not exist on a node with CPUs.

    Skip URIs, such as s3://, and nodes that do not answer within 60 s. `what` names the job in the error message, such
    as `tagging`.
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
                f"the node at {looks[answer]} cannot see {missing[0]}: {what} on several nodes needs a bucket, "
                "or a folder that all nodes share"
            )


def _missing(folders: Sequence[str]) -> list[str]:
    """Return those of `folders` that do not exist on this node."""
    return [folder for folder in folders if not os.path.isdir(folder)]  # noqa: PTH112 - the path as it is written


@contextmanager
def _reserved(ask: Ask) -> Iterator[Any]:
    """Yield a Ray placement group, which may be pending, for the resources of `ask`. Remove it after the block."""
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
    """Return the error message for a cluster that lacks the resources of `ask`, with number and size of the nodes."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    largest = [f"{max((r.get(name, 0.0) for r in alive), default=0.0):g} {name}" for name in ("CPU", "GPU")]
    several = "1 node" if len(alive) == 1 else f"{len(alive)} nodes"
    return (
        f"the cluster has no room for {ask}: it has {several}, with {' and '.join(largest)} at most; "
        "add nodes, or wait longer for them with --wait-for-nodes-s"
    )
