"""Folders of transformers, both ways: against what transformers computes, bit for bit, and damaged."""

import dataclasses
import json
import os
import pathlib
import random
import subprocess

import keras
import numpy as np
import pytest
import safetensors.numpy
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_commands import ROOT, last_line
from test_convert_google import random_configs, random_networks, randomize, sizes
from test_malformed_folders import VALUES
from tiny_models import TASKS, VOCAB_WITH_SUFFIX, save_tiny_task, tiny_config

from electra_tf import Discriminator, Generator, Tokenizer, UserError
from electra_tf.commands import convert, finetune
from electra_tf.export.loading import load_servables
from electra_tf.interop import huggingface, huggingface_folders, runs
from electra_tf.tasks.model_folder import load_finetuned, save_finetuned

ENVS = pathlib.Path(os.environ.get("ELECTRA_TF_BENCH_ENVS", ROOT / ".bench-envs"))
NUM_PIECES = len(VOCAB_WITH_SUFFIX)
TEXTS = ["good dog", "Bad CAFÉ tree, 北 cats", "", "red " * 40]
# Transformers' names of our inputs.
INPUTS = {
    "input_ids": "input_ids",
    "input_mask": "attention_mask",
    "segment_ids": "token_type_ids",
}
FINETUNED = ("classification", "topics", "regression", "tagging", "qa", "choice")
# In place of heads that transformers lacks.
HEADS = {"classification": "two_layers", "regression": "two_layers"}


def to_run(folder, run, *more):
    return convert.main(["", "--from=huggingface", f"--input={folder}", f"--output={run}", *more])


def to_huggingface(run, folder, *more):
    return convert.main(["", "--to=huggingface", f"--input={run}", f"--output={folder}", *more])


