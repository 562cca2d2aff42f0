"""The commands in the READMEs of the examples run as they stand there."""

import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import documentation
import duckdb
import pytest
from conftest import REPOSITORY
from manifests import as_genretag_reads

from genretag import cli
from genretag.demo.posters import COLOURS, LABELS, OUTLINES, draw_clothes
from genretag.model.bundle import load_bundle
from genretag.storage import Storage
from genretag.training.settings import DEFAULT_RECIPE, RECIPES

EXAMPLES = REPOSITORY / "examples"
CLOTHES = EXAMPLES / "clothes"
NOT_RUN = ("make", "source")  # commands that set up the environment, which the tests already have
NEW_PIECES = 100


def commands(example):
    """Return the commands of an example as words, in order, without those that set it up."""
    words = map(shlex.split, documentation.commands([EXAMPLES / example / "README.md"]))
    return [line for line in words if line[0] not in NOT_RUN]


def run_command(words):
    """Run one command in the working directory and return its output; `genretag` itself runs in this process."""
    program, *arguments = words
    if program == "python":
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout
    assert program == "genretag", words
    with redirect_stdout(StringIO()) as printed:
        try:
            cli.main(arguments)
        except SystemExit as ended:
            assert not ended.code, words
    return printed.getvalue()


@pytest.fixture(scope="module")
def clothes(ray_cluster, tmp_path_factory):
    """Run all commands of `examples/clothes` in a new working directory.

    Return the folder with the results, and what each command printed.
    """
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "examples").symlink_to(EXAMPLES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        printed = {shlex.join(words): run_command(words) for words in commands("clothes")}
    return folder / "build" / "clothes", printed


def test_every_command_of_clothes_runs_and_prints_something(clothes):
    _, printed = clothes

    silent = [command for command, output in printed.items() if not output.strip()]
    assert not silent
    subcommands = {words[1] for words in commands("clothes") if words[0] == "genretag"}
    assert subcommands >= {"train", "evaluate", "tag", "gallery"}


def test_both_groups_of_labels_are_learnt_far_beyond_the_null_model(clothes):
    folder, _ = clothes
    bundle = load_bundle(str(folder / "model"), Storage())

    assert set(bundle.labels) == set(LABELS)
    assert bundle.rule.resize == "letterbox"
    test = bundle.facts["metrics"]["test"]
    assert test["model"]["macro_map"] > test["null"]["macro_map"] + 0.3
    assert test["model"]["bce"] < test["null"]["bce"]


def test_clothes_are_tagged_by_the_pipeline_that_tags_posters(clothes):
    folder, _ = clothes
    rows = f"read_parquet('{folder}/tags/predictions/dt=*/*.parquet')"
    columns = [name for name, *_ in duckdb.sql(f"describe select * from {rows}").fetchall()]

    assert duckdb.sql(f"select count(*) from {rows}").fetchall() == [(NEW_PIECES,)]
    assert {f"is_{label}" for label in LABELS} | {f"p_{label}" for label in LABELS} <= set(columns)
    is_red = "avg(is_red::int) filter (where labels {} '%red')"
    [(found, invented)] = duckdb.sql(
        f"select {is_red.format('like')}, {is_red.format('not like')} "
        f"from {rows} join read_csv('{folder}/new/labels.csv', delim = ',') on poster_id = id"
    ).fetchall()
    assert found > invented + 0.4


def test_the_query_gives_a_row_for_each_colour(clothes, monkeypatch):
    folder, _ = clothes
    monkeypatch.chdir(folder.parents[1])

    rows = duckdb.sql((CLOTHES / "query.sql").read_text()).fetchall()

    assert [colour for colour, *_ in rows] == sorted(COLOURS)
    assert sum(pieces for _, pieces, *_ in rows) == NEW_PIECES


def test_the_gallery_is_one_page_with_all_pieces(clothes):
    folder, _ = clothes

    page = (folder / "gallery.html").read_text()

    assert all(Path(piece.key).stem in page for piece in draw_clothes(NEW_PIECES, seed=1))


def test_the_readme_shows_the_query_and_the_settings_that_run():
    assert documentation.blocks("sql", [CLOTHES / "README.md"]) == [(CLOTHES / "query.sql").read_text()]
    assert documentation.blocks("toml", [CLOTHES / "README.md"]) == [(CLOTHES / "clothes.toml").read_text()]


@pytest.mark.parametrize("words", commands("posters"), ids=shlex.join)
def test_genretag_accepts_the_commands_of_posters(words):
    """The commands are only parsed, because the tutorial's network trains for an hour."""
    name, arguments = as_genretag_reads(words)

    assert name == words[1]
    run = arguments.get("run")
    assert (run.recipe if run else DEFAULT_RECIPE) in RECIPES


def test_each_piece_has_one_type_and_one_colour_and_a_seed_draws_the_same_again():
    first, again = (list(draw_clothes(30, seed=1)) for _ in range(2))

    assert first == again
    assert all(len(set(piece.labels) & set(OUTLINES)) == len(set(piece.labels) & set(COLOURS)) == 1 for piece in first)
    assert {label for piece in first for label in piece.labels} == set(LABELS)
