"""Handwritten digits as sequences: eight steps (the rows, from the top) of eight pixels, into ten classes.

The classifier reads an image row by row. A third of the images is held out; what is printed and drawn is about that
third: the accuracy, how it grows with the rows that have been read, and the images that are misread.

    python examples/digits.py [FOLDER]      # the picture goes to FOLDER/digits.png (this folder)
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

    # The same network, trained on images that end after one to eight rows: a list of sequences of different lengths.
    ends = [1 + i % 8 for i in range(len(X))]
    cut = [image[:end] for image, end in zip(X, ends, strict=True)]
    partial = GRUClassifier(bidirectional=True, dropout=0.3, epochs=80, random_state=0).fit([*cut, *X], [*y, *y])
    read = [partial.score(X_test[:, :rows], y_test) for rows in range(1, 9)]

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    axes = left.subplots()
    axes.plot(range(1, 9), read, marker="o")
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
