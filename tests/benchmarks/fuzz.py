"""Fuzz the image decoder, or the reader of label tables, manifests, bundles or settings files.

    python tests/benchmarks/fuzz.py --minutes 10 [--target decoder]

Coverage guides the fuzzer if atheris is installed (`pip install atheris`; it is no dependency of genretag). Otherwise
mutations are random. Prints the number of tries. An input that fails is written to tests/regressions/, and from then on
a test decodes it.
"""

import argparse
import hashlib
import random
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
with atheris.instrument_imports(include=["genretag", "PIL"]) if atheris else nullcontext():
    from fuzzing import TARGETS, bent


def keep(target: str, data: bytes) -> Path:
    """Write an input that failed to the folder of regressions, and return its path."""
    file = TESTS / "regressions" / f"{target}-{hashlib.sha256(data).hexdigest()[:16]}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return file


def fuzz(target: str, seconds: float) -> None:
    """Fuzz one target for this number of seconds. If an input fails, store it and raise its exception."""
    check, make_seeds = TARGETS[target]
    tries, slowest, ends = 0, 0.0, time.monotonic() + seconds

    def run(data: bytes) -> None:
        nonlocal tries, slowest
        started = time.process_time()
        try:
            check(data)
        except BaseException:
            print(f"{target}: failed, kept in {keep(target, data)}")
            raise
        tries, slowest = tries + 1, max(slowest, time.process_time() - started)
        if tries % 20_000 == 0:
            report()

    def report() -> None:
        cpu_s = time.process_time()
        print(f"{target}: {tries:,} tries, the slowest {slowest:.2f} s of CPU, {cpu_s:,.0f} s in all", flush=True)

    if atheris is None:
        seeds, chance = make_seeds(), random.Random()
        while time.monotonic() < ends:
            run(bent(chance.choice(seeds), seeds, chance))
        report()
        return
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(make_seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={int(seconds)}", "-max_len=20000", "-rss_limit_mb=3000", "-timeout=30"]
        atheris.Setup([sys.argv[0], *options, corpus], run)
        try:
            atheris.Fuzz()  # this call ends the process when the time is over
        finally:
            report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--target", choices=TARGETS, default="decoder")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    fuzz(asked.target, asked.minutes * 60)
