"""What TensorBoard shows of an evaluation beside its curves.

The functions write to the default summary writer.
"""

import io
import math
import unicodedata
import warnings

import numpy as np
import tensorflow as tf

from electra_tf.training.metrics import majority_baseline, ratio

# Of the token's probability of being replaced; Markdown in TensorBoard cannot colour its text.
_SQUARES = ((0.75, "🟥"), (0.5, "🟧"), (0.25, "🟨"), (0.0, "🟩"))

_LINE_WIDTH = 110  # Characters of the page.
_CHARACTER_INCHES, _LINE_INCHES, _FONT_POINTS = 0.078, 0.19, 9.0


def write_examples(views, step):
    """Writes a page of examples, as a picture and as Markdown (`examples/page`, `examples/table`).

    Args:
      views: list of lists of `examples.TokenView`.
      step: int.
    """
    from tensorboard.plugins.image import metadata

    page, png = draw_page(views), io.BytesIO()
    page.save(png, "png")
    # TensorBoard's own function would write all colours, ten times the bytes.
    tf.summary.write(
        "examples/page",
        tf.constant([str(page.width), str(page.height), png.getvalue()]),
        step=step,
        metadata=metadata.create_summary_metadata(
            "examples/page",
            "Held-out text as the discriminator reads it, and what the generator proposed.",
        ),
    )
    tf.summary.text("examples/table", markdown_page(views), step=step)


def markdown_page(views):
    """A table for each example: a row a hidden token, and one a token that is suspected wrongly."""
    lines = [
        "The square is the discriminator's probability that the token was replaced: "
        + ", ".join(f"{square} from {bound:g}" for bound, square in reversed(_SQUARES))
        + ".",
        "",
    ]
    for number, tokens in enumerate(views, 1):
        lines += [f"### Example {number}", ""]
        lines += [" ".join(f"{_square(token)}{_code(_word(token))}" for token in tokens), ""]
        lines += [
            "| original | generator's proposals | sampled | was it replaced? | discriminator |",
            "|---|---|---|---|---|",
        ]
        for token in tokens:
            if token.is_hidden or token.probability >= 0.5:
                proposals = ", ".join(f"{_code(piece)} {p:.2f}" for piece, p in token.proposals)
                lines.append(
                    f"| {_code(token.original)} | {proposals or 'not hidden'} | {_code(token.shown)} "
                    f"| {'yes' if token.is_replaced else 'no'} | {_square(token)} "
                    f"{token.probability:.2f} |"
                )
        lines.append("")
    return "\n".join(lines)


def _square(token):
    found = (square for bound, square in _SQUARES if token.probability >= bound)
    return next(found, "⬜")  # Not a number.


def _code(piece):
    """A piece as Markdown code, in which a bar would end the cell and a backtick the code."""
    return "`" + piece.replace("|", "¦").replace("`", "´") + "`"


def _word(token):
    return f"{token.shown} ← {token.original}" if token.is_replaced else token.shown


def draw_page(views):
    """The page as a `PIL.Image` of few colours.

    Each example is written as the discriminator read it, the redder the likelier replaced; below
    stand the hidden tokens with the generator's proposals.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    rows, families = list(_page_rows(views)), _font_families()
    figure = Figure(
        figsize=((_LINE_WIDTH + 2) * _CHARACTER_INCHES, (len(rows) + 1) * _LINE_INCHES), dpi=100
    )
    axes = figure.add_axes([0, 0, 1, 1])
    axes.set(xlim=(-1, _LINE_WIDTH + 1), ylim=(len(rows) + 0.5, -0.5))
    axes.axis("off")
    for y, row in enumerate(rows):
        x = 0
        for text, probability, is_bold in row:
            width = _columns(text)
            box = None
            if probability is not None and not math.isnan(probability):
                fade = 1.0 - 0.85 * probability
                box = {"facecolor": (1.0, fade, fade), "edgecolor": "none", "pad": 1.0}
            axes.text(
                x,
                y,
                text.replace("$", r"\$"),
                family=families,
                size=_FONT_POINTS,
                weight="bold" if is_bold else "normal",
                verticalalignment="center",
                bbox=box,
            )
            x += width + 1
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A script that no installed font has is drawn as boxes; the table beside shows it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()).quantize(48)


def _page_rows(views):
    """Yields lists of `(text, probability or None, is_bold)`, one a line of the page."""
    yield [("The redder, the likelier replaced. Bold: replaced indeed, by ← of.", None, False)]
    for number, tokens in enumerate(views, 1):
        yield []
        yield [(f"Example {number}", None, True)]
        row, width = [], 0
        for token in tokens:
            columns = _columns(_word(token)) + 1
            if row and width + columns > _LINE_WIDTH:
                yield row
                row, width = [], 0
            row.append((_word(token), token.probability, token.is_replaced))
            width += columns
        yield row
        for token in filter(lambda token: token.is_hidden, tokens):
            proposals = ", ".join(f"{piece} {p:.2f}" for piece, p in token.proposals)
            yield [
                (_pad(f"  original {token.original}", 28), None, False),
                (_pad(f"proposed {proposals}", 52), None, False),
                (f"sampled {token.shown}", token.probability, token.is_replaced),
            ]


def _columns(text):
    """Columns of a text in a font of fixed width, in which Chinese takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text, columns):
    return text + " " * (columns - _columns(text))


