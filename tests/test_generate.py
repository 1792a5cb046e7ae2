"""Continuing text: the same logits and text as transformers' GPT-2, samplers, folders, the command."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from scipy.special import log_softmax
from tiny_models import VOCAB, tiny_config

from electra_tf import Tokenizer
from electra_tf.commands import generate
from electra_tf.generation import TextGenerator, create_sampler
from electra_tf.modeling.causal import CausalGenerator

ROOT = pathlib.Path(__file__).parents[1]
PROMPT = "hello, my red cat"

# In transformers' own environment: a tiny byte-pair vocabulary, a model with random weights wide enough
# to have opinions, and what it makes of a prompt.
ORACLE = """
import json, sys
import tokenizers, torch, transformers

folder, prompt = sys.argv[1:]
texts = ["the red cat sleeps and eats the green owl.", "hello, my name is nobody; we run."]
tokenizer = tokenizers.ByteLevelBPETokenizer()
tokenizer.train_from_iterator(texts, 300, 1, special_tokens=["<|endoftext|>"])
tokenizer.save_model(folder)
torch.manual_seed(2)
config = transformers.GPT2Config(
    vocab_size=tokenizer.get_vocab_size(), n_positions=64, n_embd=32, n_layer=3, n_head=4,
    initializer_range=0.3, bos_token_id=0, eos_token_id=0,
)
model = transformers.GPT2LMHeadModel(config).eval()
model.save_pretrained(folder)
ids = torch.tensor([tokenizer.encode(prompt).ids])
with torch.no_grad():
    logits = model(ids).logits[0].tolist()
    greedy = model.generate(ids, max_length=48, do_sample=False, pad_token_id=0)[0].tolist()
json.dump(
    {"ids": ids[0].tolist(), "logits": logits, "greedy": greedy, "text": tokenizer.decode(greedy)},
    sys.stdout,
)
"""


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    """A folder that transformers wrote, and what its model gives."""
    envs = os.environ.get("ELECTRA_TF_BENCH_ENVS", ROOT / ".bench-envs")
    python = pathlib.Path(envs) / "transformers-torch" / "bin" / "python"
    if not python.exists():
        pytest.skip("no transformers: bash benchmarks/make_envs.sh, or set ELECTRA_TF_BENCH_ENVS")
    folder = tmp_path_factory.mktemp("transformers")
    done = subprocess.run(
        [python, "-c", ORACLE, folder, PROMPT], capture_output=True, text=True, check=True
    )
    return folder, json.loads(done.stdout)


def test_transformers_folder_gives_transformers_text(transformers):
    folder, expected = transformers
    generator = TextGenerator.from_pretrained(str(folder))
    assert generator.vocabulary.encode(PROMPT) == expected["ids"]
    tokens = {"token_ids": [expected["ids"]], "padding_mask": [[1] * len(expected["ids"])]}
    logits = generator.model({name: np.array(value) for name, value in tokens.items()})[0]
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
    assert np.abs(expected["logits"]).max() > 1.0
    assert len(expected["greedy"]) >= len(expected["ids"]) + 20
    assert generator(PROMPT, max_length=48) == [expected["text"]]


def test_a_preset_gives_the_same_text(transformers, tmp_path):
    """KerasHub's own reader of transformers' folder writes it."""
    folder, expected = transformers
    keras_hub.models.GPT2Backbone.from_preset(str(folder)).save_to_preset(str(tmp_path))
    keras_hub.models.GPT2Tokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    ).save_to_preset(str(tmp_path))
    assert TextGenerator.from_pretrained(str(tmp_path))(PROMPT, 48) == [expected["text"]]


def test_a_tokenizer_json_is_the_same_vocabulary(transformers, tmp_path):
    import tokenizers

    folder, expected = transformers
    files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    tokenizer = tokenizers.ByteLevelBPETokenizer(*files)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    assert TextGenerator.from_pretrained(str(tmp_path))(PROMPT, 48) == [expected["text"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A causal generator with random weights over our own vocabulary, as a run writes it."""
    folder = tmp_path_factory.mktemp("generator")
    tokenizer = Tokenizer(VOCAB)
    keras.utils.set_random_seed(3)
    config = dataclasses.replace(tiny_config(VOCAB), intermediate_size=64)
    generator = CausalGenerator(config, tokenizer.special_ids)
    for variable in generator.trainable_variables:
        variable.assign(4 * variable)
    generator.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.from_pretrained(str(folder))


