"""Model bundle: a folder that training writes, with all files that scoring needs.

    bundle.json      labels in order, thresholds, image size and resizing, backbone, metrics, sha256 of each file
    model.keras      the network, uint8 pixels -> calibrated probabilities, in stock Keras 3 layers; a bundle that
                     `genretag bundle` made of another format than Keras has none
    openvino.xml     the same network, for scoring on CPUs
    openvino.bin     the weights of openvino.xml
    openvino-int8.*  the same network in 8-bit integers; only if it is as good, and gives the same answers on every CPU

`genretag evaluate` also reads `training_ids.bin` in this folder: hashes of the ids of the training posters. Training
with this bundle as a teacher reads `out_of_fold.parquet`, which a linear probe writes. Both files do not belong to the
bundle, and scoring never reads them.

`model_version` is a hash of everything that decides a prediction. So every change to the network, the labels or the
thresholds gives another `model_version`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genretag.errors import UsageError, one_line
from genretag.images import ImageRule
from genretag.model.thresholds import DEFAULT_PROFILE, Profile, profile_named
from genretag.storage import Storage, StorageError, join, resolve

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
KERAS_FILE = "model.keras"
CALIBRATION = "calibration"  # name of the layer that `genretag calibrate` appends to a Keras model
OPENVINO_FILES = ("openvino.xml", "openvino.bin")
INT8_FILES = ("openvino-int8.xml", "openvino-int8.bin")
FACTS = (
    "source",
    "metrics",
    "calibration",
    "calibrated_labels",
    "ece",
    "int8",
    "data",
    "split",
    "null",
    "training_ids",
    "out_of_fold",
    "training",
)
DEFAULT_BUNDLE = Path(__file__).parents[1] / "default_bundle"


@dataclass(frozen=True)
class Bundle:
    """A model bundle in memory, with the bytes of its files. So a driver can send it to a Ray actor on any node."""

    labels: tuple[str, ...]
    thresholds: Mapping[str, tuple[float, ...]]  # by the profile's name, in the order of the labels
    rule: ImageRule  # size and resizing of the images
    backbone: str
    files: Mapping[str, bytes] = field(repr=False)  # by file name, without `bundle.json`
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)  # `FACTS`; no effect on predictions

    @property
    def model_version(self) -> str:
        """Twelve hexadecimal digits derived from everything that decides a prediction.

        Labels, thresholds, image size and resizing, backbone, format version and files decide a prediction.
        """
        decisive = self._decisive() | {"files": {name: _sha256(data) for name, data in self.files.items()}}
        return _sha256(json.dumps(decisive, sort_keys=True).encode())[:12]

    def profile(self, name: str = DEFAULT_PROFILE) -> Profile:
        """Return a threshold profile (a threshold for each label): one of the bundle's, or `top-K` for any number K.

        `top-K` predicts the K most probable labels. Raises `UsageError` if `name` is neither.
        """
        return profile_named(name, self.thresholds, len(self.labels))

    def _decisive(self) -> dict[str, Any]:
        """Return the entries of `bundle.json` that decide a prediction, except the list of files."""
        return {
            "format_version": FORMAT_VERSION,
            "labels": list(self.labels),
            "thresholds": {name: list(values) for name, values in self.thresholds.items()},
            "image": self.rule.facts(),
            "backbone": self.backbone,
        }

    def manifest(self) -> dict[str, Any]:
        """Return the content of `bundle.json`: model version, all attributes, and the sha256 and size of each file."""
        files = {name: {"sha256": _sha256(data), "size_bytes": len(data)} for name, data in self.files.items()}
        return {"model_version": self.model_version} | self._decisive() | dict(self.facts) | {"files": files}


def write_bundle(bundle: Bundle, location: str, storage: Storage) -> None:
    """Write a bundle to `location`, a folder or a prefix of a bucket, with `bundle.json` last.

    While `bundle.json` is missing, readers find no bundle. Raises `StorageError` if a write fails.
    """
    base = resolve(location)
    for name, data in bundle.files.items():
        storage.put(join(base, name), data)
    text = json.dumps(bundle.manifest(), indent=1, ensure_ascii=False)
    storage.put(join(base, MANIFEST), text.encode())


def load_bundle(location: str, storage: Storage) -> Bundle:
    """Read a bundle from `location`, a folder or a prefix of a bucket, and check the sha256 of every file.

    Raises `UsageError` if there is no bundle, or if its format version is not `FORMAT_VERSION`. Also raises
    `UsageError` if a file of the bundle is missing or altered.
    """
    base = resolve(location)
    manifest = _read_manifest(base, storage)
    try:
        expected = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        bundle = Bundle(
            labels=tuple(manifest["labels"]),
            thresholds={name: tuple(values) for name, values in manifest["thresholds"].items()},
            rule=ImageRule(**manifest["image"]),
            backbone=manifest["backbone"],
            files={name: _read_checked(base, name, sha256, storage) for name, sha256 in expected.items()},
            facts={name: manifest[name] for name in FACTS if name in manifest},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = one_line(f"{type(error).__name__}: {error}")
        raise UsageError(f"{base}/{MANIFEST} is not a bundle's manifest ({problem}): train or copy it again") from error
    if any(len(values) != len(bundle.labels) for values in bundle.thresholds.values()) or (
        bundle.model_version != manifest.get("model_version")
    ):
        raise UsageError(f"{base}/{MANIFEST} was altered since it was written: train or copy the bundle again")
    return bundle


def _read_manifest(base: str, storage: Storage) -> dict[str, Any]:
    """Return the content of `bundle.json` in the bundle's folder or prefix `base`.

    Raises `UsageError` if the file is missing, is not JSON, or has a format version other than `FORMAT_VERSION`.
    """
    try:
        data = storage.get(join(base, MANIFEST)).data
    except StorageError as error:
        raise UsageError(f"no model bundle at {base}: {error}") from error
    try:
        manifest = json.loads(bytes(data))
    except ValueError as error:
        raise UsageError(f"{base}/{MANIFEST} is not JSON: train or copy the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{base}/{MANIFEST} is of another format: this genretag reads version {FORMAT_VERSION}")
    return manifest


def _read_checked(base: str, name: str, sha256: str, storage: Storage) -> bytes:
    """Return the bytes of the file `name` in the bundle's folder or prefix `base`.

    Raises `UsageError` if `name` points outside the bundle's folder, the file is missing, or its sha256 is not
    `sha256`.
    """
    if "/" in name or name.startswith("."):
        raise UsageError(f"{base}/{MANIFEST} names a file outside the bundle: {one_line(name)!r}")
    try:
        data = bytes(storage.get(join(base, name)).data)
    except StorageError as error:
        raise UsageError(f"the bundle at {base} lacks {one_line(name)}: train or copy it again ({error})") from error
    if _sha256(data) != sha256:
        raise UsageError(f"{base}/{one_line(name)} was altered since the bundle was written: train or copy it again")
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
