"""Keras files of bundles: load a model from the bytes of a `.keras` file."""

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from genretag.errors import UsageError
from genretag.model.bundle import KERAS_FILE


def load_keras_file(content: bytes) -> Any:
    """Load the Keras model in the bytes of a `.keras` file. The file cannot bring code of its own.

    Raises `UsageError` if the model has layers of KerasHub, and KerasHub is not installed.
    """
    import keras

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        needs_hub = b'"keras_hub' in archive.read("config.json")
    if needs_hub:
        require_keras_hub("this bundle's network")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / KERAS_FILE
        file.write_bytes(content)
        return keras.saving.load_model(file, compile=False, safe_mode=True)


def require_keras_hub(what: str) -> Any:
    """Return the module `keras_hub`. Raises `UsageError`, which names `what` needs it, if it is not installed."""
    try:
        import keras_hub
    except ImportError as error:
        raise UsageError(f"{what} needs KerasHub: pip install 'genretag[hub]'") from error
    return keras_hub
