"""The original's TF1 checkpoints, both ways, against what its code wrote and computed (tests/golden)."""

import json
import shlex

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from absl.flags import FlagValues
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from test_commands import ROOT, last_line, python
from test_golden_google import FOLDERS

from electra_tf import Discriminator, EncoderConfig, Generator, Tokenizer, UserError
from electra_tf.commands import convert
from electra_tf.interop import google, runs

NO_MOMENTS = "--allow_missing=.*/adam_[mv]"
FILES = ("index", "data-00000-of-00001")


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def to_run(path, run, *more):
    flags = ["--from=google", f"--input={path}", f"--output={run}", "--num_attention_heads=4"]
    return convert.main(["", *flags, *more])


def to_google(run, path, *more):
    return convert.main(["", "--to=google", f"--input={run}", f"--output={path}", *more])


def arrays_of(path):
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def save(path, arrays):
    """Writes a checkpoint of any tensors, perhaps in another's place."""
    for suffix in FILES:
        path.with_name(f"{path.name}.{suffix}").unlink(missing_ok=True)
    with google.writing(str(path), arrays):
        pass


def assert_same_files(one, other):
    for suffix in FILES:
        a, b = (path.with_name(f"{path.name}.{suffix}") for path in (one, other))
        assert a.read_bytes() == b.read_bytes(), suffix


# What the original computes.


def test_forward(folder, tmp_path):
    assert to_run(folder / "model.ckpt-0", tmp_path / "run") == 0
    golden = np.load(folder / "forward.npz")
    batch = {"input_mask": golden["in/input_mask"], "segment_ids": golden["in/segment_ids"]}
    for cls, prefix, ids, logits, more in (
        (Discriminator, "disc", "out/disc_input_ids", "out/rtd_logits", {}),
        (
            Generator,
            "gen",
            "in/masked_input_ids",
            "out/gen_mlm_logits_at_masked",
            {"masked_positions": golden["in/masked_lm_positions"]},
        ),
    ):
        network = cls.from_pretrained(str(tmp_path / "run" / cls.__name__.lower()))
        inputs = {**batch, **more, "input_ids": golden[ids]}
        outputs = network(inputs, output_hidden_states=True)
        states = outputs["hidden_states"]
        np.testing.assert_allclose(outputs["logits"], golden[logits], atol=1e-4)
        np.testing.assert_allclose(states[0], golden[f"out/{prefix}_embedding_output"], atol=1e-4)
        np.testing.assert_allclose(states[1:], golden[f"out/{prefix}_all_layers"], atol=1e-4)


# Both ways.


@pytest.mark.parametrize(
    "name, flags", [("model.ckpt-0", []), ("trained/model.ckpt-5", ["--optimizer"])]
)
def test_the_originals_files_come_back_bit_for_bit(folder, tmp_path, capsys, name, flags):
    assert to_run(folder / name, tmp_path / "run", *flags) == 0
    assert to_google(tmp_path / "run", tmp_path / "model", *flags) == 0
    assert_same_files(tmp_path / "model", folder / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *sorted(f"model.{f}" for f in FILES),
        "run",
    ]
    # The table has every tensor, transposed where a dense layer's kernel is, and no difference.
    there, back = capsys.readouterr().out.split("discriminator: layers 3")[:2]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in there.splitlines()]
    rows = {row[0]: row[1:] for row in rows if row and row[0]}
    variables = arrays_of(folder / name)
    assert set(variables) - set(rows) == (set() if flags else {"global_step"})
    for tensor, (ours, shape, transposed, difference) in rows.items():
        assert shape == " x ".join(map(str, variables[tensor].shape))
        assert difference == "0"
        assert (transposed == "yes") == tensor.endswith("/kernel")
        assert ours in back
    query = rows["generator/encoder/layer_2/attention/self/query/kernel"]
    assert query[0] == "generator/electra.encoder.layer.2.attention.self.query.weight"