def peer(action, folder):
    """Runs tests/transformers_peer.py on a folder, where transformers' environment is."""
    python = ENVS / "transformers-torch/bin/python"
    if not python.exists():
        pytest.skip(
            f"{python} is not there: benchmarks/make_envs.sh makes it, ELECTRA_TF_BENCH_ENVS names "
            "another folder of environments"
        )
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    script = str(ROOT / "tests/transformers_peer.py")
    done = subprocess.run(
        [python, script, action, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def inputs_of(outputs):
    """Our inputs of a file of transformers' outputs."""
    inputs = {name: outputs[theirs] for name, theirs in INPUTS.items()}
    is_context = np.ones_like(inputs["input_mask"])
    is_context[:, 0] = 0  # [CLS] is a candidate anyway.
    return {**inputs, "is_context": is_context}


def assert_same_numbers(network, folder):
    outputs = np.load(folder / "outputs.npz")
    logits = network(inputs_of(outputs))["logits"]
    if not isinstance(logits, dict):
        np.testing.assert_allclose(logits, outputs["logits"], atol=1e-4)
        return
    for name in ("start", "end"):
        np.testing.assert_allclose(logits[name], outputs[f"{name}_logits"], atol=1e-4)


def assert_same_states(network, folder):
    outputs = np.load(folder / "outputs.npz")
    states = network(inputs_of(outputs))["sequence_output"]
    np.testing.assert_allclose(states, outputs["last_hidden_state"], atol=1e-4)


def read_json(path):
    return json.loads(path.read_text())


def edit_json(path, **changes):
    path.write_text(json.dumps({**read_json(path), **changes}))


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def edit_tensors(folder, change):
    """Applies a function to the dict of a folder's tensors."""
    arrays = tensors_of(folder)
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", {"format": "pt"})


def assert_same_file(one, other, name):
    assert (one / name).read_bytes() == (other / name).read_bytes(), name


def copy(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


# What transformers wrote.


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Folders that transformers wrote, with what it computes."""
    folder = tmp_path_factory.mktemp("theirs")
    Tokenizer(VOCAB_WITH_SUFFIX).save_pretrained(str(folder))
    peer("write", folder)
    return folder


@pytest.mark.parametrize("sharded", ["", "sharded"])
def test_their_pretrained_networks(theirs, tmp_path, sharded, capsys):
    folder = theirs / sharded
    assert (folder / "generator/model.safetensors").exists() is not bool(sharded)
    flags = [f"--generator={folder}/generator"]
    assert to_run(folder / "discriminator", tmp_path / "run", *flags) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"embeddings 8 (its own), tokens {NUM_PIECES}" in printed
    for network_class in (Discriminator, Generator):
        name = network_class.__name__.lower()
        path = tmp_path / "run" / name
        assert_same_numbers(network_class.from_pretrained(str(path)), folder / name)
        ids = Tokenizer.from_pretrained(str(path)).tokenize(TEXTS).to_list()
        about = read_json(folder / name / "about.json")
        assert [row[1:-1] for row in about["ids"]] == ids
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["generator_hidden_size"] == 0.5 and config["do_lower_case"] is True


def test_their_bare_encoder(theirs, tmp_path, capsys):
    assert to_run(theirs / "bare", tmp_path / "run") == 2
    assert "missing discriminator_predictions.dense.weight (16, 16)" in last_line(capsys)
    flag = "--allow_missing=discriminator_predictions.*"
    assert to_run(theirs / "bare", tmp_path / "run", flag) == 0
    network = Discriminator.from_pretrained(str(tmp_path / "run/discriminator"))
    assert_same_states(network, theirs / "bare")


@pytest.mark.parametrize("sharded", ["", "sharded"])
@pytest.mark.parametrize("name", FINETUNED)
def test_their_finetuned_models(theirs, tmp_path, name, sharded):
    folder = theirs / sharded / name
    assert to_run(folder, tmp_path / "run") == 0
    found = load_finetuned(str(tmp_path / "run/model"))
    assert_same_numbers(found.network, folder)
    assert found.max_seq_length == 24
    kinds = {"topics": "classification", "choice": "multiple_choice"}
    assert found.task.config.kind == kinds.get(name, name)
    assert found.task.config.multi_label is (name == "topics")
    labels = read_json(folder / "about.json")["labels"]
    assert found.task.labels == (None if name in ("regression", "qa") else labels)
    assert found.task.label_range == ((0.0, 1.0) if name == "regression" else None)


def test_prediction_and_the_served_model_give_what_transformers_gives(theirs, tmp_path):
    task = tmp_path / "mine.yaml"
    task.write_text(
        "name: mine\nkind: classification\ntest: test.jsonl\n"
        "columns: {text: first, text_pair: second, label: right}\n"
    )
    rows = [{"first": a, "second": b} for a, b in zip(TEXTS, TEXTS[::-1])]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    assert to_run(theirs / "classification", run, f"--task={task}") == 0
    arguments = [f"--task={task}", f"--data_dir={tmp_path}", f"--output_dir={run}"]
    assert finetune.main(["", "--mode=predict", *arguments]) == 0
    logits = np.load(theirs / "classification/outputs.npz")["pair_logits"].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    lines = (run / "predictions/test.jsonl").read_text().splitlines()
    found = [list(json.loads(line)["scores"].values()) for line in lines]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    outputs = load_servables(str(run / "model")).text_outputs([TEXTS, TEXTS[::-1]])
    np.testing.assert_allclose(outputs["scores"], expected, atol=1e-5)


# What transformers opens.


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Runs of ours and, in `converted/`, what is made of them, with what transformers computes."""
    folder = tmp_path_factory.mktemp("ours")
    generator = sizes(vocab_size=NUM_PIECES, embedding_size=8, max_position_embeddings=32)
    configs = [tiny_config(VOCAB_WITH_SUFFIX), generator]
    networks = runs.create_networks(configs, shares_embeddings=True)
    keras.utils.set_random_seed(1)
    for variable in (v for network in networks for v in network.trainable_variables):
        variable.assign(0.3 * keras.random.normal(variable.shape))
    tokenizer = Tokenizer(VOCAB_WITH_SUFFIX, lowercase=False)
    runs.write(str(folder / "pretrained"), networks, tokenizer=tokenizer)
    for name in FINETUNED:
        save_tiny_task(folder / name / "model", name, HEADS.get(name))
    for name in ("pretrained", *FINETUNED):
        assert to_huggingface(folder / name, folder / "converted" / name) == 0
    save_tiny_task(folder / "encoder/model", "classification")
    flag = "--allow_missing=classifier.*"
    assert to_huggingface(folder / "encoder", folder / "converted/encoder", flag) == 0
    peer("open", folder / "converted")
    return folder


def test_transformers_opens_our_pretrained_networks(ours):
    for network_class in (Discriminator, Generator):
        name = network_class.__name__.lower()
        folder = ours / "converted/pretrained" / name
        assert_same_numbers(network_class.from_pretrained(str(ours / "pretrained" / name)), folder)
        about = read_json(folder / "about.json")
        tokenizer = Tokenizer(VOCAB_WITH_SUFFIX, lowercase=False)
        ids = tokenizer.tokenize(TEXTS).to_list()
        assert about["ids"] == [[tokenizer.cls_id, *row, tokenizer.sep_id] for row in ids]
        assert about["model_max_length"] == 32


@pytest.mark.parametrize("name", FINETUNED)
def test_transformers_opens_our_finetuned_models(ours, name):
    model = load_finetuned(str(ours / name / "model"))
    folder = ours / "converted" / name
    assert not (folder / "task.json").exists()
    assert_same_numbers(model.network, folder)
    about = read_json(folder / "about.json")
    problems = {
        "classification": "single_label_classification",
        "topics": "multi_label_classification",
        "regression": "regression",
    }
    assert about["problem_type"] == problems.get(name)
    assert about["model_max_length"] == 24
    if name == "regression":
        assert about["labels"] == ["LABEL_0"]
    elif name != "qa":
        assert about["labels"] == TASKS[name][1].split()
        assert about["label2id"] == {label: i for i, label in enumerate(about["labels"])}


def test_transformers_opens_an_encoder_alone(ours):
    model = load_finetuned(str(ours / "encoder/model"))
    assert_same_states(model.network, ours / "converted/encoder")


# There and back.


@settings(max_examples=3, deadline=None)
@given(random_configs(), st.integers(0, 2**32 - 1))
def test_any_networks_come_back_bit_for_bit(tmp_path_factory, drawn, seed):
    (configs, shares_embeddings), folder = drawn, tmp_path_factory.mktemp("any")
    keras.backend.clear_session()
    runs.write(str(folder / "ours"), random_networks(configs, shares_embeddings, seed))
    rows, notes = huggingface_folders.from_run(str(folder / "ours"), str(folder / "theirs"))
    assert {row.difference for row in rows} == {0.0}
    assert ("(shared)" if shares_embeddings else "(its own)") in notes[1]
    rows, _ = huggingface_folders.to_run(str(folder / "theirs"), str(folder / "back"))
    assert {row.difference for row in rows} == {0.0}
    names = [
        f"{network}/{name}"
        for network in ("discriminator", "generator")
        for name in tensors_of(folder / "ours" / network)
    ]
    assert sorted(row.ours[0] for row in rows) == sorted(names)
    for name in ("discriminator", "generator"):
        for file in ("model.safetensors", "config.json"):
            assert_same_file(folder / "ours", folder / "back", f"{name}/{file}")
    assert_same_file(folder / "ours", folder / "back", "config.yaml")


@settings(max_examples=4, deadline=None)
@given(st.sampled_from(FINETUNED), random_configs(), st.integers(0, 2**32 - 1))
def test_any_finetuned_model_comes_back_bit_for_bit(tmp_path_factory, name, drawn, seed):
    (config, _), _ = drawn
    folder = tmp_path_factory.mktemp("any")
    keras.backend.clear_session()
    config = dataclasses.replace(config, vocab_size=NUM_PIECES, max_position_embeddings=30)
    save_tiny_task(folder / "ours", name, HEADS.get(name), config)
    model = load_finetuned(str(folder / "ours"))
    randomize(model.network.trainable_variables, seed)
    save_finetuned([model], str(folder / "ours"))
    huggingface_folders.from_run(str(folder / "ours"), str(folder / "theirs"))
    rows, _ = huggingface_folders.to_run(str(folder / "theirs"), str(folder / "back"))
    assert {row.difference for row in rows} == {0.0}
    assert sorted(row.theirs for row in rows) == sorted(tensors_of(folder / "ours"))
    for file in ("model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"):
        assert (folder / "ours" / file).read_bytes() == (folder / "back/model" / file).read_bytes()
    before, after = (read_json(folder / run / "task.json") for run in ("ours", "back/model"))
    for key in ("kind", "labels", "label_range", "max_seq_length"):
        assert before[key] == after[key], key


def test_several_tasks_become_a_folder_each(tmp_path, capsys):
    names, models = ("topics", "tagging"), []
    for name in names:
        save_tiny_task(tmp_path / name, name)
        model = load_finetuned(str(tmp_path / name))
        config = dataclasses.replace(model.task.config, name=name)
        models.append(model._replace(task=type(model.task)(config, model.task.labels)))
    encoder, other = (huggingface.encoder_tensors(model.network) for model in models)
    for name, (variable, _) in encoder.items():
        other[name][0].assign(variable)
    save_finetuned(models, str(tmp_path / "run/model"))
    assert to_huggingface(tmp_path / "run", tmp_path / "both") == 0
    assert "model/tagging.classifier.weight" in capsys.readouterr().out
    for model, name in zip(models, names):
        found = tensors_of(tmp_path / "both" / name)
        expected = huggingface.model_tensors(model.network)
        assert sorted(found) == sorted(expected)
        for key, (variable, transposed) in expected.items():
            np.testing.assert_array_equal(found[key].T if transposed else found[key], variable)


# What does not match.


@pytest.fixture
def tiny(tmp_path):
    """Folders of the smallest networks, as transformers has them; `ours` beside is the run."""
    networks = random_networks([sizes(vocab_size=NUM_PIECES)] * 2, False, 1)
    runs.write(str(tmp_path / "ours"), networks, tokenizer=Tokenizer(VOCAB_WITH_SUFFIX))
    huggingface_folders.from_run(str(tmp_path / "ours"), str(tmp_path / "tiny"))
    return tmp_path / "tiny"


BIAS = "electra.encoder.layer.0.output.dense.bias"


def test_every_tensor_that_does_not_match_is_named(tiny, tmp_path, capsys):
    def change(arrays):
        arrays["more"] = np.zeros([2, 3], np.float32)
        del arrays[BIAS]
        arrays["discriminator_predictions.dense.bias"] = np.zeros([6], np.float32)

    edit_tensors(tiny / "discriminator", change)
    assert to_run(tiny, tmp_path / "run") == 2
    line = last_line(capsys)
    assert line.startswith(f"error: {tiny}/discriminator: ")
    for problem in (
        f"missing {BIAS} (8,)",
        "unexpected more (2, 3)",
        "discriminator_predictions.dense.bias has shape (6,), not (8,)",
    ):
        assert problem in line
    assert not (tmp_path / "run").exists()
    mended = {"discriminator_predictions.dense.bias": np.ones([8], np.float32)}
    edit_tensors(tiny / "discriminator", lambda arrays: arrays.update(mended))
    assert to_run(tiny, tmp_path / "run", f"--allow_missing={BIAS}") == 2
    assert "unexpected more" in last_line(capsys)
    assert to_run(tiny, tmp_path / "run", f"--allow_missing={BIAS}|more") == 0
    table = " ".join(capsys.readouterr().out.split())
    assert f"- │ discriminator/{BIAS} │ 8 │ │ │" in table and "more │ - │ 2 x 3" in table
    network = Discriminator.from_pretrained(str(tmp_path / "run/discriminator"))
    np.testing.assert_array_equal(network.head.dense.bias, np.ones(8))
    np.testing.assert_array_equal(network.encoder.feed_forward[0].output_dense.bias, np.zeros(8))
    # The other way.
    edit_tensors(tmp_path / "run/generator", lambda arrays: arrays.pop(BIAS))
    assert to_huggingface(tmp_path / "run", tmp_path / "theirs") == 2
    assert f"run/generator: the tensors do not match the model: missing {BIAS}" in last_line(capsys)
    assert to_huggingface(tmp_path / "run", tmp_path / "theirs", f"--allow_missing={BIAS}") == 0


def test_tensors_that_only_some_releases_write(tiny, tmp_path, capsys):
    table = tensors_of(tiny / "generator")["electra.embeddings.word_embeddings.weight"]
    more = {
        "generator_lm_head.weight": table.copy(),
        "electra.embeddings.position_ids": np.arange(6, dtype=np.int64)[None],
    }
    edit_tensors(tiny / "generator", lambda arrays: arrays.update(more))
    assert to_run(tiny / "generator", tmp_path / "run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    word_embeddings = (
        f"generator/electra.embeddings.word_embeddings.weight │ {NUM_PIECES} x 8 │ │ 0"
    )
    assert f"generator_lm_head.weight │ {word_embeddings}" in printed
    assert "position_ids │ - │ 1 x 6" in printed
    more["generator_lm_head.weight"][2, 3] = 5.0
    edit_tensors(tiny / "generator", lambda arrays: arrays.update(more))
    assert to_run(tiny / "generator", tmp_path / "other") == 2
    line = last_line(capsys)
    assert (
        f"generator: generator_lm_head.weight ({NUM_PIECES}, 8) is to repeat electra.embeddings"
        in line
    )


@pytest.mark.parametrize("alone", ["discriminator", "generator"])
def test_one_network_alone(tiny, tmp_path, alone, capsys):
    assert to_run(tiny / alone, tmp_path / "run") == 0
    assert not any(word in capsys.readouterr().out for word in ("shared", "its own"))
    assert to_huggingface(tmp_path / "run", tmp_path / "back") == 0
    assert [path.name for path in (tmp_path / "back").iterdir()] == [alone]
    for file in ("model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"):
        assert_same_file(tiny, tmp_path / "back", f"{alone}/{file}")


@pytest.mark.parametrize(
    "name, tensors, head, pattern",
    [
        (
            "classification",
            "classifier.weight (3, 16), classifier.bias (3,))",
            "two_layers",
            "classifier.*",
        ),
        ("qa2", "joint_qa.start.weight (1, 16), joint_qa.start.b", "start_end", "joint_qa.*"),
    ],
)
def test_heads_that_transformers_lacks(tmp_path, capsys, name, tensors, head, pattern):
    save_tiny_task(tmp_path / "ours", name)
    assert to_huggingface(tmp_path / "ours", tmp_path / "theirs") == 2
    line = last_line(capsys)
    assert f"ours: transformers has no such head ({tensors}" in line
    assert f"; fine-tune with --override=head={head}, or convert the encoder alone by " in line
    assert f"--allow_missing='{pattern}'" in line and not (tmp_path / "theirs").exists()
    flag = f"--allow_missing={pattern}"
    assert to_huggingface(tmp_path / "ours", tmp_path / "theirs", flag) == 0
    found, before = (tensors_of(tmp_path / name) for name in ("theirs", "ours"))
    assert sorted(found) == [key for key in sorted(before) if key.startswith("electra.")]
    assert huggingface.architectures(str(tmp_path / "theirs")) == ["ElectraModel"]


# What a folder of a fine-tuned model does not tell.


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Folders of fine-tuned models, as transformers has them; `ours/` has the models."""
    folder = tmp_path_factory.mktemp("tuned")
    for name in FINETUNED:
        save_tiny_task(folder / "ours" / name, name, HEADS.get(name))
        huggingface_folders.from_run(str(folder / "ours" / name), str(folder / name))
    return folder


def test_labels_and_columns_of_a_task(tuned, tmp_path, capsys):
    folder = copy(tuned / "classification", tmp_path / "theirs")
    task = tmp_path / "mine.yaml"
    lines = "name: mine\nkind: classification\ncolumns: {text: a, text_pair: b, label: c}\n"
    task.write_text(lines)
    assert to_run(folder, tmp_path / "run", f"--task={task}") == 0
    assert "assumed" not in capsys.readouterr().out
    found = load_finetuned(str(tmp_path / "run/model")).task
    assert found.config.texts == ("text", "text_pair") and found.labels == ["no", "yes", "maybe"]
    task.write_text(lines + "labels: [a, b, c]\n")
    assert to_run(folder, tmp_path / "run2", f"--task={task}") == 2
    assert "--task=mine: its labels are a, b, c; " in last_line(capsys)
    # transformers' own names give way.
    edit_json(folder / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(3)})
    assert to_run(folder, tmp_path / "run2", f"--task={task}") == 0
    assert load_finetuned(str(tmp_path / "run2/model")).task.labels == ["a", "b", "c"]
    edit_json(folder / "config.json", id2label=None)
    assert to_run(folder, tmp_path / "run3") == 0
    out = capsys.readouterr().out
    assert "labels LABEL_0, LABEL_1, LABEL_2" in out and "assumed: one text an example" in out
    task.write_text(lines + "labels: [a, b]\n")
    assert to_run(folder, tmp_path / "run4", f"--task={task}") == 2
    assert "config.json: 2 label(s), a, b, but the head has 3 output(s)" in last_line(capsys)


def test_choices_of_a_task(tuned, tmp_path, capsys):
    folder = copy(tuned / "choice", tmp_path / "theirs")
    edit_json(folder / "config.json", id2label=None)
    for flags in ([], ["--task=race"]):
        assert to_run(folder, tmp_path / "run", *flags) == 2
        assert "id2label does not say how many choices there are; give --task=" in last_line(capsys)
    assert to_run(folder, tmp_path / "run", "--task=swag") == 0
    assert load_finetuned(str(tmp_path / "run/model")).task.labels == ["0", "1", "2", "3"]


def test_questions_that_may_have_no_answer(tuned, tmp_path):
    assert to_run(tuned / "qa", tmp_path / "run", "--task=squad2") == 0
    assert load_finetuned(str(tmp_path / "run/model")).task.config.version_2


def test_numbers_on_their_own_scale(tuned, tmp_path):
    """A regression of ours keeps its scale; one of transformers gives its numbers as they are."""
    folder = copy(tuned / "regression", tmp_path / "theirs")
    values = read_json(folder / "config.json")
    assert values.pop("label_range") == [1.0, 5.0]
    (folder / "config.json").write_text(json.dumps(values))
    found = []
    for source, run in ((tuned / "regression", "run"), (folder, "run2")):
        assert to_run(source, tmp_path / run, "--task=stsb") == 0
        task = load_finetuned(str(tmp_path / run / "model")).task
        found.append(task.predictions([[0.25]], [], None)[0]["prediction"])
    assert found == [1.0 + 0.25 * 4.0, 0.25]
    # The leaderboard's range is that of the task, 0 to 5.
    assert [task.submitted({"prediction": p}) for p in (3.5, 5.5)] == ["3.500", "5.000"]


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("topics", {"id2label": {"0": "a", "1": "b"}}, "2 label(s), a, b, but the head has 4"),
        ("topics", {"id2label": dict(zip("0123", "abca"))}, "id2label is no object"),
        ("topics", {"id2label": dict(zip("0124", "abcd"))}, "id2label is no object"),
        ("topics", {"id2label": dict(zip("0123", "abc\ud800"))}, "id2label is no object"),
        ("topics", {"id2label": list("abcd")}, "id2label is no object"),
        ("topics", {"problem_type": "ranking"}, "problem_type is 'ranking', which"),
        ("topics", {"problem_type": "regression"}, "regression, but the head has 4 output(s)"),
        ("regression", {"problem_type": "single_label_classification"}, "has 1 output(s)"),
        ("regression", {"label_range": [5, 1]}, "label_range is [5, 1], no two numbers"),
        ("regression", {"label_range": "a"}, "label_range is 'a', no two numbers"),
        ("tagging", {"classifier_dropout": 1.5}, "classifier_dropout is 1.5, no number"),
        ("choice", {"summary_type": "last"}, "summary_type is 'last'; only 'first'"),
        ("choice", {"summary_activation": None}, "summary_activation is None; only 'gelu'"),
        ("qa", {"is_decoder": True}, "is_decoder is True; only False"),
        ("qa", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("qa", {"hidden_size": 2**40}, f"intermediate_size x hidden_size is 32 x {2**40}, but"),
        ("qa", {"num_hidden_layers": 2**40}, f"is {2**40}, but there are tensors of 2 layer(s)"),
        ("qa", {"vocab_size": 2**40}, "but electra.embeddings.word_embeddings.weight has shape"),
        ("qa", {"architectures": None}, "architectures is []; one of ElectraForPreTraining, "),
        ("qa", {"architectures": 3}, "architectures is 3, no list of names"),
        ("qa", {"architectures": [["a"]]}, "no list of names"),
        ("qa", {"architectures": ["BertModel"]}, "architectures is ['BertModel']; one of"),
        ("qa", {"architectures": ["ElectraForCausalLM"]}, "['ElectraForCausalLM']; one of"),
        ("qa", {"architectures": ["ElectraForTokenClassification"]}, "missing classifier.weight"),
    ],
)
def test_configurations_that_cannot_be(tuned, tmp_path, capsys, name, changes, message):
    folder = copy(tuned / name, tmp_path / "theirs")
    edit_json(folder / "config.json", **changes)
    assert to_run(folder, tmp_path / "run") == 2
    line = last_line(capsys)
    assert line.startswith(f"error: {folder}") and message in line
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


# Vocabularies.


def test_whose_vocabulary(tiny, tmp_path, capsys):
    Tokenizer(VOCAB_WITH_SUFFIX, lowercase=False).save_pretrained(str(tiny / "generator"))
    assert to_run(tiny, tmp_path / "run") == 2
    assert f"{tiny}/generator: another vocabulary or casing than {tiny}/disc" in last_line(capsys)
    flags = [f"--vocab_file={tiny}/generator/vocab.txt", "--nolower_case"]
    assert to_run(tiny, tmp_path / "run", *flags) == 0
    assert Tokenizer.from_pretrained(str(tmp_path / "run/discriminator")).lowercase is False
    assert "do_lower_case: false" in (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "short.txt").write_text("\n".join(VOCAB_WITH_SUFFIX[:-1]) + "\n")
    assert to_run(tiny, tmp_path / "run2", f"--vocab_file={tmp_path}/short.txt") == 2
    line = last_line(capsys)
    assert f"--vocab_file: {NUM_PIECES - 1} pieces, but {tiny}/discriminator has embeddings" in line
    Tokenizer([*VOCAB_WITH_SUFFIX, "more"]).save_pretrained(str(tiny / "discriminator"))
    assert to_run(tiny / "discriminator", tmp_path / "run2") == 2
    assert f"vocabulary has {NUM_PIECES + 1} pieces, the model {NUM_PIECES}; they" in last_line(
        capsys
    )


def test_a_folder_without_a_vocabulary(tiny, tuned, tmp_path, capsys):
    (tiny / "generator/vocab.txt").unlink()
    assert to_run(tiny / "generator", tmp_path / "run") == 0
    assert "no vocabulary in it; --vocab_file" in capsys.readouterr().out
    folder = copy(tuned / "tagging", tmp_path / "theirs")
    (folder / "vocab.txt").rename(tmp_path / "vocab.txt")
    assert to_run(folder, tmp_path / "run2") == 2
    assert f"{folder}: no vocabulary in it; give --vocab_file" in last_line(capsys)
    assert to_run(folder, tmp_path / "run2", f"--vocab_file={tmp_path}/vocab.txt") == 0
    assert load_finetuned(str(tmp_path / "run2/model")).tokenizer.vocab == VOCAB_WITH_SUFFIX


# Damage.


def test_pickled_weights(tiny, tmp_path, capsys):
    (tiny / "discriminator/model.safetensors").unlink()
    path = tiny / "discriminator/pytorch_model.bin"
    path.write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    assert to_run(tiny / "discriminator", tmp_path / "run") == 2
    assert f"{path}: pickled weights, which can run any code" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite(tiny, tmp_path, capsys):
    edit_tensors(tiny / "generator", lambda arrays: arrays[BIAS].__setitem__(3, np.inf))
    assert to_run(tiny, tmp_path / "run") == 2
    assert f"generator/model.safetensors: {BIAS}[3] is inf" in last_line(capsys)


def damage(rng, folder):
    """Changes one of a folder's files; returns what was done."""
    path = rng.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    if path.suffix == ".json" and rng.random() < 0.7:
        values = json.loads(content)
        key, value = rng.choice(sorted(values)), rng.choice(VALUES)
        path.write_text(json.dumps({**values, key: value}))
        return f"{path.name}: {key} = {value!r}"
    place = rng.randrange(min(len(content), 400))
    if rng.random() < 0.5:
        del content[place:]
    else:
        content[place] = rng.randrange(256)
    path.write_bytes(bytes(content))
    return f"{path.name}: {place}"


@pytest.mark.parametrize("name", ["topics", "choice", "ours/regression", "ours/tagging"])
def test_damaged_folders(tuned, tmp_path, name):
    """Each is converted as if it were another one, or refused in one line that names it."""
    direction = "from_run" if name.startswith("ours") else "to_run"
    num_refused, seeds = 0, range(12)
    for seed in seeds:
        folder, target = copy(tuned / name, tmp_path / f"f{seed}"), tmp_path / f"t{seed}"
        done = damage(random.Random(seed), folder)
        try:
            getattr(huggingface_folders, direction)(str(folder), str(target))
        except UserError as error:
            num_refused += 1
            assert str(folder) in str(error) and "\n" not in str(error), (seed, done)
            assert not list(tmp_path.glob(f"t{seed}*"))
        except Exception as error:
            raise AssertionError(f"seed {seed}, {done}: {error!r}") from error
    assert num_refused > len(seeds) / 4


# The command.


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--optimizer"], "--optimizer: --from=huggingface has no such thing; leave it out"),
        (
            ["--num_attention_heads=2"],
            "--num_attention_heads: --from=huggingface has no such thing",
        ),
        (["--lower_case"], "--lower_case: goes with --vocab_file"),
        (["--allow_missing=("], "--allow_missing=(: no regular expression"),
        (["--to=huggingface"], "--from: give either this flag or --to"),
    ],
)
def test_flags(tmp_path, capsys, flags, message):
    assert to_run(tmp_path, tmp_path / "run", *flags) == 2
    assert message in last_line(capsys)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--to=huggingface", "--optimizer"], "--optimizer: --to=huggingface has no such thing"),
        (["--to=huggingface", "--generator=g"], "--generator: goes with --from"),
        (["--to=huggingface", "--task=cola"], "--task: goes with --from"),
        (["--to=huggingface", "--vocab_file=v"], "--vocab_file: goes with --from"),
        (["--from=google", "--generator=g"], "--generator: --from=google has no such thing"),
        (["--from=google", "--task=cola"], "--task: --from=google has no such thing"),
    ],
)
def test_flags_of_other_formats(tmp_path, capsys, flags, message):
    assert convert.main(["", f"--input={tmp_path}/a", f"--output={tmp_path}/b", *flags]) == 2
    assert message in last_line(capsys)


