"""Adds the pieces that shorten a corpus most to a vocabulary, and rows for them to both networks.

  python -m electra_tf.extend_vocab --input=runs/small --corpus='texts/*.txt' --num_pieces=2000 \\
      --output=runs/extended

--input is a run folder, or that of one encoder, ELECTRA's or BERT's. A new piece's embedding begins as
the mean of those that spelled it so far. --output is what `pretrain.py --init_from` takes;
docs/continued_pretraining.md has the next commands.
"""

import sys

from absl import flags

from electra_tf import commands
from electra_tf.commands.build_pretraining_data import define_reading_flags, reading_options
from electra_tf.commands.build_vocab import reading_with_bar
from electra_tf.errors import UserError


def define_flags(values):
    flags.DEFINE_string(
        "input", None, "Folder with discriminator/ and generator/, or of one.", flag_values=values
    )
    flags.DEFINE_string(
        "corpus", None, "Path, folder or glob of text, or tfds:NAME.", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "Folder to write; it must not be there yet.", flag_values=values
    )
    flags.mark_flags_as_required(["input", "corpus", "output"], flag_values=values)
    flags.DEFINE_integer(
        "num_pieces", 1000, "How many pieces to add.", lower_bound=1, flag_values=values
    )
    define_reading_flags(values)


def read_networks(folder):
    """The networks of a folder, and their tokenizer.

    Returns:
      `(networks, tokenizer, notes)`: list of `Discriminator` and perhaps `Generator`; `Tokenizer`;
      list of str, what is new and what was left out.
    """
    from electra_tf.interop import huggingface
    from electra_tf.modeling.electra import Discriminator, Generator
    from electra_tf.tokenization import Tokenizer
    from electra_tf.training import warm_start

    networks, tokenizer, notes = [], None, []
    for name, path in warm_start.find_networks(folder).items():
        network_class = {"discriminator": Discriminator, "generator": Generator}[name]
        # Read first: it refuses sizes that the weights contradict, before a network is made of them.
        source = huggingface.read_encoder(path)
        network = network_class(source[0])
        notes += warm_start.import_network(network, path, source)
        networks.append(network)
        own = Tokenizer.from_pretrained(path)
        own.check_fits(network.config.vocab_size, path)
        if tokenizer and own.vocab != tokenizer.vocab:
            raise UserError(f"{path}: has another vocabulary than the discriminator")
        tokenizer = tokenizer or own
    return networks, tokenizer, notes


def _run(values):
    commands.import_tensorflow()
    import keras
    import tensorflow as tf

    from electra_tf import files, vocabulary
    from electra_tf.interop import runs
    from electra_tf.tokenization import Tokenizer
    from electra_tf.training import warm_start

    output, reading = values.output.rstrip("/"), reading_options(values)
    files.refuse_present(output)
    keras.utils.set_random_seed(42)  # For a head that --input lacks.
    networks, tokenizer, notes = read_networks(values.input)
    with reading_with_bar("candidates", values.corpus, 5, reading) as (read, reports):
        pieces = vocabulary.find_helpful_pieces(read, tokenizer, values.num_pieces)
        if not pieces:
            raise UserError(
                f"{values.corpus}: no piece shortens it; the vocabulary can stay as it is"
            )
        larger = Tokenizer(
            [*tokenizer.vocab, *pieces], tokenizer.lowercase, tokenizer.strip_accents
        )
        totals = [
            vocabulary.totals(t, vocabulary.count_pieces(t, read())) for t in (tokenizer, larger)
        ]
    spelled = vocabulary.spell(tokenizer.vocab, pieces)
    extended = [
        warm_start.extend_vocabulary(network, spelled, tokenizer.vocab_size) for network in networks
    ]
    with files.replacing(output) as temporary:
        runs.write(temporary, extended, tokenizer=larger, init_from=values.input)
    for note in notes:
        print(note)
    print(f"pieces added: {len(pieces):,} ({', '.join(pieces[:10])}, ...)")
    for name, (num_words, num_pieces, num_unknown) in zip(("before", "after"), totals):
        print(
            f"{name}: {num_pieces:,} pieces, {num_pieces / num_words:.3f} a word, "
            f"{100 * num_unknown / num_words:.3f} % of the words [UNK]"
        )
    vocab_file = tf.io.gfile.join(output, "discriminator", "vocab.txt")
    print(f"next: records with --vocab_file={vocab_file}, then pretrain.py --init_from={output}")


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
