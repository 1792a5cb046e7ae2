"""How fast questions are cut into windows: here, and by transformers' fast tokenizer.

  python benchmarks/windowing.py --questions=squad/train-v2.0.json --encoder=MINILM

Both make windows of 384 pieces with labels for every question of a file, tokenization included, in turns
in processes of their own (environment: benchmarks/make_envs.sh). Prints medians of CPU seconds.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from electra_tf import commands

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETTINGS = {"max_seq_length": 384, "doc_stride": 128, "max_query_length": 64}


def define_flags(values):
    flags.DEFINE_string("questions", None, "SQuAD's JSON.", flag_values=values)
    flags.DEFINE_string("encoder", None, "Folder with a tokenizer.", flag_values=values)
    flags.mark_flags_as_required(["questions", "encoder"], flag_values=values)
    flags.DEFINE_integer("rounds", 3, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("envs", str(ROOT / ".bench-envs"), "Environments.", flag_values=values)


def time_ours(task, examples, tokenizer):
    """`(CPU seconds, windows)`."""
    begin = time.process_time()
    features = task.features(examples, tokenizer, SETTINGS["max_seq_length"])
    return time.process_time() - begin, len(features.lengths)


def time_peer(python, path):
    """`(CPU seconds, windows)`."""
    script = ROOT / "benchmarks" / "peers" / "questions_torch.py"
    done = subprocess.run([python, script, path], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    return result["cpu_seconds"], result["windows"]


def _run(values):
    commands.import_tensorflow()
    from electra_tf import Tokenizer
    from electra_tf.tasks.config import task_config
    from electra_tf.tasks.question_answering import QuestionAnswering
    from electra_tf.tasks.reading import BadRows

    config = task_config({"name": "q", "kind": "qa", "version_2": True}, "")
    examples = QuestionAnswering.read_file(config, values.questions, "train", BadRows(True))
    task, tokenizer = QuestionAnswering(config), Tokenizer.from_pretrained(values.encoder)
    task.features(examples[:10], tokenizer, SETTINGS["max_seq_length"])  # Traces.
    rows = [{"inputs": e.inputs, "label": [e.label.start, e.label.end]} for e in examples]
    python = os.path.join(values.envs, "transformers-torch", "bin", "python")
    ours, theirs = [], []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({**SETTINGS, "encoder": os.path.abspath(values.encoder), "train": rows}, f)
        f.flush()
        for _ in range(values.rounds):
            ours.append(time_ours(task, examples, tokenizer))
            theirs.append(time_peer(python, f.name))
    for name, results in (("electra_tf", ours), ("transformers", theirs)):
        seconds = statistics.median(seconds for seconds, _ in results)
        print(
            f"{name}: {len(examples)} questions, {results[0][1]} windows in {seconds:.2f} CPU seconds"
        )


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