def test_folders_that_are_not_what_they_should_be(tiny, tuned, tmp_path, capsys):
    discriminator, generator = tiny / "discriminator", f"--generator={tiny}/generator"
    for source, flags, message in (
        (tmp_path / "none", [], "none/config.json: no such file, and neither discriminator/ nor"),
        (tiny, [generator], f"{tiny} has one already; leave it out"),
        (tiny, ["--task=cola"], f"--task=cola: {tiny} is no fine-tuned model; leave it out"),
        (
            discriminator,
            [f"--generator={discriminator}"],
            "architectures is ['ElectraForPreTraining']; a generator is of ElectraForMaskedLM",
        ),
        (
            discriminator,
            [f"--generator={tuned}/qa"],
            "architectures is ['ElectraForQuestionAnswering']; a generator is of",
        ),
        (tuned / "qa", [generator], "qa is a fine-tuned model; leave it out"),
        (tuned / "qa", ["--task=cola"], "--task=cola: of classification; "),
        (tuned / "topics", ["--task=cola"], "is of classification (multi_label)"),
        (tuned / "qa", ["--task=nothing"], "--task=nothing: no such task"),
    ):
        assert to_run(source, tmp_path / "run", *flags) == 2
        assert message in last_line(capsys), message
    assert to_huggingface(discriminator, tmp_path / "run") == 2
    line = last_line(capsys)
    assert "no discriminator/, generator/ or model/ in it; give the folder of a run" in line
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    for command, source in ((to_run, tiny), (to_huggingface, tmp_path / "ours")):
        assert command(source, tmp_path / "run") == 2
        assert "run: is there already; choose another --output" in last_line(capsys)
    assert not list((tmp_path / "run").iterdir())
