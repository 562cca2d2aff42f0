"""The CPU quota of the control group limits threads and actors, and a local Ray finds a short path for its sockets."""

import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from genretag.errors import UsageError
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.engines import open_engine
from genretag.runtime import ray_session as ray_folder
from genretag.runtime.cpus import cpu_quota, cpus_here
from genretag.runtime.ray_session import Cluster
from genretag.scoring.actor_plan import plan_actors
from genretag.scoring.reader import PosterReader
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage

V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 23 0:27 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "32 23 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n22 1 8:1 / / rw - ext4 /dev/sda rw\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that writes fake /proc and /sys trees of a machine with 64 CPUs, and returns their root.

    `mounts` and `group` are the content of mountinfo and cgroup. `files` are below /sys/fs/cgroup.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(64), raising=False)

    def make(mounts, group, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/mountinfo").write_text(mounts + OTHER)
        (tmp_path / "proc/self/cgroup").write_text(group)
        for name, text in files.items():
            file = tmp_path / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        return tmp_path

    return make


def v1(folder, quota, period=100_000):
    """Return the files of a version 1 control group with a quota in microseconds per period."""
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("mounts", "group", "files", "quota", "cpus"),
    [
        (V2.format(top="/"), "0::/\n", {}, math.inf, 64),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "max 100000"}, math.inf, 64),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "400000 100000"}, 4.0, 4),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "150000 100000"}, 1.5, 2),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "10000 100000"}, 0.1, 1),
        (V2.format(top="/"), "0::/\n", {"cpu.max": "9000000 100000"}, 90.0, 64),
        (V2.format(top="/"), "0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0, 2),
        (V2.format(top="/"), "0::/a/b\n", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "50000 25000"}, 2.0, 2),
        (V2.format(top="/pod/box"), "0::/pod/box\n", {"cpu.max": "300000 100000"}, 3.0, 3),
        (V2.format(top="/"), "0::/host/only/there\n", {"cpu.max": "300000 100000"}, 3.0, 3),
        (V2.format(top="/"), "0::/\nno line of ours\n", {"cpu.max": "who knows"}, math.inf, 64),
        (V1.format(top="/"), "4:cpu,cpuacct:/\n3:memory:/\n", v1("cpu,cpuacct", -1), math.inf, 64),
        (V1.format(top="/"), "4:cpu,cpuacct:/a/b\n", v1("cpu,cpuacct/a", 250_000), 2.5, 3),
        (V1.format(top="/docker/1"), "4:cpu,cpuacct:/docker/1\n", v1("cpu,cpuacct", 20_000, 10_000), 2.0, 2),
        (V1.format(top="/") + V2.format(top="/"), "4:cpu,cpuacct:/a\n0::/\n", v1("cpu,cpuacct/a", 100_000), 1.0, 1),
    ],
    ids=[
        "no file", "no limit", "4", "1.5", "0.1", "more than there are", "of the group above", "the smaller of two",
        "seen from inside", "a path of the host", "of another kernel",
        "v1: no limit", "v1: of the group above", "v1: seen from inside",
        "both versions",
    ],
)  # fmt: skip
def test_the_quota_is_the_smallest_of_the_group_and_its_parents(machine, mounts, group, files, quota, cpus):
    root = machine(mounts, group, files)

    assert (cpu_quota(root), cpus_here(root)) == (quota, cpus)


def test_without_proc_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) == math.inf


def test_threads_of_engine_and_decoder_follow_the_quota(monkeypatch):
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    plan = plan_actors(Cluster(1.0, 0), TagSettings(), bundle)
    assert (plan.engine_threads, plan.predict_actors) == (1, 1)

    monkeypatch.setattr("genretag.model.engines.cpus_here", lambda: 1)
    monkeypatch.setattr("genretag.scoring.reader.cpus_here", lambda: 1)
    engine = open_engine("openvino", bundle, batch_size=1, threads=4)
    assert engine._requests[0].get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1
    assert PosterReader(Storage(), bundle.rule, threads=16)._decoding._value == 2


@pytest.mark.slow
def test_a_local_ray_runs_with_a_quota_a_long_tmpdir_and_a_user_without_name_and_home(tmp_path):
    """Ray runs in a child process with a quota, a long TMPDIR, and a user without a name and a home.

    The control group and the user namespace are made only if this machine allows that.
    """
    limits = {"cpu.cfs_quota_us": "100000", "cpu.max": "100000 100000"}
    group = Path(f"/sys/fs/cgroup/cpu/genretag-test-{os.getpid()}")
    enter = "true"
    try:
        group.mkdir()
        limit = next(name for name in limits if (group / name).exists())
        (group / limit).write_text(limits[limit])
        enter = f"echo $$ > {group}/cgroup.procs"
    except (OSError, StopIteration):
        pass  # no root or no such tree: test without a quota
    long = tmp_path / ("it's long" * 10)
    long.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        "import ray\n"
        "from genretag.runtime.ray_session import ray_session\n"
        "from genretag.runtime.session import Session\n"
        "with ray_session(Session(quiet=True)) as cluster:\n"
        "    print(cluster.cpus, ray.cluster_resources()['CPU'])\n"
    )
    without = ("RAY_TMPDIR", "HOME", "USER", "LOGNAME")
    environment = {name: value for name, value in os.environ.items() if name not in without} | {"TMPDIR": str(long)}
    nobody = "unshare --user --map-user=54321"
    if subprocess.run([*nobody.split(), "true"], capture_output=True).returncode:
        nobody = ""
    try:
        line = ["sh", "-c", f"{enter} && exec {nobody} {sys.executable} {script}"]
        ended = subprocess.run(line, capture_output=True, text=True, env=environment)
    finally:
        if enter != "true":
            _remove(group)

    cpus = 1 if enter != "true" else cpus_here()
    assert ended.stdout.split() == [str(cpus), str(4.0 * cpus)], ended.stderr
    assert list((long / "ray").glob("session_*/logs")), "Ray's files are where TMPDIR says"


def _remove(group, deadline_s=30):
    """Remove a control group. Ray's last processes may still be in it: they are moved to the group above."""
    began = time.monotonic()
    while group.is_dir() and time.monotonic() < began + deadline_s:
        for number in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (group.parent / "cgroup.procs").write_text(number)
        with suppress(OSError):  # the group is busy until its last process has left
            group.rmdir()


def test_without_a_short_folder_for_sockets_the_error_names_ray_tmpdir(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    monkeypatch.setattr(ray_folder, "SHORT_PLACES", (str(tmp_path / "nowhere"),))

    with pytest.raises(UsageError, match="set RAY_TMPDIR to one that can be written, of at most 3"):
        ray_folder.ray_folder().__enter__()


def test_ray_s_own_folder_is_used_if_its_path_is_short(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")

    with ray_folder.ray_folder() as folder:
        assert folder is None
