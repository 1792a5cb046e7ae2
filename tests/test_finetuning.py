"""Fine-tuning from files to models: trials, statistics, going on, predictions, other encoders."""

import io
import itertools
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from tiny_models import VOCAB, WORDS, save_tiny_encoder, tiny_config

from electra_tf import Discriminator, EncoderConfig, Predictor, UserError
from electra_tf.commands import finetune as command
from electra_tf.configs import FinetuningConfig
from electra_tf.interop import huggingface
from electra_tf.modeling.electra import SequenceClassifier, TokenClassifier
from electra_tf.modeling.finetuner import Finetuner
from electra_tf.tasks.config import load_task_config, task_config
from electra_tf.tasks.features import Features
from electra_tf.training import finetuning, pictures, statistics
from electra_tf.training.feature_batches import FeatureBatches
from electra_tf.training.run_folder import RunFolder

CONFIG = tiny_config(VOCAB)

OVERRIDES = (
    "learning_rate=5e-3",
    "layerwise_lr_decay=0.9",
    "train_batch_size=16",
    "num_train_epochs=6",
    "classifier_dropout=0.0",
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a random encoder and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder, VOCAB)
    return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Texts with one of good and bad in each; the same as tagged words."""
    folder = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    for split, number in (("train", 96), ("dev", 37), ("test", 21)):
        rows, tagged = [], []
        for _ in range(number):
            words = list(rng.choice(WORDS[2:], rng.integers(1, 9)))
            label = str(rng.choice(["good", "bad"]))
            words.insert(rng.integers(0, len(words) + 1), label)
            rows.append(f"{' '.join(words)}\t{label}\n")
            tags = ["B-A" if word in ("cat", "dog") else "O" for word in words]
            tagged.append("".join(f"{w}\t{t}\n" for w, t in zip(words, tags)))
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
        (folder / f"{split}.conll").write_text("\n".join(tagged))
    (folder / "task.yaml").write_text(
        "name: mine\nkind: classification\ntrain: train.tsv\ndev: dev.tsv\ntest: test.tsv\n"
        "columns: {text: text, label: label}\nmetric: accuracy\nsubmission: Mine.tsv\n"
    )
    (folder / "tags.yaml").write_text(
        "name: tags\nkind: tagging\ntrain: train.conll\ndev: dev.conll\ntest: test.conll\n"
        "columns: {token: 0, tag: 1}\nscheme: IOB2\n"
    )
    return folder


def run(data_dir, encoder, output_dir, *more, task="task.yaml", overrides=OVERRIDES):
    arguments = [
        f"--task={data_dir}/{task}",
        f"--data_dir={data_dir}",
        f"--init_from={encoder}",
        f"--output_dir={output_dir}",
        *(f"--override={override}" for override in overrides),
        *more,
    ]
    return command.main(["", *arguments])


@pytest.fixture(scope="module")
def finished(data_dir, encoder, tmp_path_factory):
    """A run of two trials."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    assert run(data_dir, encoder, folder, "--num_trials=2", "--seed=7") == 0
    return folder


