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

from electra_tf import Discriminator, Generator, Predictor, Tokenizer, UserError
from electra_tf.commands import convert, export, finetune
from electra_tf.export.loading import load_servables
from electra_tf.interop import huggingface, huggingface_folders, runs
from electra_tf.tasks.config import load_task_config
from electra_tf.tasks.model_folder import load_finetuned, save_finetuned
from electra_tf.tasks.regression import Regression

ENVS = pathlib.Path(os.environ.get("ELECTRA_TF_BENCH_ENVS", ROOT / ".bench-envs"))
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
    return {**inputs, "is_context": np.ones_like(inputs["input_mask"])}


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
    assert f"embeddings 8 (its own), tokens {len(VOCAB_WITH_SUFFIX)}" in printed
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


def test_prediction_and_export_give_what_transformers_gives(theirs, tmp_path):
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
    flags = [f"--model_dir={run}/model", f"--output_dir={tmp_path}/served", "--name=mine"]
    assert export.main(["", *flags]) == 0
    outputs = load_servables(str(run / "model")).text_outputs([TEXTS, TEXTS[::-1]])
    np.testing.assert_allclose(outputs["scores"], expected, atol=1e-5)


# What transformers opens.


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Runs of ours and, in `converted/`, what is made of them, with what transformers computes."""
    folder = tmp_path_factory.mktemp("ours")
    generator = sizes(
        vocab_size=len(VOCAB_WITH_SUFFIX), embedding_size=8, max_position_embeddings=32
    )
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


@settings(max_examples=5, deadline=None)
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


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(FINETUNED), random_configs(), st.integers(0, 2**32 - 1))
def test_any_finetuned_model_comes_back_bit_for_bit(tmp_path_factory, name, drawn, seed):
    (config, _), _ = drawn
    folder = tmp_path_factory.mktemp("any")
    keras.backend.clear_session()
    config = dataclasses.replace(
        config, vocab_size=len(VOCAB_WITH_SUFFIX), max_position_embeddings=30
    )
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
