#!/bin/sh
# Delete from an installation what genretag never runs: shrink.sh PREFIX
# A third of the installed bytes: the libraries' own tests, headers for compilers, Ray's Java and reinforcement
# learning, and what OpenVINO needs for Intel GPUs and NPUs.
set -eu
for packages in "$1"/lib/python3.*/site-packages; do
    find "$packages" -type d -name tests -prune -exec rm -rf {} +
    rm -rf "$packages"/openvino/include "$packages"/pyarrow/include "$packages"/ray/include \
        "$packages"/tensorflow/include
    rm -rf "$packages"/ray/jars "$packages"/ray/rllib
    rm -f "$packages"/openvino/libs/libopenvino_intel_gpu_plugin.so "$packages"/openvino/libs/cache.json \
        "$packages"/openvino/libs/libopenvino_intel_npu_*
done