def read_json(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results(finished, data_dir):
    results = read_json(finished / "results.json")
    assert results["task"] == "mine" and results["metric"] == "accuracy"
    first, second = results["trials"]
    assert [first["seed"], second["seed"]] == [7, 8]
    accuracies = [first["metrics"]["accuracy"], second["metrics"]["accuracy"]]
    assert min(accuracies) > 0.75  # One word tells; a majority of 37 cannot be so large.
    assert results["metrics"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert results["standard_deviation"]["accuracy"] == pytest.approx(
        abs(accuracies[0] - accuracies[1]) / 2**0.5
    )
    assert results["best"]["metrics"]["accuracy"] == max(accuracies)
    for number, trial in enumerate(results["trials"], 1):
        folder = finished / f"trial-{number}"
        evaluations = [x for x in read_lines(folder / "metrics.jsonl") if x["split"] == "eval"]
        assert [x["step"] for x in evaluations] == [6, 12, 18, 24, 30, 36]  # 96 / 16 an epoch.
        best = max(evaluations, key=lambda x: x["accuracy"])
        assert trial["metrics"]["accuracy"] == best["accuracy"]
        assert trial["best_step"] == best["step"]
        assert trial["final_metrics"]["accuracy"] == evaluations[-1]["accuracy"]
        # What was kept is what was measured.
        lines = read_lines(folder / "predictions" / "dev.jsonl")
        assert len(lines) == 37
        right = [line["prediction"] == line["label"] for line in lines]
        assert np.mean(right) == pytest.approx(best["accuracy"])
        texts = (data_dir / "dev.tsv").read_text().splitlines()[1:]
        assert [line["label"] for line in lines] == [text.split("\t")[1] for text in texts]
        assert trial["test_metrics"]["accuracy"] > 0.75
    assert results["ensemble"]["trials"] == [1, 2]
    assert results["ensemble"]["metrics"]["accuracy"] > 0.75
    assert (finished / "ensemble" / "predictions" / "dev.jsonl").exists()
    submitted = (finished / "trial-1" / "submission" / "Mine.tsv").read_text().splitlines()
    assert submitted[0] == "index\tprediction" and len(submitted) == 22
    assert submitted[1].split("\t")[0] == "0" and submitted[1].split("\t")[1] in ("good", "bad")
    assert not (finished / "trial-1" / "checkpoints").exists()


def test_pictures(finished):
    [events] = ((finished / "trial-1" / "tensorboard" / "eval").glob("*.v2*"),)
    tags = set()
    for path in events:
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    assert {"confusion_matrix", "learning_curve", "accuracy"} <= tags


def test_the_same_command_again_trains_nothing(finished, data_dir, encoder, capsys):
    before = (finished / "trial-1" / "metrics.jsonl").stat().st_mtime_ns
    results = read_json(finished / "results.json")
    # A start that was killed at its end leaves what training needed.
    for name in ("checkpoints", "model-6"):
        (finished / "trial-1" / name).mkdir()
    assert run(data_dir, encoder, finished, "--num_trials=2", "--seed=7") == 0
    assert (finished / "trial-1" / "metrics.jsonl").stat().st_mtime_ns == before
    assert read_json(finished / "results.json") == results
    names = {path.name for path in (finished / "trial-1").iterdir()}
    assert "model" in names and not {"checkpoints", "model-6"} & names
    assert run(data_dir, encoder, finished, "--num_trials=2", "--seed=8") == 2
    assert "seed is 7 there and 8 here" in capsys.readouterr().err


def test_a_number_of_steps_goes_before_epochs(data_dir, encoder, tmp_path):
    overrides = (*OVERRIDES, "num_train_steps=8", "num_train_epochs=0.5")
    assert run(data_dir, encoder, tmp_path, overrides=overrides) == 0
    lines = read_lines(tmp_path / "trial-1" / "metrics.jsonl")
    # 96 / 16 steps are an epoch, after which the dev set is looked at.
    assert [x["step"] for x in lines if x["split"] == "eval"] == [6, 8]
    assert [x["step"] for x in lines if x["split"] == "train"][-1] == 8
    assert lines[-1]["step"] == read_json(tmp_path / "results.json")["trials"][0]["num_train_steps"]


class Interrupted(Exception):
    pass


def test_an_interrupted_trial_goes_on_to_the_same_bits(
    finished, data_dir, encoder, tmp_path, monkeypatch
):
    save = finetuning.save_checkpoint

    def save_and_die(manager, step):
        save(manager, step)
        if step == 12:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "save_checkpoint", save_and_die)
        with pytest.raises(Interrupted):
            run(data_dir, encoder, tmp_path, "--seed=7")
    assert run(data_dir, encoder, tmp_path, "--seed=7") == 0
    for name in ("model.safetensors", "task.json", "config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (
            finished / "trial-1" / "model" / name
        ).read_bytes()

    def evaluations(folder):
        return [x for x in read_lines(folder / "metrics.jsonl") if x["split"] == "eval"]

    assert evaluations(tmp_path / "trial-1") == evaluations(finished / "trial-1")


def test_the_best_model_is_that_of_a_step_which_the_trial_goes_through(
    finished, data_dir, encoder, tmp_path, monkeypatch
):
    """Killed after another best one, without a checkpoint of it."""
    write, steps = RunFolder.write_metrics, "--override=save_checkpoints_steps=12"

    def die(self, step, split, metrics):
        write(self, step, split, metrics)
        if (step, split) == (18, "eval"):
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_metrics", die)
        with pytest.raises(Interrupted):
            run(data_dir, encoder, tmp_path, "--seed=7", steps)
    trial = tmp_path / "trial-1"
    lines = [x for x in read_lines(trial / "metrics.jsonl") if x["split"] == "eval"]
    best = max((x for x in lines if x["step"] <= 12), key=lambda x: x["accuracy"])["step"]
    model = trial / f"model-{best}"
    assert read_json(model / "config.json")["num_hidden_layers"] == CONFIG.num_hidden_layers
    shutil.copytree(model, trial / "model-18", dirs_exist_ok=True)
    (trial / "model-18" / "model.safetensors").write_bytes(b"half")
    assert run(data_dir, encoder, tmp_path, "--seed=7", steps) == 0
    assert not list(trial.glob("model-*"))
    for folder in (tmp_path, trial):
        assert (folder / "model" / "model.safetensors").read_bytes() == (
            finished / "trial-1" / "model" / "model.safetensors"
        ).read_bytes()


def test_trials_of_a_task_with_training_data_alone(data_dir, encoder, tmp_path):
    sets = ("--override=dev=null", "--override=test=null", "--override=num_train_steps=2")
    assert run(data_dir, encoder, tmp_path, "--num_trials=2", *sets) == 0
    results = read_json(tmp_path / "results.json")
    assert len(results["trials"]) == 2 and "ensemble" not in results
    assert set(Predictor.from_pretrained(str(tmp_path / "model"))("cat")["scores"]) == {
        "good",
        "bad",
    }


@pytest.mark.slow
def test_what_is_due_comes_before_a_stop(
    finished, data_dir, encoder, tmp_path, monkeypatch, capsys
):
    """At step 12 an epoch ends, so that its evaluation is in the run that was stopped there."""
    write = RunFolder.write_metrics

    def write_and_signal(self, step, split, metrics):
        write(self, step, split, metrics)
        if step == 12 and split == "train":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_metrics", write_and_signal)
        assert run(data_dir, encoder, tmp_path, "--seed=7") == 75
    assert "at step 12 of 36" in capsys.readouterr().err
    metrics = tmp_path / "trial-1" / "metrics.jsonl"
    assert [x["step"] for x in read_lines(metrics) if x["split"] == "eval"] == [6, 12]
    assert run(data_dir, encoder, tmp_path, "--seed=7") == 0
    there, here = (
        [x for x in read_lines(folder / "trial-1/metrics.jsonl") if x["split"] == "eval"]
        for folder in (finished, tmp_path)
    )
    assert there == here


def test_other_dev_and_test_sets_are_another_run(finished, data_dir, encoder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(data_dir, data)
    for name in ("dev", "test"):
        lines = (data / f"{name}.tsv").read_text().splitlines(keepends=True)
        (data / f"{name}.tsv").write_text("".join(lines[:-1]))
        assert run(data, encoder, finished, "--num_trials=2", "--seed=7") == 2
        assert f"{name}_sha256 is" in capsys.readouterr().err
        (data / f"{name}.tsv").write_text("".join(lines))
    (data / "task.yaml").write_text((data / "task.yaml").read_text() + "labels: [good, bad]\n")
    assert run(data, encoder, finished, "--num_trials=2", "--seed=7") == 2
    assert "labels is ['bad', 'good'] there and ['good', 'bad'] here" in capsys.readouterr().err


def test_the_model_of_a_run_is_found_by_the_run(finished, data_dir, tmp_path, caplog):
    assert run(data_dir, finished, tmp_path, "--mode=evaluate") == 0
    assert f"model: {finished}/model" in caplog.text
    accuracy = read_json(tmp_path / "dev_metrics.json")["accuracy"]
    best = read_json(finished / "results.json")["best"]["metrics"]["accuracy"]
    assert accuracy == pytest.approx(best)


def test_the_command_that_trained_applies_what_it_trained(
    finished, data_dir, encoder, tmp_path, caplog
):
    """Also where it began with a fine-tuned model."""
    steps = "--override=num_train_steps=2"
    assert run(data_dir, finished, tmp_path / "second", steps) == 0
    assert run(data_dir, finished, tmp_path / "second", steps, "--mode=evaluate") == 0
    assert f"model: {tmp_path}/second/model" in caplog.text
    caplog.clear()
    # Another model than the one that the run began with is the one that is meant.
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "second", other)
    assert run(data_dir, tmp_path / "second", other, "--mode=evaluate") == 0
    assert f"model: {tmp_path}/second/model" in caplog.text


def test_glues_folders_are_found_in_any_case(tmp_path):
    for name in ("CoLA", "SST-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.tsv").write_text("a\tb\n")
    configs = [load_task_config("cola"), load_task_config("sst2")]
    folders = [f"{tmp_path}/CoLA", f"{tmp_path}/SST-2"]
    assert command._data_dirs(str(tmp_path), configs) == folders
    assert command._data_dirs(f"{tmp_path},{tmp_path}/SST-2", configs) == folders
    (tmp_path / "a,b").mkdir()
    assert command._data_dirs(f"{tmp_path}/a,b", configs[:1]) == [f"{tmp_path}/a,b"]


def test_files_of_the_folder_go_before_a_folder_of_the_tasks_name(tmp_path):
    keys = {"kind": "classification", "columns": {"text": 0, "label": 1}, "train": "train.tsv"}
    config = task_config({"name": "mine", **keys}, "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.tsv").write_text("a\tb\n")
    assert command._data_dirs(str(tmp_path), [config]) == [f"{tmp_path}/mine"]
    (tmp_path / "train.tsv").write_text("a\tb\n")
    assert command._data_dirs(str(tmp_path), [config]) == [str(tmp_path)]


def test_a_picture_of_labels_that_look_like_tex():
    labels = ["$5_$10", "{", "\\x"]
    figure = pictures.confusion_matrix(labels, labels[::-1], labels)
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()][0] == r"\$5_\$10"


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_predictions_do_not_depend_on_the_batch(finished, data_dir, encoder, tmp_path, batch_size):
    arguments = (f"--override=eval_batch_size={batch_size}", "--mode=evaluate")
    assert run(data_dir, finished / "model", tmp_path, *arguments) == 0
    best = read_json(finished / "results.json")["best"]["trial"]
    there = read_lines(finished / f"trial-{best}" / "predictions" / "dev.jsonl")
    here = read_lines(tmp_path / "predictions" / "dev.jsonl")
    assert [x["id"] for x in here] == [x["id"] for x in there]
    for a, b in zip(here, there):
        assert a["prediction"] == b["prediction"]
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)
    metrics = read_json(tmp_path / "dev_metrics.json")
    assert metrics["accuracy"] == pytest.approx(
        read_json(finished / "results.json")["best"]["metrics"]["accuracy"]
    )


