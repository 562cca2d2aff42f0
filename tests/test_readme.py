"""The README is true: every `genretag` command and the SQL in it run as they stand there."""

import re
import shlex
import shutil

import duckdb
import pytest
from conftest import REPOSITORY

from genretag.demo.posters import draw_poster
from genretag.storage import join
from genretag.tagging.schema import FAILURES, Night, predictions_schema

README = (REPOSITORY / "README.md").read_text()
FAST_TRAINING = {"BACKBONE": "tutorial", "HEIGHT": 96, "WIDTH": 80, "EPOCHS": 1, "HEAD_EPOCHS": 1, "MIN_POSITIVES": 5}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands():
    """The lines after a prompt, in order."""
    return [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line[:2] == "$ "]


@pytest.fixture
def newcomer(tmp_path, monkeypatch, poster_folder, s3_server, storage):
    """A working directory with posters, labels, the settings file, and the bucket that the README speaks of."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(poster_folder, tmp_path / "posters")
    shutil.copy(poster_folder.parent / "labels.csv", tmp_path / "films.csv")
    (tmp_path / "nightly.toml").write_text(blocks("toml")[0])
    (tmp_path / "films-to-tag.csv").write_text("uri,title,year\nendgame.jpg,Endgame,2019\nsaaho.jpg,Saaho,2019\n")
    for number, name in enumerate(["endgame.jpg", "fast.jpg", "saaho.jpg"]):
        (tmp_path / name).write_bytes(draw_poster(number))
    s3_server.create_bucket("films")
    for file in sorted(poster_folder.rglob("*.*"))[:5]:
        storage.put(join("s3://films/posters", file.name), file.read_bytes())
    for name, value in FAST_TRAINING.items():
        monkeypatch.setenv(f"GENRETAG_TRAIN_{name}", str(value))
    return tmp_path


def test_every_command_runs(newcomer, ray_cluster, command, monkeypatch):
    ran = []
    for line in commands():
        words = shlex.split(line)
        if words[0] == "make":  # the first two commands are what CI itself runs
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


def test_the_first_two_commands_are_in_the_makefile():
    made = [line for line in commands() if line.startswith("make ")]
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)

    assert made == ["make demo", "make test"]
    assert {line.split()[1] for line in made} <= set(targets)


def test_every_column_is_explained():
    night = Night("run", None, "version", ("Action", "Western"), "balanced", (0.5, 0.5))
    for field in [*predictions_schema(night), *FAILURES]:
        assert re.search(rf"[`\s,]{field.name}[`\s,.]", README), f"the README does not explain the column {field.name}"
