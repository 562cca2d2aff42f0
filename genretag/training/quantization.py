"""The network in 8-bit integers, for CPUs: calibrated on training posters, kept only where it is as good.

Post-training quantization by NNCF: weights by channel, activations by ranges seen on the calibration posters, biases
corrected for what rounding moved (Nagel et al. 2019, arXiv:1906.04721). Weights have half of the range of 8 bits, so
that no sum is cut off on CPUs without VNNI (`genretag.engines.saturation`).
"""

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from genretag.bundle import INT8_FILES, OPENVINO_FILES

CALIBRATION_POSTERS = 300
MAP_IT_MAY_COST = 0.003  # macro mAP on validation posters; more, and the bundle goes without


def int8_files(files: Mapping[str, bytes], images: np.ndarray) -> dict[str, bytes]:
    """Quantizes a bundle's OpenVINO network; `images` are calibration posters, uint8 (N, height, width, 3)."""
    import openvino

    os.environ.setdefault("NNCF_CI", "1")  # or it would tell its makers
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars there
        import nncf

        nncf.set_log_level(logging.ERROR)
        xml, weights = (files[name] for name in OPENVINO_FILES)
        network = openvino.Core().read_model(model=xml, weights=weights)
        quantized = nncf.quantize(
            network,
            nncf.Dataset([image[np.newaxis] for image in images]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(quantized, Path(folder) / INT8_FILES[0], compress_to_fp16=True)
        return {name: (Path(folder) / name).read_bytes() for name in INT8_FILES}
