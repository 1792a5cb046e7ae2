"""Makes pre-training records (TFRecords) of text.

  python data/build_pretraining_data.py --input='texts/*.txt' --vocab_file=vocab.txt \\
      --output_dir=records --max_seq_length=128 --num_workers=2 --eval_fraction=0.02

Input: .txt, .txt.gz (blank lines between documents), .jsonl, .jsonl.gz (one document a line), or
tfds:NAME[:SPLIT][:FIELD], a data set of TensorFlow Datasets (one document an example), as in
tfds:wikipedia/20230601.en or tfds:lm1b:1.1.0:train[:10%]:text. Several are separated by commas.
Output: shards and dataset.json in --output_dir, held-out documents in its folder eval/. The output
depends on the input and the seed alone, not on the number of workers.
"""

import sys
import time

from absl import flags

from electra_tf import commands
from electra_tf.worker_pool import num_cpus


def define_reading_flags(values):
    """Flags of every command that reads text."""
    flags.DEFINE_string(
        "json_field",
        "text",
        "Field that holds the text: of a .jsonl line, or of a tfds: data set that names none.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "max_line_mb",
        10.0,
        "Longest line accepted (of .jsonl and tfds: longest document), in MB.",
        0.0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "invalid_utf8",
        "replace",
        ["replace", "error"],
        "Malformed bytes are dropped and counted (replace), or refused (error).",
        flag_values=values,
    )


def define_casing_flags(values):
    """Flags of every command that sets how text is tokenized."""
    flags.DEFINE_bool("lower_case", True, "Lower-case the text.", flag_values=values)
    flags.DEFINE_bool(
        "strip_accents",
        None,
        "Remove accents; by default exactly when lower-casing.",
        flag_values=values,
    )


def reading_options(values):
    """The parsed `define_reading_flags` as keyword arguments of `corpus.read_documents`."""
    return {name: values[name].value for name in ("json_field", "max_line_mb", "invalid_utf8")}


def define_flags(values):
    flags.DEFINE_string(
        "input", None, "Path, folder or glob of text, or tfds:NAME.", flag_values=values
    )
    flags.DEFINE_string("vocab_file", None, "WordPiece vocabulary.", flag_values=values)
    flags.DEFINE_string("output_dir", None, "Folder to write records to.", flag_values=values)
    flags.mark_flags_as_required(["input", "vocab_file", "output_dir"], flag_values=values)
    flags.DEFINE_integer(
        "max_seq_length", 128, "Tokens of an example.", lower_bound=5, flag_values=values
    )
    flags.DEFINE_integer("num_shards", 16, "Training shards.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("num_workers", num_cpus(), "Processes.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 42, "Seed of all randomness.", lower_bound=0, flag_values=values)
    flags.DEFINE_float(
        "eval_fraction", 0.0, "Share of documents to hold out.", 0.0, 0.999, flag_values=values
    )
    define_casing_flags(values)
    flags.DEFINE_bool(
        "drop_duplicates", True, "Leave out documents that repeat another.", flag_values=values
    )
    flags.DEFINE_enum(
        "fidelity",
        "fixed",
        ["fixed", "google2020"],
        "google2020 throws away what overflows an example, as the original does.",
        flag_values=values,
    )
    define_reading_flags(values)


def build(inputs, vocab, output_dir, num_workers, reading=None, **options):
    """Builds records with a progress bar and prints what was built."""
    from electra_tf import corpus

    reading = reading or {}
    total = total_bytes(corpus.find_files(inputs), **reading)
    start = time.monotonic()
    with commands.bytes_bar("records", total) as bar:
        datasets, report = corpus.build_pretraining_data(
            inputs,
            vocab,
            output_dir,
            num_workers=num_workers,
            progress=lambda done: bar.update(done - bar.n),
            **options,
            **reading,
        )
    seconds = time.monotonic() - start
    tokens, packed = (
        sum(dataset[name] for dataset in datasets.values()) for name in ("num_tokens", "num_packed")
    )
    print_reading(report)
    print(
        f"tokens in {tokens:,}, tokens out {packed:,} ({tokens - packed:,} thrown away); "
        f"{report.num_bytes / 1e6:.1f} MB of text in {seconds:.1f} s, "
        f"{report.num_bytes / 1e6 / seconds:.1f} MB/s"
    )
    for split, dataset in datasets.items():
        print(
            f"{split}: {dataset['num_examples']:,} examples of {dataset['num_documents']:,} documents"
        )


def print_reading(report):
    """Prints a `corpus.ReadReport`."""
    print(
        f"read {report.num_documents:,} documents; {report.num_duplicates:,} exact duplicates dropped"
    )
    if report.num_cut_documents:
        print(f"{report.num_cut_documents:,} documents of more than 16 MB were cut in parts")
    if report.num_invalid_lines:
        print(
            f"invalid UTF-8 in {report.num_invalid_lines:,} lines, first at {report.first_invalid}: "
            "malformed bytes were dropped"
        )


def total_bytes(paths, json_field="text", **_):
    """Bytes of a corpus's sources, for a progress bar; takes what `corpus.read_documents` takes."""
    from electra_tf import corpus

    return sum(corpus.source_bytes(path, json_field) for path in paths)


def _run(values):
    if values.num_workers > 1:
        # Before this process spends seconds on loading TensorFlow, the workers' server does too.
        from electra_tf import worker_pool

        worker_pool.prepare()
    from electra_tf.tokenization import read_vocab

    build(
        values.input,
        read_vocab(values.vocab_file),
        values.output_dir,
        values.num_workers,
        reading=reading_options(values),
        max_seq_length=values.max_seq_length,
        num_shards=values.num_shards,
        seed=values.seed,
        eval_fraction=values.eval_fraction,
        lowercase=values.lower_case,
        strip_accents=values.strip_accents,
        drop_duplicates=values.drop_duplicates,
        fidelity=values.fidelity,
    )


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
