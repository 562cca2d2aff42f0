"""Entry point for `ray job submit -- python jobs/train.py [options]`: the train command, as it is."""

import sys

from genretag.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
