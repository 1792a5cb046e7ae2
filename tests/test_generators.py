"""Generators that are not the masked one: what they propose, what trains them, whole runs."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from scipy.special import log_softmax
from test_commands import arguments, comparable, last_line, metrics_of
from test_distribution import rows_of_replicas, stop_after
from test_pretrainer import BATCH, CONFIG, LENGTH, VOCAB_SIZE, batch_of, make

from electra_tf import load_pretraining_config
from electra_tf.commands import convert, export, finetune, plan, pretrain
from electra_tf.modeling.proposals import Sampling
from electra_tf.records import RecordBatches
from electra_tf.training.flops import pretraining_flops
from electra_tf.training.metrics import pretraining_metrics

KINDS = ("causal", "unigram", "uniform")
SPECIAL = [0, 101, 102, 103]
COUNTS = np.random.default_rng(1).integers(0, 50, VOCAB_SIZE)
ADDED = np.where(np.isin(np.arange(VOCAB_SIZE), SPECIAL), 0, COUNTS + 1)


def config_of(kind, **changes):
    return dataclasses.replace(CONFIG, generator=kind, **changes)


def model_of(kind, **changes):
    model = make(config_of(kind, **changes))
    if kind == "unigram":
        model.generator.set_counts(COUNTS)
    return model


def numpy_outputs(model, batch, step=0, **options):
    outputs = model(batch, step=step, **options)
    return tf.nest.map_structure(lambda x: None if x is None else x.numpy(), outputs)


# What is proposed.


@pytest.mark.parametrize("kind", ["uniform", "unigram"])
@pytest.mark.parametrize("disallow_correct", [False, True])
def test_tokens_are_drawn_by_their_counts(kind, disallow_correct):
    model, batch = model_of(kind), batch_of(0, 64)
    counts = ADDED if kind == "unigram" else (ADDED > 0).astype(int)
    masked = model.mask(batch, 0)
    noise = np.random.default_rng(0).random([*masked.ids.shape, 2], np.float32)
    proposals = model.generator.propose(
        batch, masked, tf.constant(noise), Sampling(disallow_correct=disallow_correct)
    )
    ids, sampled_ids = masked.ids.numpy().ravel(), proposals.sampled_ids.numpy().ravel()
    for true_id, sampled_id, u in zip(ids, sampled_ids, noise[..., 0].ravel()):
        left = counts.copy()
        if disallow_correct:
            left[true_id] = 0
        lots = np.repeat(np.arange(VOCAB_SIZE), left)  # As many as a token has counts.
        assert sampled_id == lots[int(u * len(lots))]
    is_used = masked.weights.numpy().ravel() > 0
    expected = np.log(counts.sum() / counts[ids[is_used]])
    np.testing.assert_allclose(
        proposals.masked_lm_loss.numpy().ravel()[is_used], expected, rtol=1e-6
    )
    restored = proposals.is_restored.numpy().ravel()
    np.testing.assert_array_equal(restored, ids == np.argmax(counts))
    probabilities = tf.nn.softmax(proposals.logits)[0, 0].numpy()
    np.testing.assert_allclose(probabilities, counts / counts.sum(), atol=1e-7)


def next_token_logits(model, batch):
    """Of KerasHub's own language model above the same decoder, in float64: [B, T, V]."""
    import keras_hub

    language_model = keras_hub.models.GPT2CausalLM(model.generator.backbone)
    tokens = {"token_ids": batch["input_ids"], "padding_mask": batch["input_mask"]}
    return language_model(tokens).numpy().astype(np.float64)


