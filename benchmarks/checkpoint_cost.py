"""What checkpoints cost a run: seconds and megabytes of one, and their share of the run's time.

  python benchmarks/checkpoint_cost.py --config=small
  python benchmarks/checkpoint_cost.py --config=small --step_seconds=0.05   # a step timed elsewhere

Saved as a run saves, old ones removed; the step is timed on random tokens. Printed are medians.
"""

import os
import statistics
import sys
import tempfile
import time

from absl import flags

from electra_tf import commands
from electra_tf.configs import load_pretraining_config, parse_overrides


def define_flags(values):
    flags.DEFINE_string("config", "small", "Preset or YAML file.", flag_values=values)
    flags.DEFINE_multi_string(
        "override", ["train_batch_size=16"], "key=value of the configuration.", flag_values=values
    )
    flags.DEFINE_string("folder", None, "Where to save; a temporary one.", flag_values=values)
    flags.DEFINE_integer("repeats", 9, "Checkpoints to save.", 1, flag_values=values)
    flags.DEFINE_integer("num_steps", 5, "Steps to time, after two others.", 1, flag_values=values)
    flags.DEFINE_float("step_seconds", None, "What a step takes, instead.", flag_values=values)


def make_model(config):
    """An `ElectraPretrainer` as a run has it, whose special tokens are BERT's."""
    from electra_tf import ElectraPretrainer, create_optimizer

    model = ElectraPretrainer(config, 103, (0, 100, 101, 102, 103))
    model.compile(create_optimizer(config))
    return model


def time_step(model, num_steps):
    """Seconds of a training step."""
    import tensorflow as tf

    config = model.config
    shape = (config.train_batch_size, config.max_seq_length)
    batch = {
        "input_ids": tf.random.uniform(shape, 1000, config.vocab_size, tf.int32),
        "input_mask": tf.ones(shape, tf.int32),
        "segment_ids": tf.zeros(shape, tf.int32),
    }
    step = tf.function(model.gradient_step)
    times = []
    for _ in range(num_steps + 2):
        start = time.perf_counter()
        step(batch)["disc_loss"].numpy()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def time_checkpoints(model, folder, repeats):
    """`(wall seconds, CPU seconds, bytes)` of one checkpoint."""
    import tensorflow as tf

    from electra_tf.training.checkpoints import checkpoint_variables, save_checkpoint

    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(variables=checkpoint_variables(model)),
        folder,
        max_to_keep=model.config.keep_checkpoint_max,
    )
    times = []
    for number in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        save_checkpoint(manager, number)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    name = os.path.basename(manager.latest_checkpoint)
    files = [entry for entry in os.scandir(folder) if entry.name.startswith(f"{name}.")]
    wall, cpu = (statistics.median(column) for column in zip(*times))
    return wall, cpu, sum(entry.stat().st_size for entry in files)


def _run(values):
    config = load_pretraining_config(values.config, parse_overrides(values.override))
    model = make_model(config)
    with tempfile.TemporaryDirectory(dir=values.folder) as folder:
        wall, cpu, size = time_checkpoints(model, folder, values.repeats)
    step = values.step_seconds or time_step(model, values.num_steps)
    interval = config.save_checkpoints_steps
    print(
        f"{values.config}: {size / 1e6:.0f} MB in {wall:.2f} s ({cpu:.2f} CPU seconds), median of "
        f"{values.repeats}"
    )
    print(
        f"a step of {config.train_batch_size} examples takes {step:.3f} s: a checkpoint every "
        f"{interval:,} steps is {100 * wall / (wall + interval * step):.3f} % of the run"
    )
    print(f"it would be 2 % with steps of {1000 * wall * 0.98 / 0.02 / interval:.0f} ms")


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
