"""`python -m genretag` is the `genretag` command, for places where only the Python of a cluster is known."""

from genretag.cli import main

if __name__ == "__main__":
    main()
