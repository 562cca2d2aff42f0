"""Entry point for `ray job submit -- python jobs/tag.py --config nightly.toml`: the tag command, as it is."""

import sys

from genretag.cli import main

if __name__ == "__main__":
    main(["tag", *sys.argv[1:]])
