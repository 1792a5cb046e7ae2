"""The script of docs/migrate.md for NVIDIA's checkpoints, on one that their code wrote (tests/golden/nvidia)."""

import re

import numpy as np
from conftest import GOLDEN
from test_commands import ROOT, last_line

from electra_tf import Discriminator, Generator, Tokenizer
from electra_tf.commands import convert

FOLDER = GOLDEN / "nvidia"


def script(tmp_path):
    """The script, with the paths of the test."""
    (text,) = re.findall(
        r"^```python\n(import re.*?)^```$", (ROOT / "docs/migrate.md").read_text(), re.M | re.S
    )
    for theirs, ours in (
        ("results/models/base/checkpoints/ckpt-10000", FOLDER / "ckpt-7"),
        ("vocab/vocab.txt", FOLDER / "vocab.txt"),
        ("nvidia.ckpt-0", tmp_path / "nvidia.ckpt-0"),
    ):
        assert text.count(f'"{theirs}"') == 1
        text = text.replace(theirs, str(ours))
    return text


def to_run(tmp_path):
    flags = [f"--vocab_file={FOLDER}/vocab.txt", "--num_attention_heads=2"]
    files = [f"--input={tmp_path}/nvidia.ckpt-0", f"--output={tmp_path}/run"]
    return convert.main(["", "--from=google", *files, *flags])


def test_logits(tmp_path):
    exec(script(tmp_path), {})
    assert to_run(tmp_path) == 0
    golden = np.load(FOLDER / "outputs.npz")
    batch = {name: golden[name] for name in ("input_ids", "input_mask", "segment_ids")}
    is_real = batch["input_mask"] == 1
    for network_class in (Discriminator, Generator):
        name = network_class.__name__.lower()
        network = network_class.from_pretrained(str(tmp_path / "run" / name))
        expected = golden[name]
        if name == "generator":
            expected = expected[..., :30]  # The other pieces are none.
        found = network(batch)["logits"].numpy()
        np.testing.assert_allclose(found[is_real], expected[is_real], atol=1e-4)
        tokenizer = Tokenizer.from_pretrained(str(tmp_path / "run" / name))
        assert tokenizer.vocab_size == network.config.vocab_size == 30


def test_what_the_script_would_not_know_is_named(tmp_path, capsys):
    exec(script(tmp_path).replace('"/dense_1/"', '"/dense_2/"'), {})
    assert to_run(tmp_path) == 2
    line = last_line(capsys)
    assert "missing discriminator_predictions/dense_1/kernel (16, 1)" in line
    assert "unexpected discriminator_predictions/dense_2/kernel (16, 1)" in line
    assert not (tmp_path / "run").exists()
