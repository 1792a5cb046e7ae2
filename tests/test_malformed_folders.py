"""Model folders of others that are damaged, or made to do harm: one line each, and nothing else happens."""

import json
import random

import numpy as np
import pytest
import safetensors.numpy
from tiny_models import VOCAB, save_tiny_encoder

from electra_tf import Discriminator, UserError
from electra_tf.interop.huggingface import read_config, read_tensors

NUM_CASES, NUM_SLOW_CASES = 300, 20_000
# Of values that others may write in place of the right ones.
VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    2**70,
    "",
    "gelu",
    [],
    {},
    [1],
    {"a": 1},
    "\ud800",
    float("nan"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which all is well, its weights in two shards."""
    folder = tmp_path_factory.mktemp("whole")
    save_tiny_encoder(folder / "one", VOCAB)
    arrays = safetensors.numpy.load_file(folder / "one/model.safetensors")
    names = sorted(arrays)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        safetensors.numpy.save_file(
            {name: arrays[name] for name in part}, folder / f"model-{number}.safetensors"
        )
    index = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_bytes((folder / "one/config.json").read_bytes())
    return folder


def copy(source, folder):
    folder.mkdir(exist_ok=True)
    for path in source.glob("*.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def line(folder, read=read_tensors):
    """The one line of the error about a folder."""
    with pytest.raises(UserError) as error:
        read(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_shards(whole):
    one, shards = (Discriminator.from_pretrained(str(folder)) for folder in (whole / "one", whole))
    for ours, theirs in zip(one.trainable_variables, shards.trainable_variables):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "name", ["../model-1.safetensors", "/etc/passwd", "a/b", "", "..", "a\\b", "\x00", ".hidden"]
)
def test_an_index_does_not_lead_out_of_the_folder(whole, tmp_path, name):
    folder = copy(whole, tmp_path / "f")
    (tmp_path / "model-1.safetensors").write_bytes((whole / "model-1.safetensors").read_bytes())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert line(folder) == f"{index}: {name!r} is no name of a file in the same folder"


def test_shards_and_index_must_agree(whole, tmp_path):
    folder = copy(whole, tmp_path / "f")
    index = folder / "model.safetensors.index.json"
    shard_of = json.loads(index.read_text())["weight_map"]
    name = next(iter(shard_of))
    for changed, message in (
        ({**shard_of, "more": "model-1.safetensors"}, "more of model-1.safetensors, model-1"),
        ({n: s for n, s in shard_of.items() if n != name}, f"has {name} of"),
        ({**shard_of, name: "missing.safetensors"}, "missing.safetensors: cannot read it"),
        ({**shard_of, name: 3}, "no object 'weight_map'"),
        (["a"], "no object 'weight_map'"),
    ):
        index.write_text(json.dumps({"weight_map": changed}))
        assert message in line(folder)


def test_pickled_weights_are_refused(whole, tmp_path):
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        path = tmp_path / name
        path.write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
        assert line(tmp_path).startswith(f"{path}: pickled weights, which can run any code")
        path.unlink()
    assert line(tmp_path).startswith(f"{tmp_path}/model.safetensors: no such file")
    assert not (tmp_path / "harm").exists()


def test_malformed_weights(whole, tmp_path):
    folder = copy(whole / "one", tmp_path / "f")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for damaged in (
        b"",
        content[:7],
        content[:-1],
        (2**63).to_bytes(8, "little") + content[8:],  # The length of the header.
        (10**8).to_bytes(8, "little") + content[8:],
        content[:8] + b"\xff" + content[9:],
        content + b"x",
    ):
        path.write_bytes(damaged)
        assert line(folder).startswith(f"{path}: not a whole safetensors file")
    arrays = safetensors.numpy.load(content)
    name = "electra.embeddings.LayerNorm.bias"
    arrays[name][2] = np.nan
    path.write_bytes(safetensors.numpy.save(arrays))
    assert f"{path}: {name}[2] is nan" in line(folder)
    del arrays[name]
    path.write_bytes(safetensors.numpy.save({**arrays, "a": np.zeros((2, 3), np.float32)}))
    message = line(folder, Discriminator.from_pretrained)
    assert f"missing {name} (8,)" in message and "unexpected a (2, 3)" in message


def damage(rng, folder):
    """Changes one of a folder's files; returns what was done."""
    path = rng.choice(sorted(folder.glob("*.*")))
    content = bytearray(path.read_bytes())
    if path.suffix == ".json" and rng.random() < 0.5:
        values = json.loads(content)
        target = values.get("weight_map", values)
        key, value = rng.choice(sorted(target)), rng.choice(VALUES)
        target[key] = value
        path.write_text(json.dumps(values))
        return f"{path.name}: {key} = {value!r}"
    kind = rng.choice(("cut", "flip", "insert", "header"))
    place = rng.randrange(min(len(content), 400) if kind == "header" else len(content))
    if kind == "cut":
        del content[place:]
    elif kind == "insert":
        content[place:place] = rng.randbytes(rng.randrange(1, 20))
    else:
        content[place] = rng.randrange(256)
    path.write_bytes(bytes(content))
    return f"{path.name}: {kind} at {place}"


def fuzz(whole, tmp_path, seeds):
    """Every damaged folder is read as if it were another one, or refused by one line that names a file in it."""
    num_refused, folder = 0, tmp_path / "f"
    for seed in seeds:
        copy(whole, folder)
        done = damage(random.Random(seed), folder)
        try:
            read_config(str(folder))
            arrays = read_tensors(str(folder))
            assert all(np.isfinite(array).all() for array in arrays.values())
        except UserError as error:
            num_refused += 1
            assert str(error).startswith(str(folder)) and "\n" not in str(error), (seed, done)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {done}: {error!r}") from error
    print(
        f"{len(seeds)} damaged folders, seeds {seeds.start} to {seeds.stop - 1}: {num_refused} refused"
    )
    assert num_refused > len(seeds) / 4


def test_damaged_folders(whole, tmp_path):
    fuzz(whole, tmp_path, range(NUM_CASES))


@pytest.mark.slow
def test_many_damaged_folders(whole, tmp_path):
    fuzz(whole, tmp_path, range(NUM_CASES, NUM_CASES + NUM_SLOW_CASES))