def test_predictor(finished, data_dir, tmp_path, encoder):
    predictor = Predictor.from_pretrained(str(finished / "model"), batch_size=4)
    best = read_json(finished / "results.json")["best"]["trial"]
    there = read_lines(finished / f"trial-{best}" / "predictions" / "dev.jsonl")
    texts = [line.split("\t")[0] for line in (data_dir / "dev.tsv").read_text().splitlines()[1:]]
    here = predictor(texts)
    assert [x["label"] for x in here] == [x["prediction"] for x in there]
    for a, b in zip(here, there):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)
        assert a["score"] == max(a["scores"].values())
    single = predictor(texts[0])
    assert single["scores"] == pytest.approx(here[0]["scores"], abs=1e-6)
    assert predictor([]) == [] and set(predictor("")) == {"label", "score", "scores"}
    assert predictor(["good " * 5000])[0]["scores"].keys() == {"good", "bad"}
    with pytest.raises(UserError, match="input 1: 3 is not a str"):
        predictor(["a", 3])
    with pytest.raises(UserError, match="input 0: b'a' is not a str"):
        predictor([b"a"])
    with pytest.raises(UserError, match="5 is neither a text nor a list of them"):
        predictor(5)
    with pytest.raises(UserError, match="batch_size=0: not a positive integer"):
        Predictor.from_pretrained(str(finished / "model"), batch_size=0)


