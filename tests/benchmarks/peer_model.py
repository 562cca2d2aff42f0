"""Write the network of the default bundle in all forms that the peers load: `python peer_model.py FOLDER`.

This is a separate process, so that peers.py does not load TensorFlow.
"""

import json
import shutil
import sys
from pathlib import Path

import keras

from genretag.model.bundle import DEFAULT_BUNDLE, INT8_FILES, KERAS_FILE, MANIFEST


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, KERAS_FILE, *INT8_FILES):
        shutil.copy(DEFAULT_BUNDLE / name, folder)
    rule = json.loads((folder / MANIFEST).read_text())["image"]
    model = keras.saving.load_model(folder / KERAS_FILE, compile=False)
    signature = keras.InputSpec(shape=(None, rule["height"], rule["width"], 3), dtype="uint8", name="image")
    model.export(str(folder / "model.onnx"), format="onnx", verbose=False, input_signature=[signature])


if __name__ == "__main__":
    main()
