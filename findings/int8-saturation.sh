#!/usr/bin/env bash
# OpenVINO 2026.4.1 and NNCF 3.4.0: the same int8 network gives other results on CPUs without VNNI, without a warning.
#
# Without VNNI, oneDNN adds two products of 8-bit integers in 16 bits (instruction vpmaddubsw). A sum that does not fit
# is clipped. By default, NNCF limits only the weights of the first layer to half of the 8-bit range
# (OverflowFix.FIRST_LAYER). The weights of all other layers reach +-127.
#
# The variable ONEDNN_MAX_CPU_ISA=AVX2 shows the effect on any x86 CPU. A convolution of activations of 255 with weights
# of 127 gives .506 of the right sum, without an error or a warning. Weights of 65 give .988 of the right sum. Weights
# of 64 give the right sum, because 2 x 255 x 64 = 32,640 fits into 16 bits. A depthwise convolution is right even with
# weights of 127. OverflowFix.ENABLE limits the weights of all layers to half of the range, except depthwise layers.
#
# Output seen, on x86-64 Linux on an AMD EPYC without VNNI, Python 3.11:
#   sum under AVX2, of the right one: weights 127 0.506, 65 0.988, 64 1.000, -64 1.000, depthwise 127 1.000
#   largest weight by layer, NNCF's default: 63 127 127; OverflowFix.ENABLE: 63 127 63
#
# The script ends with exit code 1 if these numbers change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check openvino==2026.4.1 nncf==3.4.0 numpy
export NNCF_CI=1 ONEDNN_MAX_CPU_ISA=AVX2
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib, io, sys
import numpy as np
import openvino as ov
from openvino import opset13 as ops

def layer(x, weights, depthwise):
    conv = ops.group_convolution if depthwise else ops.convolution
    return conv(x, weights, [1, 1], [0, 0], [0, 0], [1, 1])

def share(weight, depthwise, channels=64):
    x = ops.parameter([1, channels, 8, 8], np.float32)
    low, high = np.float32(0), np.float32(255)
    activations = ops.fake_quantize(x, low, high, low, high, 256)
    shape = (channels, 1, 1, 3, 3) if depthwise else (channels, channels, 3, 3)
    scale = np.full((channels,) + (1,) * (len(shape) - 1), 1e-3, np.float32)
    weights = ops.multiply(ops.convert(ops.constant(np.full(shape, weight, np.int8)), np.float32), ops.constant(scale))
    network = ov.Core().compile_model(ov.Model([layer(activations, weights, depthwise)], [x]), "CPU")
    exact = 255 * weight * 1e-3 * 9 * (1 if depthwise else channels)
    return float(network(np.full((1, channels, 8, 8), 255, np.float32))[0].mean() / exact)

shares = [share(*one) for one in ((127, False), (65, False), (64, False), (-64, False), (127, True))]
print("sum under AVX2, of the right one: weights 127 %.3f, 65 %.3f, 64 %.3f, -64 %.3f, depthwise 127 %.3f" % tuple(shares))

with contextlib.redirect_stdout(io.StringIO()):
    import nncf

def largest(overflow_fix):
    random = np.random.default_rng(0)
    x = ops.parameter([1, 3, 16, 16], np.float32)
    first = ops.relu(layer(x, ops.constant(random.normal(size=(16, 3, 3, 3)).astype(np.float32)), False))
    second = ops.relu(layer(first, ops.constant(random.normal(size=(16, 1, 1, 3, 3)).astype(np.float32)), True))
    third = layer(second, ops.constant(random.normal(size=(8, 16, 1, 1)).astype(np.float32)), False)
    images = [random.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(8)]
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = nncf.quantize(
            ov.Model([third], [x]), nncf.Dataset(images), subset_size=8,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow_fix),
        )
    integers = [o for o in quantized.get_ordered_ops() if o.get_type_name() == "Constant" and o.get_element_type() == ov.Type.i8]
    return [int(np.abs(o.data.astype(int)).max()) for o in integers]

default = nncf.AdvancedQuantizationParameters().overflow_fix
found = [largest(default), largest(nncf.OverflowFix.ENABLE)]
print(f"largest weight by layer, NNCF's default: {' '.join(map(str, found[0]))}; OverflowFix.ENABLE: {' '.join(map(str, found[1]))}")
as_seen = np.allclose(shares, [0.506, 0.988, 1, 1, 1], atol=1e-3) and found == [[63, 127, 127], [63, 127, 63]]
sys.exit(0 if as_seen else 1)
PYTHON
