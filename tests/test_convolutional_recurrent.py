"""The convolutional-recurrent discriminator: numbers by hand, folders, training, fine-tuning, export."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from test_commands import arguments, assert_same_run
from test_distribution import STILL, stop_after, train
from test_export import serve, texts_of
from test_finetuning import OVERRIDES as FINETUNING
from test_finetuning import data_dir, read_json, run  # noqa: F401
from test_pretrainer import CONFIG, batch_of, make
from test_pretrainer import train as losses_of
from tiny_models import VOCAB, tiny_config

from electra_tf import (
    ConvolutionalRecurrentConfig,
    Discriminator,
    ElectraPretrainer,
    FinetuningConfig,
    Predictor,
    SequenceDiscriminator,
    Tokenizer,
    UserError,
    load_pretraining_config,
)
from electra_tf.commands import convert, export, plan, pretrain, verify_export
from electra_tf.export.loading import load_servables
from electra_tf.export.saved_model import write_ids
from electra_tf.interop import huggingface
from electra_tf.modeling.electra import SequenceClassifier
from electra_tf.optimization import layerwise_multipliers
from electra_tf.training import flops, footprint, warm_start

TOKENS = ConvolutionalRecurrentConfig(
    vocab_size=len(VOCAB),
    embedding_size=8,
    filters=6,
    kernel_size=5,
    units=7,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    initializer_range=0.3,
)
TEXTS = dataclasses.replace(TOKENS, pool_size=3)
OVERRIDES = {"discriminator": "convolutional_recurrent", "kernel_size": 3, "units": 12}
PRETRAINING = dataclasses.replace(CONFIG, **OVERRIDES)
LENGTHS = (12, 7, 1)
MODEL_TYPE = {"model_type": "electra_tf_convolutional_recurrent"}


def inputs_of(lengths=LENGTHS, padding=0):
    """Rows of random pieces, segments of both kinds, and so much more padding."""
    rng, longest = np.random.default_rng(0), max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int32)
    ids = rng.integers(5, len(VOCAB), mask.shape).astype(np.int32) * mask
    segments = mask * (np.arange(longest) > 4)
    values = {"input_ids": ids, "input_mask": mask, "segment_ids": segments.astype(np.int32)}
    return {name: np.pad(array, ((0, 0), (0, padding))) for name, array in values.items()}


def make_network(network_class, config):
    keras.utils.set_random_seed(5)
    network, rng = network_class(config), np.random.default_rng(1)
    for variable in network.encoder.trainable_variables:  # Biases too.
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return network


# The same by NumPy, a row without padding at a time.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tensors_by_name(network):
    tensors = huggingface.model_tensors(network)
    return {name: variable.numpy().astype(np.float64) for name, (variable, _) in tensors.items()}


def embed_by_hand(tensors, ids, segments):
    tables = (
        tensors[f"electra.embeddings.{name}.weight"]
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
    )
    words, positions, kinds = tables
    total = words[ids] + positions[: len(ids)] + kinds[segments]
    centred = total - total.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    name = "electra.embeddings.LayerNorm"
    return normal * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def convolve_by_hand(tensors, x):
    kernel, bias = (tensors[f"electra.encoder.conv.{name}"] for name in ("kernel", "bias"))
    size = len(kernel)
    padded = np.pad(x, (((size - 1) // 2, size // 2), (0, 0)))
    rows = [sum(padded[t + k] @ kernel[k] for k in range(size)) + bias for t in range(len(x))]
    return np.maximum(rows, 0)


def lstm_by_hand(tensors, name, xs):
    """Hochreiter and Schmidhuber's LSTM with forget gates; Keras's order: input, forget, cell, output."""
    kernel, recurrent, bias = (
        tensors[f"electra.encoder.{name}.{part}"] for part in ("kernel", "recurrent_kernel", "bias")
    )
    h = c = np.zeros(len(recurrent))
    outputs = []
    for x in xs:
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def token_logits_by_hand(network, ids, segments):
    tensors = tensors_by_name(network)
    hidden = convolve_by_hand(tensors, embed_by_hand(tensors, ids, segments))
    forward = lstm_by_hand(tensors, "forward_lstm", hidden)
    backward = lstm_by_hand(tensors, "backward_lstm", hidden[::-1])[::-1]
    head = "discriminator_predictions"
    encoded = np.concatenate([forward, backward], axis=1)
    return (encoded @ tensors[f"{head}.weight"] + tensors[f"{head}.bias"])[:, 0]


def text_logit_by_hand(network, ids, segments):
    tensors, pool_size = tensors_by_name(network), network.config.pool_size
    hidden = convolve_by_hand(tensors, embed_by_hand(tensors, ids, segments))
    pooled = [hidden[t : t + pool_size].max(0) for t in range(0, len(hidden), pool_size)]
    last = lstm_by_hand(tensors, "lstm", pooled)[-1]
    return (last @ tensors["classifier.weight"] + tensors["classifier.bias"])[0]


@pytest.mark.parametrize("kernel_size", [1, 4, 5])
def test_token_logits_by_hand(kernel_size):
    config = dataclasses.replace(TOKENS, kernel_size=kernel_size)
    network, inputs = make_network(Discriminator, config), inputs_of()
    logits = network(inputs)["logits"].numpy()
    assert logits.shape == (3, 12)
    for row, length in enumerate(LENGTHS):
        ids, segments = (inputs[n][row, :length] for n in ("input_ids", "segment_ids"))
        expected = token_logits_by_hand(network, ids, segments)
        np.testing.assert_allclose(logits[row, :length], expected, atol=2e-6)


@pytest.mark.parametrize("pool_size", [1, 3, 5, 40])
def test_text_logits_by_hand(pool_size):
    config = dataclasses.replace(TEXTS, pool_size=pool_size)
    network, inputs = make_network(SequenceDiscriminator, config), inputs_of()
    logits = network(inputs)["logits"].numpy()
    assert logits.shape == (3,)
    for row, length in enumerate(LENGTHS):
        ids, segments = (inputs[n][row, :length] for n in ("input_ids", "segment_ids"))
        expected = text_logit_by_hand(network, ids, segments)
        assert logits[row] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("padding", [1, 9])
def test_padding_changes_nothing(padding):
    plain, padded = inputs_of(), inputs_of(padding=padding)
    network = make_network(Discriminator, TOKENS)
    expected, found = (network(inputs)["logits"].numpy() for inputs in (plain, padded))
    is_real = plain["input_mask"] == 1
    np.testing.assert_allclose(found[:, :12][is_real], expected[is_real], atol=1e-6)
    network = make_network(SequenceDiscriminator, TEXTS)
    expected, found = (network(inputs)["logits"].numpy() for inputs in (plain, padded))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_hidden_states():
    outputs = make_network(Discriminator, TOKENS)(inputs_of(), output_hidden_states=True)
    assert [state.shape for state in outputs["hidden_states"]] == [[3, 12, 6], [3, 12, 14]]
    outputs = make_network(SequenceDiscriminator, TEXTS)(inputs_of(), output_hidden_states=True)
    assert [state.shape for state in outputs["hidden_states"]] == [[3, 4, 6], [3, 1, 7]]


# Folders.


@pytest.mark.parametrize(
    "network_class, config",
    [
        (Discriminator, TOKENS),
        (SequenceDiscriminator, TEXTS),
        (SequenceDiscriminator, TOKENS),
        (SequenceDiscriminator, tiny_config(VOCAB)),
        (SequenceClassifier, TOKENS),
    ],
)
def test_a_folder_gives_the_same_bits(network_class, config, tmp_path):
    network = make_network(network_class, config)
    network.save_pretrained(str(tmp_path))
    again = network_class.from_pretrained(str(tmp_path))
    assert again.config == config
    for a, b in zip(network.trainable_variables, again.trainable_variables, strict=True):
        assert a.path == b.path and a.numpy().tobytes() == b.numpy().tobytes()
    expected, found = (n(inputs_of())["logits"].numpy() for n in (network, again))
    np.testing.assert_array_equal(found, expected)


def test_the_folder_is_keras_names_and_layouts(tmp_path):
    network = make_network(Discriminator, TOKENS)
    network.save_pretrained(str(tmp_path))
    values = read_json(tmp_path / "config.json")
    assert values.pop("architectures") == ["Discriminator"]
    assert values.pop("model_type") == MODEL_TYPE["model_type"]
    assert values == dataclasses.asdict(TOKENS)
    arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    lstms = ("forward_lstm", "backward_lstm")
    shapes = {"electra.encoder.conv.kernel": (5, 8, 6), "electra.encoder.conv.bias": (6,)}
    for name in lstms:
        shapes |= {
            f"electra.encoder.{name}.kernel": (6, 28),
            f"electra.encoder.{name}.recurrent_kernel": (7, 28),
            f"electra.encoder.{name}.bias": (28,),
        }
    assert {n: a.shape for n, a in arrays.items() if "encoder" in n} == shapes
    forward, backward = (arrays[f"electra.encoder.{name}.kernel"] for name in lstms)
    assert (forward == network.encoder.lstm.forward_layer.cell.kernel.numpy()).all()
    assert (forward != backward).any()


def test_both_directions_begin_with_weights_of_their_own():
    forward, backward = Discriminator(TOKENS).encoder.lstms
    for name in ("kernel", "recurrent_kernel"):
        a, b = (getattr(lstm.cell, name).numpy() for lstm in (forward, backward))
        assert (a != b).any(), name


def test_folders_that_do_not_match_are_refused(tmp_path):
    make_network(Discriminator, TOKENS).save_pretrained(str(tmp_path / "tokens"))
    make_network(SequenceDiscriminator, TEXTS).save_pretrained(str(tmp_path / "texts"))
    with pytest.raises(UserError, match="missing classifier.weight .*unexpected discriminator_pre"):
        SequenceDiscriminator.from_pretrained(str(tmp_path / "tokens"))
    with pytest.raises(UserError, match="unexpected classifier.weight"):
        Discriminator.from_pretrained(str(tmp_path / "texts"))
    path = tmp_path / "tokens" / "config.json"
    for key, value, shape in (("units", 10**9, r"\(7, 28\)"), ("filters", 10**9, r"\(5, 8, 6\)")):
        path.write_text(json.dumps({**dataclasses.asdict(TOKENS), **MODEL_TYPE, key: value}))
        with pytest.raises(UserError, match=f"{key} is .*000, but electra.encoder.* shape {shape}"):
            Discriminator.from_pretrained(str(tmp_path / "tokens"))


# Pre-training.


def test_the_generator_is_the_transformers():
    model, transformer = make(PRETRAINING), make()
    assert model.generator.config == transformer.generator.config
    assert model.generator.embeddings is model.discriminator.embeddings
    assert model.discriminator.config == ConvolutionalRecurrentConfig(
        vocab_size=150, embedding_size=16, filters=32, kernel_size=3, units=12,
        max_position_embeddings=32,
    )  # fmt: skip


@pytest.mark.parametrize("trained", ["discriminator", "generator"])
def test_gradients_reach_exactly_these_variables(trained):
    weights = {"gen_weight": float(trained == "generator")}
    weights["disc_weight"] = 1.0 - weights["gen_weight"]
    model = make(dataclasses.replace(PRETRAINING, **weights))
    gradients, _ = model.compute_gradients(batch_of(0), tf.constant(0))
    reached = {
        id(variable)
        for variable, gradient in zip(model.trainable_variables, gradients)
        if np.any(gradient.numpy())
    }
    network = getattr(model, trained)
    named = huggingface.model_tensors(network)
    # Softmax does not see a bias of the keys. Five tensors are shared embeddings.
    expected = {id(v) for name, (v, _) in named.items() if "key.bias" not in name}
    unseen = {id(v) for name, (v, _) in named.items() if "key.bias" in name}
    assert expected <= reached <= expected | unseen
    assert (len(named), len(unseen)) == {"discriminator": (15, 0), "generator": (44, 2)}[trained]


def test_dropout_depends_on_the_step_alone():
    config = dataclasses.replace(PRETRAINING, hidden_dropout_prob=0.5)
    model, batch = make(config), batch_of(0)

    def logits(step):
        return model(batch, training=True, step=step).discriminator_logits.numpy()

    assert (logits(3) == logits(3)).all()
    network = model.discriminator
    embedded = tf.ones([2, 8, 16])
    seeds = tf.constant([[1, 2], [1, 3]])
    mask = tf.ones([2, 8], tf.int32)
    first, second = (network.encoder(embedded, mask, seed=seed) for seed in tf.unstack(seeds))
    for a, b in zip(first, second):
        assert (a.numpy() != b.numpy()).any()
    # Dropped ones are zeros, kept ones are doubled.
    plain = network.encoder(embedded, mask)[0].numpy()
    dropped = first[0].numpy()
    np.testing.assert_allclose(dropped[dropped != 0], 2 * plain[dropped != 0], rtol=1e-6)
    assert 0.3 < np.mean(dropped[plain != 0] == 0) < 0.7


@pytest.mark.parametrize(
    "network_class, config",
    [(Discriminator, TOKENS), pytest.param(SequenceDiscriminator, TEXTS, marks=pytest.mark.slow)],
)
def test_xla_gives_the_same_gradients(network_class, config):
    network, inputs = make_network(network_class, config), inputs_of()

    def gradients():
        with tf.GradientTape() as tape:
            logits = network(inputs, training=True, dropout_seed=tf.constant([1, 2]))["logits"]
            loss = tf.reduce_sum(tf.square(logits))
        variables = [variable.value for variable in network.trainable_variables]
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    plain, compiled = (tf.function(gradients, jit_compile=jit)() for jit in (False, True))
    for a, b in zip(plain, compiled, strict=True):
        assert np.linalg.norm(a) > 0
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


def test_it_learns():
    losses = losses_of(make(PRETRAINING), 6)
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("mixed_precision", ["float32", "bfloat16", "float16"])
def test_the_run_of_each_precision_compiled(mixed_precision):
    config = dataclasses.replace(PRETRAINING, mixed_precision=mixed_precision)
    expected, found = losses_of(make(PRETRAINING), 6), losses_of(make(config, jit_compile=True), 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4 if mixed_precision == "float32" else 0.02)


def test_half_precision():
    model = make(dataclasses.replace(PRETRAINING, mixed_precision="bfloat16"))
    reference, batch = make(PRETRAINING), batch_of(0)
    assert model.discriminator.encoder.conv.compute_dtype == "bfloat16"
    for lstm in model.discriminator.encoder.lstms:
        assert lstm.compute_dtype == lstm.cell.compute_dtype == "float32"
    found, expected = (m(batch).discriminator_logits for m in (model, reference))
    assert found.dtype == tf.float32
    assert 0 < np.abs(found - expected).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_parts, num_replicas, sub_batch_rows", [(2, 2, None), (2, 1, None), (1, 1, 2)]
)
def test_parts_are_the_whole(num_parts, num_replicas, sub_batch_rows, two_devices, whole):
    config = dataclasses.replace(STILL, **OVERRIDES, gradient_accumulation_steps=num_parts)
    strategy = two_devices if num_replicas == 2 else None
    losses, weights = train(config, strategy, sub_batch_rows=sub_batch_rows)
    np.testing.assert_allclose(losses, whole[0], rtol=1e-5)
    for path, weight in weights.items():
        if "key/bias" not in path:
            expected = whole[1][path]
            assert np.linalg.norm(weight - expected) <= 1e-5 * np.linalg.norm(expected), path


@pytest.fixture(scope="module")
def whole():
    return train(dataclasses.replace(STILL, **OVERRIDES))


RUN = [f"--override={key}={value}" for key, value in OVERRIDES.items()]


def command(data, folder):
    """A run without evaluation, whose graph takes a while."""
    flags = arguments(data, folder, *RUN, "--override=num_train_steps=6")
    return [flag for flag in flags if not flag.startswith("--eval_data")]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert pretrain.main(command(data, folder)) == 0
    return folder


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bits(data, finished, tmp_path):
    with stop_after(4):
        assert pretrain.main(command(data, tmp_path)) == 130
    assert pretrain.main(command(data, tmp_path)) == 0
    assert_same_run(tmp_path, finished)


def test_a_run_begins_with_anothers_weights(data, finished, tmp_path, capsys):
    config = load_pretraining_config(str(finished / "config.yaml"))
    model, tokenizer = ElectraPretrainer(config), Tokenizer.from_vocab(str(data / "vocab.txt"))
    warm_start.check_networks(config, tokenizer, str(finished))
    warm_start.import_networks(model, str(finished))
    there = safetensors.numpy.load_file(finished / "discriminator" / "model.safetensors")
    here = tensors_by_name(model.discriminator)
    assert sorted(here) == sorted(there)
    name = "electra.encoder.backward_lstm.recurrent_kernel"
    assert (here[name] == there[name]).all()
    assert pretrain.main(arguments(data, tmp_path / "other", f"--init_from={finished}")) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "discriminator is of another architecture" in line
    assert "kernel_size is 3 there and None here" in line


@pytest.mark.parametrize(
    "to",
    [["--to=google"], ["--to=google", "--optimizer"], ["--to=keras_hub"], ["--to=huggingface"]],
)
def test_no_conversion(finished, tmp_path, capsys, to):
    assert convert.main(["", *to, f"--input={finished}", f"--output={tmp_path}/there"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the encoder is convolutional-recurrent, which no other program has" in line
    assert not list(tmp_path.iterdir())


def test_keys_of_another_discriminator():
    with pytest.raises(UserError, match="units=3: goes with discriminator=convolutional_recurrent"):
        load_pretraining_config("tiny", {"units": 3})
    with pytest.raises(UserError, match="tiny: discriminator='lstm'"):
        load_pretraining_config("tiny", {"discriminator": "lstm"})
    config = load_pretraining_config("mini", {"discriminator": "convolutional_recurrent"})
    sizes = config.discriminator_config()
    assert (sizes.filters, sizes.kernel_size, sizes.units, sizes.pool_size) == (256, 5, 256, None)


# Cost.


@pytest.mark.parametrize("name, share", [("tiny", 0.004), ("small", 0.005)])
def test_presets_are_near_the_transformers(name, share):
    config = load_pretraining_config(f"{name}_convolutional_recurrent")
    counts = footprint.parameters(config)
    transformers = footprint.parameters(load_pretraining_config(name))
    assert counts["embeddings"] == transformers["embeddings"]
    assert counts["generator"] == transformers["generator"]
    here, there = (c["embeddings"] + c["discriminator"] for c in (counts, transformers))
    assert here == pytest.approx(there, rel=share)
    model = ElectraPretrainer(config)
    variables = model.discriminator.trainable_variables
    assert here == sum(math.prod(variable.shape) for variable in variables)


def test_parameters_and_flops_by_hand():
    config = load_pretraining_config("tiny_convolutional_recurrent")
    # Five rows of a convolution from 128 to 128; two LSTMs of four gates from 128 + 144 to 144; one logit.
    lstm = 4 * (128 + 144) * 144
    weights = 5 * 128 * 128 + 2 * lstm + 288
    biases = 128 + 2 * 4 * 144 + 1
    assert footprint.parameters(config)["discriminator"] == weights + biases == 396_833
    generator = 128 * (128 * 64 + 2 * (4 * 64**2 + 2 * 64 * 256 + 2 * 128 * 64))
    vocabulary = 19 * (64 * 128 + 128 * 30522)
    forward = 2 * (128 * weights + generator + vocabulary)
    assert flops.pretraining_flops(config) == 3 * forward
    assert flops.recomputed_flops(config) == 2 * generator


def test_activations_by_hand():
    config = load_pretraining_config(
        "tiny_convolutional_recurrent", {"mixed_precision": "bfloat16"}
    )
    # A token in float32: three times the embeddings' width; the LSTMs' inputs, states, gates, outputs;
    # the head's input. In bfloat16: embeddings twice, convolution twice, the LSTMs' outputs.
    float32 = 3 * 128 + 2 * (128 + 7 * 144) + 288 + 288
    half = 2 * 128 + 2 * 128 + 288
    kept = footprint.discriminator_activations(config).total
    assert kept == 128 * (4 * float32 + 2 * half)


def test_plan_names_the_sizes(capsys):
    assert plan.main(["", "--config=small_convolutional_recurrent"]) == 0
    assert "256 filters of 5, 2 LSTMs of 960 units" in capsys.readouterr().out


# Fine-tuning.

LONGER = (*FINETUNING, "num_train_epochs=12")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a random encoder and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    config = dataclasses.replace(TOKENS, filters=16, units=16)
    make_network(Discriminator, config).save_pretrained(str(folder))
    Tokenizer(VOCAB).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def classified(data_dir, encoder, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("runs") / "classified"
    assert run(data_dir, encoder, folder, overrides=LONGER) == 0
    return folder


def test_a_fine_tuned_model_is_not_converted(classified, tmp_path, capsys):
    flags = ["--to=huggingface", f"--input={classified}", f"--output={tmp_path}/there"]
    assert convert.main(["", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "model: the encoder is convolutional-recurrent" in line


def test_classification(classified, data_dir):  # noqa: F811
    assert read_json(classified / "results.json")["metrics"]["accuracy"] > 0.9
    predictor = Predictor.from_pretrained(str(classified / "model"))
    assert [r["label"] for r in predictor(["cat good tree", "bad dog"])] == ["good", "bad"]
    values = read_json(classified / "model" / "config.json")
    assert values["model_type"] == "electra_tf_convolutional_recurrent"
    assert "attention_probs_dropout_prob: null\n" in (classified / "config.yaml").read_text()


@pytest.mark.slow
def test_tagging(data_dir, encoder, tmp_path):  # noqa: F811
    assert run(data_dir, encoder, tmp_path, task="tags.yaml", overrides=LONGER) == 0
    assert read_json(tmp_path / "results.json")["metrics"]["f1"] > 0.9


@pytest.mark.slow
def test_a_pre_trained_run_is_fine_tuned(finished, data_dir, tmp_path):  # noqa: F811
    assert run(data_dir, finished, tmp_path, overrides=["num_train_steps=2"]) == 0
    there = safetensors.numpy.load_file(finished / "discriminator" / "model.safetensors")
    here = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    names = {name for name in there if name.startswith("electra.")}
    assert names == {name for name in here if name.startswith("electra.")}
    # Two steps of a rate of 3e-4 at most.
    assert all(np.abs(here[name] - there[name]).max() < 1e-2 for name in names)


@pytest.mark.slow
def test_an_encoder_of_texts_classifies_and_does_not_tag(data_dir, tmp_path, capsys):  # noqa: F811
    config = dataclasses.replace(TEXTS, filters=16, units=16)
    make_network(SequenceDiscriminator, config).save_pretrained(str(tmp_path / "texts"))
    Tokenizer(VOCAB).save_pretrained(str(tmp_path / "texts"))
    assert run(data_dir, tmp_path / "texts", tmp_path / "run", overrides=LONGER) == 0
    assert read_json(tmp_path / "run" / "results.json")["metrics"]["accuracy"] > 0.8
    capsys.readouterr()
    assert run(data_dir, tmp_path / "texts", tmp_path / "tags", task="tags.yaml") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "a tagging task needs a vector for each token; the encoder pools (pool_size=3)" in line


def test_an_encoder_without_attention_has_no_dropout_of_it():
    config = FinetuningConfig(attention_probs_dropout_prob=0.1)
    with pytest.raises(UserError, match="convolutional-recurrent and has no attention; leave"):
        config.resolved(TOKENS, "classification")
    assert FinetuningConfig().resolved(TOKENS, "qa").attention_probs_dropout_prob is None


@pytest.mark.parametrize("fidelity, extra", [("fixed", 0), ("google2020", 1)])
def test_rates_by_layer(fidelity, extra):
    network = make_network(SequenceClassifier, TOKENS)
    rates = layerwise_multipliers(network, 0.5, fidelity)
    by_name = dict(zip((v.path for v in network.trainable_variables), rates))
    expected = {
        "classifier": 1.0,
        "encoder/lstm": 0.5 ** (1 + extra),
        "encoder/conv": 0.5 ** (2 + extra),
        "embeddings": 0.5 ** (3 + extra),
    }
    for path, rate in by_name.items():
        [prefix] = [prefix for prefix in expected if path.startswith(prefix)]
        assert rate == expected[prefix], path
    assert {path.split("/")[0] for path in by_name} == {"classifier", "encoder", "embeddings"}


# Export.


def test_served_networks_of_ids(encoder, tmp_path, capsys):
    network = make_network(SequenceDiscriminator, TEXTS)
    network.save_pretrained(str(tmp_path / "texts"))
    Tokenizer(VOCAB).save_pretrained(str(tmp_path / "texts"))
    for folder, name in ((encoder, "tokens"), (str(tmp_path / "texts"), "generated")):
        write_ids(load_servables(folder), str(tmp_path / name), name)
    inputs = inputs_of()
    found = serve(tmp_path / "generated", **inputs)
    expected = tf.sigmoid(network(inputs)["logits"])
    np.testing.assert_allclose(found["generated_probability"], expected, atol=1e-5)
    found = serve(tmp_path / "tokens", **inputs)
    outputs = Discriminator.from_pretrained(encoder)(inputs)
    expected = tf.sigmoid(outputs["logits"]) * inputs["input_mask"]
    np.testing.assert_allclose(found["replaced_probabilities"], expected, atol=1e-5)
    assert verify_export.main(["", str(tmp_path / "tokens")]) == 0
    printed = capsys.readouterr().out
    if "not installed" not in printed:
        assert float(printed.split("OpenVINO: largest difference ")[1]) <= 1e-5


@pytest.mark.slow  # test_served_networks_of_ids is the quick one.
def test_a_served_task(classified, tmp_path):
    flags = [f"--model_dir={classified}/model", f"--output_dir={tmp_path}", "--name=mine"]
    assert export.main(["", *flags]) == 0
    strings = ["cat good tree", "", "bad dog " * 30]
    found = serve(tmp_path / "mine_text/1", text=texts_of(*strings))
    expected = Predictor.from_pretrained(str(classified / "model"))(strings)
    assert [label.decode() for label in found["label"]] == [row["label"] for row in expected]
    scores = [list(row["scores"].values()) for row in expected]
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
