"""A run that is suspended until another run takes the output over ends with exit code 3 and says so.

No row is lost, and none is written twice.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, suppress

import psutil
import pytest
from outputs import rows
from suspended_runs import suspended_run

from genretag.commands import tag as night
from genretag.errors import OutputHeldError
from genretag.output import lock
from genretag.storage import Storage, join

POSTERS = 1500
HOLDER = """
import functools, sys, time
from genretag.errors import OutputHeldError
from genretag.storage import Storage
from genretag.output import lock

lock.output_lock = functools.partial(lock.output_lock, lease_s=1.2)
try:
    with lock.holding_output(sys.argv[1], "20261101T000000Z-aaaa", Storage()):
        print("held", flush=True)
        while True:
            time.sleep(0.1)
except OutputHeldError as lost:
    print(lost)
"""


@pytest.fixture
def many_posters(poster_folder, tmp_path):
    """Return a folder with enough posters that a test can suspend the run while it scores."""
    folder = tmp_path / "images"
    folder.mkdir()
    files = sorted(file for file in poster_folder.rglob("*") if file.is_file())
    for number in range(POSTERS):
        os.link(files[number % len(files)], folder / f"{number}.jpg")
    return folder


def processes_of(job, which):
    """Return the driver of a job if `which` is "driver", otherwise all of its processes."""
    driver = psutil.Process(job.pid)
    return [driver] if which == "driver" else [driver, *driver.children(recursive=True)]


def send(processes, number):
    """Send a signal to those processes that still run."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.mark.parametrize("which", ["driver", "all processes"])
def test_the_suspended_run_ends_with_3_and_names_the_run_that_took_over(
    run, many_posters, small_bundle, tmp_path, which
):
    output = tmp_path / "out"
    options = ("--model", small_bundle, "--rows-per-file", "256", "--no-report")
    job = suspended_run(1, "tag", many_posters, output, *options)
    suspended = processes_of(job, which)
    send(suspended, signal.SIGSTOP)
    try:
        record = run(many_posters, output, break_lock=True)
    finally:
        send(suspended, signal.SIGCONT)
    _, errors = job.communicate(timeout=240)

    assert job.returncode == 3, errors
    assert f"was taken over by run {record.run_id}" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert set(Counter(row["uri"] for row in rows(output)).values()) == {1}
    assert len(rows(output)) == record.listed == POSTERS
    assert [file.parent.name for file in output.glob("runs/*/run.json")] == [record.run_id]


IN_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")  # a script's `command &` ignores Ctrl-C in the same way


@pytest.mark.parametrize("ended", [False, True], ids=["still at work", "done"])
@pytest.mark.parametrize("prefix", [(), IN_BACKGROUND], ids=["in a terminal", "in the background"])
def test_the_run_that_took_over_is_named_while_it_runs_and_after_its_end(tmp_path, prefix, ended):
    output, successor = str(tmp_path / "out"), "20261101T000500Z-bbbb"
    first = subprocess.Popen([*prefix, sys.executable, "-c", HOLDER, output], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGSTOP)
    with ExitStack() as second:
        second.enter_context(lock.output_lock(output, successor, Storage(), pytest.fail, break_lock=True))
        Storage().put(join(output, "runs", successor, "run.json"), b"{}")
        if ended:
            second.close()
        first.send_signal(signal.SIGCONT)
        line, _ = first.communicate(timeout=120)

    by = f"{successor}, which has ended since" if ended else successor
    assert line == f"{output} was taken over by run {by}, this run stops; what it had finished is kept\n"


def test_a_run_that_loses_its_output_after_its_last_file_publishes_no_record(run, few_posters, tmp_path, monkeypatch):
    make_record = night.make_record

    def make_record_and_lose_the_output(*arguments):
        (tmp_path / "out" / lock.LOCK).unlink()
        return make_record(*arguments)

    monkeypatch.setattr(night, "make_record", make_record_and_lose_the_output)
    with pytest.raises(OutputHeldError, match="was taken over"):
        run(few_posters, tmp_path / "out")

    assert not (tmp_path / "out" / "runs").exists()
    assert len(rows(tmp_path / "out")) == 12, "and what it wrote is kept"
