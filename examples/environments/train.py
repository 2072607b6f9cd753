"""Fits a line to noisy points, in whatever environment it is started: by hand, or as a run.

It needs one package, tqdm, besides Python itself.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from tqdm import tqdm

from runyard import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=500, help="passes over the points")
    parser.add_argument("--rate", type=float, default=0.5, help="learning rate")
    args = parser.parse_args()

    run = Run.get_context()
    random.seed(1)
    points = [(x / 50, 3 * x / 50 + 1 + random.gauss(0, 0.05)) for x in range(50)]
    slope = offset = 0.0
    for _ in tqdm(range(args.epochs), desc="training", file=sys.stderr):
        errors = [slope * x + offset - y for x, y in points]
        slope -= (
            args.rate * sum(e * x for e, (x, _) in zip(errors, points, strict=True)) / len(points)
        )
        offset -= args.rate * sum(errors) / len(points)
        run.log("loss", sum(e * e for e in errors) / len(points))

    outputs = Path("outputs")
    outputs.mkdir(exist_ok=True)
    (outputs / "model.json").write_text(json.dumps({"slope": slope, "offset": offset}))
    print(f"y = {slope:.2f} x + {offset:.2f}, by {sys.executable}")


if __name__ == "__main__":
    main()
