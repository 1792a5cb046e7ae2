"""The sequence-level game: pairs of texts, the area under the curve, one logit instead of two, whole runs."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from test_commands import last_line
from tiny_models import VOCAB, WORDS, save_tiny_encoder, tiny_config

from electra_tf import Predictor, SequenceDiscriminator, Tokenizer
from electra_tf.commands import play
from electra_tf.configs import ConvolutionalRecurrentConfig
from electra_tf.corpus import Document
from electra_tf.errors import UserError
from electra_tf.export.loading import load_servables
from electra_tf.generation import TextGenerator, create_sampler
from electra_tf.interop import gpt2
from electra_tf.modeling.electra import SequenceClassifier
from electra_tf.sequence_game import (
    Pair,
    discriminator_config,
    draw_texts,
    make_pairs,
    passages,
    read_pairs,
    sequence_discriminator,
    write_pairs,
)
from electra_tf.tasks.classification import Classification
from electra_tf.tasks.config import task_config
from electra_tf.tasks.metrics import auc
from electra_tf.tasks.task import Example
from electra_tf.training.task_setup import create_encoder

LENGTH = 12
# What the rigged generator likes best after each position, and what second best.
FIRST = "good [SEP] red [PAD] blue bad cat ##x dog house tree red".split()
SECOND = "blue cat red dog good bad cat good dog house tree red".split()
WRITTEN = ["good", "cat", "red", "dog", "blue", "bad", "cat", "good", "dog", "house", "tree", "red"]


def save_rigged_generator(folder):
    """A GPT-2 that looks at nothing but the position: at each it likes one token best, whatever was before."""
    import keras_hub

    vocab = [*VOCAB, "##x"]
    size = len(vocab) + 1  # Of ids without a token, too.
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GPT2Backbone(size, 1, 1, size, 8, max_sequence_length=LENGTH)
    for variable in backbone.trainable_variables:
        if "position_embedding" in variable.path:
            positions = np.zeros(variable.shape, np.float32)
            positions[:, -1] = 8
            for row, first, second in zip(positions, FIRST, SECOND):
                row[vocab.index(first)] += 10 if first != "##x" else 0
                row[vocab.index(second)] += 9
            variable.assign(positions)
        elif "token_embedding" in variable.path:
            variable.assign(np.eye(size))
        elif "attention_output" in variable.path or "output_dense" in variable.path:
            variable.assign(tf.zeros(variable.shape))
    gpt2.save_backbone(backbone, str(folder), 0, 2, 3)
    Tokenizer(vocab).save_pretrained(str(folder))


@pytest.fixture(scope="module")
def generator_dir(tmp_path_factory):
    pytest.importorskip("keras_hub")
    folder = tmp_path_factory.mktemp("generator")
    save_rigged_generator(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of one line of words, each with a beginning of its own."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    draw = np.random.default_rng(0)
    lines = [" ".join(draw.choice(WORDS, 15)) for _ in range(100)]
    path.write_text("\n\n".join([*lines, "too short"]))
    return path


# Pairs.


def test_pairs_by_hand(generator_dir):
    generator = TextGenerator.from_pretrained(str(generator_dir))
    texts = ["tree house dog cat bad good red blue tree house dog", "red red red blue " * 4]
    ids = np.array([generator.vocabulary.encode(text)[:LENGTH] for text in texts])
    pairs = make_pairs(generator, ids, 4, create_sampler())
    # Position 3 is the last of the prompt: what it likes best stands for none, so its second.
    end = " ".join(WRITTEN[3:-1])
    assert pairs == [
        Pair("tree house dog", texts[0], f"tree house dog {end}"),
        Pair("red red red", "red red red blue red red red blue red red red", f"red red red {end}"),
    ]
    assert all(len(text.split()) == LENGTH - 1 for pair in pairs for text in pair[1:])
    # Neither the end of a text, nor a token that stands for none, nor an id without a token.
    filled = generator.fill([[2]] * 70, LENGTH, create_sampler(temperature=30.0, seed=1))
    assert filled.shape == (70, LENGTH)
    assert not np.isin(filled[:, 1:], [0, 2, 3, 4, len(VOCAB) + 1]).any()
    assert len(np.unique(filled[:, 1:])) > 15


def test_a_seed_decides_what_is_drawn(generator_dir):
    generator = TextGenerator.from_pretrained(str(generator_dir))
    one, same, other = (
        generator.fill([[2, 9]] * 3, LENGTH, create_sampler(temperature=9.0, seed=seed)).tolist()
        for seed in (1, 1, 2)
    )
    assert one == same != other and one[0] != one[1]


def test_byte_pairs(corpus, tmp_path, capsys):
    """A prompt may end within a character, and a text hold what a table's row cannot."""
    import keras_hub
    import tokenizers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate([*letters, "<|endoftext|>"])}
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GPT2Backbone(len(vocab), 1, 1, 8, 8, max_sequence_length=LENGTH)
    folder = tmp_path / "generator"
    gpt2.save_backbone(backbone, str(folder), 256, 256, 256)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    generator = TextGenerator.from_pretrained(str(folder))
    ids = np.array([generator.vocabulary.encode("a\tb\nc é defg")[:LENGTH]])
    sampler = create_sampler(temperature=1.0, seed=3)
    (pair,) = make_pairs(generator, ids, 7, sampler)
    assert pair.prompt == "a b c " and pair.real == "a b c é def"
    assert pair.generated.startswith(pair.prompt) and "\n" not in pair.generated
    assert "<|endoftext|>" not in pair.generated
    command = arguments(folder, corpus, tmp_path / "run", "--discriminator=transformer")
    assert play.main(command) == 2
    assert "its vocabulary is of byte pairs; give the discriminator one" in last_line(capsys)


