"""The programs that peers.py compares, and a function that runs one in its own processes and leaves none behind."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

HERE = Path(__file__).parent
TIMEOUT_S = 1800
ENVIRONMENT = {
    "PYTHONPATH": str(HERE),  # so that worker processes of the peers find the shared code
    "PYTHONUNBUFFERED": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "DAFT_PROGRESS_BAR": "0",
    "DO_NOT_TRACK": "true",  # turn off telemetry, which would also wait for the network
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Contestant:
    """A program that does the job. `packages` are the packages whose versions are reported."""

    name: str
    title: str
    packages: tuple[str, ...]
    program: str | None = None  # a program that must be installed, besides Python packages

    def command(self, python: str, images: str, output: str, model: Path) -> list[str]:
        if self.name == "genretag":
            return [python, "-m", "genretag.cli", "tag", images, output]
        return [python, str(HERE / f"peer_{self.name}.py"), images, output, str(model)]

    def versions(self, python: str) -> dict[str, str]:
        """Return the versions of its packages. Raises `LookupError` with the reason if the program cannot run here."""
        if self.program and not shutil.which(self.program):
            raise LookupError(f"no {self.program}")
        ask = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
        asked = subprocess.run([python, "-c", ask, *self.packages], capture_output=True, text=True)
        if asked.returncode:
            raise LookupError("not installed")
        return dict(zip(self.packages, asked.stdout.split(), strict=True))


GENRETAG = Contestant("genretag", "genretag", ("genretag", "ray", "openvino"))
PEERS = (
    Contestant("ray", "Ray Data as its documentation has it, Keras", ("ray", "tensorflow_cpu", "keras")),
    Contestant("daft", "Daft, Keras", ("daft", "pyarrow", "tensorflow_cpu", "keras")),
    Contestant("tfdata", "`tf.data` and `model.predict`", ("tensorflow_cpu", "keras")),
    Contestant("threads", "loader with threads, ONNX Runtime", ("onnxruntime", "tf2onnx", "pillow")),
    Contestant("spark", "PySpark `mapInPandas`, Keras", ("pyspark", "tensorflow_cpu", "keras"), program="java"),
)


def run_alone(command: list[str], log: Path) -> tuple[float, str]:
    """Run a command until it ends, and kill processes that it leaves behind.

    Return the seconds. If the command failed, also return the end of its log, otherwise an empty text.
    """
    started = monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(TIMEOUT_S)
        seconds = monotonic() - started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.wait() == 0:
        return seconds, ""
    return seconds, log.read_text(errors="replace").strip()[-1500:] or f"ended with status {process.returncode}"
