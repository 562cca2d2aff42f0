"""Run the `genretag` command as `python -m genretag`, for a cluster that has a known Python but no script path."""

from genretag.cli import main

if __name__ == "__main__":
    main()
