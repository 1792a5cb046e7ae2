"""The joint training step: Keras's fit, XLA, determinism, precision, fidelity."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from electra_tf import ElectraPretrainer, create_optimizer, load_pretraining_config
from electra_tf.training.flops import (
    describe_cost,
    pretraining_flops,
    pretraining_flops_google2020,
)
from electra_tf.training.metrics import pretraining_metrics

VOCAB_SIZE, LENGTH, BATCH = 150, 24, 8
CONFIG = load_pretraining_config(
    "tiny",
    {
        "vocab_size": VOCAB_SIZE, "hidden_size": 32, "embedding_size": 16, "intermediate_size": 64,
        "max_seq_length": LENGTH, "max_position_embeddings": 32, "train_batch_size": BATCH,
        "num_train_steps": 100, "num_warmup_steps": 5, "generator_hidden_size": 0.25,
    },
)  # fmt: skip


def batch_of(seed, size=BATCH):
    """Rows of different lengths with [CLS] = 101 and [SEP] = 102."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(104, VOCAB_SIZE, (size, LENGTH)).astype(np.int32)
    lengths = rng.integers(3, LENGTH + 1, size)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
    ids[:, 0] = 101
    ids[np.arange(size), lengths - 1] = 102
    return {
        "input_ids": tf.constant(ids * mask),
        "input_mask": tf.constant(mask),
        "segment_ids": tf.constant(mask * (np.arange(LENGTH) > 8).astype(np.int32)),
    }


def make(config=CONFIG, **options):
    keras.utils.set_random_seed(config.seed)
    model = ElectraPretrainer(config)
    model.compile(create_optimizer(config), **options)
    return model


def train(model, steps):
    step = tf.function(model.gradient_step)
    return [float(model.losses_of(step(batch_of(i)))[0]) for i in range(steps)]


def weights(model):
    return [variable.numpy() for variable in model.trainable_variables]


def test_embeddings_are_shared_and_projections_not():
    model = make()
    assert model.generator.embeddings is model.discriminator.embeddings
    assert model.generator.encoder.embeddings_project is not None
    assert len({id(v) for v in model.trainable_variables}) == len(model.trainable_variables)


def test_small_has_the_papers_parameters():
    model = ElectraPretrainer(load_pretraining_config("small"))
    discriminator = sum(math.prod(v.shape) for v in model.discriminator.trainable_variables)
    everything = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert round(discriminator / 1e6, 2) == 13.55
    assert round((everything - discriminator) / 1e6, 2) == 0.65


def test_flops_of_small():
    # By hand, multiplications of one sequence: 12 layers of 4 d d + 2 d f + 2 L d a token each.
    discriminator = 128 * (
        128 * 256 + 12 * (4 * 256**2 + 2 * 256 * 1024 + 2 * 128 * 256) + 256 * 257
    )
    generator = 128 * (128 * 64 + 12 * (4 * 64**2 + 2 * 64 * 256 + 2 * 128 * 64))
    vocabulary = 19 * (64 * 128 + 128 * 30522)
    forward = 2 * (discriminator + generator + vocabulary)
    config = load_pretraining_config("small", {"peak_tflops": 2.0})
    assert pretraining_flops(config) == 3 * forward
    assert pretraining_flops_google2020(config) == 2 * forward
    assert pretraining_flops(config) == pytest.approx(8.98e9, rel=0.005)
    assert describe_cost(config, 2e12) == (
        "cost: 8.98 GFLOP an example, 1.15e+18 FLOPs in 1,000,000 steps (backward = 2 x forward); "
        "5.99 GFLOP and 7.67e+17 FLOPs as the original counts (backward = forward); peak 2 TFLOP/s "
        "(declared)"
    )


