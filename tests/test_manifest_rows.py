"""A manifest is read in any unambiguous form. All other manifests are refused before scoring."""

import gzip

import pyarrow as pa
import pyarrow.parquet
import pytest

from genretag.errors import UsageError
from genretag.scoring.inventory import read_inventory, take_inventory
from genretag.storage import Storage

SOME = ["s3://films/p/Amélie.jpg", "s3://films/p/千と千尋.jpg"]


@pytest.fixture
def uris_of(tmp_path):
    """Return a function that writes a manifest with this name and content, and returns its URIs."""

    def uris_of(name, data):
        (tmp_path / name).write_bytes(data)
        return read_inventory(str(tmp_path / name), Storage())["uri"].to_pylist()

    return uris_of


def parquet(**columns):
    """Return the bytes of a Parquet file with these columns."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(columns), sink, store_schema=False)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3a://films/a.jpg", r"scheme s3a:.*write s3:// instead of s3a://"),
        ("S3://films/a.jpg", r"scheme S3:.*s3:// in small letters"),
        ("file:///films/a.jpg", r"scheme file:.*the path alone"),
        ("file:/films/a.jpg", r"scheme file:"),
        ("gcs://films/a.jpg", r"scheme gcs:.*write gs:// instead of gcs://"),
        ("ftp://images.example.org/a.jpg", r"scheme ftp:"),
        ("abfss://films/a.jpg", r"names no account"),
        ("https://user:secret@images.example.org/a.jpg", r"carries a user name or a password"),
        ("https://images.example.org", r"names no object"),
        ("gs://films/", r"names no object"),
        ("data:image/png;base64,AAAA", r"scheme data:"),
        (r"C:\films\a.jpg", r"scheme C:"),
        (r"\\server\films\a.jpg", r"Windows path"),
        ("s3://films", r"names no object"),
        ("s3:///a.jpg", r"names no object"),
        ("./", r"names no object"),
        ("a\0.jpg", r"zero byte"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_locations_that_the_command_line_refuses_are_refused_in_a_manifest_too(uris_of, uri, says, ending):
    good = "s3://films/good.jpg"
    data = f'uri\n{good}\n"{uri}"\n"{uri}"\n'.encode() if ending == "csv" else parquet(uri=[good, uri, uri])

    with pytest.raises(UsageError, match=says) as refused:
        uris_of(f"films.{ending}", data)

    assert "row 2, " in str(refused.value), "the first of them"
    assert "1 other rows" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_manifest_with_an_unsupported_scheme_is_refused_before_anything_is_written(run, tmp_path):
    (tmp_path / "films.csv").write_text("uri\nftp://images.example.org/a.jpg\n")

    with pytest.raises(UsageError, match="only local paths, s3://, gs://"):
        run(tmp_path / "films.csv", tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("./a.jpg", "{folder}/a.jpg"),
        (".//./a.jpg", "{folder}/a.jpg"),
        ("b/./a.jpg", "{folder}/b/./a.jpg"),
        (" s3://films/a.jpg", "s3://films/a.jpg"),
        (" /films/a.jpg", "/films/a.jpg"),
        ("Alien: Covenant/a.jpg", "{folder}/Alien: Covenant/a.jpg"),
        ("s3://films/./a: b/ c.jpg", "s3://films/./a: b/ c.jpg"),
        ("100%.jpg", "{folder}/100%.jpg"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_paths_in_a_manifest_are_resolved_against_its_folder_and_otherwise_unchanged(
    uris_of, tmp_path, written, meant, ending
):
    data = f"uri,etag\n{written},1\n".encode() if ending == "csv" else parquet(uri=[written], etag=["1"])

    assert uris_of(f"films.{ending}", data) == [meant.format(folder=tmp_path)]


def test_a_leading_dot_is_removed_from_a_relative_key_in_a_bucket(bucket, storage):
    storage.put(f"{bucket}/lists/found.csv", b"uri\n./1987/a.jpg\n")

    assert read_inventory(f"{bucket}/lists/found.csv", storage)["uri"].to_pylist() == [f"{bucket}/lists/1987/a.jpg"]


def test_trailing_spaces_of_a_name_are_kept_in_parquet_and_refused_in_a_csv(uris_of, tmp_path):
    assert uris_of("films.parquet", parquet(uri=["a.jpg "])) == [f"{tmp_path}/a.jpg "]
    with pytest.raises(UsageError, match=r"row 1, 'a.jpg ', has spaces at its ends"):
        uris_of("films.csv", b"uri,year\na.jpg ,1987\n")


@pytest.mark.parametrize(
    "data",
    [
        '"uri","etag"\r\n"{0}","1"\r\n"{1}","2"\r\n',
        "\ufeffuri,etag\n{0},1\n{1},2\n",
        '\ufeff"uri","etag"\n{0},1\n{1},2',
        "uri;etag\n{0};1\n{1};2\n",
        "etag\turi\n1\t{0}\n2\t{1}\n",
        "uri|etag\n{0}|1\n{1}|2\n",
        "sep=;\r\nuri;etag\r\n{0};1\r\n{1};2\r\n",
        "\n\nuri,etag\n{0},1\n\n{1},2\n,\n\n",
        "URI , Etag\n{0},1\n{1},2\n",
        'uri,"the, ""year""",etag\n{0},1987,1\n{1},1988,2\n',
        "uri,etag\r{0},1\r{1},2\r",
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_csv_is_read_however_a_spreadsheet_writes_it(uris_of, data, pack):
    name = "films.csv" if pack is bytes else "films.csv.gz"

    assert uris_of(name, pack(data.format(*SOME).encode())) == SOME


