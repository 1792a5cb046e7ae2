"""What the original's peculiarities do to a run: duplicate positions, padding in the evaluation.

  python benchmarks/fidelity_effects.py --run=runs/parity/google2020-1 --records='eval.tfrecord*'

RUN is a run folder whose networks look at the records. What throwing away an example's overflow
costs is printed by data/build_pretraining_data.py --fidelity=google2020.
"""

import dataclasses
import os
import sys

from absl import flags

from electra_tf import commands
from electra_tf.configs import load_pretraining_config


def define_flags(values):
    flags.DEFINE_string("run", None, "Run folder.", flag_values=values)
    flags.DEFINE_string("records", None, "Folder or glob of records.", flag_values=values)
    flags.mark_flags_as_required(["run", "records"], flag_values=values)
    flags.DEFINE_integer("num_batches", 20, "Batches to look at.", flag_values=values)


def load(run, fidelity):
    """`(ElectraPretrainer, Tokenizer)` of a finished run, with another fidelity."""
    from electra_tf import ElectraPretrainer, Tokenizer
    from electra_tf.training.warm_start import import_networks

    config = load_pretraining_config(os.path.join(run, "config.yaml"))
    tokenizer = Tokenizer.from_pretrained(os.path.join(run, "discriminator"))
    model = ElectraPretrainer(
        dataclasses.replace(config, fidelity=fidelity), tokenizer.mask_id, tokenizer.special_ids
    )
    import_networks(model, run)
    return model, tokenizer


def duplicates(model, batches):
    """Shares of the hidden slots.

    Returns:
      `(repeated, unrelated)`: slots whose position another slot of the example has too, and slots
      where the discriminator reads a token that no slot sampled there.
    """
    import numpy as np

    slots = repeated = unrelated = 0
    for step, batch in enumerate(batches):
        outputs = model(batch, training=False, step=step)
        masked, sampled = outputs.masked, outputs.sampled_ids.numpy()
        for row in range(len(sampled)):
            used = masked.weights.numpy()[row] > 0
            positions, tokens = masked.positions.numpy()[row][used], sampled[row][used]
            same = positions[:, None] == positions[None]
            read = outputs.replaced_ids.numpy()[row][positions]
            slots += len(positions)
            repeated += np.sum(same.sum(1) > 1)
            unrelated += np.sum(~np.any(same & (tokens[None] == read[:, None]), axis=1))
    return repeated / slots, unrelated / slots


def evaluate(model, batches):
    """The metrics of an evaluation by both definitions: dict from fidelity to dict."""
    from electra_tf.training.loop import pretraining_sums
    from electra_tf.training.metrics import pretraining_metrics

    sums = pretraining_sums(model.config)
    for step, batch in enumerate(batches):
        sums.add(model.statistics(batch, model(batch, training=False, step=step)))
    return {
        fidelity: pretraining_metrics(
            sums.numpy(), dataclasses.replace(model.config, fidelity=fidelity), is_evaluation=True
        )
        for fidelity in ("google2020", "fixed")
    }


def _run(values):
    from electra_tf import records

    for fidelity in ("google2020", "fixed"):
        model, _ = load(values.run, fidelity)
        config = model.config
        shards = records.read_shards(records.find_shards(values.records))
        batches = records.RecordBatches(shards, config.eval_batch_size, config.max_seq_length)
        batches = list(batches.evaluation(values.num_batches))
        repeated, unrelated = duplicates(model, batches)
        print(
            f"{fidelity}: {100 * repeated:.1f} % of the hidden slots share their position with "
            f"another one; at {100 * unrelated:.1f} % of all slots the discriminator reads a token "
            "that nobody sampled"
        )
    padding = 1 - sum(b["input_mask"].numpy().sum() for b in batches) / sum(
        b["input_mask"].numpy().size for b in batches
    )
    print(f"the same networks and masks, {100 * padding:.1f} % of the positions being padding:")
    for fidelity, metrics in evaluate(model, batches).items():
        print(
            f"{fidelity}: disc_auc {metrics['disc_auc']:.4f}, disc_loss {metrics['disc_loss']:.4f}"
        )


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