def test_passages_end_at_lines():
    documents = [
        Document([b"abcde" * 3, b"fgh", b"i" * 40, b"j"], b""),
        Document([b"k"], b""),
    ]
    # Of two tokens: more than 16 characters, line breaks included.
    assert list(passages(documents, 2)) == [f"{'abcde' * 3}\nfgh", "i" * 40, "j", "k"]


def test_texts_are_long_enough_and_of_each_prompt_one(generator_dir):
    vocabulary = TextGenerator.from_pretrained(str(generator_dir)).vocabulary
    texts = ["red cat dog dog", "red cat dog tree tree", "red dog dog dog", "tree red", "blue blue"]
    drawn = {
        tuple(map(tuple, draw_texts(texts, vocabulary, 3, 5, 2, seed).tolist()))
        for seed in range(20)
    }
    ids = {word: VOCAB.index(word) for word in WORDS}
    (first, second), *others = sorted(drawn, key=len)
    prompts = {tuple(row[:3]) for rows in drawn for row in rows}
    assert prompts == {(2, ids["red"], ids["cat"]), (2, ids["red"], ids["dog"])}
    assert len({row for rows in drawn for row in rows}) == 3 and len(drawn) == 4
    assert all(rows[0][:3] != rows[1][:3] for rows in drawn)
    with pytest.raises(UserError, match="2 of 5 passages have max_length=5 .* num_examples=3"):
        draw_texts(texts, vocabulary, 3, 5, 3, 0)