def test_kerashub_reads_what_is_written(folder, generator):
    theirs = keras_hub.models.GPT2Backbone.from_preset(str(folder))
    tokens = {"token_ids": tf.range(12)[None] + 3, "padding_mask": tf.ones([1, 12], tf.int32)}
    np.testing.assert_array_equal(theirs(tokens), generator.model.backbone(tokens))
    assert np.abs(theirs(tokens)).max() > 1.0


def next_scores(generator, ids):
    """Log probabilities of the token after `ids`, float64 [V]."""
    tokens = {"token_ids": np.array([ids]), "padding_mask": np.ones([1, len(ids)], int)}
    return log_softmax(generator.model(tokens)[0, -1].numpy().astype(np.float64))


def test_greedy_text_by_hand(generator):
    tokenizer = Tokenizer(VOCAB)
    ids = [tokenizer.cls_id, *tokenizer.tokenize("good cat").numpy().tolist()]
    while len(ids) < 12 and ids[-1] != tokenizer.sep_id:
        ids.append(int(np.argmax(next_scores(generator, ids))))
    words = [VOCAB[i] for i in ids if VOCAB[i] not in ("[CLS]", "[SEP]", "[PAD]", "[MASK]")]
    assert generator("good cat", max_length=12) == [" ".join(words)]
    assert len(words) > 2


def test_a_beam_search_finds_the_likeliest_texts(generator):
    """Of all of two more tokens, none of which is an end."""
    ids = generator.vocabulary.encode("good cat")
    scores = {}
    first = next_scores(generator, ids)
    for one in range(len(VOCAB)):
        second = next_scores(generator, [*ids, one])
        scores |= {(one, other): first[one] + second[other] for other in range(len(VOCAB))}
    best = sorted(scores, key=scores.get, reverse=True)[:3]
    expected = [generator.vocabulary.decode([*ids, *pair]) for pair in best]
    sampler = create_sampler(beam_size=len(VOCAB))
    assert generator("good cat", len(ids) + 2, 3, sampler) == expected


def test_texts_of_a_search_are_not_alike(generator):
    """Beams that differ behind their ends only are one text."""
    sampler = create_sampler(beam_size=20)
    texts = generator("red", 9, 20, sampler)
    assert 1 < len(texts) == len(set(texts)) <= 20


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}, {"beam_size": 1}])  # fmt: skip
def test_draws_from_one_token_are_greedy(generator, options):
    expected = generator("red", max_length=10)
    assert generator("red", max_length=10, sampler=create_sampler(**options)) == expected


def test_draws_follow_the_probabilities(generator):
    ids = generator.vocabulary.encode("red")
    scores = next_scores(generator, ids)
    probabilities, others = np.exp(scores / 0.4), np.exp(scores)
    probabilities /= probabilities.sum()
    # So far from those of another temperature that draws tell.
    assert np.abs(probabilities - others / others.sum()).max() > 0.15
    sampler = create_sampler(temperature=0.4, seed=1)
    texts = generator("red", len(ids) + 1, 400, sampler)
    special = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
    for piece in (p for p in VOCAB if p not in special):
        share = texts.count(f"red {piece}") / 400
        assert share == pytest.approx(probabilities[VOCAB.index(piece)], abs=0.08)


def run(capsys, folder, *flags):
    code = generate.main(["", f"--model={folder}", *flags])
    captured = capsys.readouterr()
    return code, captured.out if code == 0 else captured.err.strip().splitlines()[-1]


def test_the_command(folder, generator, tmp_path, capsys):
    code, out = run(capsys, folder, "--prompt=good cat", "--max_length=12")
    assert (code, out) == (0, generator("good cat", 12)[0] + "\n")
    draw = ("--prompt=red", "--max_length=10", "--top_k=5", "--num_return_sequences=3")
    first, same, other = (run(capsys, folder, *draw, f"--seed={seed}")[1] for seed in (1, 1, 2))
    assert first == same != other
    texts = first.rstrip("\n").split("\n\n")
    assert len(texts) == 3 and len(set(texts)) > 1 and all(t.startswith("red") for t in texts)
    assert run(capsys, folder, "--prompt=", "--max_length=5")[0] == 0
    shutil.copytree(folder, tmp_path / "run" / "generator")
    assert run(capsys, tmp_path / "run", *draw, "--seed=1") == (0, first)


