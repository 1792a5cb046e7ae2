"""Which devices a run uses, by `tf.distribute`."""

import contextlib
import functools
import json
import os
import re
import socket

import tensorflow as tf
from absl import logging

from electra_tf.errors import UserError, WorkerLost, first_line
from electra_tf.worker_pool import num_cpus

_SIDE_BY_SIDE = 2  # Operations at a time on a CPU, see `sub_batch_rows`.

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")

# What a collective operation may end in when a worker is gone.
_LOST_KINDS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.InternalError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)
# How the error names workers (and not their devices, named for other reasons); those alone on a
# line have stopped to send heartbeats.
_NAMED = re.compile(r"/job:(\w+)/replica:\d+/task:(\d+)(?![\d/])")
_SILENT = re.compile(r"^/job:(\w+)/replica:\d+/task:(\d+)$", re.MULTILINE)


@contextlib.contextmanager
def noticing_lost_workers():
    """Raises `WorkerLost`, with names, for the errors that the loss of other workers causes.

    They come by themselves: TensorFlow's coordination service gives up a worker, killed or frozen,
    that sends no heartbeat for ten seconds, and aborts the collective operations of the others.
    """
    try:
        yield
    except tf.errors.OpError as error:
        lost = lost_workers(error)
        if not lost:
            raise
        raise WorkerLost(
            f"{', '.join(lost)} {'are' if len(lost) > 1 else 'is'} gone; start all workers again, "
            "the run goes on from its checkpoint"
        ) from error


def lost_workers(error):
    """The workers whose loss caused an error.

    TensorFlow names frozen ones, which still answer on their address. Of killed ones it tells what
    the network said, and names those as well that only passed it on; then the addresses tell.

    Args:
      error: `tf.errors.OpError`.

    Returns:
      list of str, such as "worker 1 (localhost:2222)"; empty where the error has another cause.
    """
    if not isinstance(error, _LOST_KINDS):
        return []
    addresses, own = _workers()
    others = set(addresses) - {own}
    lost = others.intersection(_SILENT.findall(error.message))
    if not lost:
        named = others.intersection(_NAMED.findall(error.message))
        gone = {worker for worker in others if not _answers(addresses[worker])}
        lost = gone & named or gone or named
    return [f"{job} {task} ({addresses[job, task]})" for job, task in sorted(lost)]


def _answers(address):
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3.0):
            return True
    except OSError:
        return False


@noticing_lost_workers()
def create_strategy(name="auto", num_virtual_devices=0):
    """Makes a `tf.distribute.Strategy`; before anything else is done with TensorFlow.

    ```python
    strategy = create_strategy("mirrored", num_virtual_devices=2)
    ```

    Args:
      name: one of `STRATEGIES`. `auto` takes `multi_worker` where `TF_CONFIG` names several workers,
        `tpu` where `TPU_NAME` is set, `mirrored` on several devices, else `one_device`.
      num_virtual_devices: how many devices to make of the CPU, to try out several; GPUs are left
        alone then. 0 for the devices that there are.

    Raises:
      UserError: the environment does not have what was asked for.
    """
    if num_virtual_devices:
        _make_virtual_devices(num_virtual_devices)
    elif name == "one_device" or (name == "auto" and _is_alone()):
        _share_threads()
    if name == "auto":
        name = choose(num_virtual_devices)
    if name == "multi_worker":
        addresses, own = _workers()
        if not addresses:
            raise UserError(
                "--strategy=multi_worker: the environment variable TF_CONFIG names no workers; set it "
                "on each of them, or use --strategy=mirrored on one machine"
            )
        if own not in addresses:
            raise UserError(
                f"TF_CONFIG: its task is {own[0]} {own[1]}, but the cluster has "
                f"{', '.join(' '.join(key) for key in addresses)}; mend it"
            )
        logging.info("waiting for the workers %s", ", ".join(addresses.values()))
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy()
    if name == "mirrored":
        return _mirrored_strategy(tuple(device.name for device in _devices()))
    return tf.distribute.get_strategy()