def test_what_is_inferred(folder, tmp_path, capsys):
    meta = json.loads((folder / "meta.json").read_text())
    assert to_run(folder / "trained/model.ckpt-5", tmp_path / "run") == 0
    assert "left out without --optimizer: " in capsys.readouterr().out
    for name, expected in (("discriminator", "config"), ("generator", "generator_config")):
        found = json.loads((tmp_path / "run" / name / "config.json").read_text())
        for key in set(found) & set(meta[expected]) - {"hidden_dropout_prob"}:
            if "dropout" not in key:
                assert found[key] == meta[expected][key], key
        assert found["embedding_size"] == meta["config"]["embedding_size"]
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["generator_hidden_size"] == meta["config"]["generator_hidden_size_fraction"]
    assert config["num_attention_heads"] == 4
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.yaml", "data.json", "discriminator", "generator",
    ]  # fmt: skip


def test_heads_are_64_wide_unless_told():
    shapes = {name: array.shape for name, array in arrays_of(FOLDERS[0] / "model.ckpt-0").items()}
    for hidden_size, expected in ((32, 1), (64, 1), (192, 3)):
        for network in ("electra", "generator"):
            name = f"{network}/encoder/layer_0/attention/self/query/kernel"
            shapes[name] = (hidden_size, hidden_size)
        configs, _ = google.infer_configs(shapes, "")
        assert [config.num_attention_heads for config in configs] == [expected, expected]
        configs, _ = google.infer_configs(shapes, "", num_attention_heads=16)
        assert [config.num_attention_heads for config in configs] == [16, expected]


def sizes(**more):
    values = dict(
        vocab_size=7,
        embedding_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=12,
        max_position_embeddings=6,
    )
    return EncoderConfig(**{**values, **more})


def random_floats(shape, generator):
    """Any finite floats: both zeros, tiny and huge ones."""
    bits = generator.integers(0, 2**32, shape, np.uint32, endpoint=False)
    values = bits.view(np.float32)
    return np.where(np.isfinite(values), values, np.float32(-0.0))


def randomize(variables, seed):
    generator = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(random_floats(tuple(variable.shape), generator))


def random_networks(configs, shares_embeddings, seed):
    networks = runs.create_networks(configs, shares_embeddings)
    randomize([v for network in networks for v in network.trainable_variables], seed)
    return networks


@st.composite
def random_configs(draw):
    """Configurations of both networks, and whether they share embeddings."""
    small, heads = st.integers(1, 9), draw(st.integers(1, 3))
    hidden_size = heads * draw(st.integers(1, 4))
    shared = {
        "vocab_size": draw(small),
        "embedding_size": draw(st.sampled_from([hidden_size, draw(small)])),
        "max_position_embeddings": draw(small),
        "type_vocab_size": draw(st.integers(1, 3)),
    }
    discriminator = sizes(
        **shared,
        hidden_size=hidden_size,
        num_attention_heads=heads,
        num_hidden_layers=draw(st.integers(1, 2)),
        intermediate_size=draw(small),
    )
    shares_embeddings = draw(st.booleans())
    own = shared if shares_embeddings else {key: draw(small) for key in shared}
    generator = sizes(
        **own,
        hidden_size=draw(st.sampled_from([own["embedding_size"], draw(st.integers(1, 12))])),
        num_hidden_layers=draw(st.integers(1, 2)),
        intermediate_size=draw(small),
    )
    return [discriminator, generator], shares_embeddings


@settings(max_examples=6, deadline=None)
@given(random_configs(), st.integers(0, 2**32 - 1))
def test_any_networks_come_back_bit_for_bit(tmp_path_factory, drawn, seed):
    (configs, shares_embeddings), folder = drawn, tmp_path_factory.mktemp("any")
    keras.backend.clear_session()
    runs.write(str(folder / "ours"), random_networks(configs, shares_embeddings, seed))
    rows, _ = google.from_run(str(folder / "ours"), str(folder / "model"))
    has_own = any((row.theirs or "").startswith("generator/embeddings/") for row in rows)
    assert has_own is not shares_embeddings
    heads = configs[0].num_attention_heads
    rows, _ = google.to_run(str(folder / "model"), str(folder / "back"), heads)
    assert {row.difference for row in rows} == {0.0}
    for name in ("discriminator", "generator"):
        for file in ("model.safetensors", "config.json"):
            ours, back = (folder / run / name / file for run in ("ours", "back"))
            assert ours.read_bytes() == back.read_bytes(), (name, file)


