"""The policies in cluster/iam allow exactly the S3 requests that tag, compact and train make."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from conftest import SMALL_MODEL
from fault_proxy import Faults, fault_proxy
from manifests import REPOSITORY
from moto.iam.access_control import IAMPolicy, PermissionResult

from genretag.commands.compact import compact
from genretag.commands.tag import tag
from genretag.commands.train import train
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.settings import CompactSettings
from genretag.storage import Storage
from genretag.training.settings import TrainRunSettings

pytestmark = pytest.mark.slow  # these tests run jobs behind a proxy

IAM = REPOSITORY / "cluster" / "iam"
# Folder in which a job deletes many objects with one request.
IN_THE_BODY = {"test-iam": "genres", "test-iam-training": "checkpoints"}
ONE_EPOCH = replace(SMALL_MODEL, epochs=0)


def _policy(name, bucket="films"):
    """Return a policy of cluster/iam as JSON, with another name for the bucket."""
    return json.loads((IAM / name).read_text().replace("films", bucket))


def _allows(policy, action, resource):
    """Return True if the policy allows the action on the resource."""
    return IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource) == PermissionResult.PERMITTED


def _needed(method, target):
    """Return the action and the resource that AWS checks for an S3 request.

    They follow AWS's service authorization reference.
    """
    path, query = unquote(urlsplit(target).path).lstrip("/"), parse_qs(urlsplit(target).query, keep_blank_values=True)
    bucket, _, key = path.partition("/")
    if not key:
        if "delete" in query:
            return "s3:DeleteObject", f"arn:aws:s3:::{bucket}/{IN_THE_BODY[bucket]}/of the body"
        assert method in ("GET", "HEAD") and not set(query) & {"location", "acl", "versions", "uploads"}, (
            method,
            target,
        )
        return "s3:ListBucket", f"arn:aws:s3:::{bucket}"
    if method == "DELETE":
        return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", f"arn:aws:s3:::{bucket}/{key}"
    action = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject"}[method]
    return action, f"arn:aws:s3:::{bucket}/{key}"


@pytest.fixture(scope="module")
def nights(ray_cluster, s3_server, poster_folder, small_bundle, tmp_path_factory):
    """Return the bucket, and what AWS would check in two nights, a run with nothing to do, and a compaction."""
    s3_server.create_bucket(bucket := "test-iam")
    storage, files = Storage(), sorted(poster_folder.rglob("*.*"))[:12]
    for file in Path(small_bundle).iterdir():
        storage.put(f"s3://{bucket}/models/1/{file.name}", file.read_bytes())
    with fault_proxy(s3_server.endpoint_url, Faults()) as proxy:
        session = Session(endpoint_url=proxy.endpoint_url, quiet=True)
        images, output, model = f"s3://{bucket}/posters", f"s3://{bucket}/genres", f"s3://{bucket}/models/1"
        for new in (files[:6], files[6:]):
            for file in new:
                storage.put(f"{images}/{file.name}", file.read_bytes())
            assert tag(images, output, TagSettings(date="2026-01-01"), session, model).scored == 6
        assert tag(images, output, TagSettings(), session, model).already_scored == 12
        assert compact(output, CompactSettings(), session).merged == 1
        return bucket, {_needed(*request) for request in proxy.made()}


@pytest.fixture(scope="module")
def training(ray_cluster, s3_server, drawn_posters, poster_folder):
    """Return the bucket, and what AWS would check in a training whose posters, checkpoints and bundle are in it.

    Checkpoints of this network are small. So the fixture also starts a multipart upload of more than 50 MB, and
    aborts the upload.
    """
    s3_server.create_bucket(bucket := "test-iam-training")
    storage, place = Storage(), f"s3://{bucket}"
    storage.put(f"{place}/labels.csv", (poster_folder.parent / "labels.csv").read_bytes())
    for poster in drawn_posters:
        storage.put(f"{place}/posters/{Path(poster.key).name}", poster.data)
    with fault_proxy(s3_server.endpoint_url, Faults()) as proxy:
        session = Session(endpoint_url=proxy.endpoint_url, quiet=True)
        train(
            f"{place}/labels.csv",
            f"{place}/posters",
            f"{place}/models/1",
            ONE_EPOCH,
            session,
            TrainRunSettings(checkpoints=f"{place}/checkpoints/1"),
        )
        filesystem, checkpoints = session.storage.filesystem(f"{place}/checkpoints/1")
        large = filesystem.open(f"{checkpoints}/run/large.npz", "wb")
        large.write(bytes(filesystem.default_block_size + 1))
        large.discard()
        large.closed = True  # otherwise the garbage collector would finish the upload
        return bucket, {_needed(*request) for request in proxy.made()}


@pytest.mark.parametrize(("policy", "job"), [("tag.json", "nights"), ("train.json", "training")])
def test_the_policy_allows_all_requests_of_the_job(policy, job, request):
    bucket, needed = request.getfixturevalue(job)

    assert [one for one in sorted(needed) if not _allows(_policy(policy, bucket), *one)] == []


@pytest.mark.parametrize(("policy", "job"), [("tag.json", "nights"), ("train.json", "training")])
def test_the_policy_allows_nothing_that_the_job_does_not_use(policy, job, request):
    bucket, needed = request.getfixturevalue(job)

    spare = [
        (action, resource)
        for statement in _policy(policy, bucket)["Statement"]
        for action in _list(statement["Action"])
        for resource in _list(statement["Resource"])
        if not any(_allows(_only(action, resource), *one) for one in needed)
    ]
    assert spare == []


def _list(one_or_many):
    return [one_or_many] if isinstance(one_or_many, str) else one_or_many


def _only(action, resource):
    """Return a policy that allows only this action on this resource."""
    return {"Statement": [{"Effect": "Allow", "Action": action, "Resource": resource}]}


@pytest.mark.parametrize("name", ["tag.json", "train.json"])
def test_no_policy_lets_the_posters_be_written_or_the_bucket_be_changed(name):
    policy = _policy(name)

    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not _allows(policy, action, "arn:aws:s3:::films/posters/a.jpg")
    for action in ("s3:DeleteBucket", "s3:PutBucketPolicy", "s3:PutObjectAcl"):
        assert not _allows(policy, action, "arn:aws:s3:::films")
    assert not _allows(policy, "s3:GetObject", "arn:aws:s3:::others/a.jpg")


def test_the_policies_fit_the_locations_in_the_settings_file():
    settings = tomllib.loads((REPOSITORY / "cluster/kubernetes/overlays/cpu/genretag.toml").read_text())

    def allows(name, action, place):
        return _allows(_policy(name), action, place.replace("s3://", "arn:aws:s3:::"))

    assert allows("tag.json", "s3:GetObject", settings["tag"]["images"] + "/a.jpg")
    assert allows("tag.json", "s3:PutObject", settings["tag"]["output"] + "/x")
    assert allows("train.json", "s3:GetObject", settings["train"]["labels"])
    assert allows("train.json", "s3:GetObject", settings["train"]["images"] + "/a.jpg")
    assert allows("train.json", "s3:PutObject", settings["train"]["output"] + "/x")
    assert allows("train.json", "s3:PutObject", settings["train"]["checkpoints"] + "/x")
