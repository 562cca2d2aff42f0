"""Run the `genretag` command as `python -m genretag`, as on a cluster whose nodes lack the script `genretag`."""

from genretag.cli import run_and_exit

if __name__ == "__main__":
    run_and_exit()