@pytest.mark.parametrize(
    "fraction, num_held_out", [(0.0, 1), (0.3, 3), (0.25, 2), (0.999, 9), (1.0, 9)]
)
def test_both_texts_of_a_pair_are_on_one_side(tmp_path, fraction, num_held_out):
    pairs = [Pair(f"p{i}", f"p{i} a", f"p{i} b") for i in range(10)]
    write_pairs(str(tmp_path / "data"), pairs, fraction, {"a": 1}, 24)
    dev, train = (read_pairs(str(tmp_path / "data" / f"{name}.tsv")) for name in ("dev", "train"))
    assert len(dev) == num_held_out and dev + train == pairs
    first = (tmp_path / "data" / "dev.tsv").read_text().splitlines()[:3]
    assert first == [
        "id\tprompt\ttext\tlabel", "0-real\tp0\tp0 a\treal", "0-generated\tp0\tp0 b\tgenerated"
    ]  # fmt: skip
    task = yaml.safe_load((tmp_path / "data" / "task.yaml").read_text())
    assert task_config(task, "").labels == ["real", "generated"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# The metric.


def auc_by_hand(scores, is_positive):
    """The share of pairs of examples in which the positive one scores higher, ties as halves."""
    positive = [s for s, is_one in zip(scores, is_positive) if is_one]
    negative = [s for s, is_one in zip(scores, is_positive) if not is_one]
    wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    return sum(wins) / len(wins)


def test_area_under_the_curve():
    scores, is_positive = [0.9, 0.4, 0.4, 0.1, 0.7], [True, True, False, False, False]
    # Six pairs: 0.9 above all three, 0.4 below 0.7, level with 0.4, above 0.1.
    assert auc(scores, is_positive) == {"auc": pytest.approx((3 + 0 + 0.5 + 1) / 6)}
    draw = np.random.default_rng(1)
    scores, is_positive = draw.integers(0, 20, 60) / 20, draw.random(60) < 0.3
    assert auc(scores, is_positive)["auc"] == pytest.approx(auc_by_hand(scores, is_positive))
    assert auc([0.1, 0.9], [True, True]) == {"auc": 0.5}


@pytest.mark.parametrize("keys", [{"labels": ["a", "b", "c"]}, {"multi_label": True}])
def test_it_compares_two_labels(keys):
    task = {"name": "t", "kind": "classification", "columns": {"text": 0, "label": 1}}
    assert task_config({**task, "metric": "auc"}, "").metric == "auc"
    with pytest.raises(UserError, match="metric=auc: choose one of accuracy"):
        task_config({**task, "metric": "auc", **keys}, "")
    examples = [Example("f:1", "0", ("x",), label) for label in "abc"]
    with pytest.raises(UserError, match=r"metric=auc: 3 labels \(a, b, c\); it compares two"):
        Classification.from_training_examples(task_config({**task, "metric": "auc"}, ""), examples)


# One logit.

TEXTS = ConvolutionalRecurrentConfig(len(VOCAB), 8, 12, 3, 10, pool_size=2)


@pytest.mark.parametrize("config", [TEXTS, tiny_config(VOCAB)])
def test_one_logit_gives_the_softmax_of_two(tmp_path, config):
    keras.utils.set_random_seed(4)
    classifier = SequenceClassifier(config, num_labels=2)
    classifier.head.dense.bias.assign([0.3, -0.8])
    network = sequence_discriminator(classifier)
    inputs = Tokenizer(VOCAB).pack([Tokenizer(VOCAB).tokenize(["good cat", "red dog tree"])], 8)
    logits = classifier(inputs)["logits"].numpy().astype(np.float64)
    expected = np.exp(logits[:, 1]) / np.exp(logits).sum(-1)
    network.save_pretrained(str(tmp_path))
    for one in (network, SequenceDiscriminator.from_pretrained(str(tmp_path))):
        np.testing.assert_allclose(tf.sigmoid(one(inputs)["logits"]), expected, rtol=1e-5)
    assert np.ptp(expected) > 1e-3


def test_new_discriminators_are_of_tinys_size():
    transformer, other = (
        discriminator_config(kind, 50) for kind in ("transformer", "convolutional_recurrent")
    )
    assert (transformer.hidden_size, transformer.num_hidden_layers) == (128, 2)
    assert (other.filters, other.units, other.pool_size) == (128, 144, 4)
    assert transformer.vocab_size == other.vocab_size == 50
    one, same, another = (create_encoder(TEXTS, None, seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 != another.sha256


# Whole runs.


def arguments(generator_dir, corpus, output_dir, *more):
    return [
        "", f"--generator={generator_dir}", f"--corpus={corpus}", f"--output_dir={output_dir}",
        "--prompt_length=5", f"--max_length={LENGTH}", "--num_examples=80", "--eval_fraction=0.25",
        "--override=num_train_epochs=4", "--override=eval_batch_size=40",
        "--override=train_batch_size=20", "--override=learning_rate=3e-3",
        "--override=length_buckets=[]", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(generator_dir, corpus, tmp_path_factory):
    """A run of two trials on a Transformer, and the command's arguments."""
    folder = tmp_path_factory.mktemp("finished")
    save_tiny_encoder(folder / "encoder", VOCAB)
    more = [f"--init_from={folder / 'encoder'}", "--num_trials=2", "--seed=5"]
    command = arguments(generator_dir, corpus, folder / "run", *more)
    assert play.main(command) == 0
    return folder / "run", command


def read_json(path):
    return json.loads(path.read_text())


def check_run(run):
    """The metrics of a run's best trial are those of its discriminator's probabilities."""
    results = read_json(run / "results.json")
    pairs = read_pairs(str(run / "data" / "dev.tsv"))
    texts = [text for pair in pairs for text in pair[1:]]
    is_generated = [False, True] * len(pairs)
    tokenizer = Tokenizer.from_pretrained(str(run / "discriminator"))
    network = SequenceDiscriminator.from_pretrained(str(run / "discriminator"))
    logits = network(tokenizer.pack([tokenizer.tokenize(texts)], 24))["logits"].numpy()
    metrics = results["best"]["metrics"]
    assert metrics["accuracy"] == pytest.approx(np.mean((logits > 0) == is_generated))
    assert metrics["auc"] == pytest.approx(auc_by_hand(logits, is_generated), abs=2e-3)
    assert metrics["auc"] > 0.7 and len(pairs) == 20
    scores = [
        p["scores"]["generated"] for p in Predictor.from_pretrained(str(run / "model"))(texts)
    ]
    np.testing.assert_allclose(tf.sigmoid(logits), scores, rtol=1e-4, atol=1e-6)
    return results


def test_a_run_on_a_transformer(finished, corpus):
    run, _ = finished
    check_run(run)
    dev, train = (read_pairs(str(run / "data" / f"{name}.tsv")) for name in ("dev", "train"))
    assert len(train) == 60 and len({pair.prompt for pair in dev + train}) == 80
    lines = set(corpus.read_text().split("\n\n"))
    assert all(any(line.startswith(pair.real) for line in lines) for pair in dev + train)
    assert all(pair[i].startswith(pair.prompt) for pair in dev + train for i in (1, 2))


def test_the_same_command_again_trains_and_draws_nothing(finished, capsys):
    run, command = finished
    files = [*run.glob("data/*"), run / "trial-1" / "result.json"]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    capsys.readouterr()
    assert play.main(command) == 0
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    results, shown = read_json(run / "results.json"), capsys.readouterr().out
    for name in ("accuracy", "auc"):
        values = [trial["metrics"][name] for trial in results["trials"]]
        expected = f"{name}: {np.mean(values):.4f} (deviation {np.std(values, ddof=1):.4f})"
        assert expected in shown
    pair = read_pairs(str(run / "data" / "dev.tsv"))[0]
    assert pair.prompt in shown and pair.real[len(pair.prompt) + 1 :] in shown
    assert play.main([*command, "--top_k=3"]) == 2
    assert "top_k is None there and 3 here; choose another --output_dir" in last_line(capsys)


@pytest.mark.slow  # test_a_run_on_a_transformer is the quick one.
def test_a_run_on_a_convolutional_recurrent_network(generator_dir, corpus, tmp_path):
    kind = "--discriminator=convolutional_recurrent"
    run = tmp_path / "run"
    assert play.main(arguments(generator_dir, corpus, run, kind)) == 0
    check_run(run)
    config = read_json(run / "discriminator" / "config.json")
    assert config["architectures"] == ["SequenceDiscriminator"] and config["pool_size"] == 4
    servables = load_servables(str(run))
    assert isinstance(servables.network, SequenceDiscriminator)


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "--init_from, --discriminator: give one of them"),
        (["--discriminator=transformer", "--prompt_length=12"], "prompt_length=12 leaves no room"),
        (["--discriminator=transformer", "--nolower_case"], "--lower_case: goes with --vocab_file"),
        (
            ["--discriminator=transformer", "--eval_fraction=nan"],
            "--eval_fraction=nan: give a finite",
        ),
        (
            ["--discriminator=transformer", "--max_length=13"],
            "the model has 12 positions; lower it",
        ),
        (["--discriminator=transformer", "--num_examples=999"], "too few for num_examples=999"),
        (["--discriminator=transformer", "--override=head=two_layers"], "has the head dense"),
        (
            ["--discriminator=transformer", "--override=max_seq_length=600"],
            "exceeds the encoder's 512 positions",
        ),
        (["--discriminator=transformer", "--generator={encoder}"], "only 'gpt2' is supported"),
        (["--init_from={encoder}", "--vocab_file=v"], "--vocab_file: goes with --discriminator"),
        (["--init_from={generator}"], "model_type is 'gpt2'"),
        (["--init_from={encoder}", "--corpus=none.txt"], "none.txt: no such input"),
    ],
)
def test_mistakes(generator_dir, corpus, tmp_path, capsys, more, message):
    save_tiny_encoder(tmp_path / "encoder", VOCAB)
    more = [m.format(encoder=tmp_path / "encoder", generator=generator_dir) for m in more]
    assert play.main(arguments(generator_dir, corpus, tmp_path / "run", *more)) == 2
    assert message in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_folders_that_hold_something_else(generator_dir, corpus, tmp_path, capsys):
    (tmp_path / "run" / "data").mkdir(parents=True)
    command = arguments(generator_dir, corpus, tmp_path / "run", "--discriminator=transformer")
    assert play.main(command) == 2
    assert "no pairs of a game in it" in last_line(capsys)
