#!/bin/sh
# Delete from an installation what genretag never runs: shrink.sh PREFIX
# A third of the bytes: the libraries' own tests and debug symbols, headers for compilers, Ray's Java and reinforcement
# learning, OpenVINO's plugins for Intel GPUs and NPUs, Arrow Flight, and botocore's descriptions of AWS services that
# genretag does not call.
set -eu
for packages in "$1"/lib/python3.*/site-packages; do
    find "$packages" -type d -name tests -prune -exec rm -rf {} +
    rm -rf "$packages"/openvino/include "$packages"/pyarrow/include "$packages"/ray/include \
        "$packages"/tensorflow/include
    rm -rf "$packages"/ray/jars "$packages"/ray/rllib
    find "$packages"/ray -name '*.js.map' -delete
    rm -f "$packages"/openvino/libs/libopenvino_intel_gpu_plugin.so "$packages"/openvino/libs/cache.json \
        "$packages"/openvino/libs/libopenvino_intel_npu_*
    rm -f "$packages"/pyarrow/*flight*
    # genretag and its libraries call S3, STS, SSO, sign-in, Glue (Iceberg's catalogue), EC2 and IAM (Ray's launcher)
    find "$packages"/botocore/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name sts ! -name 'sso*' ! -name signin ! -name glue ! -name ec2 ! -name iam -exec rm -rf {} +
    # The libraries in folders named .libs were patched after they were linked, which strip would break.
    if command -v strip > /dev/null; then
        find "$packages" -type f \( -name '*.so' -o -name '*.so.*' -o -name raylet -o -name gcs_server \) -size +500k \
            -not -path '*.libs/*' -not -path '*/nvidia/*' -exec strip --strip-unneeded {} + 2> /dev/null || true
    fi
done
