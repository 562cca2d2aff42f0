"""Commands show a live line on a terminal, log lines elsewhere, and nothing if they are quiet."""

import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import ray
from ray_cluster_faults import until
from terminal import Terminal

from genretag.runtime import display as module
from genretag.runtime.display import Display
from genretag.runtime.session import Session

LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")
TWO_PHASES = """
import contextlib, logging, threading
from genretag.runtime import logs
from genretag.runtime.display import Display
from genretag.runtime.session import Session

logs.start_logging(False, "text")
with contextlib.suppress(KeyboardInterrupt), Display(Session()) as display:
    display.phase("decoding", 3)
    display.count(3, "1 failed")
    display.phase("training", 100_000_000)
    display.count(23_456_789, "1,234,567 unreadable", step=("epoch 19/20", 3_456_789, 5_000_000))
    logging.getLogger("genretag").info("between")
    print("printed")
    threading.Event().wait()
print("the end")
"""


@pytest.fixture
def on_terminal(ray_cluster):
    """Return a function that starts a `genretag` command on a terminal, with the Ray of the tests."""

    def start(*arguments):
        return Terminal("-m", "genretag.cli", *arguments, "--address", ray.get_runtime_context().gcs_address)

    return start


@pytest.fixture
def many_posters(poster_folder, tmp_path):
    """Return a folder with a thousand posters, which are links to 160 files."""
    folder = tmp_path / "many"
    folder.mkdir()
    files = sorted(poster_folder.rglob("*.*"))
    for number in range(1_000):
        os.link(files[number % len(files)], folder / f"{number}.jpg")
    return folder


@pytest.mark.parametrize("columns", [80, 40])
def test_finished_phases_and_log_lines_stay_and_the_live_line_fits_and_disappears(columns):
    terminal = Terminal("-c", TWO_PHASES, columns=columns)
    terminal.await_text("epoch 19/20")
    terminal.await_text("printed")  # this line stands above the live line, which may be drawn first
    terminal.press_ctrl_c()
    code, lines = terminal.end()

    assert code == 0, lines
    decoding, between, *rest = lines
    assert decoding == "✓ decoding     3/3, 1 failed, 0:00:00"
    assert LOG_LINE.sub("", between) == "between"
    assert rest == ["printed", "the end"]
    assert max(map(len, terminal.live_lines())) <= columns


def test_without_a_terminal_the_phase_is_a_log_line_every_few_seconds(monkeypatch, caplog):
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.01)
    caplog.set_level(logging.INFO)

    with Display(Session()) as display:
        display.phase("scoring", 10)
        display.count(4, "1 failed")
        until(lambda: "4/10" in caplog.text)
        display.advance(6)
        assert display.done == 10

    assert re.fullmatch(r"scoring: 4/10, 1 failed, 0:00:\d\d", next(m for m in caplog.messages if "4/10" in m))


def test_a_blocked_log_line_does_not_block_the_command(monkeypatch):
    """After Ctrl-C during a log line, the lock of `logging` may stay held for ever."""
    stuck, unstuck = threading.Event(), threading.Event()
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.01)
    monkeypatch.setattr(module.logger, "info", lambda *_: (stuck.set(), unstuck.wait()))

    with Display(Session()) as display, ThreadPoolExecutor(1) as command:
        display.phase("scoring", 10)
        assert stuck.wait(timeout=30)
        counting = command.submit(display.count, 4)
        wait([counting], timeout=30)
        counted = counting.done()
        unstuck.set()

    assert counted


def test_a_quiet_display_shows_nothing_and_works_without_a_with_block(monkeypatch, caplog):
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    caplog.set_level(logging.INFO)

    with Display(Session(quiet=True)) as display:
        display.phase("scoring", 10)
        display.advance(4)
    module.QUIET.phase("scoring", 10)

    assert caplog.messages == []


def test_tag_shows_its_phases_and_how_many_failed(on_terminal, few_posters, small_bundle, tmp_path):
    (few_posters / "broken.jpg").write_bytes(b"no picture")

    terminal = on_terminal("tag", few_posters, tmp_path / "out", "--model", small_bundle)
    code, lines = terminal.end()

    assert code == 0, lines
    listed, *phases = lines[:5]
    assert LOG_LINE.sub("", listed).startswith("13 objects listed")
    assert [phase.split()[:2] for phase in phases] == [
        ["✓", name] for name in ("listing", "starting", "scoring", "publishing")
    ]
    assert "✓ scoring      13/13, 1 failed" in phases[2]
    assert lines[5].startswith("12 posters scored, 1 failed"), "and nothing of Ray's"


