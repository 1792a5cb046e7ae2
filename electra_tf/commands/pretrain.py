"""Pre-trains ELECTRA on records or on text.

  python pretrain.py --config=small --train_data='records/*.tfrecord*' --eval_data=records/eval \\
      --vocab_file=vocab.txt --output_dir=runs/small --override=num_train_steps=100000

  python pretrain.py --config=tiny --corpus='texts/*.txt' --output_dir=runs/mine

The same command on the same folder goes on where it stopped. docs/configuration.md lists the keys
of --override.
"""

import os
import sys

from absl import flags

from electra_tf import commands
from electra_tf.commands import build_pretraining_data, build_vocab
from electra_tf.configs import PRETRAINING_PRESETS, load_pretraining_config, parse_overrides
from electra_tf.errors import UserError
from electra_tf.worker_pool import num_cpus

SOURCE_FILE = "source.json"  # What a vocabulary and records were built from.
# Of no use with --train_data.
BUILD_FLAGS = ("eval_fraction", "num_workers", "json_field", "max_line_mb", "invalid_utf8")


def define_flags(values):
    flags.DEFINE_string(
        "config", None, f"{', '.join(PRETRAINING_PRESETS)}, or a YAML file.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "override", [], "key=value of the configuration; repeatable.", flag_values=values
    )
    flags.DEFINE_string("output_dir", None, "Run folder.", flag_values=values)
    flags.mark_flags_as_required(["config", "output_dir"], flag_values=values)
    flags.DEFINE_string("train_data", None, "Folder or glob of records.", flag_values=values)
    flags.DEFINE_string(
        "eval_data", None, "Folder or glob of held-out records.", flag_values=values
    )
    flags.DEFINE_string("vocab_file", None, "WordPiece vocabulary.", flag_values=values)
    flags.DEFINE_string(
        "init_from",
        None,
        "Folder whose weights this run begins with: another run's, or one of an encoder, ELECTRA's or "
        "BERT's. The schedule is this run's own.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "continue_schedule",
        False,
        "Take over the step and Adam's moments of --init_from's newest checkpoint, too: the learning "
        "rate goes on from there to this run's num_train_steps.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "corpus",
        None,
        "Path, folder or glob of text, or tfds:NAME, instead of --train_data: vocabulary (of the "
        "key vocab_size, unless --vocab_file is given) and records are built in OUTPUT_DIR/data.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "eval_fraction",
        0.02,
        "Share of the --corpus's documents to hold out.",
        0.0,
        0.999,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_workers",
        num_cpus(),
        "Processes that build records of --corpus.",
        lower_bound=1,
        flag_values=values,
    )
    commands.define_device_flags(values)
    flags.DEFINE_bool(
        "skip_corrupt",
        False,
        "Leave out records that cannot be read, and count them.",
        flag_values=values,
    )
    build_pretraining_data.define_reading_flags(values)


def run_pretraining(config, overrides, tokenizer, **options):
    """Trains with a progress bar.

    Args:
      config: `PretrainingConfig`; takes the tokenizer's vocabulary size.
      overrides: dict of the keys that the user set.
      tokenizer: `Tokenizer`.
      **options: of `training.pretraining.pretrain`.

    Returns:
      the trained `ElectraPretrainer`.
    """
    import dataclasses

    from electra_tf.training.pretraining import pretrain

    if overrides.get("vocab_size", tokenizer.vocab_size) != tokenizer.vocab_size:
        raise UserError(
            f"--override=vocab_size={overrides['vocab_size']}: the vocabulary has "
            f"{tokenizer.vocab_size} pieces; leave the key out"
        )
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    with commands.progress_bar(total=config.num_train_steps, unit="step", desc="pretrain") as bar:

        def start_at(step):
            bar.initial = bar.n = step  # The ETA of a resumed run counts its own steps alone.

        def show(step, metrics, epoch, num_epochs):
            bar.set_postfix_str(
                f"epoch {epoch:.2f}/{num_epochs:.2f}, loss {metrics['loss']:.3f}, "
                f"{metrics['examples_per_second']:.0f} examples/s",
                refresh=False,
            )
            bar.update(step - bar.n)

        return pretrain(config, tokenizer, on_start=start_at, on_progress=show, **options)


def build_data(
    config, corpus, data_dir, vocab_file=None, eval_fraction=0.0, num_workers=1, reading=None
):
    """Builds vocabulary and records of a corpus, unless a start before did.

    Returns:
      `(tokenizer, train_data, eval_data or None)`.
    """
    if num_workers > 1:
        from electra_tf import worker_pool

        worker_pool.prepare()
    import tensorflow as tf

    from electra_tf import files, records
    from electra_tf.tokenization import Tokenizer, strips_accents

    casing = {"lowercase": config.do_lower_case, "strip_accents": config.strip_accents}
    dataset_file = tf.io.gfile.join(data_dir, records.DATASET_FILE)
    source = {
        "inputs": corpus,
        "vocab_size": None if vocab_file else config.vocab_size,
        "eval_fraction": eval_fraction,
        "seed": config.seed,
        "fidelity": config.fidelity,
        **casing,
        **(reading or {}),
    }
    source_file = tf.io.gfile.join(data_dir, SOURCE_FILE)
    if tf.io.gfile.exists(source_file):
        _refuse_other_source(source_file, source)
    else:
        # Records of a start that was killed before it came to the other file.
        strip_accents = strips_accents(config.do_lower_case, config.strip_accents)
        known = {k: v for k, v in source.items() if k != "vocab_size" or v}
        _refuse_other_source(dataset_file, {**known, "strip_accents": strip_accents})
    if not vocab_file:
        vocab_file = tf.io.gfile.join(data_dir, "vocab.txt")
        if not tf.io.gfile.exists(vocab_file):
            build_vocab.build(corpus, config.vocab_size, vocab_file, reading=reading, **casing)
            files.write_json(source_file, source)
    tokenizer = Tokenizer.from_vocab(vocab_file, **casing)
    if not tf.io.gfile.exists(dataset_file):
        build_pretraining_data.build(
            corpus,
            tokenizer.vocab,
            data_dir,
            num_workers,
            reading=reading,
            max_seq_length=config.max_seq_length,
            seed=config.seed,
            eval_fraction=eval_fraction,
            fidelity=config.fidelity,
            **casing,
        )
    if not tf.io.gfile.exists(source_file):
        files.write_json(source_file, source)
    held_out = records.read_dataset_file([tf.io.gfile.join(data_dir, "eval", "any")])
    has_eval = held_out is not None and held_out["num_examples"] > 0
    return tokenizer, data_dir, tf.io.gfile.join(data_dir, "eval") if has_eval else None


