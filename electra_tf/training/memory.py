"""How much memory a step needs, and what it has come to when there is none left."""

import re
import sys

import psutil
import tensorflow as tf
from absl import logging
from tensorflow.python.client import device_lib

from electra_tf.errors import UserError
from electra_tf.training.footprint import USABLE_SHARE
from electra_tf.training.strategies import any_worker, replica_devices

_MB = 2**20


def is_out_of_memory(error):
    """Whether an error of TensorFlow's is about memory; a full disk has the same type.

    Args:
      error: `tf.errors.OpError`.
    """
    is_exhausted = isinstance(error, tf.errors.ResourceExhaustedError)
    return is_exhausted and bool(re.search(r"OOM|[Oo]ut of memory|allocat", error.message))


def choose_micro_batches(model, strategy, batch_size):
    """The smallest number of micro-batches whose gradients fit into the memory of each device.

    Measures the gradients of a small and of a larger micro-batch: what a row takes is the
    difference.

    Args:
      model: compiled `ElectraPretrainer`.
      strategy: `tf.distribute.Strategy`; each worker measures its own memory, and all agree.
      batch_size: rows of the global batch, a multiple of the number of replicas.

    Returns:
      int, a divisor of a replica's rows.

    Raises:
      UserError: not even one row fits, or the memory cannot be measured here.
    """
    rows = batch_size // strategy.num_replicas_in_sync
    memory = _memory(strategy)
    fixed, per_row = _measure(memory, _gradients_of_rows(model), rows)
    usable = USABLE_SHARE * memory.free()
    for number in range(1, rows + 1):
        needed = fixed + per_row * (rows // number)
        if rows % number == 0 and not any_worker(strategy, needed > usable):
            logging.info(
                "gradient_accumulation_steps: %d (%d rows at a time, about %.1f MB each, %.0f MB free)",
                number,
                rows // number,
                per_row / _MB,
                memory.free() / _MB,
            )
            return number
    raise UserError(
        f"gradient_accumulation_steps=auto: one row needs about {(fixed + per_row) / _MB:,.0f} MB, "
        f"and {usable / _MB:,.0f} MB are usable; lower max_seq_length or the networks' sizes"
    )


def _measure(memory, compute, rows):
    """`(fixed, per_row)`: bytes that gradients take, and that each row adds.

    Where several rows do not fit, not even to be measured, a row is said to take all there is.
    """
    compute(1)  # Traces, and makes what does not depend on the number of rows.
    for large in (16, 4):
        large = min(large, rows)
        small = max(1, large // 4)
        try:
            peaks = [memory.peak_of(compute, size) for size in (small, large)]
        except tf.errors.OpError as error:
            if not is_out_of_memory(error):
                raise
            logging.info("gradient_accumulation_steps: %d rows at once do not fit", large)
        else:
            per_row = max(1.0, (peaks[1] - peaks[0]) / max(1, large - small))
            return max(0.0, peaks[0] - per_row * small), per_row
    return 0.0, USABLE_SHARE * memory.free()


def _gradients_of_rows(model):
    """A function that computes the gradients of so many rows of full length."""
    length = model.config.max_seq_length

    @tf.function
    def norm(rows):
        ids = tf.random.stateless_uniform(
            [rows, length], [0, 1], 0, model.config.vocab_size, tf.int32
        )
        batch = {
            "input_ids": tf.ensure_shape(ids, [None, length]),
            "input_mask": tf.ones_like(ids),
            "segment_ids": tf.zeros_like(ids),
        }
        gradients, _ = model.compute_gradients(batch, tf.constant(0))
        return tf.linalg.global_norm(gradients)

    return lambda rows: norm(tf.constant(rows)).numpy()


def _memory(strategy):
    """The kind of memory that a strategy's replicas compute in."""
    devices = replica_devices(strategy)
    device = tf.DeviceSpec.from_string(devices[0])
    if device.device_type == "GPU":
        return _DeviceMemory(f"GPU:{device.device_index}")
    if device.device_type == "CPU" and sys.platform == "linux":
        return _HostMemory(len(devices))
    raise UserError(
        f"gradient_accumulation_steps=auto: the memory of a {device.device_type} cannot be measured "
        "here; set a number"
    )


class _DeviceMemory:
    """A GPU's, by TensorFlow's own allocator."""

    def __init__(self, device):
        self._device = device

    def free(self):
        limits = {
            d.name.removeprefix("/device:"): d.memory_limit for d in device_lib.list_local_devices()
        }
        return (
            limits[self._device] - tf.config.experimental.get_memory_info(self._device)["current"]
        )

    def peak_of(self, function, rows):
        tf.config.experimental.reset_memory_stats(self._device)
        before = tf.config.experimental.get_memory_info(self._device)["current"]
        function(rows)
        return tf.config.experimental.get_memory_info(self._device)["peak"] - before


class _HostMemory:
    """The host's, which its replicas share; the kernel keeps the peak.

    TensorFlow's allocator gives nothing back, so that larger sizes are to be measured last.
    """

    def __init__(self, num_replicas):
        self._num_replicas = num_replicas
        self._start = 0

    def free(self):
        return _free_host_bytes() / self._num_replicas

    def peak_of(self, function, rows):
        self._start = self._start or psutil.Process().memory_info().rss
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")  # Sets VmHWM back to what is used now.
        function(rows)
        with open("/proc/self/status") as f:
            peak = re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)
        return int(peak) * 1024 - self._start


def _free_host_bytes():
    """Of the machine, or of the container where that has a limit of its own (cgroup 2)."""
    free = psutil.virtual_memory().available
    try:
        with (
            open("/sys/fs/cgroup/memory.max") as limit,
            open("/sys/fs/cgroup/memory.current") as used,
        ):
            return min(free, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):  # No such file, or no limit ("max").
        return free
