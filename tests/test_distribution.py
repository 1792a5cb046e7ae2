"""N replicas of K micro-batches are one device: losses, weights, metrics."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_commands import METRICS, ROOT, arguments, last_line, metrics_of, tensors_of
from test_pretrainer import CONFIG, batch_of, make

from electra_tf import UserError
from electra_tf.commands import pretrain
from electra_tf.training import pretraining, strategies

STILL = dataclasses.replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
STEPS, BATCH = 10, 8


def train(config, strategy=None, **options):
    """Losses of each step, and the weights after them."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = make(config, **options)

    @tf.function
    def step(batch):
        statistics = strategy.run(model.gradient_step, args=(batch,))
        names = ("masked_lm_loss", "masked", "disc_loss", "tokens")
        return {n: strategy.reduce("SUM", statistics[n], axis=None) for n in names}

    losses = [
        model.losses_of(step(rows_of_replicas(strategy, batch_of(i, BATCH)))) for i in range(STEPS)
    ]
    weights = {v.path: v.numpy() for v in model.trainable_variables}
    return np.array(losses), weights


def rows_of_replicas(strategy, batch):
    """Deals a global batch out to the replicas."""
    size = BATCH // strategy.num_replicas_in_sync

    def rows(context):
        first = context.replica_id_in_sync_group * size
        return {name: values[first : first + size] for name, values in batch.items()}

    return strategy.experimental_distribute_values_from_function(rows)


@pytest.fixture(scope="module")
def reference():
    return train(STILL)


@pytest.mark.parametrize(
    "num_replicas, num_parts, jit_compile",
    [
        pytest.param(1, 4, False, marks=pytest.mark.slow),
        pytest.param(2, 1, False, marks=pytest.mark.slow),
        (2, 2, False),
        pytest.param(2, 2, True, marks=pytest.mark.slow),
    ],
)
def test_parts_are_the_whole(reference, two_devices, num_replicas, num_parts, jit_compile):
    config = dataclasses.replace(STILL, gradient_accumulation_steps=num_parts)
    strategy = two_devices if num_replicas == 2 else None
    losses, weights = train(config, strategy, jit_compile=jit_compile)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    for path, weight in weights.items():
        if "key/bias" in path:
            continue
        expected = reference[1][path]
        assert np.linalg.norm(weight - expected) <= 1e-5 * np.linalg.norm(expected), path


@pytest.mark.slow
@pytest.mark.parametrize("num_parts", [1, 2])
def test_pieces_side_by_side_are_the_whole(reference, num_parts):
    """A batch of 8 in pieces of 2 rows, of micro-batches too."""
    config = dataclasses.replace(STILL, gradient_accumulation_steps=num_parts)
    losses, weights = train(config, sub_batch_rows=2)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    for path, weight in weights.items():
        if "key/bias" not in path:
            expected = reference[1][path]
            assert np.linalg.norm(weight - expected) <= 1e-5 * np.linalg.norm(expected), path


# In a process of its own: threads are shared out before TensorFlow starts.
SHARE = """
from electra_tf.training import strategies
strategy = strategies.create_strategy()
print(*(strategies.sub_batch_rows(rows) for rows in (4, 16, 32, 64, 70, 128, 1024)))
"""


