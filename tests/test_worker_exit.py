"""No worker process outlives its job. A worker that hangs while it exits is killed; old ones are reported."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import ray

from genretag.runtime import worker
from genretag.runtime.stopping import leftovers, warn_of_leftovers

DEADLINE_S = 60  # generous: on an idle machine, 5 s are enough


@contextmanager
def a_worker_without_its_raylet():
    """Start a process that is named like a Ray worker, and whose raylet has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    environment = os.environ | {"RAY_RAYLET_PID": str(ended.pid)}
    process = subprocess.Popen(["bash", "-c", "exec -a ray::MapWorker sleep 600"], env=environment)
    try:
        while not "".join(psutil.Process(process.pid).cmdline()[:1]).startswith("ray::"):
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_actor_that_hangs_while_it_exits_is_ended(ray_cluster):
    class Hanging:  # local, so that Ray pickles the class: a worker cannot import this file
        def prepare(self):
            """Make this process hang in an exit handler of the C library, after Python has ended."""
            library = ctypes.CDLL(None)
            library["__cxa_atexit"](library.pause, None, None)
            return os.getpid()

    actor = ray.remote(num_cpus=0)(Hanging).remote()
    process = psutil.Process(ray.get(actor.prepare.remote()))

    del actor

    process.wait(DEADLINE_S)  # raises TimeoutExpired if the process still runs


def test_a_worker_whose_ray_has_ended_is_named(caplog):
    with a_worker_without_its_raylet() as worker:
        found = leftovers()
        warn_of_leftovers(found)

    assert worker.pid in [process.pid for process in found]
    assert f" {worker.pid}" in caplog.text
    assert "1 worker" in caplog.text or len(found) > 1


def test_workers_of_a_running_ray_are_not_named(ray_cluster):
    busy = ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote())

    assert busy not in [process.pid for process in leftovers()]


def test_workers_of_a_ray_in_a_container_are_not_named(tmp_path):
    """Here, their raylet has another process id than in the container."""
    raylet = tmp_path / "raylet"
    raylet.symlink_to(shutil.which("bash"))
    command = [raylet, "-c", "(exec -a ray::MapWorker sleep 600) & echo $!; wait"]
    with subprocess.Popen(command, env=os.environ | {"RAY_RAYLET_PID": "2"}, stdout=subprocess.PIPE) as process:
        worker = psutil.Process(int(process.stdout.readline()))
        try:
            while not "".join(worker.cmdline()[:1]).startswith("ray::"):
                time.sleep(0.01)
            found = leftovers()
        finally:
            worker.kill()

    assert worker.pid not in [process.pid for process in found]


def test_a_worker_that_ends_meanwhile_is_not_named(caplog):
    with a_worker_without_its_raylet() as worker:
        found = [process for process in leftovers() if process.pid == worker.pid]
    warn_of_leftovers(found)

    assert found
    assert not caplog.text


NO_HOME = """
import os, pwd
pwd.getpwuid = {}.__getitem__  # the user is not in /etc/passwd
assert os.path.expanduser("~") == "~"
from genretag.runtime import worker
worker.prepare()
print(os.environ["HOME"])
"""


def test_a_worker_of_a_user_without_a_home_gets_one():
    """In a container with an arbitrary user id, HOME may not be set."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}

    done = subprocess.run([sys.executable, "-c", NO_HOME], capture_output=True, text=True, env=environment, check=True)

    assert done.stdout == "/\n"
    assert f"{worker.prepare.__module__}.{worker.prepare.__name__}" == worker.HOOK
