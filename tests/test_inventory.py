"""The inventory lists the posters of a folder, or those that a manifest names."""

import gzip

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from genretag.errors import UsageError
from genretag.scoring.inventory import SCHEMA, poster_ids, read_inventory, take_inventory
from genretag.storage import Storage


def test_each_file_of_a_folder_becomes_a_row(few_posters):
    inventory = read_inventory(str(few_posters), Storage())

    assert inventory.schema == SCHEMA
    file = sorted(few_posters.iterdir())[0]
    assert inventory.slice(0, 1).drop_columns(["etag", "last_modified"]).to_pylist() == [
        {"poster_id": file.stem, "uri": str(file), "size": file.stat().st_size}
    ]


def test_an_output_inside_the_images_is_not_listed(few_posters, tmp_path):
    (few_posters / "genres").mkdir()
    (few_posters / "genres" / "part-0.parquet").write_bytes(b"ours")

    assert take_inventory(str(few_posters), Storage(), tmp_path, leave_out=str(few_posters / "genres")).rows == 12


@pytest.mark.parametrize(
    ("uri", "poster_id"),
    [
        ("s3://films/1987/tt0093010.jpg", "tt0093010"),
        ("/films/a.b.jpg", "a.b"),
        ("/films/.hidden", ".hidden"),
        ("/films/..odd.jpg", "..odd"),
        ("/films/no-ending", "no-ending"),
        ("/films/two\nlines.jpg", "two\nlines"),
        ("s3://films/folder.d/", "folder"),
        ("name.jpg", "name"),
    ],
)
def test_the_poster_id_is_the_keys_stem(uri, poster_id):
    assert poster_ids(pa.array([uri])).to_pylist() == [poster_id]


def test_a_csv_manifest_names_posters_anywhere(few_posters, tmp_path):
    first, second = sorted(few_posters.iterdir())[:2]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"uri,poster_id,year\n{first},007,1987\nimages/{second.name},008,1988\n")

    inventory = read_inventory(str(manifest), Storage())

    assert inventory["poster_id"].to_pylist() == ["007", "008"]
    assert inventory["uri"].to_pylist() == [str(first), str(second)]
    assert inventory["etag"].to_pylist() == [Storage().stat(str(file)).etag for file in (first, second)]


def test_a_gzipped_csv_manifest_is_read_and_a_missing_object_has_no_size(few_posters, tmp_path):
    (tmp_path / "manifest.csv.gz").write_bytes(gzip.compress(b"uri\nimages/gone.jpg\n"))

    inventory = read_inventory(str(tmp_path / "manifest.csv.gz"), Storage())

    assert inventory.select(["uri", "etag", "size"]).to_pylist() == [
        {"uri": f"{few_posters}/gone.jpg", "etag": "", "size": None}
    ]


def test_etags_of_a_parquet_manifest_are_used_unchecked(tmp_path):
    manifest = tmp_path / "manifest.parquet"
    pyarrow.parquet.write_table(pa.table({"uri": ["s3://films/a.jpg"], "etag": ["1"]}), manifest)

    inventory = read_inventory(str(manifest), Storage())

    assert inventory.select(["poster_id", "etag"]).to_pylist() == [{"poster_id": "a", "etag": "1"}]


def test_etags_of_a_manifest_are_normalised_and_missing_ones_are_looked_up(few_posters, tmp_path):
    first, second = sorted(few_posters.iterdir())[:2]
    listed = ['W/"1"', None, "", '"ABCDEF0123456789ABCDEF0123456789"', None]
    uris = [str(first), str(first), str(second), "/gone/a.jpg", "/gone/b.jpg"]
    pyarrow.parquet.write_table(pa.table({"uri": uris, "etag": listed}), tmp_path / "manifest.parquet")

    inventory = read_inventory(str(tmp_path / "manifest.parquet"), Storage())

    asked = [Storage().stat(str(file)) for file in (first, second)]
    assert inventory["etag"].to_pylist() == [
        "1", asked[0].etag, asked[1].etag, "abcdef0123456789abcdef0123456789", "",
    ]  # fmt: skip
    assert inventory["size"].to_pylist() == [None, asked[0].size_bytes, asked[1].size_bytes, None, None]


def test_a_manifest_in_a_bucket_is_read(bucket, storage):
    storage.put(f"{bucket}/lists/tonight.csv", b"uri,etag\n../a b.jpg,1\ns3://other/c.jpg,2\n")

    inventory = read_inventory(f"{bucket}/lists/tonight.csv", storage)

    assert inventory["uri"].to_pylist() == [f"{bucket}/lists/../a b.jpg", "s3://other/c.jpg"]


def test_the_name_of_a_manifest_is_not_read_as_a_glob(tmp_path):
    (tmp_path / "a.csv").write_text("uri\nwrong.jpg\n")
    (tmp_path / "[ab]*.csv").write_text("uri,etag\nright.jpg,1\n")

    assert read_inventory(str(tmp_path / "[ab]*.csv"), Storage())["poster_id"].to_pylist() == ["right"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"url\na.jpg\n", r"no column `uri`: it has url"),
        ("m.csv", b"uri\n", "has no rows"),
        ("m.csv", b"uri,poster_id\na.jpg,\nb.jpg,b\n", r"no `poster_id` in 1 of its 2 rows"),
        ("m.csv", b"", r"no column `uri`|cannot be read"),
        ("m.csv", b'uri,etag\n"a.jpg,1\n', "cannot be read"),
        ("m.parquet", b"not parquet", "cannot be read"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UsageError, match=says) as refused:
        read_inventory(str(tmp_path / name), Storage())
    assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize("name", ["uri=x", "poster_id=7", "year=1 [a]*", "it's"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_names_of_folders_above_the_temporary_files_add_no_columns_to_a_manifest(few_posters, tmp_path, name, ending):
    file, spool = sorted(few_posters.iterdir())[0], tmp_path / name
    spool.mkdir()
    table = pa.table({"uri": [str(file)], "poster_id": ["007"], "year": ["1987"]})
    if ending == "csv":
        pyarrow.csv.write_csv(table, tmp_path / "films.csv")
    else:
        pyarrow.parquet.write_table(table, tmp_path / "films.parquet")

    found = take_inventory(str(tmp_path / f"films.{ending}"), Storage(), spool, carry=("year",)).table()

    assert found["uri"].to_pylist() == [str(file)]
    assert found["poster_id"].to_pylist() == ["007"]
    assert found["carried"].to_pylist() == [{"year": "1987"}]
