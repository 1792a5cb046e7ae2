"""Pre-training that begins with weights of another run, of an encoder alone, of BERT."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from test_commands import arguments, comparable, last_line, metrics_of, tensors_of

from electra_tf import ElectraPretrainer, Tokenizer
from electra_tf.commands import pretrain
from electra_tf.configs import PretrainingConfig, read_yaml, validate
from electra_tf.interop import huggingface
from electra_tf.training import warm_start

POSITIONS = "electra.embeddings.position_embeddings.weight"
WORDS = "electra.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert pretrain.main(arguments(data, folder)) == 0
    return folder


@pytest.fixture
def stopped(finished, tmp_path):
    """The run as it was at step 8 of 12."""
    folder = tmp_path / "stopped"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("ckpt-12*", "discriminator"))
    return folder


def test_a_continued_schedule_gives_what_one_run_gives(data, finished, stopped, tmp_path):
    run, flags = tmp_path / "run", [f"--init_from={stopped}", "--continue_schedule"]
    assert pretrain.main(arguments(data, run, *flags)) == 0
    lines = metrics_of(run)
    assert (lines[0]["step"], lines[0]["split"]) == (8, "eval")  # Before the first step.
    expected = [line for line in metrics_of(finished) if line["step"] > 8]
    assert comparable(lines[1:]) == comparable(expected)
    for name, tensors in tensors_of(finished).items():
        for key, tensor in tensors.items():
            assert tensor.tobytes() == tensors_of(run)[name][key].tobytes(), key


@pytest.mark.slow
def test_a_start_that_came_to_no_checkpoint(data, finished, tmp_path):
    """The same command begins anew; the lines of before are not there twice."""
    command = arguments(data, tmp_path / "run", f"--init_from={finished}")
    assert pretrain.main(command) == 0
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines if line["split"] == "eval"] == [0, 6, 12]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert pretrain.main(command) == 0
    assert comparable(metrics_of(tmp_path / "run")) == comparable(lines)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--continue_schedule"], "--continue_schedule: goes with --init_from=RUN"),
        (["--continue_schedule", "--init_from={run}"], "is at step 12 already"),
        (["--continue_schedule", "--init_from={run}/nowhere"], "nowhere/config.yaml: cannot read"),
        (
            ["--continue_schedule", "--init_from={run}", "--override=hidden_size=32"],
            "hidden_size is 16 there and 32 here",
        ),
        (
            ["--continue_schedule", "--init_from={run}", "--override=max_position_embeddings=600"],
            "max_position_embeddings is 512 there and 600 here",
        ),
        (["--init_from={run}", "--override=max_position_embeddings=16"], "is 512 there and 16"),
        (
            ["--continue_schedule", "--init_from={run}", "--override=schedule=adversarial"],
            "schedule is 'joint' there and 'adversarial' here",
        ),
        (
            [
                "--continue_schedule",
                "--init_from={run}",
                "--override=untied_generator_embeddings=true",
            ],
            "untied_generator_embeddings is False there and True here",
        ),
    ],
)
def test_refusals(data, finished, tmp_path, capsys, flags, message):
    flags = [flag.format(run=finished) for flag in flags]
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 2
    assert message in last_line(capsys)


def test_a_run_without_checkpoints_has_no_schedule(data, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoints"))
    flags = [f"--init_from={tmp_path}/old", "--continue_schedule"]
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 2
    assert "no checkpoint in it; leave --continue_schedule out" in last_line(capsys)


def make_bert(source, folder, num_positions):
    """A folder in BERT's layout of the encoder in one of ours: other names, a pooler, its MLM head."""
    folder.mkdir()
    arrays = {
        name.replace("electra.", "bert."): array
        for name, array in safetensors.numpy.load_file(source / "model.safetensors").items()
        if name.startswith("electra.")
    }
    positions = POSITIONS.replace("electra.", "bert.")
    arrays[positions] = arrays[positions][:num_positions].copy()
    arrays["bert.pooler.dense.bias"] = np.zeros([16], np.float32)
    arrays["cls.predictions.bias"] = np.zeros([16], np.float32)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    values = json.loads((source / "config.json").read_text())
    del values["embedding_size"]
    values |= {"model_type": "bert", "max_position_embeddings": num_positions}
    (folder / "config.json").write_text(json.dumps(values))
    shutil.copy(source / "vocab.txt", folder)
    return arrays


