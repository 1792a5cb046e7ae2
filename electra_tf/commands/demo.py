"""Goes all the way from text to a pre-trained ELECTRA, in ten minutes on two cores.

  python -m electra_tf.commands.demo --output_dir=runs/demo
  python -m electra_tf.commands.demo --output_dir=runs/mine --corpus='texts/*.txt'

Without --corpus the text is the English prose of the Python installation: the language reference
and the docstrings of installed packages. The number of training steps is what the machine makes of
the minutes. Started again on the same folder, it goes on where it stopped.
"""

import json
import os
import sys
import time

from absl import flags

from electra_tf import commands
from electra_tf.commands import build_pretraining_data
from electra_tf.commands.pretrain import build_data, run_pretraining
from electra_tf.configs import load_pretraining_config
from electra_tf.errors import UserError
from electra_tf.worker_pool import num_cpus

VOCAB_SIZE = 4096
RESERVE_SECONDS = 60  # For the last evaluation, the baselines and the examples.
NUM_EXAMPLES_SHOWN = 4


def define_flags(values):
    flags.DEFINE_string("output_dir", "runs/demo", "Run folder.", flag_values=values)
    flags.DEFINE_string(
        "corpus", None, "Path, folder or glob of your own text, or tfds:NAME.", flag_values=values
    )
    flags.DEFINE_float(
        "minutes", 8.5, "Time that all may take, roughly.", lower_bound=0.5, flag_values=values
    )
    flags.DEFINE_integer("num_workers", num_cpus(), "Processes.", lower_bound=1, flag_values=values)
    build_pretraining_data.define_reading_flags(values)