def _refuse_other_source(path, source):
    """Refuses data whose vocabulary, or records, were built from something else."""
    import tensorflow as tf

    from electra_tf import files

    before = files.read_json_object(path) if tf.io.gfile.exists(path) else {}
    for key, value in source.items():
        if before.get(key, value) != value:
            raise UserError(
                f"{path}: built with {key} {before[key]!r}, not {value!r}; choose another "
                "--output_dir, or give --train_data"
            )


def _refuse_inside(corpus, output_dir):
    """Refuses an output folder in the folder of the texts: its vocabulary would be one of them."""
    for part in corpus.split(","):
        folder = os.path.join(os.path.realpath(part), "")
        if os.path.isdir(folder) and os.path.realpath(output_dir).startswith(folder):
            raise UserError(
                f"--output_dir={output_dir}: lies in --corpus={part}, all of whose files are text; "
                "choose another folder"
            )


def _check_start(values, config):
    """Refuses an --init_from that does not fit, before records are built of its vocabulary."""
    import dataclasses

    from electra_tf.interop.huggingface import find_encoder
    from electra_tf.tokenization import VOCAB_FILE, Tokenizer
    from electra_tf.training.pretraining import is_begun
    from electra_tf.training.warm_start import check_networks

    if is_begun(values.output_dir):
        return
    if not values.vocab_file:
        raise UserError(
            f"--vocab_file: the networks of --init_from={values.init_from} know their own pieces alone; "
            f"give --vocab_file={os.path.join(find_encoder(values.init_from), VOCAB_FILE)}"
        )
    tokenizer = Tokenizer.from_vocab(values.vocab_file, config.do_lower_case, config.strip_accents)
    if not values.continue_schedule:  # A run is looked at before its first step.
        config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
        check_networks(config, tokenizer, values.init_from)


def _run(values):
    overrides = parse_overrides(values.override)
    config = load_pretraining_config(values.config, overrides)
    if bool(values.corpus) == bool(values.train_data):
        raise UserError("--train_data: give either this flag or --corpus")
    if values.continue_schedule and not values.init_from:
        raise UserError("--continue_schedule: goes with --init_from=RUN; give both")
    for name in BUILD_FLAGS:
        if values.train_data and values[name].present:
            raise UserError(f"--{name}: goes with --corpus; the records of --train_data are built")
    commands.import_tensorflow()
    from electra_tf.training.strategies import create_strategy, is_chief

    if config.generator == "causal":
        from electra_tf.modeling.causal import import_keras_hub

        import_keras_hub()  # Better missed before records are built.
    strategy = create_strategy(values.strategy, values.num_virtual_devices)
    if values.corpus:
        if strategy.extended._in_multi_worker_mode():
            raise UserError(
                "--corpus: several workers would build the same records; build them first with "
                "data/build_pretraining_data.py, and give --train_data"
            )
        _refuse_inside(values.corpus, values.output_dir)
        if values.eval_data:
            raise UserError("--eval_data: --corpus holds out its own; use --eval_fraction")
        if values.init_from:
            _check_start(values, config)
        tokenizer, train_data, eval_data = build_data(
            config,
            values.corpus,
            os.path.join(values.output_dir, "data"),
            values.vocab_file,
            values.eval_fraction,
            values.num_workers,
            build_pretraining_data.reading_options(values),
        )
        if not values.vocab_file:
            overrides.pop("vocab_size", None)  # It was a wish; the text may have given fewer.
    else:
        if not values.vocab_file:
            raise UserError("--vocab_file: --train_data needs the vocabulary it was built with")
        from electra_tf.tokenization import Tokenizer

        tokenizer = Tokenizer.from_vocab(
            values.vocab_file, config.do_lower_case, config.strip_accents
        )
        train_data, eval_data = values.train_data, values.eval_data
    run_pretraining(
        config,
        overrides,
        tokenizer,
        train_data=train_data,
        eval_data=eval_data,
        output_dir=values.output_dir,
        init_from=values.init_from,
        continue_schedule=values.continue_schedule,
        strategy=strategy,
        jit_compile=values.xla,
        skip_corrupt=values.skip_corrupt,
    )
    if is_chief(strategy):
        beside = " and generator beside it" if config.generator_loss else ""
        print(f"models: {os.path.join(values.output_dir, 'discriminator')}{beside}")


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
