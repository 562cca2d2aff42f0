"""A local Ray starts on a busy machine too, and its end neither garbles an output nor keeps the command from ending."""

import subprocess
import sys

SLOW = """
import subprocess, sys
import ray
from genretag.errors import JobError
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session

slow_starts, init, started = int(sys.argv[1]), ray.init, []

def init_or_give_up(**options):
    if len(started) == slow_starts:
        return init(**options)
    started.append(subprocess.Popen(["sleep", "1000"]))  # Ray leaves its processes behind
    raise Exception("The current node timed out during startup.")  # as Ray's Node does after 30 s

ray.init = init_or_give_up
try:
    with ray_session(Session()) as cluster:
        print("nodes:", cluster.nodes)
except JobError as error:
    print(error)
print([process.wait(60) for process in started])
"""

SIGTERM_WHILE_IT_STARTS = """
import os, signal, time
from ray._private.node import Node
from genretag import cli

def start(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

Node.__init__ = start
cli.run_and_exit()
"""


def run(script, *arguments):
    line = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_a_ray_that_does_not_start_in_time_is_started_again():
    ended = run(SLOW, 2)

    assert ended.stdout.splitlines() == ["nodes: 1", "[-9, -9]"], ended.stderr
    assert ended.stderr.count("Ray did not start here in time, because the machine is busy: trying again") == 2


def test_after_three_starts_the_command_gives_up():
    ended = run(SLOW, 3)

    said, started = ended.stdout.splitlines()
    assert said == "Ray did not start here in time: the machine is too busy, run the same command again"
    assert started == "[-9, -9, -9]", "none of Ray's processes is left"


def test_sigterm_while_ray_starts_ends_the_command_as_at_any_time(few_posters, tmp_path):
    ended = run(SIGTERM_WHILE_IT_STARTS, "tag", few_posters, tmp_path / "genres")

    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("genretag: stopped; ")
    assert "Traceback" not in ended.stderr


WORKS_FIRST = """
import sys
from pathlib import Path
import ray
from genretag import cli

shutdown = ray.shutdown

def tell():
    print("shut down, records:", len(list(Path(sys.argv[3]).glob("runs/*/run.html"))), ray.is_initialized())
    shutdown()

ray.shutdown = tell
cli.run_and_exit()
"""

HANGS_AT_ITS_EXIT = """
import ctypes, sys
import ray
from genretag import cli

library = ctypes.CDLL(None)
library["__cxa_atexit"](library.pause, None, None)  # as Ray's own exit handler may
cli.run_and_exit()
"""


def test_ray_is_shut_down_after_everything_is_written(few_posters, tmp_path):
    """Ray's shutdown can garble the memory of the process."""
    ended = run(WORKS_FIRST, "tag", few_posters, tmp_path / "genres")

    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stdout.splitlines() if "shut down" in line] == ["shut down, records: 1 True"]


def test_a_process_whose_exit_handlers_hang_ends_with_its_exit_code(few_posters, tmp_path):
    assert run(HANGS_AT_ITS_EXIT, "tag", few_posters, tmp_path / "genres").returncode == 0
    assert run(HANGS_AT_ITS_EXIT, "tag", tmp_path / "none", tmp_path / "genres").returncode == 2
