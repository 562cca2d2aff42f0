"""A bundle is read only if it is complete and unaltered. Its version covers all content that affects predictions."""

import json
from dataclasses import replace

import pytest

from genretag.errors import UsageError
from genretag.images import ImageRule
from genretag.model.bundle import DEFAULT_BUNDLE, Bundle, load_bundle, write_bundle
from genretag.storage import Storage, join

BUNDLE = Bundle(
    labels=("Action", "Sci-Fi"),
    thresholds={"balanced": (0.3, 0.25)},
    rule=ImageRule(288, 192),
    backbone="lite0",
    files={"model.keras": b"the network", "openvino.xml": b"<net/>"},
    facts={"metrics": {"test": {"model": {"macro_map": 0.3}}}},
)


@pytest.fixture
def written(tmp_path):
    write_bundle(BUNDLE, str(tmp_path / "bundle"), Storage())
    return tmp_path / "bundle"


def test_a_bundle_comes_back_as_it_was_written(written):
    assert load_bundle(str(written), Storage()) == BUNDLE


def test_a_bundle_lives_in_a_bucket_as_well(bucket, storage):
    write_bundle(BUNDLE, join(bucket, "models/1"), storage)

    assert load_bundle(join(bucket, "models/1"), storage) == BUNDLE


def test_the_version_depends_on_the_content():
    assert replace(BUNDLE, facts={}).model_version == BUNDLE.model_version, "metrics decide no prediction"
    others = [
        replace(BUNDLE, labels=("Sci-Fi", "Action")),
        replace(BUNDLE, thresholds={"balanced": (0.3, 0.26)}),
        replace(BUNDLE, rule=ImageRule(224, 224)),
        replace(BUNDLE, files=BUNDLE.files | {"model.keras": b"another network"}),
    ]
    assert len({BUNDLE.model_version, *(other.model_version for other in others)}) == 5


def test_a_missing_file_is_named(written):
    (written / "openvino.xml").unlink()

    with pytest.raises(UsageError, match=r"lacks openvino.xml"):
        load_bundle(str(written), Storage())


def test_an_altered_file_is_named(written):
    (written / "model.keras").write_bytes(b"the netw0rk")

    with pytest.raises(UsageError, match=r"model.keras was altered"):
        load_bundle(str(written), Storage())


@pytest.mark.parametrize(
    "change",
    [{"thresholds": {"balanced": [0.1, 0.1]}}, {"labels": ["Sci-Fi", "Action"]}, {"thresholds": {"balanced": [0.3]}}],
)
def test_an_altered_manifest_is_refused(written, change):
    manifest = json.loads((written / "bundle.json").read_text())
    (written / "bundle.json").write_text(json.dumps(manifest | change))

    with pytest.raises(UsageError, match="was altered"):
        load_bundle(str(written), Storage())


def test_a_manifest_cannot_reach_outside_the_bundle(written):
    manifest = json.loads((written / "bundle.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "0", "size_bytes": 1}
    (written / "bundle.json").write_text(json.dumps(manifest))

    with pytest.raises(UsageError, match="outside the bundle"):
        load_bundle(str(written), Storage())


@pytest.mark.parametrize(
    ("text", "says"), [("{", "not JSON"), ("[]", "another format"), ('{"format_version": 9}', "another format")]
)
def test_a_file_that_is_no_manifest_is_refused(written, text, says):
    (written / "bundle.json").write_text(text)

    with pytest.raises(UsageError, match=says):
        load_bundle(str(written), Storage())


def test_a_folder_without_a_bundle_says_so(tmp_path):
    with pytest.raises(UsageError, match="no model bundle at"):
        load_bundle(str(tmp_path), Storage())


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(UsageError, match=r"no threshold profile 'precise': it has balanced"):
        BUNDLE.profile("precise")


def test_the_default_bundle_is_small_and_better_than_the_null_model():
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())

    assert bundle.model_version == json.loads((DEFAULT_BUNDLE / "bundle.json").read_text())["model_version"]
    assert sum(len(data) for data in bundle.files.values()) < 25 * 2**20
    assert len(bundle.labels) == 23
    test = bundle.facts["metrics"]["test"]
    assert test["model"]["macro_map"] >= 0.28 > 0.15 > test["null"]["macro_map"]
