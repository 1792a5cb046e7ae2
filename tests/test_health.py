"""Each warning provoked by a run that has the trouble, and withheld from figures that are healthy."""

import dataclasses
import itertools
import math
import time

import pytest
from test_commands import OVERRIDES

from electra_tf import load_pretraining_config, records
from electra_tf.commands import build_pretraining_data, build_vocab, pretrain
from electra_tf.training import health
from electra_tf.training.metrics import majority_baseline

CONFIG = load_pretraining_config("small")


def build(folder, documents, max_seq_length=16):
    """Vocabulary and records, with a fifth held out."""
    (folder / "text.txt").write_text("\n\n".join(documents))
    text = f"--input={folder}/text.txt"
    assert build_vocab.main(["", text, "--vocab_size=120", f"--output={folder}/vocab.txt"]) == 0
    flags = [
        text, f"--vocab_file={folder}/vocab.txt", f"--output_dir={folder}/records",
        f"--max_seq_length={max_seq_length}", "--num_shards=1", "--num_workers=1",
        "--eval_fraction=0.2",
    ]  # fmt: skip
    assert build_pretraining_data.main(["", *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Records of full examples in which word follows word at random."""
    words = [f"{a}{b}" for a in "abcdefgh" for b in "klmnopqr"]
    documents = [
        " ".join(words[(d * d * 31 + i * i * 17 + d * i * 7) % 64] for i in range(65))
        for d in range(60)
    ]
    return build(tmp_path_factory.mktemp("text"), documents)


def warnings_of(folder, output_dir, caplog, *overrides, eval_data=True):
    caplog.clear()
    arguments = [
        "", "--config=tiny", f"--train_data={folder}/records", f"--vocab_file={folder}/vocab.txt",
        f"--output_dir={output_dir}", *OVERRIDES,
        *(f"--override={override}" for override in overrides),
    ]  # fmt: skip
    if eval_data:
        arguments.append(f"--eval_data={folder}/records/eval")
    assert pretrain.main(arguments) == 0
    return [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("health: ")
    ]


def only(warnings, word):
    """The one warning with a word in it: it comes once."""
    (warning,) = [warning for warning in warnings if word in warning]
    return warning


def test_a_loss_that_is_not_finite(text, tmp_path, caplog):
    # The original's warm-up of 0 steps: a learning rate of 0 / 0 at step 0.
    warnings = warnings_of(
        text, tmp_path, caplog, "fidelity=google2020", "num_warmup_steps=0", "steps_per_loop=1"
    )
    warning = only(warnings, "not finite")
    assert "step 2: " in warning and "grad_norm nan" in warning
    assert "lower learning_rate (now 0.001) or raise num_warmup_steps (now 0)" in warning


@pytest.mark.parametrize("eval_data", [pytest.param(True, marks=pytest.mark.slow), False])
def test_an_idle_discriminator(text, tmp_path, caplog, eval_data):
    # Without a weight in the loss it never learns; with and without held-out data.
    options = ("disc_weight=0.0", "num_train_steps=30", "steps_per_loop=15")
    warnings = warnings_of(text, tmp_path, caplog, *options, eval_data=eval_data)
    warning = only(warnings, "majority baseline")
    assert "disc_accuracy 0." in warning and "raise disc_weight (now 0)" in warning


@pytest.mark.slow  # test_what_is_warned_of is the quick one, of this and the next three.
def test_a_generator_that_runs_ahead(tmp_path, caplog):
    # One word, over and over: nothing is easier to restore.
    folder = build(tmp_path, ["echo " * (140 + d) for d in range(30)])
    options = ("num_train_steps=60", "learning_rate=0.03", "steps_per_loop=10")
    warning = only(warnings_of(folder, tmp_path / "run", caplog, *options), "generator runs far")
    assert "100 % of its samples are the true token" in warning
    assert "so that only 0.0 % of the tokens are replaced" in warning
    assert "generator_hidden_size" in warning


@pytest.mark.slow
def test_padding(tmp_path, caplog):
    # 4 words, [CLS] and [SEP]: 6 of 16 positions, so that 62.5 % are padding.
    colours = ("red", "green", "blue")
    folder = build(tmp_path, [" ".join(words) for words in itertools.product(colours, repeat=4)])
    warning = only(warnings_of(folder, tmp_path / "run", caplog), "padding")
    assert "62 % of the token positions" in warning and "smaller --max_seq_length" in warning


@pytest.mark.slow
def test_a_slow_input_pipeline(text, tmp_path, caplog, monkeypatch):
    read = records.RecordReader.read

    def read_slowly(self, numbers):
        time.sleep(0.2)
        return read(self, numbers)

    monkeypatch.setattr(records.RecordReader, "read", read_slowly)
    # Steps without a pause: while the first one compiles, or an evaluation runs, batches are read ahead.
    options = ("num_train_steps=24", "eval_steps=0", "save_checkpoints_steps=24")
    warning = only(warnings_of(text, tmp_path, caplog, *options), "bottleneck")
    assert "waits for its data" in warning and "faster disk" in warning


@pytest.mark.slow
def test_a_corpus_that_is_repeated(text, tmp_path, caplog):
    num_examples = records.read_dataset_file([f"{text}/records/any"])["num_examples"]
    steps = 41 * num_examples // 256 + 1
    options = ("train_batch_size=256", f"num_train_steps={steps}", "eval_steps=0")
    warning = only(warnings_of(text, tmp_path, caplog, *options), "passes the")
    assert f"{num_examples} training examples {steps * 256 / num_examples:.0f} times" in warning
    assert f"num_train_steps to {40 * num_examples // 256} or less" in warning


def healthy(step=200_000, **changed):
    """Figures of a good run late in training (SEMANTICS, published numbers)."""
    metrics = {
        "loss": 8.0, "grad_norm": 0.5, "disc_loss": 0.13, "disc_accuracy": 0.955,
        "replaced_rate": 0.06, "sampled_masked_lm_accuracy": 0.6, "masked_lm_accuracy": 0.7,
        "skipped_steps": 0, "loss_scale": 1.0,
    }  # fmt: skip
    return CONFIG, step, {**metrics, **changed}


def test_healthy_figures_are_left_alone():
    for check in (health.loss_not_finite, health.generator_ahead, health.idle_discriminator):
        assert check(*healthy()) is None
    # As calling every token real, but the loss says that it knows better.
    assert health.idle_discriminator(*healthy(disc_accuracy=0.94, disc_loss=0.2)) is None
    # Nothing hidden in a stretch of steps: no loss of the generator, and no harm.
    assert health.loss_not_finite(*healthy(loss=math.nan)) is None
    # float16 looks for its scale.
    assert health.loss_not_finite(*healthy(skipped_steps=1, loss_scale=2.0)) is None
    assert health.loss_not_finite(*healthy(skipped_steps=1)) is not None
    assert health.slow_input(0.19) is None
    assert health.wasted_padding(CONFIG, 0.2) is None
    # 1,000,000 steps of 128 examples on WikiBooks' 26 million examples of 128 tokens.
    assert health.repeated_corpus(CONFIG, 26_000_000) is None


def test_what_is_warned_of():
    ahead = health.generator_ahead(*healthy(sampled_masked_lm_accuracy=0.76))
    assert "76 % of its samples are the true token" in ahead
    assert "waits for its data 21 % of the time" in health.slow_input(0.21)
    assert "62 % of the token positions" in health.wasted_padding(CONFIG, 0.625)
    # 1,000,000 steps of 128 examples: 41 times 3,121,951, and 40 times are 975,609 steps.
    warning = health.repeated_corpus(CONFIG, 3_121_951)
    assert "the 3,121,951 training examples 41 times" in warning
    assert "num_train_steps to 975,609 or less" in warning


def test_nobody_judges_a_discriminator_early():
    loss = majority_baseline(0.06)[1]
    idle = {"disc_accuracy": 0.94, "disc_loss": loss}
    assert health.idle_discriminator(*healthy(step=19_999, **idle)) is None
    assert health.idle_discriminator(*healthy(step=20_000, **idle)) is not None
    # It has learnt nothing while the generator restores 70 %.
    assert health.generator_ahead(*healthy(step=19_999, **idle)) is None
    warning = health.generator_ahead(*healthy(step=20_000, **idle))
    assert "restores 70 % of the hidden tokens" in warning


def test_a_second_stage_is_judged_from_its_own_beginning():
    """Half of 1,000,000 steps train the generator; the discriminator then has 10,000."""
    config = dataclasses.replace(
        CONFIG,
        schedule="two_stage",
        generator_steps=500_000,
        untied_generator_embeddings=True,
        generator_hidden_size=1.0,
    )
    _, _, metrics = healthy(disc_accuracy=0.94, disc_loss=majority_baseline(0.06)[1])
    assert health.idle_discriminator(config, 509_999, metrics) is None
    assert health.idle_discriminator(config, 510_000, metrics) is not None


def test_no_advice_that_is_refused():
    """Of temperatures where samples have none."""
    _, _, metrics = healthy(disc_accuracy=0.94, disc_loss=majority_baseline(0.06)[1])
    for changes, words in (
        ({}, "make the generator smaller or its temperature (now 1) higher"),
        ({"schedule": "adversarial"}, "make the generator smaller"),
        ({"generator": "uniform"}, "raise disc_weight (now 50)"),
    ):
        config = dataclasses.replace(CONFIG, **changes)
        assert health.idle_discriminator(config, 20_000, metrics).endswith(words)


def test_majority_baseline():
    accuracy, loss = majority_baseline(0.25)
    assert accuracy == 0.75
    assert loss == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert majority_baseline(0.0) == (1.0, 0.0)
