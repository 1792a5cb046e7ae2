"""Which network is trained when, what for, and what the two share."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, log_softmax, softmax
from test_commands import arguments, assert_same_run, metrics_of, tensors_of
from test_pretrainer import BATCH, CONFIG, batch_of, make

from electra_tf import UserError, schedule
from electra_tf.commands import pretrain
from electra_tf.interop import huggingface
from electra_tf.modeling import phases
from electra_tf.training.flops import discriminator_flops, generator_flops, steps_flops
from electra_tf.training.loop import PretrainingTrainer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# The generator has one head, since its width is below 64, and a feed-forward width of four times its own.
ALIKE = {
    "generator_hidden_size": 1.0, "num_attention_heads": 1, "intermediate_size": 128, **NO_DROPOUT,
}  # fmt: skip
ALTERNATING = {"schedule": "alternating", "alternating_steps": 2, **NO_DROPOUT}
TWO_STAGE = {
    "schedule": "two_stage", "generator_steps": 4, "untied_generator_embeddings": True, **ALIKE,
}  # fmt: skip


def configured(**values):
    return dataclasses.replace(CONFIG, **values)


def test_stretches_by_hand():
    config = configured(**ALTERNATING)
    assert list(schedule.stretches(config, 1, 6)) == [
        ("generator", 1), ("discriminator", 2), ("generator", 2), ("discriminator", 1),
    ]  # fmt: skip
    config = configured(**TWO_STAGE)
    assert list(schedule.stretches(config, 0, 3)) == [("generator", 3)]
    assert list(schedule.stretches(config, 3, 96)) == [("generator", 1), ("discriminator", 95)]
    assert list(schedule.stretches(CONFIG, 7, 5)) == [("both", 5)]


@pytest.mark.parametrize("options", [ALTERNATING, TWO_STAGE, {}])
@pytest.mark.parametrize("num_steps", [0, 1, 4, 5, 11, 100])
def test_counts_are_those_of_the_stretches(options, num_steps):
    config = configured(**options)
    counts = dict.fromkeys(schedule.count_steps(config, num_steps), 0)
    for phase, number in schedule.stretches(config, 0, num_steps):
        counts[phase] += number
    assert counts == schedule.count_steps(config, num_steps)


def test_operations_of_phases():
    """Backward takes twice what forward takes; a generator that only proposes runs forward."""
    config = configured(**ALTERNATING)
    generator, discriminator = generator_flops(config), discriminator_flops(config)
    assert steps_flops(config, 5) == 3 * 3 * generator + 2 * (generator + 3 * discriminator)
    assert steps_flops(CONFIG, 5) == 5 * 3 * (generator + discriminator)


def named_variables(model):
    """The trained variables by name, those of both networks by two."""
    return {
        f"{network.name}/{name}": variable
        for network in model.networks
        for name, (variable, _) in huggingface.model_tensors(network).items()
    }


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("phase", ["generator", "discriminator"])
def test_a_phase_trains_its_network_and_nothing_else(phase, untied):
    """Neither weights (nor by weight decay) nor moments of the other one move."""
    config = configured(**ALTERNATING, untied_generator_embeddings=untied, num_warmup_steps=0)
    model = make(config)
    variables = named_variables(model)
    before = {name: variable.numpy() for name, variable in variables.items()}
    step = tf.function(phases.create_phases(model)[phase].gradient_step)
    for i in range(2):
        step(batch_of(i))
    own = {name for name in variables if name.startswith(f"{phase}/")}
    other = set(variables) - own
    if not untied:
        other = {name for name in other if "/electra.embeddings." not in name}
    moments = {id(v): m.numpy() for v, (_, (m, _)) in zip(
        model.trainable_variables, model.optimizer.slots()
    )}  # fmt: skip
    for name in own:
        assert np.any(variables[name].numpy() != before[name]), name
    for name in other:
        np.testing.assert_array_equal(variables[name], before[name], err_msg=name)
        assert not moments[id(variables[name])].any(), name
    assert int(model.optimizer.iterations) == 2


def test_phases_compute_the_joint_step_s_gradients():
    """A network's gradients are those of the joint step, as no gradient crosses the samples."""
    config = configured(**NO_DROPOUT, untied_generator_embeddings=True)
    model = make(config)
    gradients, statistics = model.compute_gradients(batch_of(1), 0)
    joint = {id(v): g for v, g in zip(model.trainable_variables, gradients)}
    alternating = make(dataclasses.replace(config, schedule="alternating"))
    for phase in phases.create_phases(alternating).values():
        gradients, own = phase.compute_gradients(batch_of(1), 0)
        for variable, gradient in zip(phase.trainable_variables, gradients, strict=True):
            index = [v is variable for v in alternating.trainable_variables].index(True)
            expected = joint[id(model.trainable_variables[index])]
            np.testing.assert_allclose(gradient, expected, atol=1e-6, err_msg=variable.path)
        for name, value in own.items():
            np.testing.assert_allclose(value, statistics[name], rtol=1e-6, err_msg=name)


