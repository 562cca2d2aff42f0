"""What `chaos.py` needs for its runs: stores behind proxies, disks that can be full, a cluster, and a run."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from azure_server import running_azurite, why_no_azurite
from chaos_faults import LAST, RECORD, STAGES, Fault, Undo, happen
from fault_proxy import KINDS, FaultProxy, Faults, fault_proxy
from gcs_server import running_gcs, why_no_gcs
from network_namespaces import network
from ray_cluster_faults import RayCluster, ray_cluster, stacks

from genretag.demo.posters import BROKEN, draw_posters
from genretag.demo.s3_server import running_s3_server
from genretag.storage import Storage, join

DRAWN = 160  # different posters, whose bytes are repeated under other keys
BROKEN_SHARE = 0.02
FAULT_RATE = 0.01  # of each of the nine kinds of the proxy, so about 7 % of the requests get a fault
DISK_BYTES = 256 << 20
ROWS_PER_FILE = 50
RUN_TIMEOUT_S = 600.0  # a run that takes longer counts as hanging
LOOK_EVERY_S = 0.05
LOCAL_RUN_S = 8.0  # about the time from the first actor to the last poster
IMPATIENT = {"GENRETAG_STORE_ATTEMPT_S": "3"}  # otherwise each hanging request would cost 20 s


@dataclass(frozen=True)
class Store:
    """A store with posters below the prefix or folder `place`. The runs write to places below `outputs`.

    The runs reach the store through the proxy (None: local).
    """

    name: str
    place: str
    outputs: str
    posters: frozenset[str]
    proxy: FaultProxy | None


class Disk:
    """A small file system in memory that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", folder], check=True)

    def fill(self) -> None:
        """Write a file until the disk is full."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))

    def empty(self) -> None:
        """Delete what `fill` wrote."""
        self._filler.unlink(missing_ok=True)

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=False)


class Clock:
    """Changes the clocks of processes by a library that is loaded before all others. Without a C compiler, it does not.

    `ahead` has the variables of a process whose clock is an hour ahead all the time.
    """

    def __init__(self, folder: Path) -> None:
        self._library = folder / "clock.so"
        compiler = shutil.which("cc")
        if compiler:
            source = Path(__file__).with_name("chaos_clock.c")
            subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", self._library, source], check=True)
        self.works = bool(compiler)
        self.ahead = self.following(self._library)

    def following(self, file: Path) -> dict[str, str]:
        """Return the variables of a process whose clock is an hour ahead while the file exists."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_IS_AHEAD": str(file)} if self.works else {}


@dataclass
class World:
    """The stores, the cluster and the disks of a sitting."""

    stores: dict[str, Store]
    cluster: RayCluster
    environment: dict[str, str]
    temporary: Disk
    output_disk: Disk
    clock: Clock
    store: Store

    def replace_ended_nodes(self) -> None:
        """Replace worker nodes that ended by themselves, as an autoscaler does.

        The head takes a node that is frozen or offline for dead, and the node ends when it learns of that.
        """
        for node in list(self.cluster.workers):
            if not node.runs():
                self.cluster.kill_worker(node)
        while len(self.cluster.workers) < 2:
            self.cluster.add_worker()


