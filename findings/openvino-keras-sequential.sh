#!/bin/sh
# OpenVINO converts a Functional model of Keras 3, but not the same layers as a Sequential model.
#
# Versions: openvino 2026.4.1, keras 3.15.1, tensorflow-cpu 2.21.0, Python 3.11.
#
# `openvino.convert_model` traces a Keras model to find its input. A built Sequential model with an Input layer has a
# known input shape (`model.input_shape`), as a Functional model has. Yet the trace of the Sequential model passes a
# tensor of unknown rank, and the conversion fails with "Cannot take the length of shape with unknown rank". Wrapping
# the same layers in `keras.Model(model.inputs[0], model.outputs[0])` is enough, and the numbers are then those of Keras.
#
# Output seen:
#   Sequential: Exception, Cannot take the length of shape with unknown rank
#   Functional: converted, largest difference to Keras below 1e-5
#
# What to do: wrap a Sequential model in a Functional one before the conversion.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.1 keras==3.15.1 tensorflow-cpu==2.21.0
cat > "$folder/try.py" <<'PY'
import keras
import numpy as np
import openvino

keras.utils.set_random_seed(1)
layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
sequential = keras.Sequential(layers)
functional = keras.Model(sequential.inputs[0], sequential.outputs[0])
assert sequential.input_shape == functional.input_shape == (None, 32, 32, 3)

try:
    openvino.convert_model(sequential)
    raise SystemExit("changed: the Sequential model is converted now")
except Exception as error:
    said = "Cannot take the length of shape with unknown rank"
    assert said in str(error), error
    print(f"Sequential: {type(error).__name__}, {said}")

compiled = openvino.Core().compile_model(openvino.convert_model(functional), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
picture = np.random.default_rng(1).random((1, 32, 32, 3), dtype=np.float32)
difference = np.abs(compiled(picture)[0] - functional.predict(picture, verbose=0)).max()
assert difference < 1e-5, difference
print("Functional: converted, largest difference to Keras below 1e-5")
PY
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/try.py" 2>"$folder/errors" || { cat "$folder/errors"; exit 1; }
