"""Training that goes on from converted checkpoints."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import yaml
from test_commands import arguments, last_line, tensors_of
from test_convert_google import NO_MOMENTS, arrays_of, sizes, to_google, to_run
from test_golden_google import FOLDERS, google_variables, inject, inputs_of

from electra_tf import UserError
from electra_tf.commands import pretrain
from electra_tf.configs import (
    PRETRAINING_PRESETS,
    RUN_KEYS,
    PretrainingConfig,
    load_pretraining_config,
    read_yaml,
    validate,
)
from electra_tf.interop import google, runs
from electra_tf.training.checkpoints import create_run_checkpoint, restore
from electra_tf.training.pretraining import create_model
from electra_tf.training.run_folder import RunFolder


@pytest.mark.parametrize(
    "folder",
    [FOLDERS[0], pytest.param(FOLDERS[1], marks=pytest.mark.slow)],
    ids=lambda folder: folder.name,
)
def test_five_steps_from_a_converted_checkpoint(folder, tmp_path):
    assert to_run(folder / "model.ckpt-0", tmp_path / "run", "--optimizer", NO_MOMENTS) == 0
    meta = json.loads((folder / "meta.json").read_text())["config"]
    schedule = {key: meta[key] for key in ("learning_rate", "num_train_steps", "num_warmup_steps")}
    others = {
        "max_seq_length": meta["max_seq_length"],
        "train_batch_size": meta["batch"],
        "mask_prob": 0.15,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = load_pretraining_config(str(tmp_path / "run/config.yaml"), {**schedule, **others})
    model = create_model(config, 103, (0, 101, 102, 103), tf.distribute.get_strategy())
    restore(create_run_checkpoint(model)[0], str(tmp_path / "run/checkpoints"), model)
    trace = np.load(folder / "trace.npz")
    for step in range(5):
        model.gradient_step(inject(model, inputs_of(trace, step)))
    tensors = google.pretrainer_tensors(model)
    expected = arrays_of(folder / "trained/model.ckpt-5")
    assert sorted(tensors) == sorted(expected)
    assert expected.pop("global_step") == tensors["global_step"].variable.numpy() == 5
    # The step divides small gradients by their own size, so that rounding grows: with all weights of
    # `pretrain_proj` one unit in the last place off, the same five steps end in moments that are
    # 3e-4 off. Measured: weights 9e-7, moments 5e-5, of the other folder 6e-6.
    tolerance = {"pretrain_proj": 1e-3, "pretrain_noproj": 1e-4}[folder.name]
    for ending, rtol in (("", 1e-5), ("/adam_m", tolerance), ("/adam_v", tolerance)):
        squares = np.zeros(2)
        for name in google_variables(model):
            if "key/bias" not in name:  # Their true gradient is 0.
                theirs = expected[name + ending].astype(np.float64)
                difference = tensors[name + ending].variable.numpy() - theirs
                squares += np.sum(np.square(difference)), np.sum(np.square(theirs))
        assert np.sqrt(squares[0]) <= rtol * np.sqrt(squares[1]), ending


def test_the_first_start_says_what_a_checkpoint_does_not(tmp_path):
    """Keys of any values; from then on they belong to the run."""
    run = str(tmp_path / "run")
    assert to_run(FOLDERS[0] / "model.ckpt-0", run, "--optimizer", NO_MOMENTS) == 0
    keys = {**PRETRAINING_PRESETS["small"], **read_yaml(f"{run}/config.yaml")}
    keys |= {
        "fidelity": "google2020",
        "seed": 7,
        "mixed_precision": "float16",
        "max_seq_length": 16,
    }
    config, data = validate(PretrainingConfig, keys, ""), {"init_from": None}
    RunFolder(run, config, data, RUN_KEYS)
    with pytest.raises(UserError, match="seed is 7 there and 8 here"):
        RunFolder(run, dataclasses.replace(config, seed=8), data, RUN_KEYS)
    # Of a run from before a key was there the key's default counts.
    written = read_yaml(f"{run}/config.yaml")
    del written["disc_weight"]
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(UserError, match="disc_weight is 50.0 there and 1.0 here"):
        RunFolder(run, dataclasses.replace(config, disc_weight=1.0), data, RUN_KEYS)


def test_a_run_without_a_checkpoint_does_not_begin_anew(data, tmp_path, capsys):
    """Its weights are for --init_from; as its own folder pretrain.py would begin with random ones."""
    vocab_size = len((data / "vocab.txt").read_text().splitlines())
    big = {
        "hidden_size": 16,
        "embedding_size": 16,
        "intermediate_size": 32,
        "vocab_size": vocab_size,
    }
    configs = [
        sizes(**big, num_attention_heads=2, max_position_embeddings=512),
        sizes(**{**big, "hidden_size": 8}, max_position_embeddings=512),
    ]
    networks = runs.create_networks(configs, shares_embeddings=True)
    runs.write(str(tmp_path / "ours"), networks)
    assert to_google(tmp_path / "ours", tmp_path / "model") == 0
    flags = ["--num_attention_heads=2", f"--vocab_file={data}/vocab.txt"]
    assert to_run(tmp_path / "model", tmp_path / "run", *flags) == 0
    assert pretrain.main(arguments(data, tmp_path / "run")) == 2
    assert f"init_from is '{tmp_path}/model' there and None here" in last_line(capsys)
    flags = [f"--init_from={tmp_path}/run", "--override=num_train_steps=2", "--eval_data="]
    still = "--override=learning_rate=1e-12"
    assert pretrain.main(arguments(data, tmp_path / "next", *flags, still)) == 0
    for network in networks:
        for key, tensor in tensors_of(tmp_path / "next")[network.name].items():
            np.testing.assert_allclose(
                tensor, tensors_of(tmp_path / "ours")[network.name][key], atol=1e-9
            )
