"""Fine-tuning against the original code under TensorFlow 1.15 (tests/golden/google)."""

import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN

from electra_tf import EncoderConfig
from electra_tf.configs import FinetuningConfig
from electra_tf.interop.google import original_name
from electra_tf.interop.huggingface import model_tensors
from electra_tf.modeling.electra import SequenceClassifier
from electra_tf.modeling.finetuner import Finetuner
from electra_tf.optimization import create_finetuning_optimizer, layerwise_multipliers

FOLDER = GOLDEN / "google" / "finetune_classification"


@pytest.fixture(scope="module")
def trace():
    return np.load(FOLDER / "trace.npz")


@pytest.fixture(scope="module")
def meta():
    return json.loads((FOLDER / "meta.json").read_text())


def create(meta, fidelity="google2020"):
    """The golden model with the weights of its checkpoint, and its variables by the original's names."""
    golden = meta["config"]
    config = FinetuningConfig(
        learning_rate=golden["learning_rate"],
        layerwise_lr_decay=golden["layerwise_lr_decay"],
        weight_decay_rate=golden["weight_decay_rate"],
        warmup_proportion=golden["warmup_proportion"],
        clip_norm=golden["clip_norm"],
        train_batch_size=4,
        classifier_dropout=0.0,
        fidelity=fidelity,
    )
    names = {field for field in EncoderConfig.__dataclass_fields__} & set(golden)
    network = SequenceClassifier(
        EncoderConfig(**{name: golden[name] for name in names}),
        num_labels=golden["num_labels"],
        classifier_dropout=0.0,
    )
    variables = {
        original_name(name, "electra", "electra").replace(
            "classifier/", "task_specific/toy/dense/"
        ): variable
        for name, (variable, _) in model_tensors(network).items()
    }
    reader = tf.train.load_checkpoint(str(FOLDER / "model.ckpt-0"))
    assert set(variables) == set(reader.get_variable_to_shape_map()) - {"global_step"}
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(name))
    model = Finetuner(
        config,
        network,
        lambda logits, batch: tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch["label"], logits
        ),
        lambda batch: batch["weight"],
    )
    optimizer = create_finetuning_optimizer(config, [network], golden["num_train_steps"])
    model.compile(optimizer)
    return model, variables


def batch_of(trace, step):
    names = {"input_ids": "input_ids", "input_mask": "input_mask", "segment_ids": "segment_ids"}
    batch = {ours: tf.constant(trace[f"in/{theirs}"][step]) for ours, theirs in names.items()}
    label = tf.constant(trace["in/label_ids"][step])
    return {**batch, "label": label, "weight": tf.ones([4])}


def test_five_steps(trace, meta):
    model, variables = create(meta)
    names = list(trace["names"])
    assert sorted(names) == sorted(variables)
    assert trace["global_step"].tolist() == [0, 1, 2, 3, 4]
    step_function = tf.function(model.gradient_step)
    for step in range(5):
        batch = batch_of(trace, step)
        logits = model(batch)
        np.testing.assert_allclose(logits, trace["out/logits"][step], rtol=1e-5, atol=2e-5)
        losses, _ = model.weighted_losses(logits, batch)
        np.testing.assert_allclose(
            losses, trace["out/per_example_loss"][step], rtol=1e-5, atol=1e-5
        )
        statistics = step_function(batch)
        np.testing.assert_allclose(statistics["loss"], trace["loss_sum"][step], rtol=1e-5)
        np.testing.assert_allclose(
            statistics["grad_norm"], trace["grad_norm_before_clip"][step], rtol=1e-5
        )
        np.testing.assert_allclose(
            model.optimizer._learning_rate(step), trace["base_learning_rate"][step], rtol=1e-6
        )
        norms = [np.linalg.norm(variables[name].numpy().astype(np.float64)) for name in names]
        expected = trace["param_sum_abssum_l2_after_step"][step + 1, :, 2]
        np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_the_weights_after_five_steps(trace, meta):
    model, variables = create(meta)
    for step in range(5):
        model.gradient_step(batch_of(trace, step))
    reader = tf.train.load_checkpoint(str(FOLDER / "trained" / "model.ckpt-5"))
    rates = trace["base_learning_rate"].sum()
    for name, variable in variables.items():
        theirs = reader.get_tensor(name)
        distance = np.linalg.norm(variable.numpy() - theirs)
        if name.endswith("key/bias"):  # A gradient of rounding alone, which Adam scales up.
            assert distance < rates * theirs.size**0.5, name
        else:
            assert distance < 1e-5 * np.linalg.norm(theirs), name


def test_layerwise_multipliers(trace, meta):
    model, variables = create(meta)
    theirs = dict(zip(trace["names"], trace["lr_multiplier"]))
    ours = layerwise_multipliers(model.network, 0.8, "google2020")
    of_id = {id(v): m for v, m in zip(model.network.trainable_variables, ours)}
    for name, variable in variables.items():
        assert of_id[id(variable)] == pytest.approx(theirs[name], rel=1e-12), name


def test_fixed_multipliers_begin_one_layer_lower(meta):
    """SEMANTICS 17: the top layer gets d, not d ** 2."""
    model, variables = create(meta, fidelity="fixed")
    ours = layerwise_multipliers(model.network, 0.8, "fixed")
    of_id = {id(v): m for v, m in zip(model.network.trainable_variables, ours)}
    of = {name: of_id[id(variable)] for name, variable in variables.items()}
    assert of["task_specific/toy/dense/kernel"] == 1.0
    assert of["electra/encoder/layer_2/output/dense/kernel"] == pytest.approx(0.8)
    assert of["electra/encoder/layer_0/output/dense/kernel"] == pytest.approx(0.8**3)
    assert of["electra/embeddings/word_embeddings"] == pytest.approx(0.8**4)
    assert of["electra/embeddings_project/kernel"] == pytest.approx(0.8**4)


def test_the_loss_is_a_sum_in_2020_and_a_mean_since(trace, meta):
    """SEMANTICS 18."""
    batch = batch_of(trace, 0)
    losses = {}
    for fidelity in ("google2020", "fixed"):
        model, _ = create(meta, fidelity)
        statistics = model.training_statistics(batch, 0, None)
        losses[fidelity] = float(model.loss_of(statistics, None))
    assert losses["google2020"] == pytest.approx(trace["loss_sum"][0], rel=1e-5)
    assert losses["fixed"] == pytest.approx(trace["out/per_example_loss"][0].mean(), rel=1e-5)
