"""Files that are no posters do not use up the error budget.

They are recognised by their names, without reading them, or by their content.
"""

import gzip
import io
import sqlite3
import zipfile

import pytest
from outputs import rows

from genretag.errors import JobError, UsageError
from genretag.images import ImageRule
from genretag.images.decoding import ImageLimits
from genretag.images.file_kinds import kind_by_name
from genretag.scoring.reader import Poster, PosterReader
from genretag.storage import Storage, join

MATROSKA = b"\x1aE\xdf\xa3" + bytes(60)
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)
LIMIT = 200_000  # bytes: the limit for one picture in these tests


@pytest.fixture
def read(tmp_path, drawn_posters):
    """Return a function that writes a file with this name and content, and reads it as the job does."""
    reader = PosterReader(Storage(), ImageRule(96, 64), 1, ImageLimits(max_bytes=LIMIT))

    def read(name, data):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return reader.read(str(file))

    return read


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("video", "Film.MKV film.mp4 VIDEO_TS/VTS_01_1.VOB clip.m2ts"),
        ("audio", "theme.mp3 theme.flac"),
        ("subtitles", "film.en.srt film.idx film.sub"),
        ("text", "notes.txt movie.nfo README license page.html"),
        ("sidecar", "poster.jpg.json poster.xmp ComicInfo.xml IMG_1.AAE"),
        ("data", "library.db part-00000.snappy.parquet library.db-wal"),
        ("archive", "posters.zip posters.tar.gz"),
        ("temporary file", "poster.jpg.part poster.jpg.crdownload poster.png.tmp"),
        ("marker", "_SUCCESS posters_$folder$ _committed_7123 .keep _metadata"),
        ("system file", "._poster.jpg .DS_Store Thumbs.db desktop.ini poster.jpg:Zone.Identifier"),
        ("system file", "@eaDir/poster.jpg/SYNOPHOTO_THUMB_XL.jpg __MACOSX/poster.jpg $RECYCLE.BIN/S-1/x.jpg"),
        ("system file", ".@__thumb/s800poster.jpg .AppleDouble/poster.jpg SYNOFILE_THUMB_M.jpg"),
        ("system file", "poster.jpg\uf03aZone.Identifier poster.jpg:Zone.Identifier:Zone.Identifier"),
        ("original of an editor or a camera", "poster.psd IMG_1.CR2"),
    ],
)
def test_the_kind_of_another_file_is_recognised_by_its_name(kind, names):
    for name in names.split():
        assert kind_by_name(f"s3://films/posters/{name}") == kind, name


@pytest.mark.parametrize(
    "name",
    [
        *("a.jpg", "A.JPEG", "a.jfif", "a.jpe", "a.heic", "a.svg", "a", "tt0093010", "a.v2", "a.bin", "a.php", ".jpg"),
        *("a.jpg?w=500", "Dr.Strange", "_a.jpg", ".a.jpg", "folder.d/", "success", "_SUCCESS.jpg", "movie.db.jpg"),
    ],
)
def test_a_file_that_may_be_a_poster_by_its_name_is_read(name):
    assert kind_by_name(f"s3://films/{name}") is None


def database():
    connection = sqlite3.connect(":memory:")
    connection.execute("create table films (name text)")
    return connection.serialize()


def archive():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as written:
        written.writestr("a.txt", "a")
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("film.mkv", MATROSKA),
        ("clip", MATROSKA),
        ("clip", b"\0\0\0\x20ftypisom" + bytes(50)),
        ("library", database()),
        ("backup", archive()),
        ("paper", b"%PDF-1.7\n"),
        ("companion", APPLE_DOUBLE),
        ("notes.abc", b"no picture at all"),
        ("ready.flag", b""),
        ("cache.bin", bytes(2 * LIMIT)),
        ("film", MATROSKA + bytes(LIMIT)),
        ("film.v2", MATROSKA + bytes(LIMIT)),
        ("poster.psd", b"8BPS\0\1" + bytes(50)),
    ],
)
def test_a_file_that_is_no_poster_has_the_reason_other_file_whichever_check_finds_it(read, name, data):
    failure = read(name, data)

    assert (failure.stage, failure.reason) == ("decode", "other_file"), failure


