"""Runs of `genretag tag` that suspend themselves between two part files, so that a test can kill them there."""

import subprocess
import sys
import time

# isort: split
import psutil

RUN_TIMEOUT_S = 240
SUSPENDS_ITSELF = """
import os, signal, sys
from genretag import cli
from genretag.output.part_files import PartFiles

left, put = int(sys.argv.pop(1)), PartFiles._put

def put_or_suspend(*arguments):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGSTOP)
    left -= 1
    return put(*arguments)

PartFiles._put = put_or_suspend
cli.run_and_exit()
"""


def suspended_run(part_files, *arguments):
    """Start `genretag` with these arguments, and return its process, suspended after it wrote that many part files.

    Fail if the run ends before. Its other processes, such as Ray's, are not suspended. Only the process of the command
    must write part files, as it does for up to 10,000 posters.
    """
    line = [sys.executable, "-c", SUSPENDS_ITSELF, str(part_files), *map(str, arguments)]
    job = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while psutil.Process(job.pid).status() != psutil.STATUS_STOPPED:
        assert job.poll() is None, f"the run ended before it was suspended: {job.stderr.read()}"
        assert time.monotonic() < deadline, "the run was not suspended in time"
        time.sleep(0.05)
    return job