def test_without_a_terminal_there_are_only_log_lines(process, ray_cluster, few_posters, small_bundle, tmp_path):
    address = ray.get_runtime_context().gcs_address
    tag = ("tag", few_posters, tmp_path / "out", "--model", small_bundle, "--address", address)

    plain, quiet = process(*tag), process(*tag, "--quiet")

    assert plain.returncode == quiet.returncode == 0
    assert all(LOG_LINE.match(line) for line in plain.stderr.splitlines()), plain.stderr
    assert "12 objects listed" in plain.stderr
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("0 posters scored")


def test_evaluate_counts_the_posters_of_both_bundles_and_the_draws(on_terminal, poster_folder, small_bundle):
    labels = poster_folder.parent / "labels.csv"

    terminal = on_terminal(
        *("evaluate", small_bundle, "--against", small_bundle, "--labels", labels, "--images", poster_folder),
        *("--split", "all", "--include-training", "--bootstrap", "100"),
    )
    code, lines = terminal.end()

    assert code == 0, lines
    phases = [line for line in lines if line.startswith("✓")]
    assert [phase[2:14].strip() for phase in phases] == ["reading", "starting Ray", "scoring", "bootstrap"]
    assert " 320/320, 0 failed" in phases[2]
    assert " 200/200" in phases[3]


def test_ctrl_c_ends_tag_with_a_line_and_releases_the_lock(on_terminal, many_posters, small_bundle, tmp_path):
    terminal = on_terminal("tag", many_posters, tmp_path / "out", "--model", small_bundle)
    terminal.await_text("starting")
    assert (tmp_path / "out" / "_lock.json").exists()
    terminal.press_ctrl_c()
    code, lines = terminal.end()

    assert code == 130, lines
    assert lines[-1] == "genretag: stopped; what was finished is kept, the same command goes on from there"
    assert "Traceback" not in terminal.printed()
    assert not (tmp_path / "out" / "_lock.json").exists()


def test_ctrl_c_ends_evaluate_with_a_line(on_terminal, poster_folder, small_bundle):
    labels = poster_folder.parent / "labels.csv"
    terminal = on_terminal(
        *("evaluate", small_bundle, "--labels", labels, "--images", poster_folder),
        *("--split", "all", "--include-training", "--bootstrap", "100000"),  # a fast CPU is still at work at Ctrl-C
    )
    terminal.await_text("scoring")
    terminal.press_ctrl_c()
    code, lines = terminal.end()

    assert code == 130, lines
    assert lines[-1] == "genretag: stopped; nothing was finished, the same command starts again"
    assert "Traceback" not in terminal.printed()


def test_bench_shows_its_inner_job_and_ctrl_c_leaves_no_files(on_terminal, many_posters, small_bundle, tmp_path):
    terminal = on_terminal("bench", many_posters, "--output", tmp_path / "out", "--model", small_bundle)
    terminal.await_text("1/7 job")
    terminal.await_text("starting")
    terminal.press_ctrl_c()
    code, lines = terminal.end()

    assert code == 130, lines
    assert lines[-1] == "genretag: stopped; nothing was finished, the same command starts again"
    assert "Traceback" not in terminal.printed()
    assert not list((tmp_path / "out").rglob("*.*"))


def test_ctrl_c_ends_train_with_a_line_that_says_how_to_resume(on_terminal, poster_folder, tmp_path):
    """Ray Train handles Ctrl-C itself, and would end the process without a message."""
    checkpoints = tmp_path / "checkpoints"
    terminal = on_terminal(
        *("train", "--labels", poster_folder.parent / "labels.csv", "--images", poster_folder),
        *("--output", tmp_path / "model", "--checkpoints", checkpoints, "--backbone", "tutorial", "--workers", "1"),
        *("--height", "80", "--width", "80", "--batch-size", "16", "--min-positives", "5", "--epochs", "50"),
    )
    terminal.await_text("epoch 2/")
    terminal.press_ctrl_c()
    code, lines = terminal.end()

    assert code == 130, lines
    assert "✓ decoding     142/142" in "\n".join(lines)
    last = "genretag: stopped; finished epochs are kept, the same command with --resume goes on from there"
    assert lines[-1] == last
    assert "Traceback" not in terminal.printed()
    assert list(checkpoints.glob("run/checkpoint_*"))
