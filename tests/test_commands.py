"""The commands as their user meets them: exit codes, last lines, folders."""

import ast
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from electra_tf import Discriminator, Generator, Tokenizer, UserError, load_pretraining_config
from electra_tf.commands import build_pretraining_data, build_vocab, convert, pretrain

ROOT = pathlib.Path(__file__).parents[1]
SMALL = [
    "hidden_size=16", "embedding_size=16", "intermediate_size=32", "num_hidden_layers=1",
    "max_seq_length=16", "train_batch_size=4", "num_train_steps=12", "num_warmup_steps=2",
    "save_checkpoints_steps=4", "eval_steps=6", "num_eval_steps=2", "eval_batch_size=4",
]  # fmt: skip
OVERRIDES = [f"--override={override}" for override in SMALL]
METRICS = (
    "loss masked_lm_loss masked_lm_accuracy sampled_masked_lm_accuracy disc_loss disc_accuracy "
    "disc_precision disc_recall disc_auc replaced_rate"
).split()
SPEEDS = ("examples_per_second", "tokens_per_second", "mfu", "input_wait")


def arguments(data, output_dir, *more):
    return [
        "pretrain.py", "--config=tiny", f"--train_data={data}/records/*.tfrecord*",
        f"--eval_data={data}/records/eval", f"--vocab_file={data}/vocab.txt",
        f"--output_dir={output_dir}", *OVERRIDES, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert pretrain.main(arguments(data, folder, "--override=encoder_export_steps=[5]")) == 0
    return folder


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def comparable(lines):
    return [{k: v for k, v in line.items() if k not in SPEEDS} for line in lines]


def tensors_of(folder):
    return {
        name: safetensors.numpy.load_file(folder / name / "model.safetensors")
        for name in ("discriminator", "generator")
    }


def assert_same_run(a, b):
    assert comparable(metrics_of(a)) == comparable(metrics_of(b))
    for one, other in zip(tensors_of(a).values(), tensors_of(b).values()):
        assert sorted(one) == sorted(other)
        for name in one:
            assert one[name].tobytes() == other[name].tobytes(), name


def test_the_run_folder(finished):
    lines = metrics_of(finished)
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 13))
    assert [line["step"] for line in lines if line["split"] == "eval"] == [6, 12]
    for line in lines:
        keys = {"step", "split", *METRICS, "examples_per_second", "tokens_per_second"}
        if line["split"] == "train":
            keys |= {"learning_rate", "grad_norm", "mfu", "input_wait", "flops", "flops_google2020"}
            keys |= {"skipped_steps", "loss_scale"}
        assert set(line) == keys
    vocab_size = len((finished / "discriminator" / "vocab.txt").read_text().splitlines())
    assert f"vocab_size: {vocab_size}\n" in (finished / "config.yaml").read_text()
    assert list((finished / "tensorboard" / "train").glob("events*"))
    assert list((finished / "tensorboard" / "eval").glob("events*"))
    for folder in (finished, finished / "encoders" / "step-5"):
        Generator.from_pretrained(str(folder / "generator"))
        discriminator = Discriminator.from_pretrained(str(folder / "discriminator"))
        tokenizer = Tokenizer.from_pretrained(str(folder / "discriminator"))
        features = tokenizer.pack([tokenizer.tokenize(["the red cat sleeps"])], 16)
        assert discriminator(features)["logits"].shape == [1, 16]
    assert len(list((finished / "checkpoints").glob("*.index"))) == 3


def test_a_finished_run_is_left_as_it_is(data, finished, caplog):
    before = (finished / "metrics.jsonl").read_bytes()
    assert pretrain.main(arguments(data, finished)) == 0
    assert (finished / "metrics.jsonl").read_bytes() == before
    assert "resumed at step 12" in caplog.text


