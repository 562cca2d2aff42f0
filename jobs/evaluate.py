"""Entry point for `ray job submit -- python jobs/evaluate.py --config nightly.toml`: the evaluate command, as it is."""

import sys

from genretag.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
