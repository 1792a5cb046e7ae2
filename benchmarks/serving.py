"""Latency of a served classifier, from strings to answers, beside ONNX Runtime and transformers on PyTorch.

  bash benchmarks/make_envs.sh
  python benchmarks/serving.py --encoder=ENCODER

All have the weights of ENCODER (a folder in Hugging Face's layout, of ELECTRA or BERT) below one random
head, and give the same probabilities. Ours is the exported model of strings in TensorFlow's C API, as a
server runs it, without the network between client and server; the others tokenize by transformers' fast
tokenizer. They take turns, a few requests each; on a busy machine look at the ratios and at the CPU time. The table
tells milliseconds a request; cold start is the first request after loading. TF_ENABLE_ONEDNN_OPTS is 1,
unless it is set: TensorFlow itself uses oneDNN on CPUs with AVX-512 VNNI alone.
"""

import json
import os
import pathlib
import sys

import numpy as np
from absl import flags
from pretrain_throughput import ROOT, Worker

from electra_tf import commands
from electra_tf.errors import UserError

OURS = "electra_tf"
PEERS = {"ONNX Runtime": "serving_onnx.py", "transformers PyTorch": "serving_torch.py"}
TOLERANCE = 1e-4  # Of probabilities, between the contestants.
MAX_SEQ_LENGTH = 128


def define_flags(values):
    flags.DEFINE_string("encoder", None, "Folder of the encoder.", flag_values=values)
    flags.mark_flags_as_required(["encoder"], flag_values=values)
    flags.DEFINE_list("batch_sizes", ["1", "8", "32"], "Texts of a request.", flag_values=values)
    flags.DEFINE_list("lengths", ["16", "64", "128"], "Tokens of a text.", flag_values=values)
    flags.DEFINE_integer("rounds", 10, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("requests", 10, "Requests of a turn.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("envs", str(ROOT / ".bench-envs"), "Environments.", flag_values=values)
    flags.DEFINE_string(
        "output_dir", "runs/serving", "Folder of models and logs.", flag_values=values
    )
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)


def make_model(encoder, folder):
    """Writes a classifier with the encoder's weights and transformers' head, random."""
    import keras

    from electra_tf.interop import huggingface
    from electra_tf.tasks.classification import Classification
    from electra_tf.tasks.config import task_config
    from electra_tf.tasks.model_folder import FinetunedModel, save_finetuned
    from electra_tf.training.task_setup import load_encoder

    keys = {"name": "served", "kind": "classification", "columns": {"text": 0, "label": 1}}
    task = Classification(task_config(keys, ""), ["no", "yes"])
    source = load_encoder(encoder)
    keras.utils.set_random_seed(0)
    network = task.create_network(source.config, head="two_layers", classifier_dropout=0.1)
    huggingface.assign_tensors(huggingface.encoder_tensors(network), source.arrays, encoder)
    save_finetuned([FinetunedModel(task, network, source.tokenizer, MAX_SEQ_LENGTH)], folder)


def export_model(folder, output_dir):
    """Exports the classifier; returns its folder of strings."""
    from electra_tf.export.loading import load_servables
    from electra_tf.export.saved_model import export

    return export(load_servables(folder), output_dir, "served")[1]


def make_task(values):
    """What the contestants load, see benchmarks/peers/protocol.py."""
    from electra_tf.export.verify import operations_of, read_meta_graph

    output_dir = pathlib.Path(values.output_dir)
    model = output_dir / "model"
    make_model(values.encoder, str(model))
    saved_model = export_model(str(model), str(output_dir / "served"))
    meta_graph = read_meta_graph(saved_model)
    signature = meta_graph.signature_def["serving_default"]
    return {
        "model": str(model.resolve()),
        "max_seq_length": MAX_SEQ_LENGTH,
        "saved_model": saved_model,
        "operations": operations_of(meta_graph),
        "input": signature.inputs["text"].name,
        "output": signature.outputs["scores"].name,
        "onnx": str((output_dir / "model.onnx").resolve()),
    }


def make_texts(vocab_file, number, length, seed=0):
    """Texts of exactly `length` tokens, [CLS] and [SEP] included: words that are one piece each."""
    from electra_tf.tokenization import read_vocab

    words = [piece for piece in read_vocab(vocab_file) if piece.isascii() and piece.isalpha()]
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, length - 2)) for _ in range(number)]