def test_the_adversarial_loss_by_hand():
    """REINFORCE with a learnt baseline, in NumPy."""
    model = make(configured(schedule="adversarial", **NO_DROPOUT))
    batch = batch_of(3)
    outputs = model(batch, step=5)
    logits, disc_logits = outputs.generator_logits, outputs.discriminator_logits
    kernel = model.adversary.baseline.kernel
    kernel.assign(np.linspace(-1, 1, kernel.shape[0])[:, None])
    weights = outputs.masked.weights
    with tf.GradientTape() as tape:
        tape.watch([logits, disc_logits, outputs.generator_hidden])
        losses = model.adversary(outputs)
        loss = tf.reduce_sum(losses * weights)
    watched = [logits, kernel.value, disc_logits, outputs.generator_hidden]
    of_logits, of_kernel, of_disc, of_hidden = tape.gradient(loss, watched)

    rows = np.arange(len(weights))[:, None]
    positions, sampled = outputs.masked.positions.numpy(), outputs.sampled_ids.numpy()
    is_replaced = outputs.is_replaced.numpy()[rows, positions]
    probability = expit(disc_logits.numpy()[rows, positions])
    right = np.where(is_replaced == 1, probability, 1 - probability)
    reward = -np.log(right)  # The discriminator's loss.
    score = outputs.generator_hidden.numpy() @ kernel.numpy()[:, 0]
    baseline = -np.log(expit(score))
    log_p = log_softmax(logits.numpy(), axis=-1)
    log_p = np.take_along_axis(log_p, sampled[..., None], axis=-1)[..., 0]
    cross_entropy = -right * np.log(expit(score)) - (1 - right) * np.log(1 - expit(score))
    np.testing.assert_allclose(losses, -(reward - baseline) * log_p + cross_entropy, rtol=1e-4)

    one_hot = np.eye(CONFIG.vocab_size)[sampled]
    advantage = ((reward - baseline) * weights.numpy())[..., None]
    np.testing.assert_allclose(
        of_logits, advantage * (softmax(logits.numpy(), axis=-1) - one_hot), atol=1e-5
    )
    error = (expit(score) - right) * weights.numpy()
    hidden = outputs.generator_hidden.numpy()
    np.testing.assert_allclose(
        of_kernel[:, 0], np.einsum("bp,bph->h", error, hidden), rtol=1e-3, atol=1e-5
    )
    assert of_disc is None and of_hidden is None
    sums = model.statistics(batch, model(batch, step=5))
    np.testing.assert_allclose(sums["adversarial_loss"], loss, rtol=1e-5)
    expected = 50 * sums["disc_loss"] / sums["tokens"] + loss / sums["masked"]
    np.testing.assert_allclose(model.losses_of(sums)[0], expected, rtol=1e-5)


def test_what_adversarial_training_reaches():
    model = make(configured(schedule="adversarial", num_warmup_steps=0, **NO_DROPOUT))
    before = [variable.numpy() for variable in model.trainable_variables]
    step = tf.function(model.gradient_step)
    for i in range(2):
        step(batch_of(i))
    for variable, value in zip(model.trainable_variables, before):
        assert np.any(variable.numpy() != value), variable.path
    assert sum(variable.path.startswith("adversary") or "baseline" in variable.path
               for variable in model.trainable_variables) == 1  # fmt: skip