def test_rows_side_by_side(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    process = subprocess.run(
        [sys.executable, "-c", SHARE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["None", "8", "16", "16", "None", "16", "128"]
    # Here TensorFlow has started, with the threads it has.
    assert strategies.sub_batch_rows(64) is None


RUN = [
    "--override=hidden_dropout_prob=0", "--override=attention_probs_dropout_prob=0",
    "--override=eval_batch_size=5", "--override=num_eval_steps=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def one_device(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    assert pretrain.main(arguments(data, folder, "--strategy=one_device", *RUN)) == 0
    return folder


def assert_equal_run(folder, reference, metrics_rtol=1e-4, weights_rtol=1e-5):
    """The same steps, metrics and weights, but for rounding."""
    for line, expected in zip(metrics_of(folder), metrics_of(reference), strict=True):
        assert (line["step"], line["split"]) == (expected["step"], expected["split"])
        for name in METRICS:
            if expected[name] is None:
                assert line[name] is None
            else:
                assert line[name] == pytest.approx(expected[name], rel=metrics_rtol, abs=1e-6), name
    for one, other in zip(tensors_of(folder).values(), tensors_of(reference).values(), strict=True):
        for name, expected in other.items():
            if "key.bias" not in name:
                difference = np.linalg.norm(one[name] - expected)
                assert difference <= weights_rtol * np.linalg.norm(expected), name


@pytest.mark.slow  # test_parts_are_the_whole and test_finetuning have quick ones.
def test_a_run_on_two_devices(data, one_device, tmp_path):
    command = arguments(data, tmp_path / "run", "--strategy=mirrored", *RUN)
    assert pretrain.main([*command, "--num_virtual_devices=2"]) == 0
    assert_equal_run(tmp_path / "run", one_device)


@contextlib.contextmanager
def stop_after(step):
    """Interrupts a run once its checkpoint of a step is saved."""
    save = pretraining.save_checkpoint

    def save_and_stop(manager, saved_step):
        save(manager, saved_step)
        if saved_step == step:
            raise KeyboardInterrupt

    pretraining.save_checkpoint = save_and_stop
    try:
        yield
    finally:
        pretraining.save_checkpoint = save


@pytest.mark.slow
def test_a_changing_number_of_devices(data, one_device, tmp_path):
    """1, then 2 with accumulation, then 1."""
    for last, flags in (
        (4, ["--strategy=one_device"]),
        (8, ["--strategy=mirrored", "--override=gradient_accumulation_steps=2"]),
        (12, ["--strategy=one_device"]),
    ):
        with stop_after(last):
            pretrain.main(arguments(data, tmp_path / "run", *RUN, *flags))
    assert_equal_run(tmp_path / "run", one_device)


def start_workers(command, number):
    """Starts a command on workers of this machine; returns their processes."""
    ports = [free_port() for _ in range(number)]
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    return [
        subprocess.Popen(
            [sys.executable, ROOT / "pretrain.py", *command[1:]],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": cluster, "task": {"type": "worker", "index": i}}
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(number)
    ]


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_several_workers(data, one_device, tmp_path, number):
    workers = start_workers(arguments(data, tmp_path / "run", *RUN), number)
    outputs = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * number, outputs
    assert_equal_run(tmp_path / "run", one_device)
    assert "models: " in outputs[0] and "models: " not in outputs[1]


ACCUMULATE = "--override=gradient_accumulation_steps=2"
BFLOAT16 = "--override=mixed_precision=bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, metrics_rtol, weights_rtol",
    [
        ([ACCUMULATE, "--xla"], 1e-4, 1e-5),
        # A gradient of bfloat16 is rounded to 8 bits in each part, before the parts are summed;
        # after 12 steps the metrics (disc_auc) were 3.2e-3 apart, and of the weights biases that have
        # hardly moved from 0 up to 4.6e-3.
        ([ACCUMULATE, "--xla", BFLOAT16], 2.0**-8, 2.0**-7),
    ],
    ids=["xla", "xla-bfloat16"],
)
def test_two_workers_of_two_micro_batches(data, tmp_path, flags, metrics_rtol, weights_rtol):
    command = [*RUN, *flags]
    one = arguments(data, tmp_path / "one", "--strategy=one_device", *command)
    assert pretrain.main(one) == 0
    workers = start_workers(arguments(data, tmp_path / "two", *command), 2)
    outputs = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert_equal_run(tmp_path / "two", tmp_path / "one", metrics_rtol, weights_rtol)


def test_a_batch_that_replicas_cannot_share(data, tmp_path, capsys):
    command = arguments(data, tmp_path / "run", "--strategy=mirrored", "--num_virtual_devices=2")
    assert pretrain.main([*command, "--override=train_batch_size=5"]) == 2
    assert "train_batch_size=5 is no multiple of 2" in last_line(capsys)
    assert pretrain.main([*command, "--num_virtual_devices=3"]) == 2
    assert "TensorFlow has started with 2 device(s)" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def collective_error(message):
    return tf.errors.UnavailableError(None, None, f"Collective ops is aborted by: {message}")


def test_which_workers_are_lost(monkeypatch):
    """Messages are TensorFlow's own, shortened: of three workers the first asks."""
    answering, gone = socket.create_server(("localhost", 0)), f"localhost:{free_port()}"
    alive = f"localhost:{answering.getsockname()[1]}"

    def lost(message, *others, make=collective_error):
        cluster = {"cluster": {"worker": [gone, *others]}, "task": {"type": "worker", "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        return strategies.lost_workers(make(message))

    passed_on = "".join(
        f"Additional GRPC error information from remote target /job:worker/replica:0/task:{task} "
        "while calling /tensorflow.WorkerService/RecvBuf:\n"
        for task in (1, 2)
    )
    silent = "are unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:1\nThe tasks"
    device = "_device_/job:worker/replica:0/task:1/device:CPU:0"
    with answering:
        assert lost(passed_on, gone, alive) == [f"worker 1 ({gone})"]
        assert lost("Socket closed", alive, gone) == [f"worker 2 ({gone})"]
        assert lost(passed_on, alive, alive) == [f"worker 1 ({alive})", f"worker 2 ({alive})"]
        # A frozen one answers, while another has left in answer.
        assert lost(silent + passed_on, alive, gone) == [f"worker 1 ({alive})"]
        assert lost(device, alive, alive) == []
        assert lost("", gone, make=lambda text: tf.errors.NotFoundError(None, None, text)) == []
    monkeypatch.delenv("TF_CONFIG")
    assert strategies.lost_workers(collective_error(passed_on)) == []


def test_the_choice_of_devices(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert strategies.choose() == "one_device"
    assert strategies.choose(num_virtual_devices=2) == "mirrored"
    monkeypatch.setenv("TPU_NAME", "local")
    assert strategies.choose() == "tpu"
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:1"]}}))
    assert strategies.choose() == "multi_worker"
    monkeypatch.setenv("TF_CONFIG", "[")
    with pytest.raises(UserError, match="TF_CONFIG: not a JSON object"):
        strategies.choose()
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UserError, match="TF_CONFIG names no workers"):
        strategies.create_strategy("multi_worker")
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(UserError, match="its task is worker 2, but .* worker 0, worker 1"):
        strategies.create_strategy("multi_worker")
