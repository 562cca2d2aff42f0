"""Keys and file names of every kind are listed, looked up, read, written and tagged unchanged.

SeaweedFS stores objects in folders. So it merges some keys that AWS distinguishes (`a//b`, `/a`, a backslash), and
refuses others (`..`, names of more than 255 bytes). moto accepts all keys that AWS accepts, except line feeds.
"""

import contextlib
import os
import shutil
import socket

import boto3
import pyarrow as pa
import pytest
from outputs import rows

from genretag.storage import Storage, StorageError, join, s3_listing
from genretag.storage.bucket_store import is_odd

PLAIN = [
    "with space.jpg", "a & b.jpg", "a & 1%/b.jpg", " at both ends ", "100%.jpg", "%2F.jpg", "a%2Fb.jpg", "%41.jpg",
    "a+b.jpg", "a#b.jpg", "a?b=c",
    "a&amp;b&lt;.jpg", "café.jpg", "cafe\u0301.jpg", "映画.jpg", "😀.jpg", "\u2028.jpg", "\x85.jpg", "\ufeff.jpg",
    "q\"uo'te`.jpg", "<x>.jpg", "a;b=c:d@e,f!g$h(i)*j~|^{}[].jpg", "Case.jpg", "case.jpg", "...", ".hidden", "a./b",
    "x" * 200, "y/" * 300 + "z",
]  # fmt: skip
CONTROL = ["tab\t.jpg", "cr\r.jpg", "\x01.jpg", "escape\x1b[31m.jpg", "delete\x7f.jpg"]
PATHS = [
    "/", "//", "/lead.jpg", "a//b.jpg", "a/./b.jpg", "a/../b.jpg", "../up.jpg", "./dot.jpg", ".", "..", "a/..",
    "dir/with bytes/", "dir//", "back\\slash.jpg", "back/slash.jpg", "a/b.jpg", "lead.jpg", "dir/with bytes",
]  # fmt: skip
LONG = ["x" * 1000, "é" * 500]
LINE_FEED = ["line\nfeed.jpg", "trailing\n"]


def listed(storage, uri):
    found = [info for page in storage.list(uri) for info in page]
    assert len({info.uri for info in found}) == len(found)
    return {info.uri: info for info in found}


def put_all(storage, prefix, keys):
    """Write an object for each key below the prefix, and return the contents by URI."""
    uris = {f"{prefix}/{key}": key.encode() for key in keys}
    for uri, data in uris.items():
        storage.put(uri, data)
    return uris


def assert_all_are_there(storage, prefix, uris):
    """Check that these objects are listed, read and looked up with exactly these URIs and contents."""
    found = listed(storage, prefix)
    assert set(found) == set(uris)
    for uri, data in uris.items():
        fetched = storage.get(uri)
        assert (bytes(fetched.data), fetched.etag) == (data, found[uri].etag)
        looked_up = storage.stat(uri)
        assert (looked_up.uri, looked_up.etag, looked_up.size_bytes) == (uri, found[uri].etag, len(data))


def test_a_store_like_aws_keeps_every_key_apart(moto_bucket):
    storage = Storage()
    uris = put_all(storage, join(moto_bucket, "posters"), PLAIN + CONTROL + PATHS + LONG)

    assert_all_are_there(storage, join(moto_bucket, "posters"), uris)


def test_seaweedfs_keeps_all_keys_that_are_valid_paths(bucket, storage):
    uris = put_all(storage, join(bucket, "posters"), PLAIN + CONTROL + LINE_FEED)

    assert_all_are_there(storage, join(bucket, "posters"), uris)


def test_odd_keys_at_the_top_of_a_bucket_are_kept(moto_bucket):
    storage = Storage()
    uris = put_all(storage, moto_bucket, ["/", "/lead.jpg", "//two.jpg", "a.jpg", "é"])

    assert_all_are_there(storage, moto_bucket, uris)


