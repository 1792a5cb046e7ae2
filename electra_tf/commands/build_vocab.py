"""Trains a WordPiece vocabulary on text, or checks one.

  python data/build_vocab.py --input='texts/*.txt' --vocab_size=30522 --output=vocab.txt
  python data/build_vocab.py --check=vocab.txt --input='texts/*.txt'

The special tokens [PAD] [UNK] [CLS] [SEP] [MASK] come first, [PAD] with id 0.
"""

import contextlib
import sys

from absl import flags

from electra_tf import commands
from electra_tf.commands.build_pretraining_data import (
    define_casing_flags,
    define_reading_flags,
    print_reading,
    reading_options,
    total_bytes,
)
from electra_tf.errors import UserError


def define_flags(values):
    flags.DEFINE_string(
        "input", None, "Path, folder or glob of text, or tfds:NAME.", flag_values=values
    )
    flags.DEFINE_integer(
        "vocab_size", 30522, "Pieces, special tokens included.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_string("output", None, "File to write.", flag_values=values)
    flags.DEFINE_string(
        "check", None, "Vocabulary to check instead of training one.", flag_values=values
    )
    define_casing_flags(values)
    define_reading_flags(values)


@contextlib.contextmanager
def reading_with_bar(description, inputs, num_times, reading):
    """Text that is read several times, with a progress bar.

    Args:
      description: of the bar.
      inputs: path, folder or glob.
      num_times: how often.
      reading: dict of options of `corpus.read_documents`.

    Yields:
      `(read, reports)`: function that returns an iterable of `corpus.Document`; list of the
      `corpus.ReadReport`s so far.
    """
    from electra_tf import corpus

    paths, reports = corpus.find_files(inputs), []
    with commands.bytes_bar(description, num_times * total_bytes(paths, **reading)) as bar:

        def read():
            reports.append(corpus.ReadReport())
            for document in corpus.read_documents(paths, reports[-1], **reading):
                yield document
                bar.update(sum(report.num_source_bytes for report in reports) - bar.n)
            if not reports[-1].num_documents:
                raise UserError(f"{inputs}: no text in {len(paths)} source(s); give more text")

        yield read, reports


def build(inputs, vocab_size, output, lowercase, strip_accents, reading=None):
    """Trains a vocabulary with a progress bar and writes it."""
    from electra_tf import files, vocabulary
    from electra_tf.tokenization import vocab_text

    # The text is read twice: for its letters, then for its words.
    with reading_with_bar("vocabulary", inputs, 2, reading or {}) as (read, reports):
        pieces = vocabulary.train_vocab(read, vocab_size, lowercase, strip_accents)
    files.write(output, vocab_text(pieces))
    print_reading(reports[-1])
    print(f"wrote {output}: {len(pieces):,} pieces")
    if len(pieces) < vocab_size:
        print(f"{vocab_size:,} were asked for, but the text's words are all made by now")


def check(vocab_file, inputs, lowercase, strip_accents, reading):
    """Prints a report on a vocabulary.

    Raises:
      UserError: it lacks special tokens or repeats pieces.
    """
    from electra_tf import corpus, vocabulary

    documents = ()
    if inputs:
        documents = corpus.read_documents(corpus.find_files(inputs), **reading)
    report = vocabulary.check_vocab(vocab_file, documents, lowercase, strip_accents)
    print(f"{vocab_file}: {report.size:,} pieces")
    print(f"missing special tokens: {', '.join(report.missing) or 'none'}")
    print(f"duplicates: {', '.join(report.duplicates) or 'none'}")
    if report.num_words:
        print(f"words: {report.num_words:,}")
        print(f"share of [UNK]: {100 * report.num_unknown / report.num_words:.3f} % of the words")
        print(f"pieces a word: {report.num_pieces / report.num_words:.3f}")
    if report.missing or report.duplicates:
        raise UserError(
            f"{vocab_file}: unfit for pre-training (see above); mend it, or build one without --check"
        )


def _run(values):
    if values.check:
        if values.output:
            raise UserError("--output: --check writes nothing; leave one of the two out")
        check(
            values.check,
            values.input,
            values.lower_case,
            values.strip_accents,
            reading_options(values),
        )
        return
    for name in ("input", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing; see --help")
    build(
        values.input,
        values.vocab_size,
        values.output,
        values.lower_case,
        values.strip_accents,
        reading_options(values),
    )


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