def test_an_empty_line_is_no_row(uris_of, tmp_path):
    assert uris_of("films.csv", b"uri\na.jpg\n\nb.jpg\n\n") == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("uri\na.jpg\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("uri,film\na.jpg,Amélie\n".encode("latin-1"), "is not UTF-8"),
        (b"uri,film\na.jpg\nb.jpg,B,C\n", "cannot be read: .*Line: 2"),
        (b"uri\nMonsters, Inc.jpg\n", "cannot be read: .*Line: 2"),
        (b"a.jpg\nb.jpg\n", "no column `uri`: it has a.jpg"),
        (b"\n\n", "no column `uri`"),
    ],
)
def test_an_ambiguous_or_unreadable_csv_is_refused(uris_of, data, says):
    with pytest.raises(UsageError, match=says):
        uris_of("films.csv", data)


@pytest.mark.parametrize(
    "texts",
    [
        pa.array([uri.encode() for uri in SOME], pa.binary()),
        pa.array([uri.encode() for uri in SOME], pa.large_binary()),
        pa.array(SOME, pa.large_string()),
        pa.array(SOME).dictionary_encode(),
        pa.array(SOME, pa.string_view()),
    ],
    ids=lambda texts: str(texts.type)[:12],
)
def test_a_text_column_of_parquet_is_read_whatever_type_its_writer_chose(uris_of, texts):
    assert uris_of("films.parquet", parquet(URI=texts, poster_id=texts, etag=texts)) == SOME


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([b"\xff\xd8\xff\xe0"], pa.binary()), "cannot be read"),
        (pa.array([7]), "`uri` of the manifest .* is BIGINT, not text"),
        (pa.array([{"origin": "a.jpg"}]), "not text"),
    ],
)
def test_a_uri_column_that_is_no_text_is_refused(uris_of, column, says):
    with pytest.raises(UsageError, match=says):
        uris_of("films.parquet", parquet(uri=column))


def part_file(ending, *uris):
    """Return the bytes of a part file that names these URIs."""
    if ending == "parquet":
        return parquet(uri=pa.array(uris, pa.string()), etag=pa.array(["1"] * len(uris), pa.string()))
    text = "".join(f"{line}\n" for line in ("uri,etag", *(f"{uri},1" for uri in uris))).encode() if uris else b""
    return gzip.compress(text) if ending == "csv.gz" else text


def put_parts(storage, place, ending="parquet"):
    """Write a manifest as Spark does: part files in partitions, an empty one, checksums, and a `_SUCCESS` file."""
    for number, uri in enumerate(SOME):
        part = f"{place}/country={number}/part-{number:05d}-7c1e-c000.snappy.{ending}"
        storage.put(part, part_file(ending, uri))
        storage.put(f"{place}/country={number}/.part-{number:05d}-7c1e-c000.snappy.{ending}.crc", b"crc!")
    storage.put(f"{place}/part-00002-7c1e-c000.{ending}", part_file(ending))
    storage.put(f"{place}/_SUCCESS", b"")
    storage.put(f"{place}/_temporary/0/part-00003.{ending}", b"not finished")


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_folder_of_part_files_is_one_manifest(where, ending, bucket, storage, tmp_path):
    place = f"{bucket if where == 'bucket' else tmp_path}/lists/films.{ending}"
    put_parts(storage, place, ending)

    inventory = take_inventory(f"{place}/", storage, tmp_path)

    assert inventory.may_repeat
    assert sorted(inventory.table()["uri"].to_pylist()) == sorted(SOME)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("notes.txt", b"notes", r"holds notes\.txt: all its part files must be \.parquet"),
        ("part-00009.csv", b"uri\na\n", r"holds part-00009\.csv"),
        ("_delta_log/00000000000000000000.json", b"{}", "is a Delta table"),
        ("metadata/v1.metadata.json", b"{}", "is an Iceberg table"),
    ],
)
def test_a_folder_with_other_files_than_part_files_is_refused(bucket, storage, name, data, says):
    put_parts(storage, f"{bucket}/films.parquet")
    storage.put(f"{bucket}/films.parquet/{name}", data)

    with pytest.raises(UsageError, match=says):
        read_inventory(f"{bucket}/films.parquet", storage)


def test_part_files_with_other_columns_are_refused(storage, tmp_path):
    storage.put(f"{tmp_path}/films.csv/part-0.csv", b"uri,year\na.jpg,1987\n")
    storage.put(f"{tmp_path}/films.csv/part-1.csv", b"year,uri\n1988,b.jpg\n")

    with pytest.raises(UsageError, match=r"part-1\.csv has other columns"):
        read_inventory(f"{tmp_path}/films.csv", storage)


def test_a_missing_manifest_is_an_error(bucket, storage, tmp_path):
    for place in (bucket, tmp_path):
        with pytest.raises(UsageError, match=r"gone\.parquet"):
            read_inventory(f"{place}/gone.parquet", storage)