@pytest.mark.parametrize("prefix", ["a b+c%2F#?&", "映画", "a//b", "..", "tab\t", 'q"<&>', "/lead", "%"])
def test_a_prefix_is_used_unchanged_and_ends_at_a_slash(moto_bucket, prefix):
    storage = Storage()
    uris = put_all(storage, f"{moto_bucket}/{prefix}", ["1.jpg", "deep/2.jpg"])
    put_all(storage, moto_bucket, [f"{prefix}2/no.jpg", f"{prefix}.jpg", "0.jpg", "zz.jpg"])

    assert_all_are_there(storage, f"{moto_bucket}/{prefix}", uris)


def test_folder_markers_are_left_out_and_empty_objects_are_listed(moto_bucket):
    storage = Storage()
    for key in ("p/", "p/sub/", "p/sub//", "p/empty.jpg"):
        storage.put(f"{moto_bucket}/{key}", b"")
    storage.put(f"{moto_bucket}/p/full/", b"bytes")

    assert set(listed(storage, f"{moto_bucket}/p")) == {f"{moto_bucket}/p/empty.jpg", f"{moto_bucket}/p/full/"}


@pytest.mark.parametrize("servers", [("AmazonS3",), ("",)], ids=["one stream", "key ranges"])
def test_odd_keys_break_no_page_of_a_listing(moto_bucket, monkeypatch, servers):
    monkeypatch.setattr(s3_listing, "PAGE", 7)
    monkeypatch.setattr(s3_listing, "ORDERED_SERVERS", servers)
    storage, client = Storage(), boto3.Session().client("s3")
    keys = {f"p/{number:04d}{odd}" for number in range(20) for odd in ("", "/", "//", "/../x", "\t", " +%", "é")}
    for key in keys:
        client.put_object(Bucket=moto_bucket.removeprefix("s3://"), Key=key, Body=b"x")

    assert set(listed(storage, f"{moto_bucket}/p")) == {f"{moto_bucket}/{key}" for key in keys}


@pytest.mark.parametrize("key", CONTROL + LINE_FEED + PATHS[:-5])
def test_keys_that_obstore_refuses_or_changes_go_through_boto3(key):
    assert is_odd(f"s3://bucket/{key}") or key == "back\\slash.jpg"


@pytest.mark.parametrize("key", [*PLAIN, *LONG, "a/.b/..c/d..", "posters/tt0000001.jpg"])
def test_all_other_keys_go_through_obstore(key):
    assert not is_odd(f"s3://bucket/{key}")


def test_errors_of_odd_keys_have_the_usual_reasons(moto_bucket):
    storage = Storage()
    storage.put(f"{moto_bucket}/a//large.jpg", b"x" * 1000)

    for uri, max_bytes, reason in (
        (f"{moto_bucket}/a//nothing.jpg", None, "not_found"),
        (f"{moto_bucket}/a//large.jpg", 999, "too_many_bytes"),
        ("s3://there-is-no-such-bucket/a//b.jpg", None, "bucket_missing"),
    ):
        with pytest.raises(StorageError) as error:
            storage.get(uri, max_bytes)
        assert error.value.reason == reason
    with pytest.raises(StorageError) as error:
        storage.stat(f"{moto_bucket}/a//nothing.jpg")
    assert error.value.reason == "not_found"


def test_a_night_gives_every_odd_key_one_row_with_its_exact_uri(run, bucket, storage, few_posters, tmp_path):
    posters = sorted(few_posters.iterdir())
    keys = PLAIN + CONTROL + LINE_FEED
    uris = {join(bucket, "posters", key) for key in keys}
    for number, uri in enumerate(sorted(uris)):
        storage.put(uri, posters[number % len(posters)].read_bytes())
    storage.put(join(bucket, "posters", "not a poster"), b"no picture")
    storage.put(join(bucket, "posters2", "another.jpg"), posters[0].read_bytes())

    record = run(join(bucket, "posters"), join(bucket, "genres"))

    assert record.scored == len(uris)
    found = [row["uri"] for row in rows(join(bucket, "genres"))]
    assert sorted(found) == sorted(uris)
    assert [row["uri"] for row in rows(join(bucket, "genres"), "failures")] == [join(bucket, "posters", "not a poster")]
    assert run(join(bucket, "posters"), join(bucket, "genres")).scored == 0