def test_the_causal_loss_is_of_each_real_tokens_successor():
    model, batch = model_of("causal"), batch_of(0)
    outputs = numpy_outputs(model, batch)
    scores = log_softmax(next_token_logits(model, batch), axis=-1)
    ids, lengths = batch["input_ids"].numpy(), batch["input_mask"].numpy().sum(-1)
    losses = [-scores[b, t - 1, ids[b, t]] for b in range(BATCH) for t in range(1, lengths[b])]
    assert outputs.generator_sums["causal_lm_tokens"] == len(losses) == lengths.sum() - BATCH
    assert outputs.generator_sums["causal_lm_loss"] == pytest.approx(np.sum(losses), rel=1e-5)
    statistics = model.statistics(batch, model(batch, step=0))
    loss, generator_loss, disc_loss = (float(x) for x in model.losses_of(statistics))
    assert generator_loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert loss == pytest.approx(np.mean(losses) + 50 * disc_loss, rel=1e-6)
    metrics = pretraining_metrics(
        {name: x.numpy() for name, x in statistics.items()}, model.config, is_evaluation=True
    )
    assert metrics["causal_lm_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_a_causal_proposal_is_of_the_token_before_and_never_special():
    model, batch = model_of("causal", mask_prob=0.5), batch_of(0, 64)
    # As KerasHub initializes them, all tokens would be as likely.
    [embeddings] = [v for v in model.generator.trainable_variables if "token_embedding" in v.path]
    embeddings.assign(50.0 * embeddings)
    outputs = numpy_outputs(model, batch)
    logits = next_token_logits(model, batch)
    logits[..., SPECIAL] = -np.inf
    scores = log_softmax(logits, axis=-1)
    masked = outputs.masked
    for b, slot in np.argwhere(masked.weights > 0):
        position, true_id = masked.positions[b, slot], masked.ids[b, slot]
        expected = scores[b, position - 1]
        np.testing.assert_allclose(
            np.exp(log_softmax(outputs.generator_logits[b, slot])), np.exp(expected), atol=1e-6
        )
        assert outputs.masked_lm_loss[b, slot] == pytest.approx(-expected[true_id], rel=1e-4)
        assert outputs.is_restored[b, slot] == (np.argmax(expected) == true_id)
    assert not np.isin(outputs.sampled_ids, SPECIAL).any()
    # Of 64 * 12 draws each id stands for about five; their mean probability is that of a draw.
    drawn = np.take_along_axis(
        log_softmax(outputs.generator_logits, axis=-1), outputs.sampled_ids[..., None], -1
    )
    entropy = -np.sum(np.exp(scores) * np.where(np.isfinite(scores), scores, 0), -1).mean()
    assert entropy < np.log(len(scores[0, 0])) - 0.3
    assert -drawn[masked.weights > 0].mean() == pytest.approx(entropy, abs=0.15)


def test_a_causal_proposal_does_not_see_what_follows():
    model, batch = model_of("causal"), batch_of(0)
    masked = model.mask(batch, 0)
    position = int(masked.positions[0, 0])
    others = tf.where(
        tf.range(LENGTH) >= position, batch["input_ids"] % 40 + 105, batch["input_ids"]
    )
    noise = tf.zeros([*masked.ids.shape, 2])
    logits = [
        model.generator.propose({**batch, "input_ids": ids}, masked, noise, Sampling()).logits[0, 0]
        for ids in (batch["input_ids"], others)
    ]
    np.testing.assert_array_equal(*logits)
    before = tf.where(tf.range(LENGTH) == position - 1, 149, batch["input_ids"])
    changed = model.generator.propose({**batch, "input_ids": before}, masked, noise, Sampling())
    assert (changed.logits[0, 0] != logits[0]).numpy().any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_discriminators_labels(kind):
    model, batch = model_of(kind), batch_of(0, 64)
    outputs = numpy_outputs(model, batch, step=5)
    ids, labels = batch["input_ids"].numpy().copy(), np.zeros([64, LENGTH])
    masked = outputs.masked
    for b, slot in np.argwhere(masked.weights > 0):
        position, sampled_id = masked.positions[b, slot], outputs.sampled_ids[b, slot]
        labels[b, position] = sampled_id != ids[b, position]
        ids[b, position] = sampled_id
    np.testing.assert_array_equal(outputs.replaced_ids, ids)
    np.testing.assert_array_equal(outputs.is_replaced, labels)
    assert labels.sum() > 0.8 * (masked.weights > 0).sum()


# What is trained.


@pytest.mark.parametrize("kind", ["masked", *KINDS])
def test_gradients_reach_the_variables_that_they_should(kind):
    model, batch = model_of(kind), batch_of(0)
    variables, reached = model.trainable_variables, []

    @tf.function  # Only traced: that tells.
    def differentiate():
        with tf.GradientTape(persistent=True) as tape:
            _, *losses = model.losses_of(model.training_statistics(batch, 0, None))
        for loss in losses:
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            reached.append({id(v) for v, g in zip(variables, gradients) if g is not None})

    differentiate.get_concrete_function()
    by_generator, by_discriminator = reached
    discriminator = {id(v) for v in model.discriminator.trainable_variables}
    generator = {id(v) for v in model.generator.trainable_variables}
    shared = {id(v) for v in model.discriminator.embeddings.trainable_variables}
    assert by_discriminator == discriminator
    assert by_generator == generator
    assert generator & discriminator == (shared if kind == "masked" else set())
    assert bool(generator) == (kind in ("masked", "causal"))
    assert {id(v) for v in variables} == generator | discriminator


def test_norms_and_biases_of_the_decoder_are_not_decayed():
    optimizer = model_of("causal").optimizer
    decayed = {
        v.path
        for v, is_decayed in zip(optimizer._trainable_variables, optimizer._decays)
        if is_decayed
    }
    names = {path.rpartition("/")[2] for path in decayed}
    assert names == {
        "kernel", "embeddings", "word_embeddings", "position_embeddings", "token_type_embeddings"
    }  # fmt: skip


def test_dropout_is_the_steps():
    model, batch = model_of("causal"), batch_of(0)
    losses = [
        float(model(batch, training=training, step=step).generator_sums["causal_lm_loss"])
        for training, step in ((True, 3), (True, 3), (True, 4), (False, 3), (False, 4))
    ]
    assert losses[0] == losses[1] != losses[2]
    assert losses[3] == losses[4] != losses[0]


@pytest.mark.parametrize("disallow_correct", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("kind", KINDS)
def test_xla_proposes_the_same(kind, disallow_correct):
    model, batch = model_of(kind, disallow_correct=disallow_correct), batch_of(0)

    def propose():
        masked = model.mask(batch, 3)
        proposals = model.propose(batch, masked, False, None, 3)
        losses = tf.math.multiply_no_nan(proposals.masked_lm_loss, masked.weights)
        return proposals.sampled_ids, losses

    ids, losses = propose()
    compiled_ids, compiled_losses = tf.function(propose, jit_compile=True)()
    np.testing.assert_array_equal(compiled_ids, ids)
    np.testing.assert_allclose(compiled_losses, losses, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "unigram"])
def test_the_whole_step_compiles(kind):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    losses = []
    for jit_compile in (False, True):
        model = model_of(kind, **still)
        step = tf.function(model.gradient_step, jit_compile=jit_compile)
        losses.append([float(model.losses_of(step(batch_of(i)))[0]) for i in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def train_on(strategy, config):
    """Losses of some steps and the weights after them."""
    with strategy.scope():
        model = make(config)
        if config.generator == "unigram":
            model.generator.set_counts(COUNTS)

    @tf.function
    def step(batch):
        statistics = strategy.run(model.gradient_step, args=(batch,))
        return {name: strategy.reduce("SUM", x, axis=None) for name, x in statistics.items()}

    losses = [
        model.losses_of(step(rows_of_replicas(strategy, batch_of(i, BATCH)))) for i in range(3)
    ]
    return np.array(losses), {v.path: v.numpy() for v in model.trainable_variables}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "unigram"])
def test_two_devices_of_two_micro_batches_are_one_device(kind, two_devices):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = config_of(kind, num_hidden_layers=1, **still)
    losses, expected = train_on(tf.distribute.get_strategy(), config)
    parts = dataclasses.replace(config, gradient_accumulation_steps=2)
    losses_of_parts, weights_of_parts = train_on(two_devices, parts)
    np.testing.assert_allclose(losses_of_parts, losses, rtol=1e-5)
    for path, weight in weights_of_parts.items():
        if "key/bias" not in path:
            difference = np.linalg.norm(weight - expected[path])
            assert difference <= 1e-5 * np.linalg.norm(expected[path]), path


def test_operations():
    # By hand, multiplications of one sequence: a decoder of 32 and 2 layers, its logits everywhere.
    overrides = {"generator": "causal", "hidden_size": 64, "intermediate_size": 128}
    config = load_pretraining_config("tiny", overrides)
    discriminator = 128 * (128 * 64 + 2 * (4 * 64**2 + 2 * 64 * 128 + 2 * 128 * 64) + 64 * 65)
    decoder = 128 * (2 * (4 * 32**2 + 2 * 32 * 128 + 2 * 128 * 32) + 32 * 30522)
    assert pretraining_flops(config) == 3 * 2 * (discriminator + decoder)
    counting = dataclasses.replace(config, generator="unigram")
    assert pretraining_flops(counting) == 3 * 2 * discriminator


# Runs.


def run(data, folder, kind, *more):
    return pretrain.main(arguments(data, folder, f"--override=generator={kind}", *more))


def weights_of(folder):
    return {
        f"{path.parent.name}/{name}": array
        for path in folder.glob("*/model.safetensors")
        for name, array in safetensors.numpy.load_file(path).items()
    }


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a causal run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "causal"
    assert run(data, folder, "causal") == 0
    return folder


def test_a_causal_runs_folder(data, finished, capsys):
    lines = metrics_of(finished)
    for line in lines:
        assert line["loss"] == pytest.approx(line["causal_lm_loss"] + 50 * line["disc_loss"])
        assert line["masked_lm_loss"] != line["causal_lm_loss"]
    config = json.loads((finished / "generator" / "config.json").read_text())
    vocab = (finished / "generator" / "vocab.txt").read_text().splitlines()
    assert lines[0]["causal_lm_loss"] == pytest.approx(np.log(len(vocab)), abs=0.1)
    assert lines[-2]["causal_lm_loss"] < lines[0]["causal_lm_loss"] - 0.02
    names = [vocab[config[f"{name}_token_id"]] for name in ("pad", "bos", "eos")]
    assert names == ["[PAD]", "[CLS]", "[SEP]"]
    assert run(data, finished, "masked") == 2
    assert "generator is 'causal' there and 'masked' here" in last_line(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "unigram"])
