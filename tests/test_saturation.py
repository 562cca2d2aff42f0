"""A network in 8-bit integers gives the same answers on every CPU.

Its weights tell whether a layer saturates, and the tests compare this with the computed results.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13

from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.engines import open_engine
from genretag.model.engines.openvino_engine import saturating_layers, saturating_layers_of
from genretag.model.engines.processors import CAP, Processor, engine_facts, engines_on, this_processor
from genretag.model.thresholds import Profile
from genretag.scoring.reader import PosterReader
from genretag.storage import Storage
from genretag.training.int8 import ALL, Change, answers_under_each, changes

X86 = platform.machine() in ("x86_64", "AMD64")
CHANNELS = 64
EVERYWHERE = "sse4_1 avx f16c avx2 fma"
AVX512 = f"{EVERYWHERE} avx512f avx512bw avx512dq avx512vl"
UP_TO_AVX2 = ("SSE41", "AVX", "AVX2")


def int8_network(weight: int, *, depthwise: bool) -> openvino.Model:
    """Return one convolution, as NNCF writes it: activations from 0 to 255, and weights that are all the same."""
    shape = (CHANNELS, 1, 1, 3, 3) if depthwise else (CHANNELS, CHANNELS, 3, 3)
    image = opset13.parameter([1, CHANNELS, 8, 8], np.float32, name="image")
    zero, most = np.float32(0), np.float32(255)
    activations = opset13.fake_quantize(image, zero, most, zero, most, 256)
    integers = opset13.convert(opset13.constant(np.full(shape, weight, np.int8)), np.float32)
    weights = opset13.multiply(
        integers, opset13.constant(np.full((CHANNELS, *(1,) * (len(shape) - 1)), 1e-3, np.float32))
    )
    layer = opset13.group_convolution if depthwise else opset13.convolution
    return openvino.Model([layer(activations, weights, [1, 1], [0, 0], [0, 0], [1, 1])], [image])


COMPUTED = """
import json, sys, numpy as np
from test_saturation import CHANNELS, int8_network, openvino
image = np.full((1, CHANNELS, 8, 8), 255, np.float32)
computed = []
for weight, depthwise in json.loads(sys.argv[1]):
    # f32, because OpenVINO asks the processor and not the cap, and would choose bfloat16 on some
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(int8_network(weight, depthwise=depthwise), "CPU", options)
    exact = 255 * weight * 1e-3 * 9 * (1 if depthwise else CHANNELS)
    computed.append(float(np.abs(network(image)[0] / exact - 1).max()))