def test_tagging(data_dir, encoder, tmp_path):
    overrides = (*OVERRIDES, "num_train_epochs=10")
    assert run(data_dir, encoder, tmp_path, task="tags.yaml", overrides=overrides) == 0
    results = read_json(tmp_path / "results.json")
    assert results["metric"] == "f1" and results["metrics"]["f1"] > 0.9
    predictor = Predictor.from_pretrained(str(tmp_path / "model"))
    text = "(red cat), good dog." + " blue" * 60
    tagged, listed = predictor([text, ["good", "cat"]])
    assert len(tagged["words"]) == 68
    assert all(text[w["start"] : w["end"]] == w["word"] for w in tagged["words"])
    assert [w["label"] for w in listed["words"]] == ["O", "B-A"]
    assert [(w["start"], w["end"]) for w in listed["words"]] == [(0, 4), (5, 8)]
    short = predictor("red cat tree")
    assert [w["label"] for w in short["words"]] == ["O", "B-A", "O"]
    [entity] = short["entities"]
    assert (entity["text"], entity["label"], entity["start"], entity["end"]) == ("cat", "A", 4, 7)
    assert predictor(" ") == {"words": [], "entities": []}
    # transformers' names, for `ElectraForTokenClassification`.
    arrays = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    assert arrays["classifier.weight"].shape == (3, 16)
    config = read_json(tmp_path / "model" / "config.json")
    assert config["architectures"] == ["ElectraForTokenClassification"]
    assert config["id2label"] == {"0": "O", "1": "B-A", "2": "I-A"}


