"""Ctrl-C and SIGTERM end a command, whatever the command does when the signal arrives."""

import subprocess
import sys

import pytest

SIGNAL_IN_A_DESTRUCTOR = """
import os, signal, sys, time
from genretag.runtime.stopping import Terminated, end_on_sigterm, losing_no_signal

class Dying:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(10)  # the signal raises an exception here, which Python ignores

number = signal.Signals[sys.argv[1]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with SIGINT ignored
end_on_sigterm()
try:
    with losing_no_signal():
        Dying()
        time.sleep(10)
        print("went on")
except Terminated:
    print("Terminated")
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""

OTHER_ERROR = """
from genretag.runtime.stopping import losing_no_signal

class Dying:
    def __del__(self):
        raise ValueError("told")

with losing_no_signal():
    Dying()
print("went on")
"""

WHILE_RAY_IS_IMPORTED = """
import signal, sys
from pathlib import Path
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session
from genretag.runtime.stopping import Terminated, end_on_sigterm

# A package in Ray's place, which drops exceptions while it is imported, as modules made with Cython do.
ray = Path(sys.argv[2], "ray")
ray.mkdir()
(ray / "__init__.py").write_text(f'''
import os, signal, time
try:
    os.kill(os.getpid(), signal.{sys.argv[1]})
    time.sleep(0.2)
except BaseException:
    pass
is_initialized = lambda: print("went on")
''')
sys.path.insert(0, sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)
end_on_sigterm()
try:
    with ray_session(Session()):
        print("went on")
except Terminated:
    print("Terminated")
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""

AFTERWARDS = """
import os, signal, sys, time
from genretag.runtime.stopping import losing_no_signal

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

signal.signal(signal.SIGINT, signal.default_int_handler)
hook = sys.unraisablehook
with losing_no_signal():
    Dying()  # the block ends before the exception is raised again
time.sleep(0.2)
print(sys.unraisablehook is hook)
"""


def run(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)


@pytest.mark.parametrize(("signal", "raised"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_a_signal_that_arrives_where_python_ignores_exceptions_is_raised_afterwards(signal, raised):
    ended = run(SIGNAL_IN_A_DESTRUCTOR, signal)

    assert ended.stdout.strip() == raised
    assert ended.stderr == ""


@pytest.mark.parametrize(("signal", "raised"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_a_signal_that_arrives_while_ray_is_imported_is_raised_afterwards(signal, raised, tmp_path):
    assert run(WHILE_RAY_IS_IMPORTED, signal, str(tmp_path)).stdout.strip() == raised


def test_other_exceptions_that_python_ignores_are_still_printed():
    ended = run(OTHER_ERROR)

    assert ended.stdout.strip() == "went on"
    assert "ValueError: told" in ended.stderr


def test_after_the_block_nothing_is_raised_any_more():
    ended = run(AFTERWARDS)

    assert (ended.stdout.strip(), ended.stderr) == ("True", "")
