"""Run the `genretag` command as `python -m genretag`, as on a cluster whose nodes lack the script `genretag`."""

from genretag.cli import main

if __name__ == "__main__":
    main()