def test_a_stuck_trial_is_named_and_runs_again(data_dir, encoder, tmp_path, capsys, monkeypatch):
    # With this rate nothing is learnt: all get the majority's label.
    overrides = ("learning_rate=1e-9", "train_batch_size=16", "num_train_epochs=1")
    broken = tmp_path / "encoder"
    shutil.copytree(encoder, broken)
    arrays = safetensors.numpy.load_file(broken / "model.safetensors")
    norm = f"electra.encoder.layer.{CONFIG.num_hidden_layers - 1}.output.LayerNorm.weight"
    arrays[norm][:] = 0.0  # The last block's output is the same for every text.
    safetensors.numpy.save_file(arrays, broken / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "run"
    assert run(data_dir, broken, folder, overrides=overrides) == 0
    assert "trial 1 (seed 42) is stuck" in capsys.readouterr().err
    results = read_json(folder / "results.json")
    assert results["trials"][0]["is_stuck"] and results["num_stuck"] == 1
    monkeypatch.setattr("electra_tf.training.finetuning._MOST_ATTEMPTS", 1)
    assert run(data_dir, broken, folder, "--restart_failed", overrides=overrides) == 0
    assert read_json(folder / "results.json")["trials"][0]["seed"] == 1042
    assert (folder / "trial-1-failed-1" / "result.json").exists()
    # Nobody needs it; the trial knows which attempt it is.
    shutil.rmtree(folder / "trial-1-failed-1")
    assert run(data_dir, broken, folder, "--restart_failed", overrides=overrides) == 0
    assert read_json(folder / "results.json")["trials"][0]["seed"] == 1042


def test_two_devices_are_one(data_dir, encoder, finished, tmp_path, two_devices):
    """Equal losses, without dropout; the rows' order in a batch decides the last bits."""
    assert (
        run(
            data_dir,
            encoder,
            tmp_path,
            "--seed=7",
            "--strategy=mirrored",
            "--num_virtual_devices=2",
        )
        == 0
    )

    def losses(folder):
        return [x["loss"] for x in read_lines(folder / "trial-1" / "metrics.jsonl")]

    np.testing.assert_allclose(losses(tmp_path)[:8], losses(finished)[:8], rtol=1e-3)
    assert read_json(tmp_path / "results.json")["metrics"]["accuracy"] > 0.75


@pytest.mark.parametrize(
    "change, message",
    [
        (["--task=colla"], "--task=colla: no such task"),
        (["--task=none.yaml"], "--task=none.yaml: cannot read it"),
        (["--data_dir=nowhere"], "--data_dir=nowhere: no train.tsv in it"),
        (["--init_from=nowhere"], "nowhere/config.json: cannot read it"),
        (["--mode=evaluate", "--init_from=nowhere"], "--init_from=nowhere: no such folder"),
        (["--override=learning_rat=1"], "did you mean 'learning_rate'?"),
        (["--override=num_train_epochs=0"], "num_train_epochs=0"),
        (["--override=length_buckets=[16,8]"], "length_buckets=[16, 8]: give ascending lengths"),
        (["--override=max_seq_length=64"], "exceeds the encoder's 32 positions"),
        (["--num_trials=0"], "--num_trials=0: 0 is not a positive integer"),
        (["--mode=predict", "--init_from=", "--output_dir=nowhere"], "no task.json"),
        (["--mode=test"], "--mode=test: value should be one of"),
    ],
)
def test_mistakes(data_dir, encoder, tmp_path, capsys, change, message):
    assert run(data_dir, encoder, tmp_path / "run", *change) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run").exists()


def test_bad_rows_before_anything_is_written(data_dir, encoder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(data_dir, data)
    with open(data / "dev.tsv", "a") as f:
        f.write("cat\tugly\n")
    assert run(data, encoder, tmp_path / "run") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{data}/dev.tsv:39: unknown label 'ugly'; known: bad, good" in error
    assert not (tmp_path / "run").exists()
    overrides = (*OVERRIDES, "num_train_epochs=0.2")
    assert run(data, encoder, tmp_path / "run", "--skip_bad_rows", overrides=overrides) == 0
    assert "left out 1 bad row(s)" in capsys.readouterr().err
    assert len(read_lines(tmp_path / "run/trial-1/predictions/dev.jsonl")) == 37


def test_an_encoder_with_a_foreign_head_before_anything_is_written(
    data_dir, encoder, tmp_path, capsys
):
    other = shutil.copytree(encoder, tmp_path / "encoder")
    arrays = safetensors.numpy.load_file(other / "model.safetensors")
    arrays["crf.transitions"] = np.zeros([2, 2], np.float32)
    safetensors.numpy.save_file(arrays, other / "model.safetensors", metadata={"format": "pt"})
    assert run(data_dir, other, tmp_path / "run") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{other}: the tensors do not match the model: unexpected crf.transitions" in error
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_is_another_run(finished, data_dir, encoder, tmp_path, capsys):
    other = shutil.copytree(encoder, tmp_path / "encoder")
    values = read_json(other / "tokenizer_config.json")
    (other / "tokenizer_config.json").write_text(json.dumps({**values, "do_lower_case": False}))
    assert run(data_dir, other, finished, "--num_trials=2", "--seed=7") == 2
    assert "lowercase is True there and False here" in capsys.readouterr().err


def test_sets_that_are_not_there(finished, data_dir, encoder, tmp_path, capsys):
    """Another set never takes the place of the first one, whose metrics choose the checkpoint."""
    sets = "--override=dev={a: no.tsv, b: dev.tsv}"
    assert run(data_dir, encoder, tmp_path / "run", sets) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"--data_dir={data_dir}: no no.tsv, the dev set by which task mine chooses" in error
    assert not (tmp_path / "run").exists()
    assert run(data_dir, finished / "model", tmp_path / "run", "--mode=evaluate", sets) == 0
    assert "no no.tsv, a dev set of task mine" in capsys.readouterr().err
    assert set(read_json(tmp_path / "run" / "dev_metrics.json")) >= {"accuracy_b", "f1_b"}


def test_a_model_of_one_label_is_not_applied_as_one_of_several(
    finished, data_dir, tmp_path, capsys
):
    modes = ("--mode=evaluate", "--override=multi_label=true", "--override=metric=f1")
    assert run(data_dir, finished / "model", tmp_path / "run", *modes) == 2
    assert "multi_label is true there" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_outputs_of_sets_by_any_name(tmp_path):
    path = str(tmp_path / "outputs.npz")
    outputs = {"dev_all": [np.ones([2, 3])], "dev_all_lengths": [np.zeros(3), np.ones(3)]}
    finetuning._save_outputs(path, outputs)
    read = finetuning._read_outputs(path)
    assert list(read) == list(outputs)
    assert [row.tolist() for row in read["dev_all_lengths"]] == [[[0, 0, 0]], [[1, 1, 1]]]
    assert read["dev_all"][0].tolist() == [[1, 1, 1]] * 2


def test_a_bert_folder(encoder, tmp_path):
    """Names without `electra.` and embeddings as wide as the blocks; the pooler is left out."""
    config = EncoderConfig(**{**CONFIG.__dict__, "embedding_size": CONFIG.hidden_size})
    model = Discriminator(config)
    model.save_pretrained(str(tmp_path / "electra"))
    arrays = safetensors.numpy.load_file(tmp_path / "electra" / "model.safetensors")
    bert = {
        name.removeprefix("electra."): array
        for name, array in arrays.items()
        if name.startswith("electra.")
    }
    norm = "embeddings.LayerNorm"  # By its oldest name.
    bert[f"{norm}.gamma"], bert[f"{norm}.beta"] = (
        bert.pop(f"{norm}.{x}") for x in ("weight", "bias")
    )
    bert["pooler.dense.weight"] = np.zeros([16, 16], np.float32)
    bert["embeddings.position_ids"] = np.arange(32)[None]
    (tmp_path / "bert").mkdir()
    safetensors.numpy.save_file(bert, tmp_path / "bert" / "model.safetensors")
    values = read_json(tmp_path / "electra" / "config.json")
    del values["embedding_size"]
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**values, "model_type": "bert"}))
    read, tensors, heads = huggingface.read_encoder(str(tmp_path / "bert"))
    assert read == config and list(heads) == ["electra.pooler.dense.weight"]
    network = SequenceClassifier(read)
    huggingface.assign_tensors(huggingface.encoder_tensors(network), tensors, "bert")
    ids = tf.constant([[2, 5, 6, 3]])
    np.testing.assert_array_equal(
        network({"input_ids": ids})["sequence_output"], model({"input_ids": ids})["sequence_output"]
    )
    del tensors["electra.encoder.layer.0.output.dense.bias"]
    with pytest.raises(UserError, match="electra.encoder.layer.0.output.dense.bias"):
        huggingface.assign_tensors(huggingface.encoder_tensors(network), tensors, "bert")