def test_networks_that_begin_the_same():
    model = make(configured(init="same", **ALIKE))
    generator, discriminator = model.generator, model.discriminator
    assert generator.encoder is not discriminator.encoder
    pairs = list(zip(generator.encoder.variables, discriminator.encoder.variables, strict=True))
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
        assert one is not other
    default = make(configured(**ALIKE))
    kernels = [n.encoder.attention[0].query.kernel for n in default.networks]
    assert np.any(kernels[0].numpy() != kernels[1].numpy())
    step = tf.function(model.gradient_step)
    for i in range(2):
        step(batch_of(i))
    assert any(np.any(one.numpy() != other.numpy()) for one, other in pairs)


def test_tied_networks_are_one_below_their_heads():
    model = make(configured(tied=True, **ALIKE))
    assert model.generator.encoder is model.discriminator.encoder
    assert model.generator.embeddings is model.discriminator.embeddings
    # The generator adds its head: a dense layer, LayerNorm and the vocabulary's bias.
    assert len(model.trainable_variables) == len(model.discriminator.trainable_variables) + 5
    # Both losses reach what is shared: its gradient is the sum of theirs.
    kernel = model.discriminator.encoder.attention[0].value.kernel
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(batch_of(1), step=1)
        statistics = model.statistics(batch_of(1), outputs)
        loss, generator_loss, disc_loss = model.losses_of(statistics)
    total, *parts = (tape.gradient(x, kernel.value) for x in (loss, generator_loss, disc_loss))
    assert all(np.abs(part).max() > 0 for part in parts)
    np.testing.assert_allclose(total, parts[0] + 50 * parts[1], rtol=1e-4, atol=1e-6)


def test_untied_embeddings():
    model = make(configured(untied_generator_embeddings=True))
    assert model.generator.embeddings is not model.discriminator.embeddings
    assert model.generator.head.embeddings is model.generator.embeddings
    number = len(model.discriminator.embeddings.trainable_variables)
    assert len(model.trainable_variables) == len(make().trainable_variables) + number