@pytest.mark.slow  # test_stopping.py and test_checkpoints.py go on with runs in this process.
def test_a_killed_run_ends_as_one_that_was_not(data, finished, tmp_path):
    command = [
        sys.executable,
        *arguments(data, tmp_path / "run", "--override=encoder_export_steps=[5]"),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 7' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(metrics, "a") as f:
        f.write('{"step": 8, "spl')  # As if killed in the middle of a line.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"resumed at step (4|8)\b", done.stderr)
    assert_same_run(tmp_path / "run", finished)


def test_from_text_alone(data, tmp_path, capsys):
    command = [
        "", "--config=tiny", f"--corpus={data}/text.txt", f"--output_dir={tmp_path}/run",
        *OVERRIDES, "--override=vocab_size=50", "--eval_fraction=0.2", "--num_workers=1",
    ]  # fmt: skip
    assert pretrain.main(command) == 0
    assert "tokens in" in capsys.readouterr().out
    assert metrics_of(tmp_path / "run")[-1]["split"] == "eval"
    assert list((tmp_path / "run" / "data" / "eval").glob("*tfrecord*"))
    assert pretrain.main(command) == 0
    assert "tokens in" not in capsys.readouterr().out  # The data are there already.
    for other in ("--json_field=title", "--override=vocab_size=60", f"--corpus={data}/*.txt"):
        assert pretrain.main([*command, other]) == 2
        name = other.removeprefix("--").removeprefix("override=").split("=")[0]
        assert f"built with {name.replace('corpus', 'inputs')}" in last_line(capsys)
    assert pretrain.main([*command, f"--corpus={tmp_path}"]) == 2
    assert "lies in --corpus=" in last_line(capsys)


def test_records_of_a_start_that_was_killed_are_known(data, tmp_path, capsys):
    """Before it came to say what they were built from."""
    config = load_pretraining_config("tiny", {"max_seq_length": 16, "strip_accents": None})
    folder, arguments = str(tmp_path / "data"), (f"{data}/vocab.txt", 0.2)
    built = pretrain.build_data(config, f"{data}/text.txt", folder, *arguments)
    (tmp_path / "data" / "source.json").unlink()
    capsys.readouterr()
    again = pretrain.build_data(config, f"{data}/text.txt", folder, *arguments)
    assert again[1:] == built[1:] and "tokens in" not in capsys.readouterr().out
    assert (tmp_path / "data" / "source.json").exists()
    (tmp_path / "data" / "source.json").unlink()
    with pytest.raises(UserError, match="dataset.json: built with eval_fraction 0.2, not 0.3"):
        pretrain.build_data(config, f"{data}/text.txt", folder, f"{data}/vocab.txt", 0.3)


def test_a_start_that_does_not_fit_before_records_are_built(data, finished, tmp_path, capsys):
    command = [
        "", "--config=tiny", f"--corpus={data}/text.txt", f"--output_dir={tmp_path}/run", *OVERRIDES,
        f"--init_from={finished}",
    ]  # fmt: skip
    assert pretrain.main(command) == 2
    assert f"give --vocab_file={finished}/discriminator/vocab.txt" in last_line(capsys)
    words = (data / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2]]))
    assert pretrain.main([*command, f"--vocab_file={tmp_path}/vocab.txt"]) == 2
    assert "the discriminator has another vocabulary" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_without_held_out_records(data, tmp_path, caplog):
    command = [a for a in arguments(data, tmp_path / "run") if not a.startswith("--eval_data")]
    assert pretrain.main([*command, "--override=num_train_steps=3"]) == 0
    assert caplog.text.count("no --eval_data") == 1
    assert {line["split"] for line in metrics_of(tmp_path / "run")} == {"train"}


def test_records_of_the_original_train_as_they_are(google_curve, shared_data, tmp_path):
    command = [
        "", "--config=tiny", f"--train_data={google_curve}/train.tfrecord-0000[01]-of-00008.gz",
        f"--eval_data={google_curve}/eval.tfrecord*", f"--vocab_file={shared_data}/vocab/vocab.txt",
        f"--output_dir={tmp_path}/run", *OVERRIDES, "--override=max_seq_length=128",
        "--override=num_train_steps=3",
    ]  # fmt: skip
    assert pretrain.main(command) == 0
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    # 30,522 tokens guessed at random: ln 30522 = 10.33.
    assert abs(lines[0]["masked_lm_loss"] - 10.33) < 0.2