def test_bert_is_a_warm_start(data, finished, tmp_path, caplog):
    """Its encoder is the discriminator's; further positions are copies; all else is random, and said."""
    bert = make_bert(finished / "discriminator", tmp_path / "bert", 200)
    # At a learning rate of nearly nothing the weights stay what they begin with.
    flags = [f"--init_from={tmp_path}/bert", "--override=learning_rate=1.0e-12"]
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 0
    networks = tensors_of(tmp_path / "run")
    for name, array in bert.items():
        if name.startswith("bert.") and "pooler" not in name and "position_emb" not in name:
            ours = networks["discriminator"][name.replace("bert.", "electra.")]
            np.testing.assert_allclose(ours, array, atol=1e-9, err_msg=name)
    table = bert[POSITIONS.replace("electra.", "bert.")]
    np.testing.assert_allclose(
        networks["discriminator"][POSITIONS],
        np.concatenate([table, table, table[:112]]),
        atol=1e-9,
    )
    np.testing.assert_array_equal(networks["generator"][WORDS], networks["discriminator"][WORDS])
    query = "electra.encoder.layer.0.attention.self.query.weight"
    assert np.abs(networks["generator"][query] - tensors_of(finished)["generator"][query]).max() > 0
    for message in (
        "generator: none there; new and random, but for shared embeddings",
        "discriminator: positions 200 to 511 begin as copies",
        "discriminator: new and random: discriminator_predictions.dense.weight",
        f"left out of {tmp_path}/bert: cls.predictions.bias, electra.pooler.dense.bias",
    ):
        assert message in caplog.text
    # What a run began with is not needed any more.
    shutil.rmtree(tmp_path / "bert")
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 0


@pytest.mark.parametrize(
    "file, text, flags",
    [
        ("discriminator/tokenizer_config.json", '"do_lower_case": ', []),
        ("config.yaml", "do_lower_case: ", ["--continue_schedule"]),
    ],
)
def test_another_casing_is_refused(data, stopped, tmp_path, capsys, finished, file, text, flags):
    shutil.copytree(finished / "discriminator", stopped / "discriminator")
    content = (stopped / file).read_text()
    assert f"{text}true" in content
    (stopped / file).write_text(content.replace(f"{text}true", f"{text}false"))
    command = arguments(data, tmp_path / "run", f"--init_from={stopped}", *flags)
    assert pretrain.main(command) == 2
    assert "do_lower_case is False there and True here; set --override=do_lower_case=false" in (
        last_line(capsys)
    )
    assert not (tmp_path / "run").exists()


def test_embeddings_of_the_generator_are_not_lost(data, finished, tmp_path, capsys):
    other = shutil.copytree(finished, tmp_path / "other")
    weights = other / "generator" / "model.safetensors"
    arrays = safetensors.numpy.load_file(weights)
    arrays[WORDS] = arrays[WORDS] + 1
    arrays.pop("generator_lm_head.weight", None)
    safetensors.numpy.save_file(arrays, weights)
    assert pretrain.main(arguments(data, tmp_path / "run", f"--init_from={other}")) == 2
    assert "the generator has embeddings of its own" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_rows_of_no_piece_are_left_out(finished, tmp_path):
    """As of models whose embeddings are padded to a multiple of eight."""
    config = validate(PretrainingConfig, read_yaml(str(finished / "config.yaml")), "")
    padded = shutil.copytree(finished / "discriminator", tmp_path / "padded")
    arrays = safetensors.numpy.load_file(padded / "model.safetensors")
    arrays[WORDS] = np.concatenate([arrays[WORDS], np.ones([6, 16], np.float32)])
    safetensors.numpy.save_file(arrays, padded / "model.safetensors")
    values = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps({**values, "vocab_size": config.vocab_size + 6}))
    warm_start.check_networks(config, Tokenizer.from_pretrained(str(padded)), str(padded))
    model = ElectraPretrainer(config)
    notes = warm_start.import_networks(model, str(padded))
    rows = f"rows {config.vocab_size} to {config.vocab_size + 5} of the embeddings"
    assert any(rows in note for note in notes)
    expected = safetensors.numpy.load_file(finished / "discriminator" / "model.safetensors")
    found = huggingface.stored_arrays(huggingface.model_tensors(model.discriminator))
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], name)


def test_half_a_head_is_refused(data, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "old")
    weights = tmp_path / "old" / "discriminator" / "model.safetensors"
    arrays = safetensors.numpy.load_file(weights)
    del arrays["discriminator_predictions.dense.bias"]
    safetensors.numpy.save_file(arrays, weights)
    command = arguments(data, tmp_path / "run", f"--init_from={tmp_path}/old")
    assert pretrain.main(command) == 2
    assert "missing discriminator_predictions.dense.bias (16,)" in last_line(capsys)
