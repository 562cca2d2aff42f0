"""Run `genretag evaluate` as a Ray job: `ray job submit -- python jobs/evaluate.py --config nightly.toml`.

All arguments are passed on to the command.
"""

import sys

from genretag.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