def test_two_phases(data, finished, tmp_path, capsys):
    """Short examples, then long ones with the weights so far and a schedule of their own."""
    records = tmp_path / "records"
    command = [
        "", f"--input={data}/text.txt", f"--vocab_file={data}/vocab.txt", f"--output_dir={records}",
        "--max_seq_length=40", "--num_shards=1", "--num_workers=1",
    ]  # fmt: skip
    assert build_pretraining_data.main(command) == 0
    flags = [
        f"--train_data={records}", "--eval_data=", f"--init_from={finished}",
        "--override=max_seq_length=40", "--override=num_train_steps=2",
    ]  # fmt: skip
    before = tensors_of(finished)
    # At a learning rate of nearly nothing the weights stay what they were.
    still = arguments(data, tmp_path / "still", *flags, "--override=learning_rate=1e-12")
    assert pretrain.main(still) == 0
    for name, tensors in tensors_of(tmp_path / "still").items():
        for key, tensor in tensors.items():
            np.testing.assert_allclose(tensor, before[name][key], atol=1e-9)
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 0
    after = tensors_of(tmp_path / "run")["discriminator"]
    name = "electra.embeddings.position_embeddings.weight"
    moved = np.abs(after[name] - before["discriminator"][name]).max(axis=1) > 1e-5
    assert moved[:40].all() and not moved[40:].any()  # But for weight decay.
    # The run's first weights belong to it: another start is refused.
    assert pretrain.main(arguments(data, tmp_path / "run", *flags[:2], *flags[3:])) == 2
    assert "init_from is" in last_line(capsys)


def test_a_run_goes_on_as_if_it_had_never_been_converted(data, finished, tmp_path, capsys):
    """Stopped at step 8, to the original's format, back, and on to step 12: the same bits."""
    stopped, run = tmp_path / "stopped", tmp_path / "run"
    shutil.copytree(finished, stopped, ignore=shutil.ignore_patterns("ckpt-12*", "*tor"))
    original, vocabulary = tmp_path / "model.ckpt-8", f"--vocab_file={data}/vocab.txt"
    command = ["", "--to=google", f"--input={stopped}", f"--output={original}", "--optimizer"]
    assert convert.main(command) == 0
    assert tf.train.load_checkpoint(str(original)).get_tensor("global_step") == 8
    command = [
        "", "--from=google", f"--input={original}", f"--output={run}", "--optimizer",
        "--num_attention_heads=2", vocabulary,
    ]  # fmt: skip
    assert convert.main(command) == 0
    assert "optimizer: Adam's moments, step 8" in capsys.readouterr().out
    for flag, message in (
        ("--override=hidden_size=32", "hidden_size is 16 there and 32 here"),
        ("--override=num_attention_heads=1", "num_attention_heads is 2 there and 1 here"),
        (f"--init_from={finished}", f"init_from is None there and '{finished}' here"),
    ):
        assert pretrain.main(arguments(data, run, flag)) == 2
        assert message in last_line(capsys)
    # The sizes come from the run itself, the schedule from the command.
    missing = [
        "max_seq_length=16", "learning_rate=1e-3", "num_train_steps=12", "num_warmup_steps=2",
        "mask_prob=0.15", "train_batch_size=4",
    ]  # fmt: skip
    command = [
        "", f"--config={run}/config.yaml", f"--train_data={data}/records", vocabulary,
        f"--output_dir={run}", "--override=eval_steps=6", "--override=num_eval_steps=2",
        f"--eval_data={data}/records/eval", "--override=eval_batch_size=4",
        *(f"--override={override}" for override in missing),
    ]  # fmt: skip
    assert pretrain.main(command) == 0
    expected = [line for line in metrics_of(finished) if line["step"] > 8]
    assert comparable(metrics_of(run)) == comparable(expected)
    for name, tensors in tensors_of(finished).items():
        for key, tensor in tensors.items():
            assert tensor.tobytes() == tensors_of(run)[name][key].tobytes(), key


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--override=num_attention_heads=1", "num_attention_heads is 2 there and 1 here"),
        ("--override=hidden_size=32", "hidden_size is 16 there and 32 here"),
        ("--init_from=/nowhere", "/nowhere/config.json: cannot read it"),
    ],
)
def test_weights_of_another_architecture(data, finished, tmp_path, capsys, flag, message):
    command = arguments(data, tmp_path / "run", f"--init_from={finished}", flag)
    assert pretrain.main(command) == 2
    assert message in last_line(capsys)
    assert not (tmp_path / "run").exists()


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--learning_rate=1"], "Unknown command line flag 'learning_rate'"),
        (["--override=learning_rat=1"], "'learning_rat'; did you mean 'learning_rate'"),
        (["--override=train_batch_size=many"], "train_batch_size='many'"),
        (
            ["--override=num_attention_heads=3"],
            "num_attention_heads=3 does not divide hidden_size=16",
        ),
        (
            ["--override=max_seq_length=32"],
            "max_seq_length 16, this run 32; set --override=max_seq_length=16",
        ),
        (["--override=do_lower_case=false"], "do_lower_case True, this run False"),
        (["--override=vocab_size=7"], "vocab_size=7: the vocabulary has"),
        (["--train_data=/nowhere/*"], "/nowhere/*: no TFRecords there"),
        (["--vocab_file=/nowhere"], "/nowhere: cannot read the vocabulary"),
        (["--vocab_file="], "--vocab_file: --train_data needs"),
        (["--corpus=x"], "give either this flag or --corpus"),
        (["--eval_fraction=0.1"], "--eval_fraction: goes with --corpus"),
        (["--config=huge"], "--config=huge: no such preset"),
        (["stray"], "unexpected argument 'stray'"),
        (["--output_dir=/dev/null/run"], "/dev/null/run: cannot"),
    ],
)
def test_mistakes(data, tmp_path, capsys, flags, message):
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 2
    line = last_line(capsys)
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()


