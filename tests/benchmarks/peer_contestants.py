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
    # so that worker processes of the peers find the shared code, and genretag the checkout that is measured
    "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    "PYTHONUNBUFFERED": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "DAFT_PROGRESS_BAR": "0",
    "DO_NOT_TRACK": "true",  # turn off telemetry, which would also wait for the network
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Contestant:
    """A program that does the job in one precision. `packages` are the packages whose versions are reported."""

    program: str
    precision: str  # float32 or int8
    title: str
    packages: tuple[str, ...]
    executable: str | None = None  # a program that must be installed, besides Python packages

    @property
    def name(self) -> str:
        """`ray` for a peer as people write it, `ray-int8` with OpenVINO; `genretag` for int8, its default."""
        usual = "int8" if self.program == "genretag" else "float32"
        return self.program if self.precision == usual else f"{self.program}-{self.precision}"

    def command(self, python: str, images: str, output: str, model: Path) -> list[str]:
        if self.program == "genretag":
            return [python, "-m", "genretag.cli", "tag", images, output, "--precision", self.precision]
        return [python, str(HERE / f"peer_{self.program}.py"), images, output, str(model), self.precision]

    def versions(self, python: str) -> dict[str, str]:
        """Return the versions of its packages. Raises `LookupError` with the reason if the program cannot run here."""
        if self.executable and not shutil.which(self.executable):
            raise LookupError(f"no {self.executable}")
        ask = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
        asked = subprocess.run([python, "-c", ask, *self.packages], capture_output=True, text=True)
        if asked.returncode:
            raise LookupError("not installed")
        return dict(zip(self.packages, asked.stdout.split(), strict=True))


def both(
    program: str, title: str, engine: str, packages: tuple[str, ...], engine_packages: tuple[str, ...], **needs: str
) -> tuple[Contestant, Contestant]:
    """Return a peer as people write it, in float32 with `engine`, and the same peer with OpenVINO in int8."""
    return (
        Contestant(program, "float32", f"{title}, {engine}", (*packages, *engine_packages), **needs),
        Contestant(program, "int8", f"{title}, OpenVINO", (*packages, "openvino"), **needs),
    )


KERAS = ("tensorflow_cpu", "keras")
GENRETAG = {
    precision: Contestant("genretag", precision, "genretag, OpenVINO", ("genretag", "ray", "openvino"))
    for precision in ("int8", "float32")
}
PEERS = (
    *both("ray", "Ray Data as its documentation has it", "Keras", ("ray",), KERAS),
    *both("daft", "Daft", "Keras", ("daft", "pyarrow"), KERAS),
    *both("tfdata", "`tf.data`", "Keras", ("tensorflow_cpu",), ("keras",)),
    *both("threads", "loader with threads", "ONNX Runtime", ("pillow",), ("onnxruntime", "tf2onnx")),
    *both("spark", "PySpark `mapInPandas`", "Keras", ("pyspark",), KERAS, executable="java"),
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
