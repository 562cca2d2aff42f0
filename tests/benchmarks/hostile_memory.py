"""Measure the memory and CPU time of decoding hostile files.

    python tests/benchmarks/hostile_memory.py

Decodes each file of tests/hostile_corpus.py in its own process. Prints its peak resident memory above the baseline, the
memory that `decode` reserved for it, and CPU seconds, the most expensive last. Also prints the files that took more
than was reserved. Then decodes all files with six threads and one DecodeMemory, and prints that peak. Takes about half
a minute.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile_corpus import HostileFile, hostile_files, slow_jpeg

from genretag.images import ImageRule
from genretag.images.decode_cost import DecodeMemory
from genretag.images.decoding import BadImage, decode

RULE = ImageRule(288, 192)


def resident_bytes(line: str) -> int:
    """Return VmRSS (current) or VmHWM (peak) of this process, in bytes. `line` is the name."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(line)[2].split()[0]) * 1024


def peak_of(work: Callable[[], object]) -> int:
    """Call `work`, and return how far the resident memory rose above its earlier value, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident_bytes("VmRSS:")
    work()
    return resident_bytes("VmHWM:") - before


class Recorder:
    """Records the bytes that `decode` reserves."""

    def __init__(self) -> None:
        self.largest_bytes = 0

    @contextmanager
    def reserved(self, size_bytes: int):
        self.largest_bytes = max(self.largest_bytes, size_bytes)
        yield


def outcome(file: HostileFile, memory) -> str:
    try:
        decode(file.data, RULE, memory=memory)
    except BadImage as bad:
        return bad.reason
    return "scored"


def measure(file: HostileFile) -> tuple[str, str, int, int, float]:
    """Decode a file. Return name, outcome, peak bytes, reserved bytes and CPU seconds.

    Runs in a process that has decoded nothing before.
    """
    recorder, result, started = Recorder(), [], time.process_time()
    peak_bytes = peak_of(lambda: result.append(outcome(file, recorder)))
    return file.name, result[0], peak_bytes, recorder.largest_bytes, time.process_time() - started


def main() -> None:
    files = [*hostile_files(), HostileFile("slow.jpg", slow_jpeg(), "scored")]
    # With a fork server, every process starts with Pillow loaded, the same small heap, and no pixel decoded.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["genretag.images.decoding", "hostile_corpus"])
    with processes.Pool(1, maxtasksperchild=1) as pool:
        measured = sorted(pool.imap_unordered(measure, files, chunksize=1), key=lambda row: row[2])
    for name, reason, peak_bytes, reserved_bytes, seconds in measured:
        print(
            f"{peak_bytes / 1e6:8.1f} MB  reserved {reserved_bytes / 1e6:8.1f} MB {seconds:7.2f} s  {reason:20} {name}"
        )
    slowest = max(measured, key=lambda row: row[4])
    print(f"{len(measured)} kinds; the most memory {measured[-1][2] / 1e6:.0f} MB, {measured[-1][0]};", end=" ")
    print(f"the longest {slowest[4]:.1f} s, {slowest[0]}; all {sum(row[4] for row in measured):.0f} s")
    over = [row[0] for row in measured if row[2] > row[3] > 0]
    print(f"more than was reserved: {', '.join(over) or 'none'}")

    memory = DecodeMemory()
    with ThreadPoolExecutor(6) as threads:
        peak_bytes = peak_of(lambda: list(threads.map(lambda file: outcome(file, memory), files[:-1] * 3)))
    print(f"six threads, three times all but slow.jpg, one DecodeMemory: {peak_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