def sub_batch_rows(rows):
    """How many of a replica's rows a step computes in one piece; None for all of them.

    On a CPU two pieces side by side, each operation on half of the cores, wait less for each other
    than one piece does for all cores: two pieces of up to 32 rows, else pieces of 16, at most 8.

    Args:
      rows: int.
    """
    if tf.config.threading.get_inter_op_parallelism_threads() != _SIDE_BY_SIDE:
        return None
    number = min(8, max(2, rows // 16))
    return rows // number if rows >= 16 and rows % number == 0 else None


def _is_alone():
    return len(_workers()[0]) < 2 and not os.environ.get("TPU_NAME")


def _share_threads():
    """Lets two operations run side by side, where a CPU is all there is."""
    if tf.config.list_physical_devices("GPU") or "TF_NUM_INTEROP_THREADS" in os.environ:
        return
    try:
        tf.config.threading.set_inter_op_parallelism_threads(_SIDE_BY_SIDE)
        tf.config.threading.set_intra_op_parallelism_threads(max(1, num_cpus() // _SIDE_BY_SIDE))
    except RuntimeError:  # TensorFlow has started, with the threads it has.
        return


def choose(num_virtual_devices=0):
    """What `auto` stands for here: one of `STRATEGIES`."""
    if len(_workers()[0]) > 1:
        return "multi_worker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    num_devices = num_virtual_devices or len(tf.config.list_logical_devices("GPU"))
    return "mirrored" if num_devices > 1 else "one_device"


def _workers():
    """The workers that `TF_CONFIG` names, the chief among them.

    Returns:
      `(addresses, own)`: dict from (job, task) to address, and the key that is this process's.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return {}, None
    try:
        tf_config = json.loads(text)
        cluster, own = tf_config.get("cluster", {}), tf_config.get("task", {})
        addresses = {
            (job, str(task)): address
            for job in ("chief", "worker")
            for task, address in enumerate(cluster.get(job, []))
        }
        return addresses, (own.get("type"), str(own.get("index")))
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG: not a JSON object with a 'cluster' ({error}); mend or unset it"
        ) from None


def _devices():
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def _make_virtual_devices(number):
    [physical] = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_logical_device_configuration(
            physical, [tf.config.LogicalDeviceConfiguration()] * number
        )
    except RuntimeError:  # TensorFlow has started.
        if len(_devices()) != number:
            raise UserError(
                f"--num_virtual_devices={number}: TensorFlow has started with {len(_devices())} "
                "device(s); set it before anything else runs"
            ) from None


@functools.cache
def _mirrored_strategy(devices):
    """One for all runs of a process: two would number their collective operations alike."""
    return tf.distribute.MirroredStrategy(devices)


def _tpu_strategy():
    try:
        # Without the name it would ask the cloud's API, also on a TPU VM ("local").
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(
            os.environ.get("TPU_NAME")
        )
    except (ValueError, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--strategy=tpu: cannot connect to a TPU ({first_line(error)}); set TPU_NAME"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def any_worker(strategy, flag):
    """Whether a flag is set on any worker; all of them must ask at the same time."""
    if strategy.cluster_resolver is None:
        return flag
    # Not `strategy.run`, which outside of a function warns each time that it is slow.
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(float(flag))
    )
    return bool(strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None) > 0)


def check_divisible(config, strategy):
    """Refuses a batch that replicas and micro-batches cannot share evenly."""
    num_replicas, num_parts = strategy.num_replicas_in_sync, config.gradient_accumulation_steps
    if num_parts == "auto":
        num_parts = 1
    if config.train_batch_size % (num_replicas * num_parts):
        raise UserError(
            f"train_batch_size={config.train_batch_size} is no multiple of {num_replicas * num_parts}, "
            f"which is {num_replicas} replicas times gradient_accumulation_steps={num_parts}; choose "
            "one that is"
        )


def distribute(strategy, read, *args):
    """Lets each worker read the parts of its own replicas only.

    Args:
      strategy: `tf.distribute.Strategy`.
      read: function of `args`, `num_parts` and `parts` that gives a `tf.data.Dataset`, such as
        `records.RecordBatches.training`.
      *args: its first arguments.
    """

    def read_parts(context):
        num_parts = context.num_replicas_in_sync
        size = num_parts // context.num_input_pipelines
        first = context.input_pipeline_id * size
        return read(*args, num_parts=num_parts, parts=range(first, first + size))

    return strategy.distribute_datasets_from_function(read_parts)


def replica_devices(strategy):
    """Names of the devices on which this process's replicas compute."""
    if strategy.num_replicas_in_sync == 1 and strategy.cluster_resolver is None:
        return [_devices()[0].name]
    return list(strategy.extended.worker_devices)


def num_devices(strategy):
    """Devices of all workers; those that are made of one CPU are one."""
    local = replica_devices(strategy)
    num_workers = strategy.num_replicas_in_sync // len(local)
    return num_workers * (1 if "CPU" in local[0] else len(local))


def compiles(strategy):
    """Whether XLA is to compile a replica's gradients: on GPUs. A TPU's strategy compiles by itself."""
    return all("GPU" in name for name in replica_devices(strategy))


def is_chief(strategy):
    """Whether this process writes the run folder."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (
        not has_chief and resolver.task_type == "worker" and resolver.task_id == 0
    )