print(json.dumps(computed))
"""


@pytest.mark.skipif(not X86, reason="only x86 processors saturate")
def test_a_layer_that_saturates_is_recognised_by_its_weights():
    """With AVX2, every x86 processor adds products in 16 bits, even a processor with VNNI."""
    layers = [(127, False), (65, False), (64, False), (-64, False), (127, True)]

    ran = subprocess.run(
        [sys.executable, "-c", COMPUTED, json.dumps(layers)],
        env={**os.environ, CAP: "AVX2", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    wrong = [error > 1e-3 for error in json.loads(ran.stdout.splitlines()[-1])]
    assert wrong == [True, True, False, False, False]
    assert wrong == [bool(saturating_layers(int8_network(weight, depthwise=alone))) for weight, alone in layers]


def test_no_layer_of_the_default_model_saturates():
    assert saturating_layers_of(load_bundle(str(DEFAULT_BUNDLE), Storage()).files) == []


def test_no_layer_of_a_model_that_was_trained_here_saturates(small_bundle):
    assert saturating_layers_of(load_bundle(small_bundle, Storage()).files) == []


@pytest.mark.slow
def test_drawn_posters_get_the_same_genres_under_every_instruction_set(poster_folder):
    require_the_same(sorted(poster_folder.rglob("*.*"))[:40])


def test_real_posters_get_the_same_genres_under_every_instruction_set(real_posters):
    """The genres also equal those of float32, as far as int8 can give them."""
    bundle, images, answers = require_the_same(sorted((real_posters / "images").iterdir())[::20])

    exact = open_engine("openvino", bundle, 8, 4, "float32").predict(images)
    for name, probabilities in answers.items():
        assert np.mean(probabilities.argmax(axis=1) == exact.argmax(axis=1)) >= 0.95, name


def require_the_same(posters):
    """Fail if genres of the default model depend on the instruction set. Return bundle, images and answers."""
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    read = PosterReader(Storage(), bundle.rule, 4).read_many([str(file) for file in posters])
    images = np.stack([poster.image.pixels for poster in read])

    answers = answers_under_each(bundle, images)

    assert ("AVX2" in answers) == ("AVX2" in this_processor(cap="").instruction_sets)
    found = changes(answers, bundle.profile())
    assert all(change.is_small for change in found.values()), found
    return bundle, images, answers


def test_changes_measures_the_difference_between_instruction_sets():
    usual = np.array([[0.6, 0.1], [0.5, 0.5], [0.2, 0.3], [0.9, 0.9]], np.float32)
    moved = usual + np.array([[0.01, 0], [0, -0.015], [0, 0], [0, 0]], np.float32)

    found = changes({ALL: usual, "AVX2": moved, "AVX512_CORE": usual}, Profile((0.5, 0.5)))

    assert found["AVX2"].largest_difference == pytest.approx(0.015, abs=1e-6)
    assert found["AVX2"].other_genres == 0.25, "the second poster lost its second genre"
    assert found["AVX512_CORE"] == Change(0.0, 0.0)


@pytest.mark.parametrize(
    ("difference", "other", "small"), [(0.0, 0.0, True), (0.02, 0.01, True), (0.021, 0.0, False), (0.0, 0.011, False)]
)
def test_an_int8_network_is_accepted_only_up_to_a_bound_on_changes(difference, other, small):
    assert Change(difference, other).is_small == small


PROCESSORS = {
    "AMD Zen 3": (EVERYWHERE, "", UP_TO_AVX2, True),
    "Intel Skylake": (AVX512, "", (*UP_TO_AVX2, "AVX512_CORE"), True),
    "Intel Cascade Lake": (f"{AVX512} avx512_vnni", "", (*UP_TO_AVX2, "AVX512_CORE", "AVX512_CORE_VNNI"), False),
    "Intel Alder Lake": (f"{EVERYWHERE} avx_vnni", "", (*UP_TO_AVX2, "AVX2_VNNI"), False),
    "capped": (f"{AVX512} avx_vnni avx512_vnni", "avx2", UP_TO_AVX2, True),
    "capped to what has VNNI": (f"{EVERYWHERE} avx_vnni", "AVX2_VNNI", (*UP_TO_AVX2, "AVX2_VNNI"), False),
    "capped by a name that oneDNN does not know": (EVERYWHERE, "AVX3", UP_TO_AVX2, True),
}


@pytest.mark.parametrize(("flags", "cap", "sets", "saturates"), PROCESSORS.values(), ids=PROCESSORS)
def test_the_instruction_sets_of_a_processor_decide_whether_it_saturates(flags, cap, sets, saturates):
    one = f"processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu {flags} xsave\n"

    processor = this_processor(cpu_info=f"{one}\n{one}", cap=cap)

    assert processor == Processor("Some CPU @ 2 GHz", sets)
    assert processor.saturates_in_int8 == saturates


@pytest.mark.parametrize("cpu_info", ["", "processor : 0\nBogoMIPS : 100\nFeatures : fp asimd asimddp\n"])
def test_nothing_is_claimed_about_other_processors_than_x86_on_linux(cpu_info):
    processor = this_processor(cpu_info=cpu_info)

    assert (processor.instruction_sets, processor.saturates_in_int8) == ((), False)


def test_a_job_counts_its_engines_by_kind():
    old = {"cpu": "old", "instruction_sets": ["AVX2"], "on_gpu": False, "precision": "int8"}
    new = old | {"cpu": "new", "instruction_sets": ["AVX2", "AVX2_VNNI"]}
    board = {"scored": 3, "engine of b 2": new, "engine of a 1": old, "engine of b 3": new, "decode: other_file": 1}

    assert engines_on(board) == [new | {"engines": 2}, old | {"engines": 1}]
    (mine,) = engines_on(engine_facts(precision="float32", on_gpu=True))
    assert (mine["precision"], mine["on_gpu"], mine["engines"]) == ("float32", True, 1)