def _font_families():
    """Fonts of fixed width that are installed: one of them may have Chinese."""
    from matplotlib import font_manager

    wanted = ("DejaVu Sans Mono", "Noto Sans Mono CJK SC", "WenQuanYi Zen Hei Mono", "Unifont")
    installed = set(font_manager.get_font_names())
    return [name for name in wanted if name in installed]


# Accuracy by token frequency.


def accuracy_by_frequency(by_token, token_counts):
    """How well both networks do at the hidden tokens, by how frequent the token is.

    Args:
      by_token: dict of arrays [vocab_size], sums at the hidden positions: `masked`,
        `masked_lm_correct`, `disc_correct`.
      token_counts: how often each token stands in some training text, array [vocab_size].

    Returns:
      list of dicts: `left` and `right`, the bounds of log10 of the token's share of the text;
      `masked`; `masked_lm_accuracy`; `disc_accuracy`. The first one, of tokens that were not seen,
      ends where a count of one begins. A frequency at which nothing was hidden is left out.
    """
    total = token_counts.sum()
    with np.errstate(divide="ignore"):
        decades = np.floor(np.log10(token_counts / total))
    rarest = np.floor(np.log10(1.0 / total))
    decades = np.where(token_counts > 0, decades, rarest - 1)
    bins = []
    for left in np.unique(decades):
        sums = {name: values[decades == left].sum() for name, values in by_token.items()}
        if sums["masked"]:
            bins.append(
                {
                    "left": float(left),
                    "right": float(left + 1),
                    "masked": float(sums["masked"]),
                    "masked_lm_accuracy": float(sums["masked_lm_correct"] / sums["masked"]),
                    "disc_accuracy": float(sums["disc_correct"] / sums["masked"]),
                }
            )
    return bins


def write_accuracy_by_frequency(bins, step):
    """Writes both accuracies as histograms over log10 of the frequency: the height is the accuracy.

    Args:
      bins: from `accuracy_by_frequency`.
      step: int.
    """
    from tensorboard.plugins.histogram import metadata

    for name, network in (("masked_lm_accuracy", "generator"), ("disc_accuracy", "discriminator")):
        # TensorBoard's own function counts values; these heights are no counts.
        tf.summary.write(
            f"accuracy_by_frequency/{name}",
            tf.constant([[b["left"], b["right"], b[name]] for b in bins], tf.float64),
            step=step,
            metadata=metadata.create_summary_metadata(
                f"accuracy_by_frequency/{name}",
                f"Share of the hidden tokens that the {network} got right, by log10 of the "
                "token's share of the training text.",
            ),
        )


# The balance of the two networks.

_BALANCE_CHARTS = {
    "how good each one is": [
        "masked_lm_accuracy",
        "sampled_masked_lm_accuracy",
        "disc_auc",
        "disc_recall",
    ],
    "what the discriminator has to learn from": ["replaced_rate"],
    "share of the loss that is the generator's": ["generator_share_of_loss"],
    "disc_loss over the majority baseline's": ["disc_loss_over_baseline"],
}


def balance(metrics, gen_weight, generator_loss="masked_lm_loss"):
    """The figures of the generator/discriminator balance, dict of float.

    Args:
      metrics: evaluation line of `metrics.jsonl`.
      gen_weight: of the configuration.
      generator_loss: name of the loss that the weight is of; None where the generator has none.
    """
    _, baseline = majority_baseline(metrics["replaced_rate"])
    return {
        **{name: metrics[name] for name in _BALANCE_CHARTS["how good each one is"]},
        "replaced_rate": metrics["replaced_rate"],
        "generator_share_of_loss": ratio(
            gen_weight * metrics[generator_loss] if generator_loss else 0.0, metrics["loss"]
        ),
        "disc_loss_over_baseline": ratio(metrics["disc_loss"], baseline),
    }


def write_balance(metrics, config, step):
    """Writes `balance` as scalars, for the page "Custom scalars" with a chart for each question."""
    generator_loss, _ = config.generator_loss or (None, None)
    for name, value in balance(metrics, config.gen_weight, generator_loss).items():
        tf.summary.scalar(f"balance/{name}", np.asarray(value), step=step)  # Else kept (see loop).


def write_balance_layout():
    """Says which of the balance's figures TensorBoard draws together."""
    from tensorboard.plugins.custom_scalar import layout_pb2, summary

    charts = [
        layout_pb2.Chart(
            title=title,
            multiline=layout_pb2.MultilineChartContent(tag=[f"^balance/{name}$" for name in names]),
        )
        for title, names in _BALANCE_CHARTS.items()
    ]
    category = layout_pb2.Category(title="generator and discriminator", chart=charts)
    layout = summary.pb(layout_pb2.Layout(category=[category]))
    tf.summary.experimental.write_raw_pb(layout.SerializeToString(), step=0)
