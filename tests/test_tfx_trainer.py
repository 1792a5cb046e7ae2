"""`run_fn` on tf.Examples, called as TFX's Trainer calls it; TFX itself is not here."""

import ast
import json
import pathlib
import re
import types

import numpy as np
import pytest
import tensorflow as tf
from tf_examples import write_examples
from tiny_models import VOCAB, WORDS, save_tiny_encoder

from electra_tf import Predictor, UserError
from electra_tf.export.verify import verify
from electra_tf.tfx_trainer import run_fn
from electra_tf.training import finetuning

TASK = {
    "name": "reviews",
    "kind": "classification",
    "columns": {"text": "review", "label": "stars"},
}
PAIRS = {
    "name": "pairs",
    "kind": "regression",
    "columns": {"text": "a", "text_pair": "b", "label": "score"},
}
TAGS = {
    "name": "tags",
    "kind": "tagging",
    "columns": {"token": "words", "tag": "tags"},
    "scheme": "IOB2",
}
CONFIG = {
    "learning_rate": 5e-3,
    "layerwise_lr_decay": 0.9,
    "train_batch_size": 16,
    "classifier_dropout": 0.0,
    "max_seq_length": 16,  # One length, one graph.
    "length_buckets": [],
}
NUM_EVAL = 37
DOCS = (pathlib.Path(__file__).parents[1] / "docs/tfx.md").read_text()


def rows_of(number, seed):
    """Texts with one of good and bad in each; the same as pairs and as tagged words."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        words = [str(word) for word in rng.choice(WORDS[2:], rng.integers(1, 9))]
        is_good = bool(rng.integers(2))
        words.insert(rng.integers(0, len(words) + 1), "good" if is_good else "bad")
        rows.append(
            {
                "review": " ".join(words),
                "stars": 5 if is_good else 1,
                "a": words[0],
                "b": " ".join(words[1:]),
                "score": 4.5 if is_good else 0.1,
                "words": words,
                "tags": ["B-A" if word in ("cat", "dog") else "O" for word in words],
            }
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder, and examples as TFX lays them out: gzipped ones to train, plain ones to evaluate."""
    folder = tmp_path_factory.mktemp("pipeline")
    save_tiny_encoder(folder / "encoder", VOCAB)
    for split in ("train", "eval"):
        (folder / f"Split-{split}").mkdir()
    rows = rows_of(96, 0)
    for number, shard in enumerate((rows[:50], [], rows[50:])):
        write_examples(folder / f"Split-train/data_tfrecord-0000{number}-of-00003.gz", shard)
    write_examples(folder / "Split-eval/data_tfrecord-00000-of-00001", rows_of(NUM_EVAL, 1))
    return folder


