"""What TensorBoard shows of an evaluation: read back from event files, checked by hand."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_pretrainer import BATCH, CONFIG, batch_of

from electra_tf import ElectraPretrainer, create_optimizer
from electra_tf.training import tensorboard
from electra_tf.training.examples import TokenView, view_examples
from electra_tf.training.loop import PretrainingEvaluator

VOCAB = [f"piece{i}" for i in range(CONFIG.vocab_size)]
VIEWS = [
    [
        TokenView("[CLS]", [], "[CLS]", 0.01),
        TokenView("the", [("the", 0.75), ("a", 0.125), ("his", 0.0625)], "a", 1.0),
        TokenView("c|t", [], "c|t", 0.3),
        TokenView("sat", [("sat", 0.9), ("ran", 0.06), ("`", 0.02)], "sat", 0.6),
    ]
]


def read_events(folder):
    """dict from tag to `(plugin, array)` of the last value written."""
    values = {}
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                values[value.tag] = (plugin, tf.make_ndarray(value.tensor))
    return values


@pytest.fixture(scope="module")
def pretrainer():
    keras.utils.set_random_seed(1)
    model = ElectraPretrainer(CONFIG)
    model.compile(create_optimizer(CONFIG))
    return model


def test_views_are_what_the_networks_said(pretrainer):
    batch = batch_of(0)
    views = view_examples(pretrainer, VOCAB, batch, num_examples=3)
    assert [len(tokens) for tokens in views] == batch["input_mask"].numpy().sum(1)[:3].tolist()
    rows = {name: values[:3] for name, values in batch.items()}
    outputs = pretrainer(rows, training=False, step=0)
    for row, tokens in enumerate(views):
        hidden = {
            int(p): slot
            for slot, (p, w) in enumerate(
                zip(outputs.masked.positions[row], outputs.masked.weights[row])
            )
            if w
        }
        assert {i for i, token in enumerate(tokens) if token.is_hidden} == set(hidden)
        for column, token in enumerate(tokens):
            assert token.original == VOCAB[batch["input_ids"][row, column]]
            assert token.shown == VOCAB[outputs.replaced_ids[row, column]]
            assert token.is_replaced == bool(outputs.is_replaced[row, column])
            logit = float(outputs.discriminator_logits[row, column])
            assert token.probability == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)
        for column, slot in hidden.items():
            logits = outputs.generator_logits[row, slot].numpy().astype(np.float64)
            probabilities = np.exp(logits) / np.exp(logits).sum()
            best = np.argsort(-probabilities)[:3]
            assert [piece for piece, _ in tokens[column].proposals] == [VOCAB[i] for i in best]
            np.testing.assert_allclose(
                [p for _, p in tokens[column].proposals], probabilities[best], rtol=1e-4
            )


def test_the_table():
    lines = tensorboard.markdown_page(VIEWS).splitlines()
    assert lines[4] == "🟩`[CLS]` 🟥`a ← the` 🟨`c¦t` 🟧`sat`"
    assert lines[8:10] == [
        "| `the` | `the` 0.75, `a` 0.12, `his` 0.06 | `a` | yes | 🟥 1.00 |",
        "| `sat` | `sat` 0.90, `ran` 0.06, `´` 0.02 | `sat` | no | 🟧 0.60 |",
    ]


def test_the_picture_is_coloured_by_the_probability():
    def reds(probability):
        views = [[token._replace(probability=probability) for token in VIEWS[0]]]
        pixels = np.asarray(tensorboard.draw_page(views).convert("RGB")).astype(int)
        return ((pixels[..., 0] > 240) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)).sum()

    assert reds(0.0) == reds(float("nan")) == 0
    assert reds(1.0) > 2000


def test_the_picture_of_another_script():
    token = TokenView("漢", [("漢", 0.5), ("字", 0.25), ("語", 0.1)], "字$", 0.5)
    narrow, wide = (tensorboard.draw_page([[token] * n]) for n in (2, 40))
    assert wide.height > narrow.height  # 40 such tokens need more lines.


def test_accuracy_by_frequency():
    # Shares of the text: 0.5, 0.4, 0.04, 0.06, 0; of the last token nothing is known.
    counts = np.array([500, 400, 40, 60, 0])
    by_token = {
        "masked": np.array([4.0, 6.0, 3.0, 2.0, 1.0]),
        "masked_lm_correct": np.array([4.0, 1.0, 1.0, 1.0, 0.0]),
        "disc_correct": np.array([0.0, 2.0, 3.0, 1.0, 1.0]),
    }
    bins = tensorboard.accuracy_by_frequency(by_token, counts)
    assert [(b["left"], b["right"], b["masked"]) for b in bins] == [
        (-4.0, -3.0, 1.0),
        (-2.0, -1.0, 5.0),
        (-1.0, 0.0, 10.0),
    ]
    assert [b["masked_lm_accuracy"] for b in bins] == [0.0, 0.4, 0.5]
    assert [b["disc_accuracy"] for b in bins] == [1.0, 0.8, 0.2]


def test_balance():
    metrics = {
        "masked_lm_accuracy": 0.4, "sampled_masked_lm_accuracy": 0.3, "disc_auc": 0.8,
        "disc_recall": 0.2, "replaced_rate": 0.5, "masked_lm_loss": 3.0, "disc_loss": 0.18,
        "loss": 12.0,
    }  # fmt: skip
    figures = tensorboard.balance(metrics, gen_weight=2.0)
    assert figures["generator_share_of_loss"] == 0.5
    assert figures["disc_loss_over_baseline"] == pytest.approx(0.18 / np.log(2))
    assert figures["disc_recall"] == 0.2


def test_an_evaluation_writes_it_all(pretrainer, tmp_path):
    batches = [batch_of(i) for i in range(3)]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature={n: tf.TensorSpec([BATCH, None], tf.int32) for n in batches[0]},
    )
    counts = np.ones(len(VOCAB), np.int64)
    evaluator = PretrainingEvaluator(
        tf.distribute.get_strategy(), pretrainer, dataset, batches[0], VOCAB, counts
    )
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        metrics = evaluator.evaluate(tf.constant(-1))
    events = read_events(tmp_path)

    plugin, (width, height, png) = events["examples/page"]
    page = Image.open(io.BytesIO(png))
    assert plugin == "images" and page.size == (int(width), int(height))
    plugin, text = events["examples/table"]
    views = view_examples(pretrainer, VOCAB, batches[0], num_examples=512 // CONFIG.max_seq_length)
    assert plugin == "text" and text.item().decode() == tensorboard.markdown_page(views)

    # All tokens are equally frequent: one bin, whose accuracy is the evaluation's.
    plugin, histogram = events["accuracy_by_frequency/masked_lm_accuracy"]
    assert plugin == "histograms" and histogram.shape == (1, 3)
    assert histogram[0].tolist() == pytest.approx([-3.0, -2.0, metrics["masked_lm_accuracy"]])
    hidden_right = hidden = 0
    for step, batch in enumerate(batches):
        outputs = pretrainer(batch, training=False, step=step)
        says = np.take_along_axis(
            outputs.discriminator_logits.numpy() >= 0, outputs.masked.positions.numpy(), 1
        )
        truth = np.take_along_axis(
            outputs.is_replaced.numpy() == 1, outputs.masked.positions.numpy(), 1
        )
        weights = outputs.masked.weights.numpy()
        hidden_right += ((says == truth) * weights).sum()
        hidden += weights.sum()
    _, histogram = events["accuracy_by_frequency/disc_accuracy"]
    assert histogram[0, 2] == pytest.approx(hidden_right / hidden)

    assert events["balance/disc_auc"][1] == pytest.approx(metrics["disc_auc"])
    plugin, layout = events["custom_scalars__config__"]
    assert plugin == "custom_scalars" and b"^balance/disc_auc$" in layout.item()