@settings(max_examples=2, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from([4, 6]),
    st.integers(1, 6),
    st.booleans(),
    st.data(),
)
def test_any_optimizer_comes_back_bit_for_bit(
    tmp_path_factory, layers, heads, size, generator_size, shares_embeddings, more
):
    folder, hidden_size = tmp_path_factory.mktemp("any"), heads * 4
    keras.backend.clear_session()
    config = sizes(
        embedding_size=size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    generator = sizes(hidden_size=min(generator_size, hidden_size))
    chosen = runs.sizes_of([config, generator], shares_embeddings)
    model = runs.create_pretrainer(runs.pretraining_config(chosen, ""))
    tensors = google.pretrainer_tensors(model)
    step = tensors.pop("global_step").variable
    step.assign(more.draw(st.integers(0, 2_000_000)))
    randomize([tensor.variable for tensor in tensors.values()], more.draw(st.integers(0, 99)))
    runs.write(str(folder / "ours"), model.networks, model)
    google.from_run(str(folder / "ours"), str(folder / "model"), with_optimizer=True)
    google.to_run(str(folder / "model"), str(folder / "back"), heads, with_optimizer=True)
    ours, back = (
        arrays_of(tf.train.latest_checkpoint(str(folder / run / "checkpoints")))
        for run in ("ours", "back")
    )
    assert sorted(ours) == sorted(back) and len(ours) > 3 * len(model.trainable_variables)
    for name in ours:
        assert np.asarray(ours[name]).tobytes() == np.asarray(back[name]).tobytes(), name


# What does not match.


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint of the smallest networks, and its tensors."""
    runs.write(str(tmp_path / "ours"), random_networks([sizes(), sizes()], True, 1))
    google.from_run(str(tmp_path / "ours"), str(tmp_path / "tiny"))
    return tmp_path / "tiny", arrays_of(tmp_path / "tiny")


QUERY = "electra/encoder/layer_0/attention/self/query/kernel"
BIAS = "generator/encoder/layer_0/output/dense/bias"


def test_every_tensor_that_does_not_match_is_named(tiny, tmp_path, capsys):
    path, arrays = tiny
    arrays["electra/more"] = np.zeros([2, 3], np.float32)
    del arrays[BIAS], arrays["electra/embeddings/LayerNorm/gamma"]
    arrays["generator_predictions/output_bias"] = np.zeros([6], np.float32)
    save(path, arrays)
    assert to_run(path, tmp_path / "run") == 2
    line = last_line(capsys)
    assert line.startswith(f"error: {path}: ")
    for problem in (
        f"missing {BIAS} (8,)",
        "missing electra/embeddings/LayerNorm/gamma (8,)",
        "unexpected electra/more (2, 3)",
        "generator_predictions/output_bias has shape (6,), not (7,)",
    ):
        assert problem in line
    assert not (tmp_path / "run").exists()
    # Some of them may be missing; not all.
    flag = f"--allow_missing={BIAS}|electra/.*"
    assert to_run(path, tmp_path / "run", flag) == 2
    line = last_line(capsys)
    assert "output_bias has shape" in line and "missing" not in line and "unexpected" not in line
    arrays["generator_predictions/output_bias"] = np.ones([7], np.float32)
    save(path, arrays)
    assert to_run(path, tmp_path / "run", f"--allow_missing={BIAS[:-1]}|electra/.*") == 2
    assert f"missing {BIAS}" in last_line(capsys)
    assert to_run(path, tmp_path / "run", flag) == 0
    out = capsys.readouterr().out
    assert "- │ generator/electra.encoder.layer.0.output.dense.bias" in " ".join(out.split())
    found = Generator.from_pretrained(str(tmp_path / "run/generator"))
    np.testing.assert_array_equal(found.head.bias, np.ones(7))
    np.testing.assert_array_equal(found.embeddings.LayerNorm.gamma, np.ones(8))


def test_tensors_of_a_run_that_do_not_match(tiny, tmp_path, capsys):
    import safetensors.numpy

    file = tmp_path / "ours/discriminator/model.safetensors"
    arrays = safetensors.numpy.load_file(file)
    arrays["more"] = np.zeros([2], np.float32)
    safetensors.numpy.save_file(arrays, file)
    assert to_google(tmp_path / "ours", tmp_path / "model") == 2
    assert f"{file.parent}: the tensors do not match the model: unexpected more (2,)" in last_line(
        capsys
    )
    assert to_google(tmp_path / "ours", tmp_path / "model", "--allow_missing=more") == 0
    assert_same_files(tmp_path / "model", tiny[0])


def test_a_fine_tuned_encoder_alone(tmp_path, capsys):
    path = GOLDEN / "google/finetune_classification/model.ckpt-0"
    assert to_run(path, tmp_path / "run") == 2
    assert "no tensor generator/... in it; --allow_missing='generator.*'" in last_line(capsys)
    flag = "--allow_missing=generator.*|discriminator_predictions/.*|task_specific/.*"
    assert to_run(path, tmp_path / "run", flag, "--optimizer") == 2
    assert "pre-training here has a generator, too" in last_line(capsys)
    assert to_run(path, tmp_path / "run", flag) == 0
    assert not (tmp_path / "run/generator").exists()
    network = Discriminator.from_pretrained(str(tmp_path / "run/discriminator"))
    kernel = arrays_of(path)["electra/encoder/layer_0/output/dense/kernel"]
    np.testing.assert_array_equal(network.encoder.feed_forward[0].output_dense.kernel, kernel)
    assert to_google(tmp_path / "run", tmp_path / "model") == 2
    assert "run/generator: no such folder" in last_line(capsys)
    assert to_google(tmp_path / "run", tmp_path / "model", "--allow_missing=generator/.*") == 0
    found = arrays_of(tmp_path / "model")
    for name, array in arrays_of(path).items():
        if not name.startswith("task_specific"):
            np.testing.assert_array_equal(found[name], array)


def test_what_cannot_be_continued(tmp_path, capsys):
    folder = FOLDERS[0]
    assert to_run(folder / "model.ckpt-0", tmp_path / "run", "--optimizer") == 2
    assert "no moments of Adam" in last_line(capsys)
    arrays = arrays_of(folder / "trained/model.ckpt-5")
    del arrays[f"{QUERY}/adam_v"]
    save(tmp_path / "model", arrays)
    assert to_run(tmp_path / "model", tmp_path / "run", "--optimizer") == 2
    assert f"missing {QUERY}/adam_v (32, 32)" in last_line(capsys)
    for number, (generator, message) in enumerate(
        (
            (sizes(intermediate_size=9), "intermediate_size is 9 there and 32 here"),
            (sizes(embedding_size=4), "another generator: embedding_size is 4 there and"),
            (sizes(hidden_size=9), "generator_hidden_size=1.125: Input should be less than"),
        )
    ):
        own = generator.embedding_size == 4
        runs.write(str(tmp_path / f"{number}"), random_networks([sizes(), generator], not own, 0))
        assert to_google(tmp_path / f"{number}", tmp_path / f"{number}.ckpt") == 0
        flags = ["--optimizer", NO_MOMENTS, "--num_attention_heads=1"]
        assert to_run(tmp_path / f"{number}.ckpt", tmp_path / "run", *flags) == 2
        assert message in last_line(capsys)
    assert to_google(tmp_path / "0", tmp_path / "model.ckpt", "--optimizer") == 2
    assert "0/checkpoints: no checkpoint in it" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_what_the_original_does_not_have(tmp_path, capsys):
    for number, (configs, message) in enumerate(
        (
            (
                [sizes(), sizes(num_attention_heads=2)],
                "generator has 2 attention heads; the original",
            ),
            ([sizes(layer_norm_eps=1e-5), sizes()], "layer_norm_eps is 1e-05"),
        )
    ):
        runs.write(str(tmp_path / f"{number}"), random_networks(configs, True, 0))
        assert to_google(tmp_path / f"{number}", tmp_path / "model") == 2
        assert message in last_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


# Damage.


def cut(number):
    return lambda content: content[:number]


def flip(place):
    return lambda content: content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("optimizer", [[], ["--optimizer"]], ids=["weights", "optimizer"])
@pytest.mark.parametrize(
    "suffix, damage, message",
    [
        ("index", cut(0), "model.index: cannot open the checkpoint (file is too short"),
        ("index", cut(100), "model.index: cannot open the checkpoint (not an sstable"),
        ("index", flip(60), "model.index: cannot open the checkpoint ("),
        ("index", lambda content: b"<html>" * 999, "model.index: cannot open the checkpoint ("),
        ("index", None, "model.index: no such file; give a checkpoint's path without '.index'"),
        ("data-00000-of-00001", cut(0), "model.data-00000-of-00001: cannot read "),
        ("data-00000-of-00001", cut(-1), "model.data-00000-of-00001: cannot read global_step"),
        ("data-00000-of-00001", flip(1000), "cannot read discriminator_predictions/dense/kernel"),
        ("data-00000-of-00001", None, "model.data-00000-of-00001; No such file"),
    ],
)
def test_damaged_files(tmp_path, capsys, suffix, damage, message, optimizer):
    for name in FILES:
        source = FOLDERS[0] / f"trained/model.ckpt-5.{name}"
        (tmp_path / f"model.{name}").write_bytes(source.read_bytes())
    victim = tmp_path / f"model.{suffix}"
    if damage:
        victim.write_bytes(damage(victim.read_bytes()))
    else:
        victim.unlink()
    code = to_run(tmp_path / "model", tmp_path / "run", *optimizer)
    if "global_step" in message and not optimizer:
        assert code == 0  # What is damaged is not needed.
        return
    assert code == 2
    line = last_line(capsys)
    assert line.startswith("error: ") and message in line
    assert {path.name for path in tmp_path.iterdir()} <= {f"model.{name}" for name in FILES}


@pytest.mark.parametrize(
    "name, change, message",
    [
        (QUERY, lambda a: np.where(np.eye(8), np.nan, a), f"tiny: {QUERY}[0, 0] is nan"),
        (BIAS, lambda a: a / 0, f"tiny: {BIAS}[0] is "),
        (QUERY, lambda a: a.astype(np.float64), f"{QUERY} is of type float64, not float32"),
        (QUERY, lambda a: a.astype(np.float16), f"{QUERY} is of type float16, not float32"),
        (BIAS, lambda a: np.full(8, b"a", object), f"{BIAS} is of type string, not float32"),
        (QUERY, lambda a: a.reshape(4, 4, 4), f"no matrix {QUERY} in it, which tells a size"),
        (QUERY, lambda a: a[:, :5], f"{QUERY} has shape (8, 5), not (5, 5)"),
        (QUERY, lambda a: a[:, :0], "hidden_size=0: Input should be greater than 0"),
        (BIAS, lambda a: a[0], f"{BIAS} has shape (), not (8,)"),
    ],
)
def test_tensors_that_cannot_be(tiny, tmp_path, capsys, name, change, message):
    path, arrays = tiny
    with np.errstate(all="ignore"):
        array = np.asarray(change(arrays[name]))
    arrays[name] = (
        array.astype(np.float32) if array.dtype == np.float64 and "nan" in message else array
    )
    save(path, arrays)
    assert convert.main(["", "--from=google", f"--input={path}", f"--output={tmp_path}/run"]) == 2
    line = last_line(capsys)
    assert line.startswith(f"error: {path}: ") and message in line
    assert not (tmp_path / "run").exists()


def test_a_damaged_run(tiny, tmp_path, capsys):
    network = Discriminator.from_pretrained(str(tmp_path / "ours/discriminator"))
    network.head.dense.bias.assign(np.full(8, np.inf))
    network.save_pretrained(str(tmp_path / "ours/discriminator"))
    assert to_google(tmp_path / "ours", tmp_path / "model") == 2
    assert "discriminator_predictions.dense.bias[0] is inf" in last_line(capsys)
    network.head.dense.bias.assign(np.zeros(8))
    network.save_pretrained(str(tmp_path / "ours/discriminator"))
    for file, content, message in (
        ("model.safetensors", b"\0" * 9, "not a whole safetensors file"),
        ("config.json", b"[]", "config.json: no JSON object"),
    ):
        (tmp_path / "ours/generator" / file).write_bytes(content)
        assert to_google(tmp_path / "ours", tmp_path / "model") == 2
        assert f"ours/generator/{file}" in (line := last_line(capsys)) and message in line
    assert not list(tmp_path.glob("model*"))


# The command.


def test_what_is_there_is_left_alone(tiny, tmp_path, capsys):
    path, _ = tiny
    (tmp_path / "run").mkdir()
    assert to_run(path, tmp_path / "run") == 2
    assert "run: is there already; choose another --output" in last_line(capsys)
    before = {suffix: (tmp_path / f"tiny.{suffix}").read_bytes() for suffix in FILES}
    assert to_google(tmp_path / "ours", path) == 2
    assert "tiny.data-00000-of-00001: is there already" in last_line(capsys)
    assert {s: (tmp_path / f"tiny.{s}").read_bytes() for s in FILES} == before
    assert to_google(tmp_path / "ours", tmp_path / "tiny.index/model") == 2
    assert "cannot make this folder" in last_line(capsys)


def test_vocabulary(tiny, tmp_path, capsys):
    path, _ = tiny
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    assert to_run(path, tmp_path / "run", f"--vocab_file={vocab}") == 2
    assert f"--vocab_file: 6 pieces, but {path} has embeddings of 7" in last_line(capsys)
    vocab.write_text(vocab.read_text() + "B\n")
    flags = [f"--vocab_file={vocab}", "--nolower_case"]
    assert to_run(path, tmp_path / "run", *flags) == 0
    for name in ("discriminator", "generator"):
        tokenizer = Tokenizer.from_pretrained(str(tmp_path / "run" / name))
        assert tokenizer.tokenize(["B b"]).to_list() == [[6, 1]]
    assert "do_lower_case: false" in (tmp_path / "run/config.yaml").read_text()
    assert to_run(path, tmp_path / "other", "--nolower_case") == 2
    assert "--lower_case: goes with --vocab_file" in last_line(capsys)


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--from: give either this flag or --to (google, huggingface, keras_hub)"),
        (["--from=google", "--to=google"], "--from: give either this flag or --to"),
        (["--from=torch"], "--from=torch: value should be one of"),
        (["--to=google", "--num_attention_heads=2"], "--num_attention_heads: goes with --from"),
        (["--to=google", "--vocab_file=v"], "--vocab_file: goes with --from"),
        (
            ["--to=google", "--optimizer", "--allow_missing=a"],
            "--allow_missing: a run's checkpoint",
        ),
        (["--from=google", "--num_attention_heads=0"], "num_attention_heads"),
        (["--from=google", "--num_attention_heads=3"], "num_attention_heads=3 does not divide"),
        (["--from=google", "--allow_missing=("], "--allow_missing=(: no regular expression"),
        (["--from=google", "--optimiser"], "Unknown command line flag 'optimiser'"),
        (["--from=google", "--vocab_file=/nowhere"], "/nowhere: cannot read the vocabulary"),
    ],
)
def test_mistakes(tiny, tmp_path, capsys, flags, message):
    command = ["", f"--input={tiny[0]}", f"--output={tmp_path}/run", *flags]
    assert convert.main(command) == 2
    line = last_line(capsys)
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()


def test_commands_of_the_documentation():
    text = (ROOT / "docs/migrate.md").read_text().replace("\\\n", "")
    commands = [
        line for line in text.splitlines() if line.startswith("python -m electra_tf.convert")
    ]
    assert len(commands) == 13
    for command in commands:
        values = FlagValues()
        convert.define_flags(values)
        assert len(values(shlex.split(command)[2:])) == 1
        convert.check(values)


def test_the_module_is_a_command():
    done = python(
        "import sys; sys.argv = ['x', '--help']; import runpy; runpy.run_module('electra_tf.convert', run_name='__main__')"
    )
    assert done.returncode == 0 and "--num_attention_heads" in done.stdout
    with pytest.raises(UserError, match="no such file"):
        google.to_run("/nowhere/model", "/nowhere/run")
