"""Which devices a run uses, by `tf.distribute`. Nothing else in the package asks for their kind."""

import functools
import json
import os
import re

import tensorflow as tf

from electra_tf.errors import UserError

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def create_strategy(name="auto", num_virtual_devices=0):
    """Makes a `tf.distribute.Strategy`; before anything else is done with TensorFlow.

    ```python
    strategy = create_strategy("mirrored", num_virtual_devices=2)
    ```

    Args:
      name: one of `STRATEGIES`. `auto` takes `multi_worker` where `TF_CONFIG` names several workers,
        `tpu` where `TPU_NAME` is set, `mirrored` on several devices, else `one_device`.
      num_virtual_devices: how many devices to make of the CPU (or of the first GPU), to try out
        several; 0 for those that there are.

    Raises:
      UserError: the environment does not have what was asked for.
    """
    if num_virtual_devices:
        _make_virtual_devices(num_virtual_devices)
    if name == "auto":
        name = choose(num_virtual_devices)
    if name == "multi_worker":
        if not _num_workers():
            raise UserError(
                "--strategy=multi_worker: the environment variable TF_CONFIG names no workers; set it "
                "on each of them, or use --strategy=mirrored on one machine"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy()
    if name == "mirrored":
        return _mirrored_strategy(tuple(device.name for device in _devices()))
    return tf.distribute.get_strategy()


def choose(num_virtual_devices=0):
    """What `auto` stands for here: one of `STRATEGIES`."""
    if _num_workers() > 1:
        return "multi_worker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    num_devices = num_virtual_devices or len(tf.config.list_logical_devices("GPU"))
    return "mirrored" if num_devices > 1 else "one_device"


def _num_workers():
    """Workers that `TF_CONFIG` names, the chief among them."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 0
    try:
        cluster = json.loads(text).get("cluster", {})
        return len(cluster.get("worker", [])) + len(cluster.get("chief", []))
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG: not a JSON object with a 'cluster' ({error}); mend or unset it"
        ) from None


def _devices():
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def _make_virtual_devices(number):
    physical = (tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU"))[0]
    try:
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
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"--strategy=tpu: cannot connect to a TPU ({str(error).splitlines()[0]}); set TPU_NAME"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def lost_worker(error):
    """The worker that an error of a collective operation says is gone, such as "worker 1", or None.

    Args:
      error: `tf.errors.OpError`.
    """
    lost_kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError)
    found = re.search(r"/job:(\w+)/replica:\d+/task:(\d+)(?!/device)", error.message)
    if not isinstance(error, lost_kinds) or not found:
        return None
    return " ".join(found.groups())


def any_worker(strategy, flag):
    """Whether a flag is set on any worker; all of them must ask at the same time."""
    if strategy.cluster_resolver is None:
        return flag
    values = strategy.run(lambda: tf.constant(float(flag)))
    return bool(strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None) > 0)


def replica_devices(strategy):
    """Names of the devices on which this process's replicas compute."""
    if strategy.num_replicas_in_sync == 1 and strategy.cluster_resolver is None:
        return [_devices()[0].name]
    return list(strategy.extended.worker_devices)


def is_chief(strategy):
    """Whether this process writes the run folder."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (
        not has_chief and resolver.task_type == "worker" and resolver.task_id == 0
    )