def percentiles(seconds):
    """Milliseconds of requests, a dict."""
    return {f"p{q}": float(np.percentile(seconds, q)) * 1e3 for q in (50, 95, 99)}


def measure(workers, texts, values):
    """Lets all take turns at one size; returns a dict from name to figures."""
    for worker in workers:
        worker.run(texts=texts, requests=3)
    check_scores(workers)
    first = {worker.name: len(worker.answers) for worker in workers}
    for _ in range(values.rounds):
        for worker in workers:
            worker.run(texts=texts, requests=values.requests)
    results = {}
    for worker in workers:
        turns = worker.answers[first[worker.name] :]
        seconds = [value for turn in turns for value in turn["seconds"]]
        cpu = sum(turn["cpu_seconds"] for turn in turns) / len(seconds)
        results[worker.name] = {
            **percentiles(seconds),
            "texts_per_second": len(texts) * len(seconds) / sum(seconds),
            "cpu_ms": cpu * 1e3,
        }
    return results


def check_scores(workers):
    """Sees to it that all gave the same probabilities."""
    expected = np.array(workers[0].answers[-1]["scores"])
    for worker in workers[1:]:
        difference = np.abs(np.array(worker.answers[-1]["scores"]) - expected).max()
        if difference > TOLERANCE:
            raise UserError(f"{worker.name} differs from {workers[0].name} by {difference:.1e}")


def measure_cold(task, texts, log):
    """Milliseconds of the first request, without and with warm-up before it."""
    results = {}
    for name, warm_up in (("without", []), ("with", [texts[:1]])):
        worker = Worker(OURS, "serving_ours.py", sys.executable, {**task, "warm_up": warm_up}, log)
        worker.run(texts=texts[:1], requests=1)
        results[name] = worker.answers[0]["seconds"][0] * 1e3
        worker.close()
    return results


def print_tables(sizes, cold):
    """A row a size, and what the first request takes."""
    from rich.console import Console
    from rich.table import Table

    names = list(sizes[0]["results"])
    table = Table(title="Milliseconds a request, p50 / p95 / p99; texts a second; CPU milliseconds")
    for column in ("batch", "length", *names, *(f"of {name}'s p50" for name in names[1:])):
        table.add_column(column, justify="right")
    for size in sizes:
        results = size["results"]
        cells = [
            f"{r['p50']:.1f} / {r['p95']:.1f} / {r['p99']:.1f}\n{r['texts_per_second']:.0f}; "
            f"{r['cpu_ms']:.1f}"
            for r in results.values()
        ]
        ratios = [f"{results[OURS]['p50'] / results[name]['p50']:.2f}" for name in names[1:]]
        table.add_row(str(size["batch_size"]), str(size["length"]), *cells, *ratios)
    console = Console(width=140, highlight=False)
    console.print(table)
    console.print(
        f"First request: {cold['without']:.0f} ms without warm-up, {cold['with']:.0f} ms with it"
    )


def _run(values):
    commands.import_tensorflow()
    from electra_tf import files

    python = pathlib.Path(values.envs) / "transformers-torch" / "bin" / "python"
    if not python.exists():
        raise UserError(f"no environment {python}; run bash benchmarks/make_envs.sh")
    os.makedirs(values.output_dir, exist_ok=True)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # For the processes that are measured.
    task, sizes = make_task(values), []
    vocab_file = os.path.join(task["model"], "vocab.txt")

    def log(name):
        return os.path.join(values.output_dir, f"{name.replace(' ', '-')}.log")

    cold = measure_cold(task, make_texts(vocab_file, 1, 64), log("cold"))
    workers = [Worker(OURS, "serving_ours.py", sys.executable, {**task, "warm_up": []}, log(OURS))]
    workers += [Worker(name, script, python, task, log(name)) for name, script in PEERS.items()]
    for batch_size in map(int, values.batch_sizes):
        for length in map(int, values.lengths):
            texts = make_texts(vocab_file, batch_size, length)
            results = measure(workers, texts, values)
            sizes.append({"batch_size": batch_size, "length": length, "results": results})
            print(json.dumps(sizes[-1]), file=sys.stderr)
    for worker in workers:
        worker.close()
    print_tables(sizes, cold)
    if values.json:
        files.write_json(values.json, {"sizes": sizes, "first_request_ms": cold})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