@pytest.mark.parametrize(
    "network_class, options, architecture",
    [
        (SequenceClassifier, {}, "ElectraModel"),
        (SequenceClassifier, {"head": "two_layers"}, "ElectraForSequenceClassification"),
        (TokenClassifier, {}, "ElectraForTokenClassification"),
    ],
)
def test_folders_of_heads(tmp_path, network_class, options, architecture):
    network = network_class(CONFIG, num_labels=3, **options)
    network.save_pretrained(str(tmp_path))
    again = network_class.from_pretrained(str(tmp_path))
    ids = tf.constant([[2, 5, 6, 3]])
    np.testing.assert_array_equal(
        network({"input_ids": ids})["logits"], again({"input_ids": ids})["logits"]
    )
    assert read_json(tmp_path / "config.json")["architectures"] == [architecture]


def features_of_lengths(lengths):
    tokens = {"input_ids": np.concatenate([np.full(n, i) for i, n in enumerate(lengths)])}
    splits = np.concatenate([[0], np.cumsum(lengths)])
    return Features({k: v.astype(np.int32) for k, v in tokens.items()}, splits, {})


def test_batches():
    lengths = [3, 9, 4, 17, 5, 9, 1, 2, 30, 8, 8]
    batches = FeatureBatches(features_of_lengths(lengths), 4, 32, [8, 16])
    assert batches.steps_per_epoch == 3
    seen, shapes = [], set()
    for batch in batches.training(5, 0, 6):
        assert batch["input_ids"].shape[0] == 4
        width = batch["input_ids"].shape[1]
        shapes.add(width)
        real = batch["index"].numpy() >= 0
        np.testing.assert_array_equal(batch["weight"], real)
        rows = batch["index"].numpy()[real]
        assert width == min(w for w in (8, 16, 32) if w >= max(lengths[row] for row in rows))
        for row, ids, mask in zip(rows, batch["input_ids"].numpy(), batch["input_mask"].numpy()):
            assert mask.sum() == lengths[row] and (ids[: lengths[row]] == row).all()
        seen.append(list(rows))
    for epoch in (seen[:3], seen[3:]):
        assert sorted(sum(epoch, [])) == list(range(len(lengths)))
    assert seen[:3] != seen[3:] and shapes <= {8, 16, 32} and len(shapes) > 1
    # The later steps of a run that goes on, and the halves of two replicas, are the same rows.
    resumed = [b["index"].numpy().tolist() for b in batches.training(5, 4, 6)]
    whole = [b["index"].numpy().tolist() for b in batches.training(5, 0, 6)]
    assert resumed == whole[4:]
    halves = [b["index"].numpy().tolist() for b in batches.training(5, 0, 6, 2, range(2))]
    assert [halves[i] + halves[i + 1] for i in range(0, 12, 2)] == whole


