"""The commands and SQL in the README and the docs run as they stand there, and tables and links are complete."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import duckdb
import pytest
from azure_server import why_no_azurite
from documentation import (
    DOCS,
    README,
    REPOSITORY,
    SITE,
    anchors,
    blocks,
    commands,
    first_cells,
    links,
    pages,
    section,
    sentences,
)
from gcs_server import why_no_gcs
from taggers import save_onnx

from genretag.demo.posters import LOOKS, draw_poster
from genretag.images.decoding import REASONS
from genretag.images.file_kinds import OTHER_FILE
from genretag.output.schema import FAILURES, VERSIONS, Run, predictions_schema
from genretag.storage import join
from genretag.storage.retries import TRANSIENT

FAST_TRAINING = {"BACKBONE": "tutorial", "HEIGHT": 96, "WIDTH": 80, "EPOCHS": 1, "HEAD_EPOCHS": 1, "MIN_POSITIVES": 5}
NIGHT = Run("run", None, "version", ("Action", "Western"), "balanced", (0.5, 0.5))
FETCHED = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?https?:|<link\b[^>]*\bhref=[\"']?https?:|url\(https?:")
README_LINES = 150
SENTENCE_WORDS = 30


@pytest.fixture
def newcomer(request, tmp_path, monkeypatch, poster_folder, s3_server, storage):
    """Make a working directory with posters, labels and a settings file, and the buckets that the pages use."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(poster_folder, tmp_path / "posters")
    shutil.copy(poster_folder.parent / "labels.csv", tmp_path / "films.csv")
    (tmp_path / "nightly.toml").write_text(blocks("toml")[0])
    (tmp_path / "films-to-tag.csv").write_text("uri,title,year\nendgame.jpg,Endgame,2019\nsaaho.jpg,Saaho,2019\n")
    save_onnx(tmp_path, gain=0.3)
    (tmp_path / "tags.csv").write_text("".join(f"{line}\n" for line in ("name", *LOOKS[:5])))
    for number, name in enumerate(["endgame.jpg", "fast.jpg", "saaho.jpg"]):
        (tmp_path / name).write_bytes(draw_poster(number))
    s3_server.create_bucket("films")
    places = ["s3://films/posters"]
    if why_no_azurite() is None:
        azure = request.getfixturevalue("azure_server")
        azure.create_container("films")
        azure.create_container("public-films", public=True)
        places += ["az://films/posters", "az://public-films/posters"]
    if why_no_gcs() is None:
        google = request.getfixturevalue("gcs_server")
        google.create_bucket("films")
        google.create_bucket("public-films", public=True)
        places += ["gs://films/posters", "gs://public-films/posters"]
    for place in places:
        for file in sorted(poster_folder.rglob("*.*"))[:5]:
            storage.put(join(place, file.name), file.read_bytes())
    for name, value in FAST_TRAINING.items():
        monkeypatch.setenv(f"GENRETAG_TRAIN_{name}", str(value))
    return tmp_path


def test_every_command_runs(newcomer, ray_cluster, command, monkeypatch):
    ran = []
    for line in commands():
        words = shlex.split(line)
        if words[0] == "make":  # `make demo` and `make test`: CI runs both anyway
            continue
        if (("az://" in line or "abfss://" in line) and why_no_azurite()) or ("gs://" in line and why_no_gcs()):
            continue
        with monkeypatch.context() as environment:
            while "=" in words[0]:
                environment.setenv(*words.pop(0).split("=", 1))
            assert words.pop(0) == "genretag"
            code, out, err = command(*words)
        assert code == 0, (line, err)
        assert out, f"{line} printed nothing"
        ran.append(words[0])
    assert {"tag", "train", "predict"} <= set(ran)
    for sql in blocks("sql"):
        assert duckdb.sql(sql).fetchall(), sql


def test_the_readme_shows_one_example_of_each_kind():
    shown = {shlex.split(line)[1] for line in commands([README])}

    assert {"demo", "test", "tag", "train", "gallery"} <= shown
    assert len(blocks("sql", [README])) == 1


def test_the_first_two_commands_are_in_the_makefile():
    made = [line for line in commands() if line.startswith("make ")]
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)

    assert made == ["make demo", "make test"]
    assert {line.split()[1] for line in made} <= set(targets)


@pytest.mark.parametrize(
    ("table", "schema"), [("predictions", predictions_schema(NIGHT)), ("failures", FAILURES), ("versions", VERSIONS)]
)
def test_every_column_has_a_row_in_the_table_of_its_files(table, schema):
    """Each column needs its own table row. A mention elsewhere on the page is not enough."""
    explained = first_cells(section(DOCS / "warehouse.md", table))

    assert sorted(set(explained) - {"dt"}) == sorted(schema.names)


def test_the_columns_of_very_many_labels_have_a_row_each():
    explained = first_cells(section(DOCS / "warehouse.md", "Very many labels"))

    usual, lists = (set(predictions_schema(run).names) for run in (NIGHT, replace(NIGHT, floor=0.01)))
    assert set(explained) == lists - usual


def test_every_reason_of_a_failure_is_in_the_table_of_reasons():
    rows = section(DOCS / "warehouse.md", "Reasons of failures")

    assert [reason for reason in {*REASONS, *TRANSIENT, OTHER_FILE} if f"`{reason}`" not in rows] == []


def test_the_readme_is_short_and_has_no_long_lines():
    lines = README.read_text().splitlines()

    assert len(lines) <= README_LINES
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_readme_has_no_long_sentence():
    assert [words for words in sentences(README) if len(words.split()) > SENTENCE_WORDS] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_targets_of_links_exist(page):
    for target in links(page):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name} links to {file}, which is not there"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}: no heading makes that anchor"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(r"(?<![\w/.-])(?:genretag|tests|cluster|docker|jobs)/[\w/.-]*\w", page.read_text())

    assert [path for path in dict.fromkeys(named) if not (REPOSITORY / path).exists()] == []


def test_links_in_the_docs_stay_in_the_docs():
    """The built site contains only the folder `docs`."""
    outside = [(page.name, target) for page in pages() if page != README for target in links(page) if ".." in target]

    assert outside == []


def test_every_page_is_in_the_menu():
    assert set(DOCS.glob("*.md")) == set(pages()) - {README}


@pytest.fixture
def site(tmp_path):
    """Return a folder with a copy of the docs, which a test may build and change."""
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(SITE, tmp_path)
    return tmp_path


def _build(folder):
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True)


def test_the_site_builds_without_a_warning_and_fetches_nothing(site):
    built = _build(site)

    assert built.returncode == 0, built.stderr.decode()
    html = [file.read_text() for file in (site / "build" / "site").glob("*.html")]
    assert len(html) >= len(pages()) - 1
    assert [found for text in html for found in FETCHED.findall(text)] == []


@pytest.mark.parametrize("link", ["[a page](nowhere.md)", "[an anchor](tagging.md#nowhere)"])
def test_the_site_does_not_build_with_a_broken_link(site, link):
    with (site / "docs" / "index.md").open("a") as page:
        page.write(f"\n{link}\n")

    assert _build(site).returncode != 0