def test_another_vocabulary(data, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text((data / "vocab.txt").read_text().replace("owl", "elk"))
    assert pretrain.main(arguments(data, tmp_path / "run", f"--vocab_file={other}")) == 2
    assert "vocab_sha256" in last_line(capsys)


def test_the_folder_of_another_run(data, finished, capsys):
    before = (finished / "config.yaml").read_bytes()
    assert (
        pretrain.main(
            arguments(data, finished, "--override=learning_rate=0.5", "--override=seed=1")
        )
        == 2
    )
    line = last_line(capsys)
    assert (
        "learning_rate is 0.001 there and 0.5 here" in line
        and "seed is 42 there and 1 here" in line
    )
    assert (finished / "config.yaml").read_bytes() == before


def test_corrupt_records(data, tmp_path, capsys, caplog):
    shards = tmp_path / "records"
    shards.mkdir()
    for path in (data / "records").glob("*tfrecord*"):
        (shards / path.name).write_bytes(path.read_bytes())
    (shards / "dataset.json").write_bytes((data / "records" / "dataset.json").read_bytes())
    victim = sorted(shards.glob("*tfrecord*"))[1]
    victim.write_bytes(victim.read_bytes()[:-40])
    flags = [f"--train_data={shards}", "--override=num_train_steps=2"]
    assert pretrain.main(arguments(data, tmp_path / "run", *flags)) == 2
    assert f"{victim}: truncated or corrupt" in last_line(capsys)
    assert not (tmp_path / "run").exists()
    assert pretrain.main(arguments(data, tmp_path / "run", *flags, "--skip_corrupt")) == 0
    assert f"{victim}: left out 1 corrupt place(s)" in caplog.text


def test_help_names_every_flag(capsys):
    for command, flag in (
        (build_vocab, "vocab_size"),
        (build_pretraining_data, "eval_fraction"),
        (pretrain, "override"),
        (convert, "allow_missing"),
    ):
        assert command.main(["", "--help"]) == 0
        out = capsys.readouterr().out
        assert f"--{flag}" in out and "undefok" not in out


def test_check_of_a_vocabulary(data, tmp_path, capsys):
    assert build_vocab.main(["", f"--check={data}/vocab.txt", f"--input={data}/text.txt"]) == 0
    out = capsys.readouterr().out
    assert "missing special tokens: none" in out and "pieces a word: 1.0" in out
    (tmp_path / "bad.txt").write_text("[PAD]\na\na\n")
    assert build_vocab.main(["", f"--check={tmp_path}/bad.txt"]) == 2
    captured = capsys.readouterr()
    assert "[UNK], [CLS], [SEP], [MASK]" in captured.out and "duplicates: a" in captured.out
    assert captured.err.strip().splitlines()[-1].startswith(f"error: {tmp_path}/bad.txt: unfit")


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_inference_loads_no_more_than_it_needs():
    # Keras itself imports scikit-learn where it is installed.
    code = (
        "import sys, tensorflow, tensorflow_text, keras; before = set(sys.modules)\n"
        "from electra_tf import Discriminator, Generator, Predictor, Tokenizer\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = python(code)
    loaded = set(ast.literal_eval(done.stdout)) - sys.stdlib_module_names
    assert loaded <= {"electra_tf", "annotated_types"}, done.stderr


def test_another_keras_backend_is_one_line():
    done = python(
        "import sys; from electra_tf.commands.pretrain import main; sys.exit(main(['', '--config=tiny', '--output_dir=x']))",
        KERAS_BACKEND="jax",
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "error: KERAS_BACKEND=jax: electra_tf runs on Keras's TensorFlow backend alone; unset it or "
        "set KERAS_BACKEND=tensorflow"
    ]