@contextmanager
def world(names: list[str], posters: int) -> Iterator[World]:
    """Start the stores of these names, each behind a proxy and filled with posters, and a cluster of two workers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        net = stack.enter_context(network())
        disks = [Disk(folder / name) for name in ("temporary", "disk")]
        for disk in disks:
            stack.callback(disk.remove)
        outside: dict[str, str] = {}
        stores = {}
        for name in names:
            place, upstream, variables = _server(name, folder, stack)
            os.environ.update(variables(upstream))
            proxy = None
            if upstream:
                proxy = stack.enter_context(fault_proxy(upstream, Faults(), address=net.gateway))
                outside |= variables(proxy.endpoint_url)
            outputs = place.removesuffix("/posters") if upstream else str(disks[1].folder)
            stores[name] = Store(name, place, outputs, _fill(place, posters), proxy)
        environment = {**outside, **IMPATIENT, "NO_PROXY": f"127.0.0.1,{net.gateway}", "no_proxy": net.gateway}
        nodes = {**environment, "TMPDIR": str(disks[0].folder)}
        cluster = stack.enter_context(ray_cluster(workers=2, environment=nodes, net=net))
        yield World(stores, cluster, environment, *disks, Clock(folder), next(iter(stores.values())))


def _server(name: str, folder: Path, stack: ExitStack) -> tuple[str, str, Callable[[str], dict[str, str]]]:
    """Start the server of a store. Return the place of its posters, its URL, and a function.

    The function returns the environment variables of a process that reaches the server at a URL. The URL of a folder is
    empty.
    """
    if name == "local":
        (folder / "posters").mkdir()
        return str(folder / "posters"), "", lambda _: {}
    if name == "s3":
        s3 = stack.enter_context(running_s3_server(folder / "s3"))
        s3.create_bucket("chaos")
        return "s3://chaos/posters", s3.endpoint_url, lambda url: {**s3.environment(), "AWS_ENDPOINT_URL": url}
    if name == "azure":
        azure = stack.enter_context(running_azurite(folder))
        azure.create_container("chaos")
        own, connection = azure.endpoint.rpartition("/")[0], azure.connection_string
        return "az://chaos/posters", own, lambda url: {"AZURE_STORAGE_CONNECTION_STRING": connection.replace(own, url)}
    google = stack.enter_context(running_gcs(folder))
    google.create_bucket("chaos")

    def of_google(url: str) -> dict[str, str]:
        account = google.service_account(Path(tempfile.mkdtemp(dir=folder)), through=url)
        return {"STORAGE_EMULATOR_HOST": url, "GOOGLE_APPLICATION_CREDENTIALS": str(account)}

    return "gs://chaos/posters", google.url, of_google


def missing(name: str) -> str | None:
    """Return why a store cannot run here, or None."""
    return {"azure": why_no_azurite, "google": why_no_gcs}.get(name, lambda: None)()


def _fill(place: str, posters: int) -> frozenset[str]:
    """Put posters into a place, some of them broken, and return their URIs."""
    drawn, random = [poster.data for poster in draw_posters(DRAWN, seed=1)], Random(1)
    broken = [make(drawn[0], random) for make in BROKEN.values()]
    uris = [join(place, f"{number:06d}.jpg") for number in range(posters)]
    data = [random.choice(broken) if random.random() < BROKEN_SHARE else drawn[n % DRAWN] for n in range(posters)]
    storage = Storage()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.put, uris, data))
    return frozenset(uris)


class Run:
    """One run of the command, and the faults that happen to it."""

    def __init__(self, world: World, output: str, random: Random, *, apart: bool, odd_clock: bool) -> None:
        self.world, self._output, self._random, self.killed = world, output, random, False
        self._errors = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - it lives as long as the run
        self.clock = Path(f"{self._errors.name}.ahead")
        words = [*world.cluster.head.host.prefix, sys.executable, "-m", "genretag.cli", "tag", world.store.place]
        words += [output, "--rows-per-file", str(ROWS_PER_FILE), "--address", world.cluster.address]
        words += ["--fetch-actors", "3"] if apart else []
        environment = {**os.environ, **world.environment, **world.cluster.environment}
        self.job = subprocess.Popen(
            words,
            env=environment | (world.clock.following(self.clock) if odd_clock else {}),
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        proxy = world.store.proxy
        self._gets_before = proxy.requests["GET"] if proxy else 0
        self._record = f"{output.rpartition('/')[2]}{RECORD}"
        self._records_before = proxy.asked("PUT", self._record) if proxy else 0
        self._deadline = time.monotonic() + RUN_TIMEOUT_S
        self._lasting: list[tuple[float, Undo]] = []
        self._first_actor: float | None = None  # when the first actor was seen

    def through(self, faults: list[Fault]) -> tuple[int | None, list[str]]:
        """Run the command until it ends. Faults that happened are removed from `faults`.

        Return the exit code (None if the run hung) and the error output.
        """
        proxy = self.world.store.proxy
        try:
            self._watch(faults)
        except BaseException:  # SIGTERM, for example: the command must not outlive this script
            self.kill()
            raise
        code = self.job.poll()
        if code is None:
            print(stacks(self.job.pid), flush=True)
            self.kill()
        self._end_faults(float("inf"))
        if proxy:
            proxy.faults = replace(proxy.faults, always={})
        self._errors.seek(0)
        self.clock.unlink(missing_ok=True)
        return code, self._errors.read().splitlines()

    def _watch(self, faults: list[Fault]) -> None:
        """Let faults happen when it is time for them, until the command ends or takes too long."""
        proxy = self.world.store.proxy
        while self.job.poll() is None and time.monotonic() < self._deadline:
            if proxy and faults and LAST in faults[0].kinds and not proxy.faults.always:
                proxy.faults = replace(proxy.faults, always={RECORD: "hang"})  # the driver is killed while it waits
            if faults and self._is_time_for(faults[0]):
                for kind in faults.pop(0).kinds:
                    self._happen(kind)
            self._end_faults(time.monotonic())
            self.world.replace_ended_nodes()
            time.sleep(LOOK_EVERY_S)

    def kill(self) -> None:
        """Kill the driver by SIGKILL."""
        self.killed = True
        self.job.kill()
        self.job.wait()

    def _happen(self, kind: str) -> None:
        lasts = happen(kind, self, self._random)
        if lasts:
            self._lasting.append((time.monotonic() + lasts[0], lasts[1]))

    def _end_faults(self, now: float) -> None:
        for ends, undo in self._lasting:
            if ends <= now:
                undo()
        self._lasting = [(ends, undo) for ends, undo in self._lasting if ends > now]

    def _is_time_for(self, fault: Fault) -> bool:
        proxy = self.world.store.proxy
        if proxy and LAST in fault.kinds:
            return proxy.asked("PUT", self._record) > self._records_before
        kinds = [kind.removesuffix(" frozen") for kind in fault.kinds]
        if proxy:
            come = proxy.requests["GET"] - self._gets_before >= fault.after * len(self.world.store.posters)
        else:  # nobody sees what is read from a folder
            if self._first_actor is None and self.world.cluster.actors("Score"):
                self._first_actor = time.monotonic()
            come = self._first_actor is not None and time.monotonic() - self._first_actor >= fault.after * LOCAL_RUN_S
        return come and all(self.world.cluster.actors(STAGES[kind]) for kind in kinds if kind in STAGES)


def calm(random: Random) -> Faults:
    """Return the faults of a store that go on all the time."""
    return Faults(seed=random.getrandbits(32), rate=FAULT_RATE, rates=dict.fromkeys(KINDS, FAULT_RATE))