def test_names_of_files_are_kept_unchanged(storage, tmp_path):
    names = [
        "with space.jpg",
        "100%2F.jpg",
        "line\nfeed.jpg",
        "tab\t.jpg",
        "café.jpg",
        "cafe\u0301.jpg",
        "back\\slash.jpg",
    ]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())

    assert_all_are_there(storage, str(tmp_path), {f"{tmp_path}/{name}": name.encode() for name in names})


def test_names_that_are_not_utf8_are_left_out_and_counted(storage, tmp_path, caplog):
    (tmp_path / "a.jpg").write_bytes(b"x")
    for name in (b"\xff.jpg", b"\xfe.jpg"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    (tmp_path / os.fsdecode(b"folder\xe9")).mkdir()

    assert set(listed(storage, str(tmp_path))) == {f"{tmp_path}/a.jpg"}
    assert "3 names that are not UTF-8 are left out, the first is" in caplog.text
    assert r"'\udcfe.jpg'" in caplog.text or r"'folder\udce9'" in caplog.text


def test_a_folder_whose_name_is_not_utf8_is_refused_in_words(storage, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()

    with pytest.raises(StorageError, match="is not UTF-8"):
        listed(storage, str(folder))


def test_cyclic_links_do_not_repeat_files(storage, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"x")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to("itself")

    assert set(listed(storage, str(tmp_path))) == {f"{tmp_path}/sub/a.jpg"}


def test_fifos_and_sockets_are_never_opened(storage, tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as unix:  # the path of a socket must be short
        unix.bind("socket.jpg")
    (tmp_path / "a.jpg").write_bytes(b"x")

    assert set(listed(storage, str(tmp_path))) == {f"{tmp_path}/a.jpg"}
    for name in ("fifo.jpg", "socket.jpg"):
        with pytest.raises(StorageError, match="is not a file"):
            storage.get(f"{tmp_path}/{name}")


@pytest.fixture
def closed(monkeypatch):
    """Return a set of paths. For paths in it, the operating system answers `EACCES`.

    File permissions are not enough, because tests may run as root.
    """
    paths = set()

    def refusing(call):
        def checked(path, *arguments, **options):
            if str(path) in paths:
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *arguments, **options)

        return checked

    for name in ("scandir", "stat"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return paths


def test_a_sub_folder_that_may_not_be_read_is_left_out_and_counted(storage, tmp_path, closed, monkeypatch, caplog):
    for name in ("open/a.jpg", "closed/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    closed.add(f"{tmp_path}/closed")

    assert set(listed(storage, str(tmp_path))) == {f"{tmp_path}/open/a.jpg"}
    assert "1 sub-folders that may not be read are left out" in caplog.text


def test_a_file_without_permission_is_listed_and_fails_when_it_is_read(storage, tmp_path, closed):
    (tmp_path / "a.jpg").write_bytes(b"x")
    closed.add(f"{tmp_path}/a.jpg")

    (table,) = storage.list_tables(str(tmp_path))

    assert table.select(["uri", "etag", "size"]).to_pylist() == [{"uri": f"{tmp_path}/a.jpg", "etag": "", "size": None}]
    with pytest.raises(StorageError) as error:
        storage.get(f"{tmp_path}/a.jpg")
    assert error.value.reason == "access_denied"


def test_files_that_vanish_during_the_listing_are_no_error(storage, tmp_path, monkeypatch):
    for name in ("a/1.jpg", "b/2.jpg", "c/3.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    stat = os.stat

    def delete_first(path, **options):
        if path == f"{tmp_path}/a/1.jpg":
            shutil.rmtree(tmp_path / "a")
            shutil.rmtree(tmp_path / "b")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", delete_first)

    assert set(listed(storage, str(tmp_path))) == {f"{tmp_path}/c/3.jpg"}


def test_listings_as_tables_and_as_objects_are_equal(bucket, storage):
    storage.put(join(bucket, "p/a.jpg"), b"123")

    (table,) = storage.list_tables(join(bucket, "p"))

    assert table.schema == pa.schema(
        {"uri": pa.string(), "etag": pa.string(), "size": pa.int64(), "last_modified": pa.timestamp("us", "UTC")}
    )
    assert [info for page in storage.list(join(bucket, "p")) for info in page] == [
        storage.stat(join(bucket, "p/a.jpg"))
    ]