def arguments(folder, output, task=TASK, custom=None, **more):
    """What a Trainer gives, as far as it is needed."""
    return types.SimpleNamespace(
        **{
            "train_files": [f"{folder}/Split-train/*"],
            "eval_files": [f"{folder}/Split-eval/*"],
            "train_steps": 40,
            "eval_steps": 1,
            "serving_model_dir": f"{output}/model/Format-Serving",
            "model_run_dir": f"{output}/model_run",
            "custom_config": {
                "task": task,
                "init_from": f"{folder}/encoder",
                "config": CONFIG,
                "seed": 7,
                **(custom or {}),
            },
            **more,
        }
    )


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run that is broken off at step 12, and goes on; `at_12` is its `metrics.jsonl` there."""
    output = tmp_path_factory.mktemp("finished")
    save = finetuning.save_checkpoint

    def save_and_die(manager, step):
        save(manager, step)
        if step == 12:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "save_checkpoint", save_and_die)
        with pytest.raises(Interrupted):
            run_fn(arguments(folder, output))
    assert not (output / "model").exists()
    (output / "at_12").write_text((output / "model_run/trial-1/metrics.jsonl").read_text())
    run_fn(arguments(folder, output))
    return output


def read_json(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_task_is_learnt(finished):
    run = finished / "model_run"
    [trial] = read_json(run / "results.json")["trials"]
    assert trial["seed"] == 7 and trial["num_train_steps"] == 40
    assert (
        trial["metrics"]["accuracy"] > 0.9
    )  # One word tells; a majority of 37 cannot be so large.
    # 96 / 16 steps are an epoch.
    evaluations = [x for x in read_lines(run / "trial-1/metrics.jsonl") if x["split"] == "eval"]
    assert [x["step"] for x in evaluations] == [6, 12, 18, 24, 30, 36, 40]
    predictions = read_lines(run / "trial-1/predictions/dev.jsonl")
    labels = [str(row["stars"]) for row in rows_of(NUM_EVAL, 1)]
    assert [x["label"] for x in predictions] == labels  # Every one once, whatever eval_steps says.
    right = [x["prediction"] == label for x, label in zip(predictions, labels)]
    assert np.mean(right) == pytest.approx(trial["metrics"]["accuracy"])


def test_the_model_is_served(finished):
    serving = finished / "model/Format-Serving"
    assert [path.name for path in (finished / "model").iterdir()] == ["Format-Serving"]
    assert [path.name for path in (finished / "model_run/ids").iterdir()] == ["1"]
    verified = {v.signature: v for v in verify(str(serving)).signatures}
    assert verified["serving_default"].inputs == ["text"]
    ids = {v.signature: v for v in verify(f"{finished}/model_run/ids/1").signatures}
    assert ids["serving_default"].inputs == ["input_ids", "input_mask", "segment_ids"]
    texts = [row["review"] for row in rows_of(NUM_EVAL, 1)]
    found = tf.saved_model.load(str(serving)).signatures["serving_default"](tf.constant(texts))
    predictions = read_lines(finished / "model_run/trial-1/predictions/dev.jsonl")
    assert [label.decode() for label in found["label"].numpy()] == [
        x["prediction"] for x in predictions
    ]
    scores = [list(x["scores"].values()) for x in predictions]
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)


def test_it_went_on_where_it_was_broken_off(finished):
    before, metrics = (
        (finished / name).read_text() for name in ("at_12", "model_run/trial-1/metrics.jsonl")
    )
    assert json.loads(before.splitlines()[-1])["step"] == 12
    assert metrics.startswith(before)  # Among others the time that each step took.


@pytest.mark.slow
def test_the_same_call_again_trains_nothing(folder, finished):
    metrics = finished / "model_run/trial-1/metrics.jsonl"
    results = finished / "model_run/results.json"
    model = finished / "model/Format-Serving/saved_model.pb"
    before, made = (metrics.stat().st_mtime_ns, results.read_bytes()), model.stat().st_mtime_ns
    call = arguments(folder, finished)
    call.serving_model_dir += "/"  # As an environment may give it.
    run_fn(call)
    assert (metrics.stat().st_mtime_ns, results.read_bytes()) == before
    assert model.stat().st_mtime_ns > made  # In the place of the one before.
    with pytest.raises(UserError, match="num_train_steps is 40 there and 41 here"):
        run_fn(arguments(folder, finished, train_steps=41))


@pytest.mark.slow  # test_the_task_is_learnt is the quick one.
def test_pairs_by_a_base_model_without_eval_files(folder, tmp_path):
    """Attributes that are not there are no mistake, nor are zeros."""
    rows = rows_of(17, 2)
    del rows[3]["b"]
    path = write_examples(tmp_path / "train.gz", rows)
    custom = {
        "init_from": None,
        "config": {**CONFIG, "num_train_epochs": 1},
        "ai_platform_training_args": {"project": "p"},
    }
    call = arguments(folder, tmp_path, PAIRS, custom, train_files=[path], train_steps=0)
    call.base_model = f"{folder}/encoder"
    del call.eval_files, call.eval_steps
    with pytest.raises(UserError) as error:
        run_fn(call)
    assert str(error.value) == (
        f"{path}:4: no feature 'b' in this tf.Example; there are a, review, score, stars, tags, words "
        "(the task's 'columns' name them); mend the row, or leave such rows out with "
        "'skip_bad_rows': True in custom_config"
    )
    assert not (tmp_path / "model_run").exists()
    call.custom_config["skip_bad_rows"] = True
    run_fn(call)
    [trial] = read_json(tmp_path / "model_run/results.json")["trials"]
    # 16 rows are left, one batch.
    assert trial["num_train_steps"] == 1 and trial["metrics"] == {}
    # What float32 stores of 0.1 is 0.10000000149.
    assert read_json(tmp_path / "model_run/model/task.json")["label_range"] == [0.1, 4.5]
    serve = tf.saved_model.load(call.serving_model_dir).signatures["serving_default"]
    found = serve(text=tf.constant(["good", ""]), text_pair=tf.constant(["bad cat", "dog"]))
    predictor = Predictor.from_pretrained(f"{tmp_path}/model_run/model")
    expected = [x["value"] for x in predictor([("good", "bad cat"), ("", "dog")])]
    np.testing.assert_allclose(found["outputs"], expected, atol=1e-5)


@pytest.mark.slow  # test_the_task_is_learnt is the quick one.
def test_tags(folder, tmp_path):
    call = arguments(folder, tmp_path, TAGS, {"seed": None}, train_steps=60)
    run_fn(call)
    [tagger] = verify(call.serving_model_dir).signatures
    assert "words" in tagger.outputs
    [trial] = read_json(tmp_path / "model_run/results.json")["trials"]
    assert trial["seed"] == 42 and trial["metrics"]["f1"] > 0.9
    predictor = Predictor.from_pretrained(f"{tmp_path}/model_run/model")
    words = predictor([["good", "cat", "tree"]])[0]["words"]
    assert [w["label"] for w in words] == ["O", "B-A", "O"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_files": ["nowhere/*"]}, "fn_args.train_files=['nowhere/*']: no such file"),
        ({"train_files": None}, "fn_args.train_files: missing"),
        ({"model_run_dir": None}, "fn_args.model_run_dir: missing"),
        ({"custom_config": None}, "fn_args.custom_config: missing"),
        ({"custom_config": {}}, "fn_args.custom_config: missing"),
        ({"custom": {"confg": {}}}, "custom_config: unknown configuration key 'confg'; did you"),
        ({"custom": {"init_from": None}}, "custom_config: no 'init_from'"),
        ({"custom": {"init_from": "nowhere"}}, "nowhere/config.json"),
        ({"custom": {"seed": -1}}, "custom_config: seed=-1"),
        ({"custom": {"config": {"epochs": 1}}}, "custom_config['config']: unknown"),
        ({"train_steps": -1}, "num_train_steps=-1"),
        ({"task": "colla"}, "colla: no such task"),
        ({"task": "cola"}, "cola: columns: features of tf.Examples have names, not numbers"),
        ({"task": "squad1"}, "squad1: format=tfrecord: a qa task has squad, mrqa"),
        ({"task": {**TASK, "kind": "x"}}, "custom_config['task']: kind='x'"),
        ({"task": {"name": "x"}}, "custom_config['task']: missing kind"),
    ],
)
def test_mistakes(folder, tmp_path, change, message):
    with pytest.raises(UserError) as error:
        run_fn(arguments(folder, tmp_path, **change))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_documented_pipeline(folder, tmp_path):
    """Its custom_config is right as far as the encoder, which is not there."""
    code = re.search(r"^```python\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)[1]
    [values] = [
        ast.literal_eval(statement.value)
        for statement in ast.parse(code).body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "CUSTOM_CONFIG"
    ]
    values["init_from"] = f"{tmp_path}/small"
    with pytest.raises(UserError, match=f"^{tmp_path}/small/config.json"):
        run_fn(arguments(folder, tmp_path, custom_config=values))


def test_unknown_labels_are_named_by_file_and_record(folder, tmp_path):
    path = write_examples(tmp_path / "eval", [{"review": "a", "stars": s} for s in (1, 5, 3)])
    with pytest.raises(UserError, match=f"{path}:3: unknown label '3'; known: 1, 5"):
        run_fn(arguments(folder, tmp_path, eval_files=[path]))


def test_nothing_of_others_is_replaced_or_trained_on(folder, finished, tmp_path):
    (tmp_path / "model/Format-Serving").mkdir(parents=True)
    (tmp_path / "model/Format-Serving/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other things than a SavedModel"):
        run_fn(arguments(folder, tmp_path))
    assert (tmp_path / "model/Format-Serving/mine.txt").exists()
    custom = {"init_from": f"{finished}/model/Format-Serving"}
    with pytest.raises(UserError, match="a SavedModel, which cannot be trained further"):
        run_fn(arguments(folder, tmp_path / "other", custom=custom))