def demo_config(num_train_steps):
    """Preset tiny, for little text and ten minutes.

    A discriminator learns later than its generator. So the generator is narrower and shallower
    than usual, and its samples are a little warmer than it means them: at temperature 1 the
    held-out `disc_auc` comes to about 0.57 in this time (docs/figures.md).
    """
    overrides = {
        "vocab_size": VOCAB_SIZE,
        "max_seq_length": 64,
        "generator_hidden_size": 0.25,
        "generator_layers": 0.5,
        "initializer_range": 0.08,  # For narrow networks and few steps.
        "temperature": 1.2,
        "disc_weight": 20.0,
        "train_batch_size": 32,
        "num_train_steps": num_train_steps,
        "num_warmup_steps": min(100, num_train_steps // 10),
        "hidden_dropout_prob": 0.0,  # One epoch and less: there is nothing to overfit.
        "attention_probs_dropout_prob": 0.0,
        "steps_per_loop": 20,
        "save_checkpoints_steps": 500,
        "keep_checkpoint_max": 2,
        "eval_steps": max(1, num_train_steps // 4),
        "num_eval_steps": 20,
    }
    return load_pretraining_config("tiny", overrides)


def build_demo_data(output_dir, num_workers):
    """Writes the default corpus and builds its vocabulary and records.

    Returns:
      `(tokenizer, train_data, eval_data)`.
    """
    from electra_tf import demo_corpus, files

    text = os.path.join(output_dir, "text")
    if not os.path.exists(text):
        with (
            commands.progress_bar(unit="file", desc="text") as bar,
            files.replacing(text) as writing,
        ):

            def show(done, total):
                bar.total = total
                bar.update(done - bar.n)

            written = demo_corpus.write(writing, progress=show)
        print(f"{written['train'] / 1e6:.1f} MB of prose, {written['eval'] / 1e6:.1f} MB held out")
    config = demo_config(1)
    data = os.path.join(output_dir, "data")
    tokenizer, train_data, _ = build_data(
        config, os.path.join(text, "train"), data, eval_fraction=0.0, num_workers=num_workers
    )
    _, eval_data, _ = build_data(
        config,
        os.path.join(text, "eval"),
        os.path.join(data, "eval"),
        vocab_file=os.path.join(data, "vocab.txt"),
        eval_fraction=0.0,
        num_workers=1,
    )
    return tokenizer, train_data, eval_data


def move_aside(output_dir, corpus):
    """Renames the folder of a demo on another text, so that this one can begin."""
    from electra_tf import files

    text_file = os.path.join(output_dir, "corpus.json")
    if os.path.exists(text_file):
        with open(text_file, encoding="utf-8") as f:
            before = json.load(f)
        if before != corpus:
            number = 1
            while os.path.exists(f"{output_dir}-{number}"):
                number += 1
            os.rename(output_dir, f"{output_dir}-{number}")
            print(f"{output_dir} was made of other text; it is {output_dir}-{number} now")
    files.write_json(text_file, corpus)


def build_own_data(values):
    """Builds vocabulary and records of --corpus; a twentieth of its documents, but some, held out.

    Returns:
      `(tokenizer, train_data, eval_data)`.
    """
    from electra_tf import corpus, files

    data = os.path.join(values.output_dir, "data")
    reading = build_pretraining_data.reading_options(values)
    paths = corpus.find_files(values.corpus)
    num_documents = sum(1 for _ in corpus.read_documents(paths, drop_duplicates=True, **reading))
    tokenizer, train_data, eval_data = build_data(
        demo_config(1),
        values.corpus,
        data,
        eval_fraction=min(0.5, max(0.05, 5 / max(1, num_documents))),
        num_workers=values.num_workers,
        reading=reading,
    )
    if not eval_data:
        files.remove(data)  # Of a text that is to be mended.
        raise UserError(
            f"--corpus={values.corpus}: {num_documents} document(s) are too few to hold some out; "
            "separate documents by blank lines"
        )
    return tokenizer, train_data, eval_data


def affordable_steps(tokenizer, train_data, seconds):
    """How many training steps fit into `seconds`, by running some."""
    import dataclasses

    import tensorflow as tf

    from electra_tf import records
    from electra_tf.training.pretraining import create_model

    start = time.monotonic()
    config = dataclasses.replace(demo_config(1000), vocab_size=tokenizer.vocab_size)
    strategy = tf.distribute.get_strategy()
    model = create_model(config, tokenizer.mask_id, tokenizer.special_ids, strategy)
    shards = records.read_shards(records.find_shards(train_data))
    batches = records.RecordBatches(shards, config.train_batch_size, config.max_seq_length)
    step = tf.function(model.gradient_step)
    durations = []
    for batch in batches.training(config.seed, 0, 25):
        began = time.monotonic()
        step(batch)["grad_norm"].numpy()
        durations.append(time.monotonic() - began)
    per_step = sorted(durations[5:])[len(durations[5:]) * 3 // 4]  # Machines are rarely idle.
    tracing = durations[0]
    return max(100, int((seconds - 2 * tracing - (time.monotonic() - start)) / per_step))


def unigram_baseline(model, counts, batches):
    """What guessing by frequency alone reaches on the hidden tokens of the evaluation.

    Returns:
      `(accuracy, loss)` of the most frequent token, and of the frequencies (plus one) as
      probabilities.
    """
    import numpy as np

    log_probabilities = np.log((counts + 1) / (counts + 1).sum())
    hidden = []
    for step, batch in enumerate(batches.evaluation(model.config.num_eval_steps)):
        masked = model.mask(batch, step)
        hidden.append(masked.ids.numpy()[masked.weights.numpy() > 0])
    hidden = np.concatenate(hidden)
    return float(np.mean(hidden == counts.argmax())), float(-log_probabilities[hidden].mean())


def report(model, tokenizer, train_data, eval_data, output_dir):
    """Prints the held-out metrics beside the baselines, and examples; writes `report.json`."""
    from rich.console import Console
    from rich.table import Table

    from electra_tf import files, records

    with open(os.path.join(output_dir, "metrics.jsonl"), encoding="utf-8") as f:
        metrics = [line for line in map(json.loads, f) if line["split"] == "eval"][-1]

    def open_batches(data):
        shards = records.read_shards(records.find_shards(data))
        return records.RecordBatches(
            shards, model.config.eval_batch_size, model.config.max_seq_length
        )

    eval_batches = open_batches(eval_data)
    counts = open_batches(train_data).token_counts(tokenizer.vocab_size, num_steps=40)
    counts[list(tokenizer.special_ids)] = 0  # They are never hidden.
    accuracy, loss = unigram_baseline(model, counts, eval_batches)
    rows = [
        ("masked_lm_accuracy", metrics["masked_lm_accuracy"], accuracy, "most frequent token"),
        ("masked_lm_loss", metrics["masked_lm_loss"], loss, "token frequencies"),
        ("disc_auc", metrics["disc_auc"], 0.5, "majority class"),
        (
            "disc_accuracy",
            metrics["disc_accuracy"],
            1 - metrics["replaced_rate"],
            "majority class",
        ),
    ]
    table = Table(title=f"Held-out text, after {metrics['step']} steps")
    for column, justify in (("metric", "left"), ("model", "right"), ("baseline", "right")):
        table.add_column(column, justify=justify)
    table.add_column("baseline is")
    for name, reached, baseline, kind in rows:
        table.add_row(name, f"{reached:.4f}", f"{baseline:.4f}", kind)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    files.write_json(
        os.path.join(output_dir, "report.json"),
        {name: {"model": reached, "baseline": baseline} for name, reached, baseline, _ in rows},
    )
    for example in examples(model, tokenizer, eval_batches):
        console.print()
        console.print(example)


def examples(model, tokenizer, batches):
    """Held-out examples as `rich` texts, each token coloured by the probability of being replaced."""
    from rich.text import Text

    from electra_tf.training.examples import view_examples

    batch = next(iter(batches.evaluation(1)))
    yield Text(
        "The redder, the likelier replaced; [0.42] is the probability where it is above 0.25; "
        "*word* was really replaced."
    )
    for tokens in view_examples(model, tokenizer.vocab, batch, NUM_EXAMPLES_SHOWN):
        text = Text()
        for token in tokens:
            piece = f"*{token.shown}*" if token.is_replaced else token.shown
            if token.probability > 0.25:
                piece = f"{piece}[{token.probability:.2f}]"
            fade = int(255 * (1 - token.probability))
            text.append(piece, style=f"black on rgb(255,{fade},{fade})").append(" ")
        yield text


def _run(values):
    began = time.monotonic()
    if "://" in values.output_dir:
        raise UserError(f"--output_dir={values.output_dir}: give a folder of this machine")
    commands.import_tensorflow()
    out = values.output_dir.rstrip("/")
    if values.corpus:
        from electra_tf import corpus

        corpus.find_files(values.corpus)  # Better missed before another demo is moved aside.
    move_aside(out, values.corpus)
    if values.corpus:
        tokenizer, train_data, eval_data = build_own_data(values)
    else:
        tokenizer, train_data, eval_data = build_demo_data(out, values.num_workers)
    from electra_tf import files

    steps_file = os.path.join(out, "num_train_steps.json")
    if os.path.exists(steps_file):
        with open(steps_file, encoding="utf-8") as f:
            num_train_steps = json.load(f)
    else:
        left = 60 * values.minutes - RESERVE_SECONDS - (time.monotonic() - began)
        num_train_steps = affordable_steps(tokenizer, train_data, left)
        files.write_json(steps_file, num_train_steps)
    model = run_pretraining(
        demo_config(num_train_steps),
        {},
        tokenizer,
        train_data=train_data,
        eval_data=eval_data,
        output_dir=out,
    )
    report(model, tokenizer, train_data, eval_data, out)
    print(
        f"\n{(time.monotonic() - began) / 60:.1f} minutes; models: {out}/discriminator, {out}/generator"
    )


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
