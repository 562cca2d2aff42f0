"""Run `genretag tag` as a Ray job: `ray job submit -- python jobs/tag.py --config nightly.toml`.

All arguments are passed on to the command.
"""

import sys

from genretag.cli import run_and_exit

if __name__ == "__main__":
    run_and_exit(["tag", *sys.argv[1:]])
