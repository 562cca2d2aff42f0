"""Local folders and S3 behave the same behind the class `Storage`."""

import pickle

import pytest

from genretag.errors import UsageError
from genretag.storage import Storage, StorageError, join, resolve
from genretag.storage.aws_settings import AwsSettings


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """Return the URI of an empty folder, and then of an empty prefix in a bucket."""
    if request.param == "local":
        return str(tmp_path / "place")
    return join(request.getfixturevalue("bucket"), "some/prefix")


def listed(storage, place):
    return sorted((info for page in storage.list(place) for info in page), key=lambda info: info.uri)


def test_what_was_put_is_listed_and_got(storage, place):
    storage.put(join(place, "1987/a.jpg"), b"first")
    storage.put(join(place, "b.jpg"), b"second!")

    found = listed(storage, place)

    assert [(info.uri, info.size_bytes) for info in found] == [
        (join(place, "1987/a.jpg"), 5),
        (join(place, "b.jpg"), 7),
    ]
    fetched = storage.get(found[1].uri)
    assert (bytes(fetched.data), fetched.etag) == (b"second!", found[1].etag)
    assert storage.stat(found[1].uri) == found[1]


def test_the_etag_changes_with_the_content(storage, place):
    uri = join(place, "a.jpg")
    storage.put(uri, b"old")
    before = storage.stat(uri).etag
    storage.put(uri, b"new content")

    assert storage.stat(uri).etag != before


def test_keys_of_every_kind_come_back_as_they_are(storage, place):
    keys = ["with space.jpg", "100%.jpg", "a+b.jpg", "hash#1.jpg", "ünïcödé 映画.jpg", "%41.jpg", "a&b=c;d'e.jpg"]
    for key in keys:
        storage.put(join(place, key), key.encode())

    assert {info.uri for info in listed(storage, place)} == {join(place, key) for key in keys}
    for key in keys:
        assert bytes(storage.get(join(place, key)).data) == key.encode()


def test_a_missing_object_is_not_found(storage, place):
    for call in (storage.get, storage.stat):
        with pytest.raises(StorageError) as error:
            call(join(place, "nothing.jpg"))
        assert error.value.reason == "not_found"


def test_a_large_object_is_refused_before_it_is_read(storage, place):
    storage.put(join(place, "large.jpg"), b"x" * 1000)

    with pytest.raises(StorageError, match="1000 bytes, more than the limit of 999") as error:
        storage.get(join(place, "large.jpg"), max_bytes=999)
    assert error.value.reason == "too_many_bytes"


def test_fsspec_opens_the_same_objects(storage, place):
    storage.put(join(place, "a.txt"), b"hello")

    filesystem, path = storage.filesystem(join(place, "a.txt"))

    assert filesystem.cat_file(path) == b"hello"


def test_a_storage_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(StorageError("access_denied", "no entry")))

    assert (error.reason, str(error)) == ("access_denied", "no entry")


def test_wrong_credentials_are_refused_in_words(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")

    with pytest.raises(StorageError) as error:
        listed(Storage(), bucket)
    assert error.value.reason == "credentials_refused"
    assert "not-the-secret" not in str(error.value)


def test_a_missing_bucket_is_no_missing_object(s3_server, storage):
    with pytest.raises(StorageError) as error:
        listed(storage, "s3://there-is-no-such-bucket/prefix")
    assert error.value.reason == "bucket_missing"


def test_no_credentials_at_all_say_what_to_set(s3_server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    with pytest.raises(UsageError, match="AWS_ACCESS_KEY_ID"):
        listed(Storage(), "s3://films/posters")


def test_hidden_files_links_to_nowhere_and_folders_are_not_listed(storage, tmp_path):
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.jpg").write_bytes(b"x")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "seen.jpg").write_bytes(b"x")

    assert [info.uri for info in listed(storage, str(tmp_path))] == [str(tmp_path / "seen.jpg")]


def test_links_to_folders_are_followed_and_no_folder_comes_twice(storage, tmp_path, caplog):
    caplog.set_level("INFO", "genretag")
    root, disk = tmp_path / "posters", tmp_path / "disk"
    for file in (root / "1987/a.jpg", disk / "2024/b.jpg", disk / "2024/deep/c.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (root / "0 first by name").symlink_to("1987")  # the same folder is listed as 1987
    (root / "2024").symlink_to(disk / "2024")
    (root / "again").symlink_to(disk / "2024/deep")
    (root / "1987/up").symlink_to(root)
    (disk / "2024/deep/loop").symlink_to(disk / "2024")
    (root / "nowhere").symlink_to(tmp_path / "nothing")
    (root / "self").symlink_to(root / "self")

    found = [info.uri.removeprefix(f"{root}/") for info in listed(storage, str(root))]

    assert found == ["1987/a.jpg", "2024/b.jpg", "2024/deep/c.jpg"]
    assert f"1 links to folders are followed, the first is {root}/2024" in caplog.text
    assert [info.uri for info in listed(storage, str(root / "2024"))] == [
        f"{root}/2024/b.jpg",
        f"{root}/2024/deep/c.jpg",
    ]


def test_a_failed_local_put_leaves_nothing_behind(storage, tmp_path):
    (tmp_path / "taken").mkdir()

    with pytest.raises(StorageError):
        storage.put(str(tmp_path / "taken"), b"a file where a folder is")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_locations_become_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert resolve("posters") == f"{tmp_path}/posters"
    assert resolve("s3://films/posters/") == "s3://films/posters"
    with pytest.raises(UsageError, match="is not a local path, s3://"):
        resolve("ftp://films/posters")
    with pytest.raises(UsageError, match="names no bucket"):
        resolve("s3://")


def test_storage_can_be_pickled(bucket):
    storage = Storage()
    storage.put(join(bucket, "a.jpg"), b"x")

    assert pickle.loads(pickle.dumps(storage)).stat(join(bucket, "a.jpg")).size_bytes == 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "us-east-1"),
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),  # boto3 itself reads only AWS_DEFAULT_REGION
        ({"AWS_DEFAULT_REGION": "eu-west-2", "AWS_REGION": "eu-west-1"}, "eu-west-2"),
    ],
)
def test_the_region_comes_from_the_environment(variables, expected, monkeypatch, tmp_path):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert AwsSettings.read().region == expected
