"""Read the files of a model, and run the model as its own runtime does, to compare the bundle with it.

A model file is not trusted: reading it runs none of its code. Keras files with Lambda layers or with layers of other
packages are refused. A TensorFlow SavedModel is a program, so TensorFlow never loads it: OpenVINO reads its graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from genretag.errors import UsageError, one_line, quoted
from genretag.storage import Storage, StorageError, join, resolve

Run = Callable[[np.ndarray], np.ndarray]  # float32 pictures in the model's own layout -> the output that has the labels

KINDS = {"onnx": "ONNX", "keras": "Keras", "xml": "OpenVINO IR", "pb": "TensorFlow SavedModel"}
SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True)
class Source:
    """The files of a model in a local folder. `file` is the main file, and `kind` a value of `KINDS`."""

    kind: str
    file: Path

    def open_graph(self) -> Any:
        """Return the model as an `openvino.Model`. Raises `UsageError` if OpenVINO cannot read it."""
        import openvino

        path = self.file.parent if self.file.name == SAVED_MODEL else self.file
        try:
            return openvino.Core().read_model(path)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UsageError(f"OpenVINO cannot read the model: {one_line(' '.join(lines), 400)}") from error

    @property
    def runtime(self) -> str:
        """Name of the runtime that `reference` uses."""
        return {"ONNX": "ONNX Runtime", "Keras": "Keras"}.get(self.kind, "OpenVINO without preprocessing")

    def reference(self, output: str | None) -> Run:
        """Return a function that runs the model in its own runtime. `output` names the output (None: the only one).

        ONNX Runtime runs an ONNX file. For other kinds than Keras, OpenVINO runs the graph as it is.
        """
        if self.kind == "ONNX":
            return _onnx_runtime(self.file, output)
        import openvino

        graph = self.open_graph()
        compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        wanted = compiled.output(output) if output else compiled.output(0)
        return lambda pictures: compiled(pictures)[wanted]


def fetch_source(location: str, folder: Path, storage: Storage) -> Source:
    """Bring the files of the model at `location` to the local `folder`, and return the source.

    `location` is a `.onnx`, `.keras` or `.xml` file, or the folder of a SavedModel. Files with the model's weights come
    along. Raises `UsageError` if there is no such model, or if a file with weights is missing.
    """
    uri = resolve(location)
    base, _, name = uri.rpartition("/")
    extension = name.rpartition(".")[2].lower()
    if extension in ("h5", "hdf5"):
        raise UsageError(f"{name} is in Keras's old format: load it where you trained it, and save it as .keras")
    if extension not in ("onnx", "keras", "xml"):
        return _fetch_saved_model(uri, folder, storage)
    file = folder / name
    try:
        file.write_bytes(storage.get(uri).data)
    except StorageError as error:
        raise UsageError(f"cannot read the model: {error}") from error
    source = Source(KINDS[extension], file)
    for weights in _files_of_weights(source):
        try:
            data = storage.get(join(base, weights)).data
        except StorageError as error:
            raise UsageError(f"{name} keeps weights in {quoted(weights)}, which cannot be read: {error}") from error
        (folder / weights).parent.mkdir(parents=True, exist_ok=True)
        (folder / weights).write_bytes(data)
    return source


def _fetch_saved_model(uri: str, folder: Path, storage: Storage) -> Source:
    """Bring the folder of a SavedModel to the local `folder`, and return the source."""
    try:
        storage.stat(join(uri, SAVED_MODEL))
        for infos in storage.list(uri):
            for info in infos:
                file = folder / info.uri.removeprefix(uri).lstrip("/")
                if ".." not in file.parts:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(storage.get(info.uri).data)
    except StorageError as error:
        raise UsageError(
            f"there is no model at {uri}: name a .onnx, .keras or .xml file, or the folder of a SavedModel ({error})"
        ) from error
    return Source(KINDS["pb"], folder / SAVED_MODEL)


def _files_of_weights(source: Source) -> list[str]:
    """Return the names of the other files that have a model's weights. They are paths from the model's folder.

    Raises `UsageError` if an ONNX file cannot be read, or names a file outside its folder.
    """
    if source.kind == "OpenVINO IR":
        return [source.file.with_suffix(".bin").name]
    if source.kind != "ONNX":
        return []
    onnx = _import("onnx")
    try:
        model = onnx.load(source.file, load_external_data=False)
    except Exception as error:  # whatever protobuf raises for bytes that are no ONNX
        raise UsageError(f"{source.file.name} is not an ONNX model: {one_line(error, 200)}") from error
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    names = sorted({entry.value for entry in entries if entry.key == "location"})
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UsageError(f"{source.file.name} keeps weights outside its folder: {quoted(name)}")
    return names


def _onnx_runtime(file: Path, output: str | None) -> Run:
    """Return a function that runs an ONNX file in ONNX Runtime."""
    runtime = _import("onnxruntime")
    runtime.set_default_logger_severity(3)
    try:
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has an exception class for each status
        raise UsageError(f"ONNX Runtime cannot load the model: {one_line(error, 300)}") from error
    taken = session.get_inputs()[0]
    dtype = np.float16 if taken.type == "tensor(float16)" else np.uint8 if "uint8" in taken.type else np.float32
    names = [output or session.get_outputs()[0].name]
    return lambda pictures: session.run(names, {taken.name: pictures.astype(dtype)})[0]


def _import(package: str) -> Any:
    """Import a package of the extra `onnx`. Raises `UsageError` if it is not installed."""
    if not find_spec(package):
        raise UsageError("ONNX models need the packages onnx and onnxruntime: pip install 'genretag[onnx]'")
    return __import__(package)
