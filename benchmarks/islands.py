"""What each compiled island is worth: CPU seconds of a training step in which it alone goes plain.

  python benchmarks/islands.py --mixed_precision=bfloat16

ELECTRA-Small's step on a batch of random tokens, 128 positions, on one CPU; the step with all islands
and the steps in which one formula of electra_tf/modeling/islands.py runs as plain TensorFlow take
turns. Prints medians: CPU seconds hardly move when the machine has other work, wall time does.
"""

import contextlib
import statistics
import sys
import time

from absl import flags

from electra_tf import commands
from electra_tf.configs import load_pretraining_config

FORMULAS = (
    "bias_gelu",
    "bias_gelu_layer_norm",
    "dropout_add_layer_norm",
    "dropout_cast",
    "softmax_dropout",
    "masked_lm",
    "adam_weight_decay",
)


def define_flags(values):
    flags.DEFINE_enum(
        "mixed_precision", "bfloat16", ["float32", "bfloat16"], "Dtype.", flag_values=values
    )
    flags.DEFINE_integer("batch_size", 16, "Examples.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("rounds", 7, "Turns of each.", lower_bound=1, flag_values=values)


@contextlib.contextmanager
def plain(names):
    """Runs some formulas as they stand while the context lasts."""
    from electra_tf.modeling import islands

    compiled = islands.compiled

    def run(formula, *tensors, **options):
        chosen = islands.plain if formula.__name__ in names else compiled
        return chosen(formula, *tensors, **options)

    islands.compiled = run
    try:
        yield
    finally:
        islands.compiled = compiled


def make_step(values, names):
    """A traced training step, with some formulas plain."""
    import keras
    import tensorflow as tf

    from electra_tf import ElectraPretrainer, create_optimizer

    config = load_pretraining_config(
        "small", {"mixed_precision": values.mixed_precision, "train_batch_size": values.batch_size}
    )
    shape = [values.batch_size, config.max_seq_length]
    ids = tf.random.stateless_uniform(shape, [0, 1], 1000, config.vocab_size, tf.int32)
    batch = {
        "input_ids": ids,
        "input_mask": tf.ones_like(ids),
        "segment_ids": tf.zeros_like(ids),
    }
    keras.utils.set_random_seed(config.seed)
    model = ElectraPretrainer(config)
    model.compile(create_optimizer(config))
    step = tf.function(model.gradient_step)
    with plain(names):
        step(batch)
    return lambda: tuple(x.numpy() for x in step(batch).values())


def _run(values):
    cases = {"all islands": (), **{f"plain {name}": (name,) for name in FORMULAS}}
    cases["all plain"] = FORMULAS
    steps = {name: make_step(values, names) for name, names in cases.items()}
    seconds = {name: [] for name in cases}
    for _ in range(values.rounds):
        for name, step in steps.items():
            start = time.process_time(), time.perf_counter()
            step()
            seconds[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    print(f"{values.mixed_precision}, batch {values.batch_size}, medians of {values.rounds} steps")
    print(f"{'':32} CPU s  wall s  over all islands")
    base = statistics.median(cpu for cpu, _ in seconds["all islands"])
    for name, pairs in seconds.items():
        cpu, wall = (statistics.median(column) for column in zip(*pairs))
        print(f"{name:32} {cpu:5.3f}   {wall:5.3f}  {cpu - base:+.3f}")


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
