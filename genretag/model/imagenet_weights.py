"""Reader for a legacy PyTorch weights file, without torch and without trusting the file's pickle.

The format (torch.serialization, before 1.6) is five pickles, one after the other: magic number, protocol version,
system info, the state dict, the storage keys. Then follow each storage's element count and raw bytes. Only ordered
dictionaries and tensors may appear in the file. If a pickle names another class or function, the file is refused, and
nothing is imported.
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
    """Place of a tensor in the bytes of a storage, which are read after the tensor's description."""

    storage_key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements; not always contiguous


def _tensor_view(
    storage: tuple[str, np.dtype[Any]], offset: int, shape: Any, strides: Any, *_unused: object
) -> _TensorView:
    """Return the place of a tensor in its storage. The pickle calls this in place of torch's `_rebuild_tensor_v2`."""
    return _TensorView(storage[0], offset, tuple(shape), tuple(strides))


class _TensorsOnly(pickle.Unpickler):
    """Unpickler that allows ordered dictionaries and tensors of float32 and int64, and refuses all else.

    Tensors become `_TensorView`. `dtypes` has the dtype of each storage, whose bytes are read later.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function that the pickle names.

        Allowed are `OrderedDict`, `_rebuild_tensor_v2`, `FloatStorage` and `LongStorage`. Raises
        `pickle.UnpicklingError` for any other name.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor_view
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"the weights file asks for {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        """Note the dtype of a storage that the pickle refers to, and return the storage's key and dtype.

        Raises `pickle.UnpicklingError` if the reference is not to a storage.
        """
        kind, dtype, key, _location, _count, _view = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"the weights file holds {kind!r}, which is not a storage")
        self.dtypes[key] = dtype
        return key, dtype


def _nothing_but_numbers(file: IO[bytes]) -> Any:
    """Return the content of the next pickle of the file, read with `_TensorsOnly`."""
    return _TensorsOnly(file).load()


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict saved by PyTorch before 1.6, by parameter name.

    Raises `pickle.UnpicklingError` if the file has another format or holds more than tensors.
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
    """Return a copy of a tensor from the numbers of its storage.

    Raises `pickle.UnpicklingError` if the tensor is empty, runs backwards or reaches outside the storage.
    """
    reach = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) + 1
    if min(view.shape, default=1) < 1 or min(view.strides, default=0) < 0 or reach > storage.size:
        raise pickle.UnpicklingError("a tensor of the weights file reaches outside its storage")
    strides = tuple(stride * storage.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()