RUNS = {
    "alternating": ["schedule=alternating", "alternating_steps=3"],
    "two_stage": [
        "schedule=two_stage", "generator_steps=6", "generator_hidden_size=1.0",
        "num_attention_heads=1", "intermediate_size=64", "untied_generator_embeddings=true", "encoder_export_steps=[6]",
    ],
    "adversarial": ["schedule=adversarial"],
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("alternating", marks=pytest.mark.slow),
        "two_stage",
        pytest.param("adversarial", marks=pytest.mark.slow),
    ],
)
def run(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / request.param
    flags = [f"--override={override}" for override in RUNS[request.param]]
    assert pretrain.main(arguments(data, folder, *flags)) == 0
    return request.param, folder, flags


@pytest.mark.slow  # A continued schedule begins at a checkpoint, too.
def test_resumed_runs_are_the_same(run, data, tmp_path):
    """From step 4: before the second stage, between two turns."""
    name, folder, flags = run
    again = tmp_path / name
    shutil.copytree(folder, again, ignore=shutil.ignore_patterns("ckpt-8*", "ckpt-12*"))
    assert pretrain.main(arguments(data, again, *flags)) == 0
    assert_same_run(again, folder)


def test_metrics_of_schedules(run):
    name, folder, _ = run
    lines = [line for line in metrics_of(folder) if line["split"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 13))
    judged = [line["disc_loss"] is not None for line in lines]
    first = {"alternating": 3, "two_stage": 6, "adversarial": 0}[name]
    assert judged[:first] == [False] * first and judged[first]
    assert all(line["loss"] is not None for line in lines)
    if name == "alternating":
        assert judged == 2 * ([False] * 3 + [True] * 3)
    if name == "adversarial":
        assert all(line["adversarial_loss"] is not None for line in lines)
    else:
        np.testing.assert_allclose(lines[0]["loss"], lines[0]["masked_lm_loss"], rtol=1e-6)


@pytest.mark.parametrize("run", ["two_stage"], indirect=True)
def test_the_second_stage_leaves_the_generator_alone(run):
    _, folder, _ = run
    middle, last = tensors_of(folder / "encoders" / "step-6"), tensors_of(folder)
    for key, tensor in last["generator"].items():
        np.testing.assert_array_equal(tensor, middle["generator"][key])
    assert any(np.any(t != middle["discriminator"][k]) for k, t in last["discriminator"].items())


@pytest.mark.parametrize("run", ["two_stage"], indirect=True)
def test_a_continued_schedule_has_the_same_stages(run, data, tmp_path, capsys):
    _, folder, flags = run
    more = [f"--init_from={folder}", "--continue_schedule", "--override=num_train_steps=20"]
    command = arguments(data, tmp_path / "run", *flags, *more, "--override=generator_steps=15")
    assert pretrain.main(command) == 2
    error = capsys.readouterr().err
    assert "generator_steps is 6 there and 15 here, and the second stage begins once" in error


def test_the_discriminator_takes_over_the_generator_s_weights():
    model = make(configured(**TWO_STAGE))
    phases.hand_over(model, 3)
    pairs = list(zip(model.generator.encoder.variables, model.discriminator.encoder.variables))
    assert any(np.any(one.numpy() != other.numpy()) for one, other in pairs)
    phases.hand_over(model, 4)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow  # Each phase is traced for one and for two devices.
@pytest.mark.parametrize(
    "options",
    [
        {**ALTERNATING, "alternating_steps": 1},
        {**TWO_STAGE, "generator_steps": 1},
        {"schedule": "adversarial", **NO_DROPOUT},
    ],
    ids=["alternating", "two_stage", "adversarial"],
)
def test_two_devices_are_one(two_devices, options):
    steps = 3

    def train(strategy):
        def batches(context):
            rows = BATCH // context.num_replicas_in_sync
            dataset = tf.data.Dataset.from_tensor_slices(
                tf.nest.map_structure(
                    lambda *values: tf.concat(values, axis=0), *map(batch_of, range(steps))
                )
            )
            return dataset.batch(rows, drop_remainder=True)

        with strategy.scope():
            model = make(configured(**options))
            dataset = strategy.distribute_datasets_from_function(batches)
            trainer = PretrainingTrainer(strategy, model, dataset, 1e12)
        metrics = trainer.train(tf.constant(steps))
        return metrics, {name: v.numpy() for name, v in named_variables(model).items()}

    (one, weights), (two, other) = train(tf.distribute.get_strategy()), train(two_devices)
    for name in ("masked_lm_loss", "disc_loss", "grad_norm"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, err_msg=name)
    for name, weight in weights.items():
        if "key.bias" not in name:
            gap = np.linalg.norm(weight - other[name])
            assert gap <= 1e-4 * np.linalg.norm(weight), name


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"tied": True},
            "tied=true: generator and discriminator must be alike, but hidden_size is 8",
        ),
        ({"init": "same"}, "init=same: generator and discriminator must be alike"),
        ({**TWO_STAGE, "generator_hidden_size": 0.5}, "schedule=two_stage: generator and"),
        ({**TWO_STAGE, "untied_generator_embeddings": False}, "embeddings that the generator sh"),
        (
            {**ALTERNATING, "alternating_steps": CONFIG.num_train_steps},
            "none of the .* steps would",
        ),
        ({"schedule": "two_stage", **ALIKE}, "generator_steps=0: two_stage needs"),
        ({**TWO_STAGE, "generator_steps": 100}, "generator_steps=100: two_stage needs"),
        ({"generator_steps": 5}, "generator_steps=5: goes with schedule=two_stage"),
        ({"alternating_steps": 2}, "alternating_steps=2: goes with schedule=alternating"),
        ({"tied": True, "init": "same", **ALIKE}, "tied=true: contradicts init=same"),
        (
            {"tied": True, "untied_generator_embeddings": True, **ALIKE},
            "tied=true: contradicts untied_generator_embeddings=true",
        ),
        ({"schedule": "alternating", "generator": "uniform"}, "'uniform' is not trained"),
        ({"schedule": "adversarial", "generator": "causal"}, "generator=causal: schedule=adv"),
        ({"schedule": "adversarial", "temperature": 2.0}, "temperature=2.0: schedule=adv"),
        ({"init": "same", "generator": "causal"}, "init=same: needs generator=masked"),
    ],
)
def test_contradictions(values, message):
    with pytest.raises(UserError, match=message):
        configured(**values)


def test_fit_has_no_phases():
    with pytest.raises(UserError, match="schedule=alternating: train by pretrain.py"):
        make(configured(**ALTERNATING)).train_step(batch_of(0))
