"""Plays the sequence-level game: a discriminator learns to tell written continuations from real ones.

  python -m electra_tf.play --generator=runs/causal/generator --corpus='texts/*.txt' \\
      --init_from=runs/small --output_dir=runs/game --num_examples=2000

  python -m electra_tf.play --generator=runs/causal/generator --corpus='texts/*.txt' \\
      --discriminator=convolutional_recurrent --output_dir=runs/game --num_trials=3

The generator continues the beginnings of passages of the corpus; the discriminator is fine-tuned to tell
its texts from the real ones, and judged on pairs that were held out. The same command on the same folder
goes on where it stopped. docs/sequence_game.md says more.
"""

import os
import sys

from absl import flags

from electra_tf import commands
from electra_tf.commands import build_pretraining_data, finetune, generate
from electra_tf.configs import load_finetuning_config, parse_overrides
from electra_tf.errors import UserError

NUM_EXAMPLES_SHOWN = 3


def define_flags(values):
    flags.DEFINE_string("generator", None, "Folder of a causal model.", flag_values=values)
    flags.DEFINE_string(
        "corpus", None, "Path, folder or glob of text, or tfds:NAME.", flag_values=values
    )
    flags.DEFINE_string("output_dir", None, "Run folder.", flag_values=values)
    flags.mark_flags_as_required(["generator", "corpus", "output_dir"], flag_values=values)
    flags.DEFINE_string(
        "init_from",
        None,
        "Folder of the encoder that the discriminator begins with, of a run or of a model.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "discriminator",
        None,
        ["transformer", "convolutional_recurrent"],
        "Instead of --init_from: begin with random weights, in the sizes of the preset tiny.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "vocab_file",
        None,
        "With --discriminator, its WordPiece vocabulary (default: the generator's).",
        flag_values=values,
    )
    build_pretraining_data.define_casing_flags(values)
    flags.DEFINE_integer(
        "prompt_length",
        16,
        "Tokens of a prompt, in the generator's vocabulary; the one that begins a text counts.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_length",
        64,
        "Tokens of a text, the prompt's included.",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_examples",
        1000,
        "Passages that are continued; each gives a real and a generated text.",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_float(
        "eval_fraction",
        0.2,
        "Share of the pairs to hold out.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    generate.define_sampling_flags(values)
    flags.DEFINE_multi_string(
        "override",
        [],
        "key=value of the fine-tuning's configuration; repeatable.",
        flag_values=values,
    )
    finetune.define_trial_flags(values)
    build_pretraining_data.define_reading_flags(values)
    commands.define_device_flags(values)


def _settings(values, generator, seed):
    """What decides the pairs, a dict as JSON has it."""
    from electra_tf import sequence_game

    names = (
        "corpus", "prompt_length", "max_length", "num_examples", "eval_fraction", "temperature",
        "top_k", "top_p",
    )  # fmt: skip
    return {
        "generator_sha256": sequence_game.fingerprint(generator),
        "seed": seed,
        **{name: values[name].value for name in names},
        **build_pretraining_data.reading_options(values),
    }


def _write_data(values, generator, folder, settings, max_seq_length):
    """Lets the generator write, and writes its texts beside the real ones."""
    from electra_tf import corpus, sequence_game
    from electra_tf.generation import create_sampler

    seed = settings["seed"]
    temperature = 1.0 if values.temperature is None else values.temperature
    sampler = create_sampler(temperature, values.top_k, values.top_p, seed=seed)
    documents = corpus.read_documents(
        corpus.find_files(values.corpus),
        drop_duplicates=True,
        **build_pretraining_data.reading_options(values),
    )
    texts = sequence_game.draw_texts(
        list(sequence_game.passages(documents, values.max_length)),
        generator.vocabulary,
        values.prompt_length,
        values.max_length,
        values.num_examples,
        seed,
    )
    with commands.progress_bar(total=len(texts), unit="text", desc="generated") as bar:
        pairs = sequence_game.make_pairs(
            generator, texts, values.prompt_length, sampler, lambda done: bar.update(done - bar.n)
        )
    sequence_game.write_pairs(folder, pairs, values.eval_fraction, settings, max_seq_length)


def _encoder(values, generator, seed):
    """The discriminator's beginning, a `task_setup.Encoder`."""
    from electra_tf import sequence_game
    from electra_tf.generation import WordPieces
    from electra_tf.tokenization import Tokenizer
    from electra_tf.training.task_setup import create_encoder, load_encoder

    if values.init_from:
        return load_encoder(values.init_from)
    if values.vocab_file:
        tokenizer = Tokenizer.from_vocab(values.vocab_file, values.lower_case, values.strip_accents)
    elif isinstance(generator.vocabulary, WordPieces):
        tokenizer = generator.vocabulary.tokenizer
    else:
        raise UserError(
            f"--generator={values.generator}: its vocabulary is of byte pairs; give the discriminator "
            "one of WordPieces with --vocab_file"
        )
    config = sequence_game.discriminator_config(values.discriminator, tokenizer.vocab_size)
    return create_encoder(config, tokenizer, seed)


def _check_flags(values):
    if bool(values.init_from) == bool(values.discriminator):
        raise UserError(
            "--init_from, --discriminator: give one of them, the encoder to begin with or the kind of a "
            "new one"
        )
    if values.vocab_file and values.init_from:
        raise UserError(
            "--vocab_file: goes with --discriminator; the encoder of --init_from has its own vocabulary"
        )
    for name in ("lower_case", "strip_accents"):
        if values[name].present and not values.vocab_file:
            raise UserError(f"--{name}: goes with --vocab_file; another vocabulary has its own")
    if values.prompt_length >= values.max_length:
        raise UserError(
            f"prompt_length={values.prompt_length} leaves no room in max_length={values.max_length}; "
            "lower the one or raise the other"
        )


def _run(values):
    _check_flags(values)
    overrides = parse_overrides(values.override)
    if values.seed is not None:
        overrides["seed"] = values.seed
    config = load_finetuning_config(overrides=overrides)
    if config.head not in (None, "dense"):
        raise UserError(f"head={config.head}: the discriminator has the head dense; leave it out")
    commands.import_tensorflow()
    from electra_tf import sequence_game
    from electra_tf.generation import TextGenerator
    from electra_tf.tasks.config import load_task_config
    from electra_tf.tasks.reading import BadRows
    from electra_tf.training.strategies import (
        any_worker,
        create_strategy,
        is_chief,
        noticing_lost_workers,
    )

    strategy = create_strategy(values.strategy, values.num_virtual_devices)
    generator = TextGenerator.from_pretrained(values.generator)
    encoder = _encoder(values, generator, config.seed)
    # A discriminator's vocabulary may need more pieces.
    length = min(max(5, 2 * values.max_length), encoder.config.max_position_embeddings)
    config = load_finetuning_config(overrides=overrides, task_defaults={"max_seq_length": length})
    config.resolved(encoder.config, "classification")  # Refused before anything is written.
    folder = os.path.join(values.output_dir, "data")
    settings = _settings(values, generator, config.seed)
    if is_chief(strategy) and not sequence_game.is_prepared(folder, settings):
        _write_data(values, generator, folder, settings, length)
    with noticing_lost_workers():
        any_worker(strategy, False)  # All wait for the chief's files.
    task_config = load_task_config(os.path.join(folder, sequence_game.TASK_FILE))
    config = load_finetuning_config(overrides=overrides, task_defaults=task_config.defaults)
    data = finetune.read_data(task_config, folder, ("train", "dev"), BadRows(skip=False))
    results = finetune.train(values, config, [data], encoder, strategy)
    if is_chief(strategy):
        _report(values.output_dir, results, sequence_game.read_pairs(f"{folder}/{task_config.dev}"))


def _report(output_dir, results, held_out):
    """Writes the discriminator, and prints how well it does and what it says of some pairs."""
    from rich.console import Console

    from electra_tf.predictor import Predictor
    from electra_tf.sequence_game import sequence_discriminator
    from electra_tf.tasks.model_folder import load_finetuned

    finetuned = load_finetuned(os.path.join(output_dir, "model"))
    folder = os.path.join(output_dir, "discriminator")
    sequence_discriminator(finetuned.network).save_pretrained(folder)
    finetuned.tokenizer.save_pretrained(folder, finetuned.max_seq_length)
    console = Console(soft_wrap=True, highlight=False)
    for example in _examples(Predictor(finetuned), held_out[:NUM_EXAMPLES_SHOWN]):
        console.print(example)
    console.print(f"on {len(held_out)} held-out pairs, {len(results['trials'])} trial(s):")
    for name in ("accuracy", "auc"):
        deviation = results["standard_deviation"][name]
        spread = "" if deviation is None else f" (deviation {deviation:.4f})"
        console.print(f"  {name}: {results['mean'][name]:.4f}{spread}")
    console.print(f"discriminator: {folder}, of trial {results['best']['trial']}")


def _examples(predictor, pairs):
    """Pairs as `rich` texts, each text with its probability of being generated."""
    from rich.text import Text

    from electra_tf.sequence_game import LABELS

    yield Text("The redder, the likelier generated, which the probability says.\n")
    for pair in pairs:
        whole = [getattr(pair, label) for label in LABELS]
        yield Text("prompt           ", style="bold").append(pair.prompt, style="not bold")
        for label, text, prediction in zip(LABELS, whole, predictor(whole)):
            probability = prediction["scores"]["generated"]
            fade = int(255 * (1 - probability))
            yield Text.assemble(
                (f"{label:<9}  {probability:.2f}  ", "bold"),
                (text[len(pair.prompt) :].strip(), f"black on rgb(255,{fade},{fade})"),
            )
        yield Text()


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
