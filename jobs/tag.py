"""Run `genretag tag` as a Ray job: `ray job submit -- python jobs/tag.py --config nightly.toml`.

All arguments are passed on to the command.
"""

import sys

from genretag.cli import main

if __name__ == "__main__":
    main(["tag", *sys.argv[1:]])
