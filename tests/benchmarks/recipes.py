"""Train every recipe of `genretag train` on the same split, and compare it with the null model.

    python tests/benchmarks/recipes.py --labels train.csv --images images --output models [--recipes fine-tune lite2]

The result is the table of docs/training.md. Trains each recipe with the command that a user would run (`--option
name=value` adds options), evaluates it on its test split, and prints a row. Parentheses hold 95 % bootstrap intervals.
If `--output` already has the bundle of a recipe, the recipe is not trained again. Minutes are those of training alone
on this machine, and depend on its other work.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from genretag.training.settings import RECIPES

FIGURES = ("macro_map", "micro_ap", "micro_f1:balanced", "macro_f1:balanced", "hit_at_3", "bce", "ece")
GENRETAG = (sys.executable, "-m", "genretag.cli")


def main() -> None:
    """Train, evaluate and print each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--option", nargs="*", default=[], help="of train, as name=value")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print("| recipe | minutes | posters | labels | macro mAP | micro AP | micro F1 | macro F1 | hit@3 | BCE | ECE |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.recipes:
        data = ["--labels", options.labels, "--images", options.images]
        found = _measured(name, options.output / name, data, [f"--{option}" for option in options.option])
        size = f"{found['posters']:,} | {len(found['labels'])}"
        print(f"| null | 0 | {size} | " + " | ".join(_null(found, figure) for figure in FIGURES) + " |")
        cells = " | ".join(_figure(found, figure) for figure in FIGURES)
        print(f"| {name} | {found['minutes']} | {size} | {cells} |", flush=True)


def _measured(recipe: str, bundle: Path, data: list[str], options: list[str]) -> dict:
    """Return the evaluation of a bundle, and the minutes that its training took."""
    minutes = bundle.with_suffix(".minutes")
    if not (bundle / "bundle.json").exists():
        began = time.monotonic()
        command = [*GENRETAG, "train", "--recipe", recipe, *data, "--output", str(bundle), *options]
        subprocess.run(command, check=True, stdout=sys.stderr)
        minutes.write_text(f"{(time.monotonic() - began) / 60:.0f}")
    figures = bundle.with_suffix(".json")
    subprocess.run([*GENRETAG, "evaluate", str(bundle), *data, "--json", str(figures)], check=True, stdout=sys.stderr)
    return {**json.loads(figures.read_text()), "minutes": minutes.read_text()}


def _figure(found: dict, name: str) -> str:
    figure = found["figures"][name]
    value, estimate, low, high = (_short(figure[part], name) for part in ("value", "estimate", "low", "high"))
    return f"{value} ({low}–{high})" if estimate == value else f"{value}; estimate {estimate} ({low}–{high})"


def _null(found: dict, name: str) -> str:
    return _short(found["figures"][name]["null"], name)


def _short(value: float, name: str) -> str:
    digits = 4 if name in ("bce", "ece") else 3
    return f"{value:.{digits}f}".removeprefix("0")


if __name__ == "__main__":
    main()