def test_other_rows_meet_in_the_next_epoch():
    """In a small data set, too, whose epoch would fit into one sorted pool."""
    lengths = np.random.default_rng(0).integers(1, 500, 320)
    batches = FeatureBatches(features_of_lengths(lengths), 8, 512, [64, 128, 256])
    rows = [b["index"].numpy() for b in batches.training(5, 0, 2 * batches.steps_per_epoch)]
    epochs = rows[: batches.steps_per_epoch], rows[batches.steps_per_epoch :]
    first, second = (
        {pair for batch in epoch for pair in itertools.combinations(sorted(batch), 2)}
        for epoch in epochs
    )
    # Of one pool 91 in 100 meet again, of random batches 2.
    assert len(first & second) / len(second) < 0.3


def test_the_summary_of_trials():
    trials = [
        {"seed": s, "metrics": {"accuracy": a, "mse": m}, "is_stuck": a < 0.5}
        for s, a, m in ((1, 0.4, 3.0), (2, 0.9, 2.0), (3, 0.8, 1.0))
    ]
    summary = statistics.summarize("accuracy", trials)
    assert summary["metrics"] == {"accuracy": 0.8, "mse": 2.0}
    assert summary["mean"]["accuracy"] == pytest.approx(0.7)
    assert summary["standard_deviation"]["accuracy"] == pytest.approx(0.07**0.5)
    assert summary["best"]["trial"] == 2 and summary["num_stuck"] == 1
    assert statistics.summarize("mse", trials)["best"]["trial"] == 3
    # The largest F1 may be that of a model that says the same of everything.
    trials[0]["metrics"]["accuracy"] = 0.95
    assert statistics.summarize("accuracy", trials)["best"]["trial"] == 2
    assert statistics.summarize("accuracy", trials[:1])["best"]["trial"] == 1
    assert statistics.summarize("mse", trials[:1])["standard_deviation"]["mse"] is None


