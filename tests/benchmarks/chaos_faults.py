"""The faults that `chaos.py` lets happen to a run, each with what ends it."""

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from chaos_run import Run

LAST = "driver before record"
RECORD = r"/runs/[^/]+/run\.json$"
STAGES = {"actor": "Score", "fetch actor": "Score", "predict actor": "Predict"}
FROZEN_S = (2.0, 25.0)
OFFLINE_S = 120.0
FULL_S = (5.0, 20.0)
THROTTLED_S = 60.0
THROTTLED_SHARE = 0.3
ODD_NODE_S = (10.0, 30.0)
MEMORY_MONITOR = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "250"}

ANYWHERE = (
    "driver",
    "driver frozen",
    "worker node",
    "worker node frozen",
    "node offline",
    "full temporary folder",
    "memory monitor",
    "driver's clock",
    "node's clock",
)
"""Faults of driver and nodes, on every store."""
OF_ACTORS = {"together": ("actor", "actor frozen"), "apart": ("fetch actor", "predict actor", "fetch actor frozen")}
OF_STORES = ("throttled", LAST)
"""Faults that the proxy in front of a store makes."""
OF_DISKS = ("full output",)
"""Faults of a local output."""

Undo = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One or two planned faults that happen at once, after a share of the posters of a run was asked for."""

    kinds: tuple[str, ...]
    after: float

    def __str__(self) -> str:
        words = " and ".join(self.kinds)
        return words if LAST in self.kinds else f"{words} at {self.after:.0%}"


def possible(store: str, stages: str, *, clock: bool) -> tuple[str, ...]:
    """Return the kinds of faults that can happen to a run. `clock` says whether clocks can be changed here."""
    kinds = (*ANYWHERE, *OF_ACTORS[stages], *(OF_DISKS if store == "local" else OF_STORES))
    return kinds if clock else tuple(kind for kind in kinds if not kind.endswith("clock"))


def planned(random: Random, kinds: tuple[str, ...]) -> list[Fault]:
    """Choose one to three moments with a fault, in order. About one in five has two faults at once."""
    found = []
    for _ in range(random.randint(1, 3)):
        kind, after = random.choice(kinds), random.uniform(0, 1)
        second = random.choice(kinds)
        both = random.random() < 0.25 and LAST not in (kind, second) and second != kind
        found.append(Fault((kind, second) if both else (kind,), after))
    return sorted(found, key=lambda fault: (LAST in fault.kinds, fault.after))


def happen(kind: str, run: "Run", random: Random) -> tuple[float, Undo] | None:
    """Let a fault happen to a run.

    Return the seconds that it lasts and the function that ends it, or None if nothing has to end it.
    """
    kind, frozen = kind.removesuffix(" frozen"), kind.endswith(" frozen")
    if kind in STAGES and frozen:
        victims = run.world.cluster.actors(STAGES[kind])
        return _freeze([random.choice(victims)] if victims else [], random)
    if kind in STAGES:
        if run.world.cluster.actors(STAGES[kind]):  # another fault of the same moment may have removed them
            run.world.cluster.kill_actor(STAGES[kind], random.randrange(100))
    elif kind == "driver" and frozen:
        return _freeze([psutil.Process(run.job.pid)] if run.job.poll() is None else [], random)
    elif kind in ("driver", LAST):
        run.kill()
    elif kind == "worker node" and frozen:
        return _freeze(random.choice(run.world.cluster.workers).everything(), random)
    elif kind == "worker node":
        run.world.cluster.kill_worker(random.choice(run.world.cluster.workers))
        run.world.cluster.add_worker()
    elif kind == "node offline":
        host = random.choice(run.world.cluster.workers).host
        host.go_offline()
        return OFFLINE_S, host.go_online
    elif kind in ("full temporary folder", "full output"):
        disk = run.world.temporary if kind == "full temporary folder" else run.world.output_disk
        disk.fill()
        return random.uniform(*FULL_S), disk.empty
    elif kind == "throttled":
        return _throttle(run)
    elif kind == "driver's clock":
        run.clock.touch()
    else:
        return _odd_node(run, random, MEMORY_MONITOR if kind == "memory monitor" else run.world.clock.ahead)
    return None


def _freeze(processes: list[psutil.Process], random: Random) -> tuple[float, Undo]:
    """Stop processes with SIGSTOP. The returned function lets them go on."""

    def send(number: signal.Signals) -> None:
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(number)

    send(signal.SIGSTOP)
    return random.uniform(*FROZEN_S), lambda: send(signal.SIGCONT)


def _throttle(run: "Run") -> tuple[float, Undo]:
    """Let the store refuse three of ten requests with 503."""
    proxy = run.world.store.proxy
    assert proxy is not None
    calm = dict.fromkeys(proxy.faults.rates, proxy.faults.rate)
    proxy.faults = replace(proxy.faults, rates={**calm, "slow_down": THROTTLED_SHARE})

    def end() -> None:
        proxy.faults = replace(proxy.faults, rates=calm)

    return THROTTLED_S, end


def _odd_node(run: "Run", random: Random, environment: dict[str, str]) -> tuple[float, Undo]:
    """Replace a worker node by one with other environment variables. The returned function replaces it again."""
    cluster = run.world.cluster
    cluster.kill_worker(random.choice(cluster.workers))
    node = cluster.add_worker(environment=environment)

    def end() -> None:
        if node in cluster.workers:
            cluster.kill_worker(node)
            cluster.add_worker()

    return random.uniform(*ODD_NODE_S), end
