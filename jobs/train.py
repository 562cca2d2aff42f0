"""Run `genretag train` as a Ray job: `ray job submit -- python jobs/train.py --config nightly.toml`.

All arguments are passed on to the command.
"""

import sys

from genretag.cli import run_and_exit

if __name__ == "__main__":
    run_and_exit(["train", *sys.argv[1:]])
