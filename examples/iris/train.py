"""Trains a forest on the iris data: by hand with `python train.py`, or as a run."""

import argparse
from pathlib import Path

import joblib
import matplotlib

matplotlib.use("Agg")  # no display on a training machine
import matplotlib.pyplot as plt
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score
from sklearn.model_selection import train_test_split

from runyard import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=50, help="trees in the forest")
    parser.add_argument("--max-depth", type=int, default=None, help="depth of a tree")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the forest")
    args = parser.parse_args()

    run = Run.get_context()
    iris = load_iris()
    x_train, x_test, y_train, y_test = train_test_split(
        iris.data, iris.target, test_size=0.33, random_state=args.seed, stratify=iris.target
    )
    print(f"training on {len(x_train)} flowers, testing on {len(x_test)}")

    model = RandomForestClassifier(
        n_estimators=0, max_depth=args.max_depth, random_state=args.seed, warm_start=True
    )
    for trees in range(10, args.trees + 1, 10):
        model.set_params(n_estimators=trees).fit(x_train, y_train)
        accuracy = accuracy_score(y_test, model.predict(x_test))
        run.log("accuracy_by_trees", accuracy)
        print(f"{trees:4d} trees: accuracy {accuracy:.3f}")
    run.log("accuracy", accuracy)

    outputs = Path("outputs")
    outputs.mkdir(exist_ok=True)
    joblib.dump(model, outputs / "model.joblib")
    ConfusionMatrixDisplay.from_estimator(model, x_test, y_test, display_labels=iris.target_names)
    plt.savefig(outputs / "confusion.png", dpi=120, bbox_inches="tight")
    print("model and plot are in outputs/")


if __name__ == "__main__":
    main()
