"""Reader for a legacy PyTorch weights file that needs no torch and runs no code from the file.

The format (torch.serialization, before 1.6) is five pickles, one after the other: magic number, protocol version,
system info, state dict, and storage keys. After the pickles come the element count and the raw bytes of each storage.
The reader accepts only ordered dictionaries and tensors. If a pickle names another class or function, the reader
refuses the file and imports nothing.
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
    """Position of a tensor in a storage, a flat array of numbers. `offset` and `strides` count elements.

    The file has the bytes of the storages after the descriptions of the tensors.
    """

    storage_key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # the tensor is not always contiguous


def _tensor_view(
    storage: tuple[str, np.dtype[Any]], offset: int, shape: Any, strides: Any, *_unused: object
) -> _TensorView:
    """Return the position of a tensor in its storage. The unpickler calls this for torch's `_rebuild_tensor_v2`."""
    return _TensorView(storage[0], offset, tuple(shape), tuple(strides))


class _TensorsOnly(pickle.Unpickler):
    """Unpickler that accepts ordered dictionaries and tensors of float32 and int64, and refuses everything else.

    Tensors become `_TensorView`. After a load, `dtypes` has the dtype of each storage, by the storage's key. The bytes
    of the storages follow later in the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the object to use for a class or function that the pickle names. No module is imported.

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
        """Return the key and dtype of a storage that the pickle refers to, and record the dtype in `dtypes`.

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
    """Return a tensor as an array of its own, copied from the numbers of its storage.

    Raises `pickle.UnpicklingError` if the tensor is empty, has a negative stride or reaches outside the storage.
    """
    reach = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) + 1
    if min(view.shape, default=1) < 1 or min(view.strides, default=0) < 0 or reach > storage.size:
        raise pickle.UnpicklingError("a tensor of the weights file reaches outside its storage")
    strides = tuple(stride * storage.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()
