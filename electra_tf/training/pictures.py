"""Pictures of fine-tuning for TensorBoard: the confusion matrix, the learning curve."""

import io

import tensorflow as tf

MOST_LABELS = 60  # Of a confusion matrix; more than that nobody reads.


def write_figure(name, figure, step):
    """Writes a matplotlib `Figure` to the default summary writer."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    image = tf.io.decode_png(png.getvalue(), channels=3)
    tf.summary.image(name, image[None], step=step)


def confusion_matrix(predicted, true, labels):
    """Shares of each true label that were taken for each label, as a `Figure`.

    Args:
      predicted, true: lists of labels.
      labels: all there are, `MOST_LABELS` at most, in the order of rows and columns.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    side = 3.0 + 0.35 * len(labels)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        true,
        predicted,
        labels=labels,
        display_labels=[str(label).replace("$", r"\$") for label in labels],  # Else it is TeX.
        normalize="true",
        values_format=".2f",
        include_values=len(labels) <= 12,
        xticks_rotation="vertical" if len(labels) > 4 else "horizontal",
        cmap="Blues",
        ax=figure.subplots(),
    )
    return figure


def learning_curve(lines, metric):
    """Training and dev loss, and the dev metric, over steps, as a `Figure`.

    Args:
      lines: list of dicts of `metrics.jsonl`.
      metric: name of the dev metric.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for split in ("train", "eval"):
        chosen = [line for line in lines if line["split"] == split]
        steps = [line["step"] for line in chosen]
        losses.plot(steps, [line["loss"] for line in chosen], label=split)
        if split == "eval":
            scores.plot(steps, [line[metric] for line in chosen], "o-")
    losses.set(xlabel="step", ylabel="loss")
    losses.legend()
    scores.set(xlabel="step", ylabel=f"dev {metric}")
    return figure
