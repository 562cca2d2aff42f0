"""CPU time of our process for listing and fetching objects, by store: SeaweedFS, Azurite and fake-gcs-server.

The servers run in another process. Rounds are interleaved. Example:

    python tests/benchmarks/stores.py --objects 5000 --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from azure_server import running_azurite
from gcs_server import running_gcs

from genretag.demo.s3_server import running_s3_server
from genretag.storage import Storage, join

NAME = "benchmark"
OBJECT = os.urandom(30_000)  # the size of a poster of 300 x 450 pixels
THREADS = 8


def serve(folder: Path) -> None:
    """Run the servers until the input ends. Print the variables of the environment that lead to them, as JSON."""
    with ExitStack() as servers:
        s3 = servers.enter_context(running_s3_server(folder / "s3"))
        azure = servers.enter_context(running_azurite(folder))
        google = servers.enter_context(running_gcs(folder))
        s3.create_bucket(NAME)
        azure.create_container(NAME)
        google.create_bucket(NAME)
        variables = {
            **s3.environment(),
            "AZURE_STORAGE_CONNECTION_STRING": azure.connection_string,
            "STORAGE_EMULATOR_HOST": google.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(google.service_account(folder)),
        }
        print(json.dumps(variables), flush=True)
        sys.stdin.read()


def main() -> None:
    """Measure each store in each round, and print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", folder]
        servers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            os.environ.update(json.loads(servers.stdout.readline()))
            measure(options.objects, options.rounds)
        finally:
            servers.communicate("")


def measure(objects: int, rounds: int) -> None:
    """Write objects to each store, then list and fetch them in turn."""
    storage = Storage()
    stores = {scheme: f"{scheme}://{NAME}/posters" for scheme in ("s3", "az", "gs")}
    uris = {name: [join(place, f"{n // 100:03}/{n:07}.jpg") for n in range(objects)] for name, place in stores.items()}
    with ThreadPoolExecutor(THREADS) as threads:
        for name in stores:
            list(threads.map(lambda uri: storage.put(uri, OBJECT), uris[name]))
        listed: dict[str, list[float]] = {name: [] for name in stores}
        fetched: dict[str, list[float]] = {name: [] for name in stores}
        for _ in range(rounds):
            for name, place in stores.items():
                began = time.process_time()
                count = sum(len(table) for table in storage.list_tables(place))
                listed[name].append((time.process_time() - began) / count * 1e6)
                began = time.process_time()
                sizes = threads.map(lambda uri: len(storage.get(uri).data), uris[name])
                if count != objects or set(sizes) != {len(OBJECT)}:
                    raise RuntimeError(f"{name}: not every object was listed and read")
                fetched[name].append((time.process_time() - began) / objects * 1e6)
    print(f"{objects} objects, {rounds} rounds; CPU of our process in microseconds per object: median (least to most)")
    for what, times in (("list", listed), ("fetch", fetched)):
        for name, values in times.items():
            ratio = statistics.median(values) / statistics.median(times["s3"])
            spread = f"({min(values):.1f} to {max(values):.1f})"
            print(f"{what:5} {name}  {statistics.median(values):7.1f} {spread}  {ratio:.2f} of S3")


if __name__ == "__main__":
    main()
