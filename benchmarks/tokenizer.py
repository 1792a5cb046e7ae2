"""Speed of the in-graph tokenizer beside transformers' fast one, on one thread.

  pip install '.[benchmarks]'
  python benchmarks/tokenizer.py --text='texts/*.txt' --vocab_file=vocab.txt

The two take turns over the same batches of lines; printed are medians of CPU and wall time.
"""

import os
import statistics
import sys
import time

from absl import flags

from electra_tf import commands

BATCH_SIZES = (1, 100, 1000)


def define_flags(values):
    flags.DEFINE_string("text", None, "Path, folder or glob of text.", flag_values=values)
    flags.DEFINE_string("vocab_file", None, "WordPiece vocabulary.", flag_values=values)
    flags.mark_flags_as_required(["text", "vocab_file"], flag_values=values)
    flags.DEFINE_float("megabytes", 2.0, "Text to tokenize.", flag_values=values)
    flags.DEFINE_integer("repeats", 5, "Times that each takes its turn.", flag_values=values)


def tokenizers(vocab_file):
    """Functions of a list of str, by name."""
    import tensorflow as tf
    from transformers import ElectraTokenizerFast

    from electra_tf import Tokenizer

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    ours = Tokenizer.from_vocab(vocab_file).compiled()
    theirs = ElectraTokenizerFast(vocab_file=vocab_file, do_lower_case=True)
    return {
        "electra_tf": lambda lines: ours(lines),
        "transformers fast": lambda lines: theirs(
            lines, add_special_tokens=False, return_attention_mask=False
        ),
    }


def measure(function, batches):
    """`(CPU seconds, wall seconds)` of one pass."""
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        function(batch)
    return time.process_time() - cpu, time.perf_counter() - wall


def _run(values):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from electra_tf import corpus

    lines, size = [], 0
    for document in corpus.read_documents(corpus.find_files(values.text)):
        lines += [line.decode() for line in document.lines]
        size += sum(map(len, document.lines))
        if size >= values.megabytes * 1e6:
            break
    candidates = tokenizers(values.vocab_file)
    print(f"{size / 1e6:.1f} MB of text in {len(lines):,} lines; medians of {values.repeats}")
    print(f"{'lines a call':>12}  {'tokenizer':<18} {'MB a CPU second':>16} {'MB a second':>12}")
    for batch_size in BATCH_SIZES:
        batches = [lines[i : i + batch_size] for i in range(0, len(lines), batch_size)]
        times = {name: [] for name in candidates}
        for function in candidates.values():
            function(batches[0])
        for _ in range(values.repeats):
            for name, function in candidates.items():
                times[name].append(measure(function, batches))
        cpu = {name: statistics.median(t[0] for t in times[name]) for name in candidates}
        for name in candidates:
            wall = statistics.median(t[1] for t in times[name])
            print(
                f"{batch_size:>12}  {name:<18} {size / 1e6 / cpu[name]:>16.2f} {size / 1e6 / wall:>12.2f}"
            )
        ours, theirs = cpu.values()
        print(f"{'':>12}  ratio of CPU time: {theirs / ours:.1f}")


if __name__ == "__main__":
    sys.exit(commands.run(define_flags, _run, __doc__))