TEN = ["--prompt=red", "--max_length=10"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--prompt=red", "--max_length=33"], "max_length=33: the model has 32 positions"),
        (["--prompt=red cat dog", "--max_length=4"], "the prompt takes 4 of max_length=4 tokens"),
        (["--prompt=red", "--top_k=5", "--top_p=0.5"], "top_k=5, top_p=0.5: give one of them"),
        (["--prompt=red", "--beam_size=2", "--top_k=5"], "top_k=5, beam_size=2: give one of them"),
        (["--prompt=red", "--beam_size=2", "--temperature=2"], "temperature=2: a search with"),
        ([*TEN, "--num_return_sequences=2"], "num_return_sequences=2: the search finds 1"),
        ([*TEN, "--beam_size=2", "--num_return_sequences=3"], "the search finds 2"),
        ([*TEN, "--top_k=1000"], "top_k=1000: the model has"),
        ([*TEN, "--beam_size=1000"], "beam_size=1000: the model has"),
        (["--prompt=red", "--top_p=1.5"], "--top_p=1.5: 1.5 is not a number in the range"),
        ([*TEN, "--top_p=nan"], "--top_p=nan: give a finite number"),
        ([*TEN, "--temperature=nan"], "--temperature=nan: give a finite number"),
        (["--prompt=caf\udce9"], "the prompt: half of a surrogate pair, or bytes that are not UTF-8"),
        (["--top_p=0.5"], "Flag --prompt must have a value"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be(folder, capsys, flags, message):
    code, line = run(capsys, folder, *flags)
    assert code == 2 and message in line


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, edit):
    path = folder / "model.safetensors"
    path.write_bytes(safetensors.numpy.save(edit(safetensors.numpy.load_file(path))))


def without(name):
    return lambda tensors: {n: x for n, x in tensors.items() if n != name}


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: edit_config(f, model_type="electra"), "model_type is 'electra'; only 'gpt2'"),
        (lambda f: edit_config(f, activation_function="relu"), "activation_function is 'relu'"),
        (lambda f: edit_config(f, n_head=3), "n_head=3 does not divide n_embd=16"),
        (lambda f: edit_config(f, n_layer="x"), "n_layer='x'"),
        (lambda f: edit_config(f, n_layer=1), "unexpected h.1.ln_1.weight"),
        (lambda f: (f / "config.json").unlink(), "config.json: cannot read it"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda f: edit_tensors(f, without("transformer.ln_f.bias")), "missing ln_f.bias (16,)"),
        (
            lambda f: edit_tensors(f, lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"] + 1}),
            "lm_head.weight differs from wte.weight",
        ),
        (lambda f: (f / "vocab.txt").unlink(), "vocab.json: cannot read it"),
        (lambda f: (f / "vocab.txt").write_text("\n".join([*VOCAB, "x"])), "the vocabulary has 22 tokens, the model 21"),
        (lambda f: edit_config(f, registered_name="keras_hub>BertBackbone"), "only GPT2Backbone"),
        (lambda f: edit_config(f, registered_name="keras_hub>GPT2Backbone"), "KerasHub cannot load"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be(folder, tmp_path, capsys, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    code, line = run(capsys, copy, "--prompt=red")
    assert code == 2 and message in line and line.startswith("error: ")


def test_damaged_byte_pairs(transformers, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(transformers[0], copy)
    (copy / "merges.txt").write_text("a b c d\n")
    code, line = run(capsys, copy, "--prompt=red")
    assert code == 2 and "merges.txt: no byte-pair vocabulary" in line
    (copy / "merges.txt").unlink()
    assert "merges.txt: cannot read it" in run(capsys, copy, "--prompt=red")[1]
    (copy / "tokenizer.json").write_text('{"model": 1}')
    assert "tokenizer.json: no byte-pair vocabulary" in run(capsys, copy, "--prompt=red")[1]


def test_what_older_folders_have_besides(folder, generator, tmp_path):
    """Without the prefix, with the head that repeats the embeddings and constants of the mask."""
    shutil.copytree(folder, tmp_path / "old")

    def age(tensors):
        tensors = {name.removeprefix("transformer."): x for name, x in tensors.items()}
        tensors["h.0.attn.bias"] = np.tril(np.ones([1, 1, 32, 32], np.float32))
        return {**tensors, "lm_head.weight": tensors["wte.weight"]}

    edit_tensors(tmp_path / "old", age)
    old = TextGenerator.from_pretrained(str(tmp_path / "old"))
    assert old("good cat", 12) == generator("good cat", 12)


def test_without_kerashub(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    code, line = run(capsys, folder, "--prompt=red")
    assert code == 2 and "pip install 'electra_tf[keras_hub]'" in line