def test_a_stopped_run_ends_as_one_that_was_not(data, finished, tmp_path, kind):
    whole = finished
    if kind == "unigram":
        whole = tmp_path / "whole"
        assert run(data, whole, kind) == 0
    with stop_after(4):
        assert run(data, tmp_path / "parts", kind) == 130
    assert run(data, tmp_path / "parts", kind) == 0
    assert comparable(metrics_of(whole)) == comparable(metrics_of(tmp_path / "parts"))
    one, other = weights_of(whole), weights_of(tmp_path / "parts")
    assert one.keys() == other.keys() and len(one) > 20
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


def saved_counts(folder):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints"))
    (name,) = [n for n in reader.get_variable_to_shape_map() if "token_counts" in n]
    return reader.get_tensor(name)


@pytest.mark.slow
def test_a_unigram_run_goes_on_with_its_own_counts(data, tmp_path, monkeypatch):
    """They are the checkpoint's, whatever is counted by then."""
    with stop_after(4):
        run(data, tmp_path / "run", "unigram")
    counts = np.zeros(len((data / "vocab.txt").read_text().splitlines()))
    for path in (data / "records").glob("*.tfrecord*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            ids = tf.train.Example.FromString(record).features.feature["input_ids"].int64_list
            counts += np.bincount(ids.value, minlength=len(counts))
    expected = counts + 1
    expected[[0, 2, 3, 4]] = 0  # [PAD], [CLS], [SEP], [MASK]
    np.testing.assert_array_equal(saved_counts(tmp_path / "run"), expected)
    count = RecordBatches.token_counts
    monkeypatch.setattr(RecordBatches, "token_counts", lambda *args: 2 * count(*args))
    assert run(data, tmp_path / "run", "unigram") == 0
    assert (tmp_path / "run" / "checkpoints" / "ckpt-12.index").exists()
    np.testing.assert_array_equal(saved_counts(tmp_path / "run"), expected)
    assert [path.name for path in (tmp_path / "run").glob("*or")] == ["discriminator"]


@pytest.mark.slow  # Five runs.
def test_a_run_begins_with_another_ones_weights(data, finished, tmp_path, capsys):
    """A rate of 0: what is written in the end is what was read."""
    options = [f"--init_from={finished}", "--override=num_train_steps=2", "--override=learning_rate=1e-30"]  # fmt: skip
    assert run(data, tmp_path / "second", "causal", *options) == 0
    for name, array in weights_of(finished).items():
        np.testing.assert_array_equal(weights_of(tmp_path / "second")[name], array)
    assert run(data, tmp_path / "third", "uniform", *options) == 0
    assert "generator/" not in "".join(weights_of(tmp_path / "third"))
    assert run(data, tmp_path / "other", "causal", "--override=generator_layers=0.5", "--override=num_hidden_layers=2", *options) == 2  # fmt: skip
    assert "num_hidden_layers is 1 there and 2 here" in last_line(capsys)
    assert run(data, tmp_path / "other", "causal", "--override=generator_hidden_size=1", *options) == 2  # fmt: skip
    assert "the generator is of another architecture: hidden_dim is 8 there and 16 here" in (
        last_line(capsys)
    )
    assert run(data, tmp_path / "other", "masked", *options) == 2
    assert "model_type is 'gpt2'" in last_line(capsys)
    assert run(data, tmp_path / "other", "masked", "--continue_schedule", *options) == 2
    assert "generator is 'causal' there and 'masked' here" in last_line(capsys)


@pytest.mark.slow
def test_a_causal_run_on_two_devices(data, tmp_path):
    still = ["--override=hidden_dropout_prob=0", "--override=attention_probs_dropout_prob=0"]
    still += ["--override=num_train_steps=6"]
    assert run(data, tmp_path / "one", "causal", "--strategy=one_device", *still) == 0
    two = ["--strategy=mirrored", "--num_virtual_devices=2"]
    assert run(data, tmp_path / "two", "causal", *two, *still) == 0
    for line, expected in zip(*(metrics_of(tmp_path / n) for n in ("two", "one")), strict=True):
        if line["split"] == "train":
            for name in ("loss", "causal_lm_loss", "masked_lm_loss", "disc_loss"):
                assert line[name] == pytest.approx(expected[name], rel=1e-4), name
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, array in one.items():
        if "key.bias" not in name and "c_attn.bias" not in name:
            assert np.linalg.norm(two[name] - array) <= 1e-5 * np.linalg.norm(array), name


def test_other_commands_say_what_they_cannot_take(finished, tmp_path, capsys):
    to_google = ["", "--to=google", f"--input={finished}", f"--output={tmp_path}/model.ckpt-0"]
    assert convert.main(to_google) == 2
    assert "a causal generator, which is not converted; --allow_missing='generator.*'" in (
        last_line(capsys)
    )
    assert convert.main([*to_google, "--optimizer"]) == 2
    assert "generator is causal; training can be converted with masked alone" in last_line(capsys)
    assert convert.main([*to_google, "--allow_missing=generator.*"]) == 0
    theirs = ["", "--to=huggingface", f"--input={finished}", f"--output={tmp_path}/theirs"]
    assert convert.main(theirs) == 2
    assert "a causal generator, which transformers opens as it is" in last_line(capsys)
    assert convert.main([*theirs, "--allow_missing=generator.*"]) == 0
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["discriminator"]
    served = ["", f"--output_dir={tmp_path}/served", "--name=g"]
    assert export.main([*served, f"--model_dir={finished}/generator"]) == 2
    assert "model_type is 'gpt2'" in last_line(capsys)
    task = ["", "--task=cola", f"--data_dir={tmp_path}", f"--output_dir={tmp_path}/task"]
    assert finetune.main([*task, f"--init_from={finished}/generator"]) == 2
    assert plan.main(["", "--config=tiny", "--override=generator=causal"]) == 2
    assert "what is counted here is the masked generator" in last_line(capsys)


def test_keys_that_contradict_each_other(capsys):
    command = ["", "--config=tiny", "--override=generator=unigram", "--override=temperature=0.5"]
    assert plan.main(command) == 2
    assert "temperature=0.5: the generator 'unigram' has no logits" in last_line(capsys)
    assert plan.main(["", "--config=tiny", "--override=generator=gpt"]) == 2
    assert "generator='gpt'" in last_line(capsys)
