"""Reads the tensors of a legacy PyTorch weights file without torch and without trusting its pickle.

The format (torch.serialization, before 1.6): five pickles one after the other (magic number, protocol
version, system info, the state dict, the storage keys), then each storage's element count and raw bytes.
Only ordered dictionaries and tensors may appear in it; any other name is refused before it is looked up.
"""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class _TensorView:
    """A tensor before its storage's bytes are known: where it lies in which storage."""

    storage_key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements; not always contiguous


def _tensor_view(
    storage: tuple[str, np.dtype[Any]], offset: int, shape: Any, strides: Any, *_unused: object
) -> _TensorView:
    return _TensorView(storage[0], offset, tuple(shape), tuple(strides))


class _TensorsOnly(pickle.Unpickler):
    """Resolves four names and nothing else; storages are noted and read later."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor_view
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"the weights file asks for {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        kind, dtype, key, _location, _count, _view = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"the weights file holds {kind!r}, which is not a storage")
        self.dtypes[key] = dtype
        return key, dtype


def _nothing_but_numbers(file: IO[bytes]) -> Any:
    return _TensorsOnly(file).load()


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Returns name -> array of a state dict saved by PyTorch before 1.6.

    Raises `pickle.UnpicklingError` where the file is of another format or holds more than tensors.
    """
    with path.open("rb") as file:
        if _nothing_but_numbers(file) != MAGIC_NUMBER:
            raise pickle.UnpicklingError(f"{path.name} is not a legacy PyTorch weights file")
        _protocol_version, _system_info = _nothing_but_numbers(file), _nothing_but_numbers(file)
        unpickler = _TensorsOnly(file)
        views: dict[str, _TensorView] = unpickler.load()
        storages = {}
        for key in _nothing_but_numbers(file):
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            dtype = unpickler.dtypes[key]
            storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {name: _materialise(storages[view.storage_key], view) for name, view in views.items()}


def _materialise(storage: np.ndarray, view: _TensorView) -> np.ndarray:
    reach = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) + 1
    if min(view.shape, default=1) < 1 or min(view.strides, default=0) < 0 or reach > storage.size:
        raise pickle.UnpicklingError("a tensor of the weights file reaches outside its storage")
    strides = tuple(stride * storage.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()