@pytest.mark.parametrize(
    "fidelity, expected", [("fixed", (3e-4, 0.0)), ("google2020", (1e-4, 0.01))]
)
def test_rates_by_size_and_fidelity(fidelity, expected):
    config = FinetuningConfig(fidelity=fidelity).resolved(CONFIG, "classification")
    assert (config.learning_rate, config.weight_decay_rate) == expected
    large = EncoderConfig(
        **{**CONFIG.__dict__, "hidden_size": 1024, "max_position_embeddings": 512}
    )
    config = FinetuningConfig(fidelity=fidelity).resolved(large, "tagging")
    assert (config.learning_rate, config.layerwise_lr_decay) == (5e-5, 0.9)
    assert config.max_seq_length == 256 and config.length_buckets[-1] == 192


def test_micro_batches_and_padding_rows_change_nothing():
    """A loss over real rows alone: two micro-batches and filled-up rows give the same gradients."""
    keras.utils.set_random_seed(1)
    network = SequenceClassifier(CONFIG, num_labels=2, classifier_dropout=0.0)

    def losses(logits, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

    def step(rows, weights, parts):
        config = FinetuningConfig(train_batch_size=4, gradient_accumulation_steps=parts)
        model = Finetuner(config, network, losses, lambda batch: batch["weight"])
        model.compile(keras.optimizers.SGD(0.0))
        model.optimizer.apply_scaled = lambda *arguments: None
        ids = tf.constant([[2, 5 + row, 6, 3] for row in rows])
        ones = tf.ones_like(ids)
        batch = {"input_ids": ids, "input_mask": ones, "segment_ids": 0 * ones}
        batch |= {"label": tf.constant(rows) % 2, "weight": tf.constant(weights)}
        return float(model.gradient_step(batch)["grad_norm"])

    whole = step([0, 1, 2], [1.0] * 3, 1)
    assert step([0, 1, 2, 0], [1.0, 1.0, 1.0, 0.0], 1) == pytest.approx(whole, rel=1e-5)
    assert step([0, 1, 2, 0], [1.0, 1.0, 1.0, 0.0], 2) == pytest.approx(whole, rel=1e-5)