def test_fit_and_evaluate_work():
    model = make()
    dataset = tf.data.Dataset.from_tensor_slices(
        {name: tf.concat([batch_of(i)[name] for i in range(4)], 0) for name in batch_of(0)}
    ).batch(BATCH)
    before = weights(model)
    history = model.fit(dataset, epochs=10, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert int(model.optimizer.iterations.value) == 40
    assert any((a != b).any() for a, b in zip(before, weights(model)))
    evaluated = model.evaluate(dataset, verbose=0, return_dict=True)
    assert evaluated["loss"] == pytest.approx(history["loss"][-1], rel=0.2)


def test_fit_is_the_same_as_gradient_steps():
    by_fit, by_hand = make(), make()
    losses = train(by_hand, 5)
    dataset = tf.data.Dataset.from_generator(
        lambda: map(batch_of, range(5)),
        output_signature={n: tf.TensorSpec([BATCH, LENGTH], tf.int32) for n in batch_of(0)},
    )
    assert by_fit.fit(dataset, verbose=0).history["loss"][-1] == pytest.approx(losses[-1], rel=1e-5)
    for a, b in zip(weights(by_fit), weights(by_hand)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    first, second = make(), make()
    losses = train(first, 6)
    assert losses == train(second, 6)
    for a, b in zip(weights(first), weights(second)):
        np.testing.assert_array_equal(a, b)
    assert train(make(dataclasses.replace(CONFIG, seed=43)), 1) != losses[:1]


@pytest.mark.slow  # test_xla_gives_the_same_losses is the quick one.
@pytest.mark.parametrize("num_parts", [1, 2], ids=["whole", "micro_batches"])
@pytest.mark.parametrize("mixed_precision", ["float32", "float16"])
def test_the_whole_step_compiles(num_parts, mixed_precision):
    """As a TPU asks for: masks, both networks, clipping and the update in one XLA program."""
    config = dataclasses.replace(
        CONFIG, gradient_accumulation_steps=num_parts, mixed_precision=mixed_precision
    )
    losses = []
    for jit_compile in (False, True):
        model = make(config)
        step = tf.function(model.gradient_step, jit_compile=jit_compile)
        losses.append([float(model.losses_of(step(batch_of(i)))[0]) for i in range(4)])
    np.testing.assert_allclose(*losses, rtol={"float32": 1e-4, "float16": 0.02}[mixed_precision])
    assert int(model.optimizer.iterations.value.numpy()) == 4


def test_xla_gives_the_same_losses():
    np.testing.assert_allclose(train(make(jit_compile=True), 20), train(make(), 20), rtol=1e-4)


def test_dropout_depends_on_the_step_alone():
    model = make()
    batch = batch_of(0)
    a, b, c = (
        model(batch, training=True, step=step).discriminator_logits.numpy() for step in (3, 3, 4)
    )
    assert (a == b).all() and (a != c).any()
    off = model(batch, training=False, step=3).discriminator_logits.numpy()
    assert (a != off).any()


def test_a_keras_call_in_training_draws_its_own_dropout():
    discriminator = make().discriminator
    a, b = (discriminator(batch_of(0), training=True)["logits"].numpy() for _ in range(2))
    assert (a != b).any()
    a, b = (discriminator(batch_of(0))["logits"].numpy() for _ in range(2))
    assert (a == b).all()


def test_bfloat16():
    config = dataclasses.replace(CONFIG, mixed_precision="bfloat16")
    model, reference = make(config), make()
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    batch = batch_of(0)
    outputs, expected = (m(batch, training=False, step=0) for m in (model, reference))
    assert outputs.discriminator_logits.dtype == outputs.generator_logits.dtype == tf.float32
    difference = np.abs(outputs.generator_logits - expected.generator_logits).max()
    assert 0 < difference < 0.05
    compute = model.discriminator.encoder.attention[0].query.compute_dtype
    assert compute == model.generator.head.dense.compute_dtype == "bfloat16"
    np.testing.assert_allclose(train(model, 20)[-1], train(reference, 20)[-1], rtol=0.05)


def test_losses_are_means_over_tokens():
    model, batch = make(), batch_of(0)
    outputs = model(batch, step=0)
    statistics = model.statistics(batch, outputs)
    loss, masked_lm_loss, disc_loss = (float(x) for x in model.losses_of(statistics))
    mask = batch["input_mask"].numpy() == 1
    logits = outputs.discriminator_logits.numpy()[mask].astype(np.float64)
    labels = outputs.is_replaced.numpy()[mask]
    expected = np.mean(np.log1p(np.exp(np.where(labels == 1, -logits, logits))))
    assert disc_loss == pytest.approx(expected, rel=1e-5)
    chosen = outputs.masked.weights.numpy() == 1
    scores = outputs.generator_logits.numpy()[chosen].astype(np.float64)
    ids = outputs.masked.ids.numpy()[chosen]
    log_z = np.log(np.exp(scores).sum(-1))
    assert masked_lm_loss == pytest.approx(
        np.mean(log_z - scores[np.arange(len(ids)), ids]), rel=1e-5
    )
    assert loss == pytest.approx(masked_lm_loss + 50 * disc_loss, rel=1e-6)


def test_a_token_sampled_right_is_real():
    model, batch = make(), batch_of(0)
    masked = model.mask(batch, 0)
    right = masked.ids.numpy()
    ids, labels = model.replace(batch, masked, tf.constant(right))
    assert labels.numpy().sum() == 0 and (ids.numpy() == batch["input_ids"].numpy()).all()
    _, labels = model.replace(batch, masked, tf.constant(right % 40 + 104))
    wrong = (right % 40 + 104 != right) & (masked.weights.numpy() == 1)
    assert labels.numpy().sum() == wrong.sum()


def test_metrics_against_scikit_learn():
    model, batch = make(), batch_of(0, 64)
    outputs = model(batch, step=0)
    statistics = {k: v.numpy() for k, v in model.statistics(batch, outputs).items()}
    metrics = pretraining_metrics(statistics, CONFIG, is_evaluation=True)
    mask = batch["input_mask"].numpy() == 1
    scores = tf.sigmoid(outputs.discriminator_logits).numpy()
    labels = outputs.is_replaced.numpy()
    assert metrics["disc_auc"] == pytest.approx(roc_auc_score(labels[mask], scores[mask]), abs=2e-3)
    predicted = scores[mask] >= 0.5
    assert metrics["disc_accuracy"] == pytest.approx((predicted == labels[mask]).mean())
    assert metrics["disc_recall"] == pytest.approx(predicted[labels[mask] == 1].mean())
    assert metrics["replaced_rate"] == pytest.approx(labels[mask].mean())
    # google2020: padding counts as easy negatives, disc_loss is a mean of the examples' means.
    google = dataclasses.replace(CONFIG, fidelity="google2020")
    old = pretraining_metrics(statistics, google, is_evaluation=True)
    padded = roc_auc_score(labels.ravel(), (scores * mask).ravel())
    assert old["disc_auc"] == pytest.approx(padded, abs=2e-3)
    assert abs(old["disc_auc"] - metrics["disc_auc"]) > 0.01
    losses = np.where(
        mask, np.log1p(np.exp(-np.where(labels == 1, 1, -1) * outputs.discriminator_logits)), 0
    )
    assert old["disc_loss"] == pytest.approx(np.mean(losses.sum(1) / mask.sum(1)), rel=1e-4)
    assert old["disc_loss"] != metrics["disc_loss"]
    assert (
        pretraining_metrics(statistics, google, is_evaluation=False)["disc_loss"]
        == metrics["disc_loss"]
    )


def test_an_example_without_candidates():
    batch = {name: x[:1] for name, x in batch_of(0).items()}
    batch["input_ids"] = tf.constant([[101, 102] + [0] * (LENGTH - 2)])
    batch["input_mask"] = tf.constant([[1, 1] + [0] * (LENGTH - 2)])
    fixed = make()
    loss, masked_lm_loss, _ = fixed.losses_of(fixed.statistics(batch, fixed(batch, step=0)))
    assert np.isfinite(loss) and masked_lm_loss == 0.0
    google = make(dataclasses.replace(CONFIG, fidelity="google2020"))
    assert np.isnan(google.losses_of(google.statistics(batch, google(batch, step=0)))[0])


@pytest.mark.parametrize("fidelity, twice", [("fixed", False), ("google2020", True)])
def test_positions_hidden_twice(fidelity, twice):
    model = make(dataclasses.replace(CONFIG, fidelity=fidelity, mask_prob=0.5))
    masked = model.mask(batch_of(0, 64), 0)
    rows = [p[w == 1] for p, w in zip(masked.positions.numpy(), masked.weights.numpy())]
    assert any(len(set(row)) < len(row) for row in rows) == twice


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_recomputed_activations_give_the_same_gradients(dtype):
    results, num_products = [], []
    for recompute in (False, True):
        keras.utils.set_random_seed(1)
        model = make(
            dataclasses.replace(CONFIG, mixed_precision=dtype, recompute_activations=recompute)
        )
        function, arguments = tf.function(model.compute_gradients), (batch_of(0), tf.constant(3))
        results.append([g.numpy() for g in function(*arguments)[0]])
        graph = function.get_concrete_function(*arguments).graph
        operations = [operation.type for operation in graph.get_operations()]
        num_products.append(operations.count("MatMul"))
    for kept, recomputed in zip(*results):
        np.testing.assert_array_equal(kept, recomputed)
    # A block's four dense layers forward once more; query, key and value are one product.
    num_blocks = CONFIG.num_hidden_layers + CONFIG.generator_config().num_hidden_layers
    assert num_products[1] - num_products[0] == 4 * num_blocks