@pytest.mark.parametrize(
    ("name", "data", "stage", "reason"),
    [
        ("poster.jpg", MATROSKA, "decode", "not_an_image"),
        ("poster.jpg", b"", "decode", "empty"),
        ("poster.jpg", bytes(2 * LIMIT), "fetch", "too_many_bytes"),
        ("poster", b"<html><body>404", "decode", "not_an_image"),
        ("poster", gzip.compress(b"a page", mtime=0), "decode", "not_an_image"),
        ("poster", b"", "decode", "empty"),
        ("poster", b"\xff\xd8\xff\xe0" + bytes(LIMIT), "fetch", "too_many_bytes"),
        ("poster.heic", b"\0\0\0\x18ftypheic" + bytes(50), "decode", "unsupported_format"),
        ("poster.v2", b"\xff\xd8\xff\xe0" + bytes(50), "decode", "truncated"),
    ],
)
def test_a_poster_that_is_broken_stays_a_failure(read, name, data, stage, reason):
    failure = read(name, data)

    assert (failure.stage, failure.reason) == (stage, reason), failure


@pytest.mark.parametrize("name", ["poster", "poster.v2", "poster.bin", "folder.d/poster"])
def test_a_picture_with_an_unknown_extension_or_none_is_a_poster(read, drawn_posters, name):
    assert isinstance(read(name, drawn_posters[0].data), Poster)


def others_of(place):
    """Return files that are no posters, by URI: more than the 100 failures that are always allowed.

    All are recognised by their names, except `clip`.
    """
    names = [f"Film {n}/Film {n}.{ending}" for n in range(40) for ending in ("mkv", "en.srt", "nfo")]
    return {join(place, name): MATROSKA for name in names} | {
        join(place, "_SUCCESS"): b"",
        join(place, "1987_$folder$"): b"",
        join(place, "clip"): MATROSKA,
    }


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_other_files_do_not_use_the_error_budget_and_are_counted_by_kind(
    where, run, storage, few_posters, bucket, drawn_posters, tmp_path
):
    place = str(few_posters) if where == "folder" else join(bucket, "library")
    output = str(tmp_path / "out") if where == "folder" else join(bucket, "genres")
    posters = {join(place, f"{n}.jpg"): drawn_posters[n].data for n in range(12)} if where == "bucket" else {}
    hidden = {join(place, "._a.jpg"): APPLE_DOUBLE, join(place, ".DS_Store"): b"\0\0\0\1Bud1"}
    for uri, data in (others_of(place) | posters | (hidden if where == "bucket" else {})).items():
        storage.put(uri, data)

    record, again = run(place, output, error_budget=0.0), run(place, output)

    systems = {"system file": 2} if where == "bucket" else {}
    assert record.other_files == {"video": 40, "subtitles": 40, "text": 40, "marker": 2, "other": 1} | systems
    others = sum(record.other_files.values())
    assert (record.scored, record.failed, record.failed_posters) == (12, others, 0)
    assert record.failures == {"decode: other_file": others}
    assert record.listed == record.scored + record.failed
    assert (again.already_scored, again.already_failed, again.other_files) == (12, others, {})
    assert {row["reason"] for row in rows(output, "failures")} == {"other_file"}


def test_a_folder_with_only_other_files_is_refused(run, tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "film.mkv").write_bytes(MATROSKA)

    for _ in range(2):
        with pytest.raises(UsageError, match=r"none of the 1 files at .*library is a poster"):
            run(tmp_path / "library", tmp_path / "out")


@pytest.mark.parametrize("broken", [1, 3])
def test_a_small_table_where_most_posters_fail_fails_every_time_it_runs(run, few_posters, tmp_path, storage, broken):
    whole = sorted(few_posters.iterdir())[: broken - 1]
    for number in range(broken):
        storage.put(str(few_posters / f"bad{number}.jpg"), b"<html><body>404")
    lines = [*map(str, whole), *(f"{few_posters}/bad{number}.jpg" for number in range(broken))]
    (tmp_path / "films.csv").write_text("\n".join(["uri", *lines]) + "\n")

    for _ in range(2):
        with pytest.raises(JobError, match=rf"{broken} of all {len(lines)} posters failed"):
            run(tmp_path / "films.csv", tmp_path / "out")

    assert not (tmp_path / "out" / "runs").exists()
    assert [row["reason"] for row in rows(tmp_path / "out", "failures")] == ["not_an_image"] * broken
    allowed = run(tmp_path / "films.csv", tmp_path / "out", error_budget=1.0)
    assert (allowed.already_failed, allowed.already_scored) == (broken, broken - 1)


def test_one_broken_new_poster_among_many_does_not_fail_the_night(run, few_posters, tmp_path):
    run(few_posters, tmp_path / "out")
    (few_posters / "new.jpg").write_bytes(b"")

    record = run(few_posters, tmp_path / "out")

    assert record.failures == {"decode: empty": 1}
