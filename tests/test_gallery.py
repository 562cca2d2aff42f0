"""`genretag gallery` picks posters by day, genre and condition; a condition cannot read files; the page is complete."""

import json
import re

import pytest
from nights import a_run
from outputs import ODD
from tagged_output import random_probabilities, write_tagged

from genretag.errors import UsageError
from genretag.model.bundle import DEFAULT_BUNDLE
from genretag.reports.gallery import pick
from genretag.settings import GallerySettings
from genretag.storage import Storage, join


@pytest.fixture(scope="module")
def paths(poster_folder):
    return sorted(poster_folder.rglob("*.*"))[:60]


@pytest.fixture
def output(paths, tmp_path):
    """Write an output with two nights of one model: forty posters, then twenty."""
    output = tmp_path / ODD
    write_tagged(output, random_probabilities(paths[:40]))
    write_tagged(output, random_probabilities(paths[40:]), night=a_run(1))
    return output


def picked(output, **settings):
    """Select the posters that a gallery with these settings would show."""
    return pick(str(output), GallerySettings(**settings), Storage())


def facts_of(page):
    """Return the JSON facts in a gallery page."""
    return json.loads(re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.S)[1])


def test_a_day_a_genre_and_a_condition_choose_posters(output):
    assert len(picked(output).posters) == 60
    assert len(picked(output, day="2026-11-02").posters) == 20
    dramas = picked(output, genre="drama").posters
    assert 0 < len(dramas) < 60
    assert all(0 in poster.genres for poster in dramas)
    sure = picked(output, where="p_comedy > .9 -- is sure").posters
    assert sure and all(poster.probabilities[1] > 0.9 for poster in sure)
    assert len(picked(output, genre="Sci-Fi", where="p_drama < .1 or p_drama > .9").posters) < len(dramas)


def test_the_random_sample_is_the_same_each_time(output):
    few = picked(output, limit=10)

    assert (len(few.posters), few.matching) == (10, 60)
    assert [p.uri for p in picked(output, limit=10).posters] == [p.uri for p in few.posters]
    assert {p.uri for p in few.posters} < {p.uri for p in picked(output, limit=20).posters}


def test_only_the_newest_row_of_a_poster_is_shown(paths, tmp_path):
    write_tagged(tmp_path, {paths[0]: [0.1, 0.1, 0.1], paths[1]: [0.2, 0.2, 0.2]})
    write_tagged(tmp_path, {paths[0]: [0.9, 0.9, 0.9]}, night=a_run(1))

    assert len(picked(tmp_path).posters) == 2


def test_only_rows_of_the_newest_model_are_shown(paths, tmp_path):
    write_tagged(tmp_path, random_probabilities(paths[:5]))
    write_tagged(tmp_path, random_probabilities(paths[5:8]), night=a_run(1, model="model2"))

    assert (picked(tmp_path).model.version, len(picked(tmp_path).posters)) == ("model2", 3)


@pytest.mark.parametrize(
    "condition",
    [
        "p_drama >",
        "true) ; copy part to '{out}' (format csv) --",
        "true); select * from part where (true",
        "uri in (select content from read_text('{secret}'))",
        "exists(select * from '{secret}')",
        "p_western > .5",
        "getenv('HOME') = 'x'",
    ],
)
def test_an_invalid_condition_or_one_that_reads_files_is_refused_in_one_line(output, tmp_path, condition):
    secret, out = tmp_path / "secret.csv", tmp_path / "stolen.csv"
    secret.write_text("uri\nx\n")

    with pytest.raises(UsageError, match="is no condition on the predictions") as refused:
        picked(output, where=condition.format(out=out, secret=secret))

    assert "\n" not in str(refused.value)
    assert not out.exists()


def test_mistakes_get_one_line_that_helps(output, tmp_path, command):
    assert command("gallery", tmp_path / "nothing")[2].endswith("name what `genretag tag` wrote to\n")
    assert "of 2020-01-01 in" in command("gallery", output, "--day", "2020-01-01")[2]
    assert (
        "the model has no genre 'Western': it has Drama, Comedy, Sci-Fi"
        in command("gallery", output, "--genre", "Western")[2]
    )
    assert "no poster matches" in command("gallery", output, "--where", "false")[2]
    assert "day must be YYYY-MM-DD" in command("gallery", output, "--day", "yesterday")[2]
    assert "limit must be between" in command("gallery", output, "--limit", "0")[2]
    assert "cannot read the labels" in command("gallery", output, "--labels", tmp_path / "none.csv")[2]
    assert "were tagged by model model1, but --model is" in command("gallery", output, "--model", DEFAULT_BUNDLE)[2]


def test_a_page_in_a_bucket_has_thumbnails_and_the_disagreement_with_the_csv(paths, bucket, command, tmp_path, storage):
    output = join(bucket, "genres")
    write_tagged(output, {paths[0]: [0.9, 0.1, 0.1], paths[1]: [0.1, 0.9, 0.1], paths[2]: [0.6, 0.6, 0.1]})
    (tmp_path / "labels.csv").write_text(f"id,labels\n{paths[0].stem},Comedy\n{paths[1].stem},Comedy\n")

    code, out, err = command("gallery", output, "--labels", tmp_path / "labels.csv", "--quiet")

    assert (code, out) == (0, f"3 posters: {output}/gallery.html\n"), err
    page = bytes(storage.get(join(output, "gallery.html")).data).decode()
    by_id = {poster[0]: poster for poster in facts_of(page)["posters"]}
    wrong, right, unknown = (by_id[path.stem] for path in paths[:3])
    assert (wrong[2], wrong[4], right[4], unknown[4]) == ([0], [1], [1], None)
    assert wrong[5] > right[5]
    thumbnails = re.search(r'<script type="text/plain" id="t0">(.*?)</script>', page, re.S)[1].split(",")
    assert len(thumbnails) == 3
    assert all(thumbnail.startswith("UklG") for thumbnail in thumbnails), "WebP, in base64"


def test_a_poster_that_changed_or_vanished_after_scoring_has_no_picture(few_posters, tmp_path, command, caplog):
    paths = sorted(few_posters.iterdir())[:3]
    write_tagged(tmp_path / "out", random_probabilities(paths))
    paths[0].unlink()
    paths[1].write_bytes(paths[2].read_bytes() + b"!")

    code, out, _ = command("gallery", tmp_path / "out", "--html", tmp_path / "page.html")

    assert (code, out) == (0, f"3 posters: {tmp_path}/page.html\n")
    assert "2 of 3 posters cannot be shown: gone, or changed since" in caplog.text
