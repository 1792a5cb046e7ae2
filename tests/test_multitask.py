"""Several tasks on one encoder: turns, shared weights, one folder, going on after a stop."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from tiny_models import VOCAB, WORDS, save_tiny_encoder, tiny_config

from electra_tf import Predictor, UserError
from electra_tf.commands import finetune as command
from electra_tf.training import finetuning
from electra_tf.training.task_setup import load_encoder

CONFIG = tiny_config(VOCAB)
TASKS = ("mine", "count", "tags")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder, and three tasks about the same kind of texts."""
    folder = tmp_path_factory.mktemp("tasks")
    save_tiny_encoder(folder / "encoder", VOCAB)
    rng = np.random.default_rng(0)
    for name in TASKS:
        (folder / name).mkdir()
    for split, number in (("train", 160), ("dev", 40)):
        lines = {name: [] for name in TASKS}
        for _ in range(number):
            words = list(rng.choice(WORDS[2:], rng.integers(2, 8)))
            label = str(rng.choice(["good", "bad"]))
            words.insert(rng.integers(0, len(words) + 1), label)
            lines["mine"].append(f"{' '.join(words)}\t{label}\n")
            lines["count"].append(f"{' '.join(words)}\t{len(words)}\n")
            tags = ["B-A" if word in ("cat", "dog") else "O" for word in words]
            lines["tags"].append("".join(f"{w} {t}\n" for w, t in zip(words, tags)) + "\n")
        # Of one task a fourth of the rows: it is to have fewer turns.
        lines["count"] = lines["count"][: number // 4]
        for name, rows in lines.items():
            (folder / name / f"{split}.txt").write_text("".join(rows))
    (folder / "mine.yaml").write_text(
        "name: mine\nkind: classification\ntrain: train.txt\ndev: dev.txt\nformat: tsv\n"
        "columns: {text: 0, label: 1}\n"
    )
    (folder / "count.yaml").write_text(
        "name: count\nkind: regression\ntrain: train.txt\ndev: dev.txt\nformat: tsv\n"
        "columns: {text: 0, label: 1}\n"
    )
    (folder / "tags.yaml").write_text(
        "name: tags\nkind: tagging\ntrain: train.txt\ndev: dev.txt\ncolumns: {token: 0, tag: 1}\n"
        "scheme: IOB2\n"
    )
    return folder


def run(folder, output_dir, *more, names=TASKS):
    return command.main(
        [
            "",
            f"--task={','.join(f'{folder}/{name}.yaml' for name in names)}",
            f"--data_dir={folder}",
            f"--init_from={folder}/encoder",
            f"--output_dir={output_dir}",
            "--override=learning_rate=2.0e-3",
            "--override=layerwise_lr_decay=0.9",
            "--override=train_batch_size=8",
            "--override=num_train_epochs=8",
            "--override=max_seq_length=16",
            "--override=length_buckets=[]",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def finished(folder):
    assert (
        run(folder, folder / "run", "--num_trials=2", "--override=save_checkpoints_steps=60") == 0
    )
    return folder / "run"


def read_json(path):
    return json.loads(path.read_text())


def test_each_task_is_learnt_and_scored(finished):
    results = read_json(finished / "results.json")
    assert results["metric"] == "score" and results["task"] == "mine,count,tags"
    metrics = max((t["metrics"] for t in results["trials"]), key=lambda m: m["mine_accuracy"])
    assert metrics["mine_accuracy"] > 0.9 and metrics["tags_f1"] > 0.9
    assert metrics["score"] == pytest.approx(
        (metrics["mine_accuracy"] + metrics["count_spearman"] + metrics["tags_f1"]) / 3
    )
    assert set(results["ensemble"]["metrics"]) >= {"mine_accuracy", "count_spearman", "tags_f1"}
    names = {path.name for path in (finished / "trial-1/predictions").iterdir()}
    assert names == {"mine_dev.jsonl", "count_dev.jsonl", "tags_dev.jsonl"}
    lines = [json.loads(x) for x in (finished / "trial-1/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["split"] == "train" and {"mine_loss", "loss"} <= set(lines[0])
    steps = 8 * (20 + 5 + 20)
    assert lines[-1]["step"] == results["trials"][0]["num_train_steps"] == steps


def test_one_folder_serves_each_task(finished, folder, capsys):
    model = str(finished / "model")
    tensors = safetensors.numpy.load_file(finished / "model/model.safetensors")
    heads = {name for name in tensors if not name.startswith("electra.")}
    assert heads == {f"{t}.classifier.{part}" for t in TASKS for part in ("weight", "bias")}
    mine, tags = (Predictor.from_pretrained(model, task=task) for task in ("mine", "tags"))
    assert mine("cat good tree")["label"] == "good" and mine("bad dog")["label"] == "bad"
    assert [w["label"] for w in tags("red dog blue")["words"]] == ["O", "B-A", "O"]
    with pytest.raises(UserError, match="several tasks in it; choose one of mine, count, tags"):
        Predictor.from_pretrained(model)
    with pytest.raises(UserError, match="no task cola in it"):
        Predictor.from_pretrained(model, task="cola")
    # The folder is an encoder like any other.
    encoder = load_encoder(model)
    assert set(encoder.arrays) == {name for name in tensors if name.startswith("electra.")}


def test_evaluation_gives_what_training_found(finished, folder):
    assert run(folder, finished, "--mode=evaluate") == 0
    best = read_json(finished / "results.json")["best"]["metrics"]
    metrics = read_json(finished / "dev_metrics.json")
    assert {"mine_accuracy", "count_mse", "tags_f1"} <= set(metrics)
    for name, value in metrics.items():
        assert best[name] == pytest.approx(value, abs=1e-5)
    assert run(folder, finished, "--mode=evaluate", names=["tags"]) == 0
    assert read_json(finished / "dev_metrics.json")["f1"] == pytest.approx(metrics["tags_f1"])


def test_all_data_are_checked_before_any_are_predicted(finished, folder, tmp_path, capsys):
    bad = shutil.copytree(folder, tmp_path / "tasks", ignore=shutil.ignore_patterns("run*"))
    with open(bad / "tags" / "dev.txt", "a") as f:
        f.write("\ncat B-Z\n")
    options = ["--mode=evaluate", f"--init_from={finished}/model"]
    assert run(bad, tmp_path / "run", *options) == 2
    assert "unknown label 'B-Z' in this sentence" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # The same of one task is in test_finetuning.
def test_a_stopped_run_goes_on_with_the_same_turns(finished, folder, tmp_path, monkeypatch):
    """Stopped at a checkpoint and started again, it has the weights of one that was not stopped."""

    class Killed(BaseException):
        """Not caught by anybody."""

    saved = finetuning.save_checkpoint

    def save_and_stop(manager, step):
        saved(manager, step)
        if step == 120:
            raise Killed

    shutil.copytree(folder / "encoder", tmp_path / "encoder")
    arguments = ["--override=save_checkpoints_steps=60"]
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "save_checkpoint", save_and_stop)
        with pytest.raises(Killed):
            run(folder, tmp_path / "run", *arguments)
    assert run(folder, tmp_path / "run", *arguments) == 0
    a, b = (
        safetensors.numpy.load_file(path / "trial-1/model/model.safetensors")
        for path in (tmp_path / "run", finished)
    )
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], name)
    # That of the best checkpoint; the metrics tell of the last steps, too.
    a, b = (metrics_by_step(path / "trial-1") for path in (tmp_path / "run", finished))
    assert a == b and max(step for step, _ in a) > 120


def metrics_by_step(folder):
    """What does not depend on the time of day."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "score", "mine_loss", "tags_f1", "grad_norm")
    return {(line["step"], line["split"]): [line.get(n) for n in names] for line in lines}


def test_a_task_without_a_dev_set(folder, tmp_path, capsys):
    folder = shutil.copytree(folder, tmp_path / "tasks", ignore=shutil.ignore_patterns("run*"))
    text = (folder / "tags.yaml").read_text().replace("dev: dev.txt\n", "").replace("tags", "tags2")
    (folder / "tags2.yaml").write_text(text)
    shutil.copytree(folder / "tags", folder / "tags2")
    names = ("mine", "tags2")
    assert run(folder, tmp_path / "run", "--override=num_train_epochs=0.1", names=names) == 0
    results = read_json(tmp_path / "run/results.json")
    assert results["metrics"]["score"] == results["metrics"]["mine_accuracy"]
    assert run(folder, tmp_path / "run", "--override=num_train_epochs=0.1", names=names[::-1]) == 2
    assert "task is 'mine,tags2' there and 'tags2,mine' here" in capsys.readouterr().err


@pytest.mark.slow  # The same of one task is in test_finetuning.
def test_two_replicas_of_micro_batches_compute_what_one_device_does(folder, tmp_path):
    arguments = ["--override=num_train_epochs=0.2", "--override=classifier_dropout=0.0"]
    more = ["--override=gradient_accumulation_steps=2", "--strategy=mirrored"]
    assert run(folder, tmp_path / "one", *arguments) == 0
    assert run(folder, tmp_path / "two", *arguments, *more, "--num_virtual_devices=2") == 0
    one, two = (
        safetensors.numpy.load_file(tmp_path / name / "trial-1/model/model.safetensors")
        for name in ("one", "two")
    )
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=2e-4, err_msg=name)


def test_turns_follow_the_sizes(folder):
    from electra_tf.configs import FinetuningConfig
    from electra_tf.training.task_setup import Setup

    setup = object.__new__(Setup)
    setup.config = FinetuningConfig(task_sampling_power=0.5)

    class Sized:
        def __init__(self, number):
            self.num_train_steps = number

    setup.tasks, setup.num_train_steps = [Sized(9000), Sized(1000)], 10_000
    turns = setup.turns(1)
    # 3 to 1, the square roots; a standard deviation of the share is 0.0043.
    assert np.mean(turns == 0) == pytest.approx(3 / 4, abs=0.02)
    np.testing.assert_array_equal(turns, setup.turns(1))
    assert (turns != setup.turns(2)).any()


def test_refused(folder, finished, capsys):
    assert run(folder, folder / "x", names=("mine", "mine")) == 2
    assert "a task twice" in capsys.readouterr().err
    assert run(folder, folder / "x", f"--data_dir={folder},{folder}") == 2
    assert "2 folders for 3 tasks" in capsys.readouterr().err
    assert run(folder, folder / "x", "--override=metric=mcc") == 2
    assert "a key of one task, among several" in capsys.readouterr().err
    assert run(folder, finished, "--override=task_sampling_power=1.0") == 2
    assert "another run" in capsys.readouterr().err
