"""Draw labelled pictures of clothes into FOLDER: `clothes/*.png`, and `labels.csv` with the type and the colour."""

import argparse
from pathlib import Path

from genretag.demo.posters import draw_clothes, labels_csv


def main() -> None:
    """Read the command line, draw, and print what there is now."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures and labels.csv go")
    parser.add_argument("--count", type=int, default=600, help="number of pictures (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other pictures (default: 0)")
    arguments = parser.parse_args()

    pieces = list(draw_clothes(arguments.count, arguments.seed))
    (arguments.folder / "clothes").mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        (arguments.folder / piece.key).write_bytes(piece.data)
    (arguments.folder / "labels.csv").write_text(labels_csv(pieces))
    print(f"{len(pieces)} pictures in {arguments.folder}/clothes, their labels in {arguments.folder}/labels.csv")


if __name__ == "__main__":
    main()
