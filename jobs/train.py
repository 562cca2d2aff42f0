"""Entry point for `ray job submit -- python jobs/train.py --config nightly.toml`: the train command, as it is."""

import sys

from genretag.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
