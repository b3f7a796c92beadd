"""Classify handwritten digits as sequences of eight steps (the rows, from the top) of eight pixels.

A third of the images is held out for testing. The example prints the accuracy on them, and draws how the accuracy grows
with the number of rows read, and some misread images.

    python examples/digits.py [FOLDER]      # writes FOLDER/digits.png; default: the current folder
"""

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from headgate import GRUClassifier


def main(folder: Path) -> float:
    images, labels = load_digits().images, load_digits().target  # (1797, 8, 8), (1797,)
    X, X_test, y, y_test = train_test_split(images, labels, test_size=1 / 3, random_state=0, stratify=labels)
    classifier = GRUClassifier(bidirectional=True, dropout=0.3, epochs=40, random_state=0, verbose=1).fit(X, y)
    accuracy = classifier.score(X_test, y_test)
    print(f"accuracy {accuracy:.4f} over {len(y_test)} images not trained on")

    # The same network, trained also on images cut after one to eight rows: sequences of different lengths, in a list.
    ends = [1 + i % 8 for i in range(len(X))]
    cut = [image[:end] for image, end in zip(X, ends, strict=True)]
    partial = GRUClassifier(bidirectional=True, dropout=0.3, epochs=80, random_state=0).fit([*cut, *X], [*y, *y])
    accuracies = [partial.score(X_test[:, :rows], y_test) for rows in range(1, 9)]

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    axes = left.subplots()
    axes.plot(range(1, 9), accuracies, marker="o")
    axes.set(xlabel="rows read, from the top", ylabel="accuracy", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    predicted = classifier.predict(X_test)
    wrong = [i for i in range(len(y_test)) if predicted[i] != y_test[i]][:12]
    right.suptitle("misread", fontsize="medium")
    for axes, i in zip(right.subplots(3, 4, squeeze=False).flat, [*wrong, *[None] * (12 - len(wrong))], strict=True):
        axes.axis("off")
        if i is not None:
            axes.imshow(X_test[i], cmap="Greys")
            axes.set_title(f"{y_test[i]} as {predicted[i]}", fontsize="small")
    FigureCanvasAgg(figure).print_png(str(folder / "digits.png"))
    return accuracy


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
