"""Question answering: reading, windows, spans, heads, and all the way from files to a model."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf, log_softmax
from tiny_models import SPECIAL, save_tiny_encoder, save_tiny_task, tiny_config

from electra_tf import Predictor, Tokenizer, UserError
from electra_tf.commands import finetune as command
from electra_tf.modeling.electra import QuestionAnswerer
from electra_tf.modeling.spans import find_spans
from electra_tf.tasks.config import load_task_config, task_config
from electra_tf.tasks.metrics import question_answering_metrics
from electra_tf.tasks.model_folder import load_finetuned
from electra_tf.tasks.question_answering import QuestionAnswering, context_windows
from electra_tf.tasks.questions import NO_ANSWER, Answers, read_questions
from electra_tf.tasks.reading import BadRows
from electra_tf.tasks.task import Example, read_split

WORDS = "who what good bad cat dog house tree red blue".split()
VOCAB = [*SPECIAL, *"abcdefgh北京城", "##s", "##x", *WORDS]
CONFIG = tiny_config(VOCAB)


def squad(*paragraphs):
    """SQuAD's JSON of `(context, [(id, question, [(text, start)])])`."""
    return {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": context,
                        "qas": [
                            {
                                "id": identifier,
                                "question": question,
                                "answers": [{"text": t, "answer_start": s} for t, s in answers],
                            }
                            for identifier, question, answers in questions
                        ],
                    }
                    for context, questions in paragraphs
                ]
            }
        ]
    }


def read(path, content, version_2=False, skip=False, questions_format="squad", is_test=False):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    bad_rows = BadRows(skip)
    found = read_questions(str(path), questions_format, version_2, is_test, bad_rows)
    return found, bad_rows


def test_squad_answers_are_put_where_their_text_is(tmp_path):
    context = "a cat and a dog, a Tree"
    questions = [
        ("1", "who?", [("cat", 2), ("dog", 12)]),
        ("2", "who?", [("dog", 7)]),  # At another place; there is one dog.
        ("3", "what?", [("tree", 19)]),  # Other case.
    ]
    examples, _ = read(tmp_path / "a.json", squad((context, questions)))
    assert [e.label for e in examples] == [
        Answers(("cat", "dog"), 2, 5),
        Answers(("dog",), 12, 15),
        Answers(("tree",), 19, 23),
    ]
    assert [e.inputs for e in examples] == [(q, context) for _, q, _ in questions]


@pytest.mark.parametrize(
    "content, message",
    [
        (squad(("a cat, a cat", [("1", "who?", [("cat", 0)])])), "'cat' is not at character 0"),
        (squad(("a cat", [("1", "who?", [("dog", 2)])])), "nor anywhere else"),
        (squad(("a cat", [("1", "who?", [("dog", -3)])])), "'dog' is not at character -3"),
        (squad((" \n", [("1", "who?", [("cat", 2)])])), "an empty context"),
        (squad(("a cat", [("1", "who?", [(" ", 1)])])), "an empty answer"),
        (squad(("a cat", [("1", "who?", [])])), "version_2: true"),
        (squad(("a cat", [("1", "who?", [("cat", "2")])])), "'answer_start' is '2', not a whole"),
        (squad(("a cat", [(7.5, "who?", [("cat", 2)])])), "'id' is 7.5, not a string or a whole"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1, paragraph 1: no key 'context'"),
        ({"data": [{}]}, "article 1: no list 'paragraphs'"),
        ({"data": [{"paragraphs": ["text"]}]}, "'text' where an object with 'context' should be"),
    ],
)
def test_bad_questions_are_named_or_left_out(tmp_path, content, message):
    good = squad(("a good dog", [("good", "who?", [("dog", 7)])]))
    content = {"data": content["data"] + good["data"]}
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.json", content)
    examples, bad_rows = read(tmp_path / "a.json", content, skip=True)
    assert examples[-1].id == "good" and bad_rows.count == 1


@pytest.mark.parametrize(
    "content, message",
    [
        (
            '{"data": [\n{"paragraphs": [}]}',
            r"a\.json:2: not JSON \(Expecting value at column 17\)",
        ),
        ("[]", "no list 'data'"),
        ("  ", "the file is empty"),
        ('{"data": []}', "no questions in it"),
    ],
)
def test_files_that_are_not_squads(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.json", content, skip=True)


def test_identifiers_may_be_numbers(tmp_path):
    examples, _ = read(tmp_path / "a.json", squad(("a cat", [(262, "who?", [("cat", 2)])])))
    assert examples[0].id == "262"


def test_the_first_answer_that_is_certain(tmp_path):
    """Only one answer is trained on; the others' texts count, wherever they are."""
    content = squad(("a cat, a cat, a dog", [("1", "who?", [("cat", 0), ("a dog", 3)])]))
    [example], _ = read(tmp_path / "a.json", content)
    assert example.label == Answers(("cat", "a dog"), 14, 19)


def test_further_answers_that_are_not_there(tmp_path, caplog):
    content = squad(("a cat", [("1", "who?", [("cat", 2), ("a dog", 0), ("cow", 1)])]))
    [example], _ = read(tmp_path / "a.json", content)
    assert example.label == Answers(("cat", "a dog", "cow"), 2, 5)
    assert "2 answer(s) beside a good one" in caplog.text
    assert "article 1, paragraph 1, question 1: the answer 'a dog' is not" in caplog.text


def test_an_answer_of_hangul():
    """A syllable is several pieces, letters of it; its characters are the whole syllable's."""
    # U+1112 U+1161 U+11AB are the letters of U+D55C.
    letters = ["\u1112", "##\u1161", "##\u11ab", "\u1100", "##\u1161", "##\u11a8"]
    tokenizer = Tokenizer([*SPECIAL, *dict.fromkeys(letters), "a"])
    ids, starts, ends = tokenizer.tokenize_with_offsets("\ud55c a")
    assert tokenizer.unk_id not in ids.numpy()
    assert starts.numpy().tolist() == [0, 0, 0, 2] and ends.numpy().tolist() == [1, 1, 1, 3]


def test_identifiers_are_unique_in_a_set(tmp_path):
    config = task_config({"name": "t", "kind": "qa", "dev": "dev*.json"}, "")
    for name, context in (("dev1.json", "a cat"), ("dev2.json", "a red cat")):
        content = squad((context, [("1", "who?", [("cat", context.index("cat"))])]))
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match="dev2.json: article 1.*identifier '1', which an earlier"):
        read_split(QuestionAnswering, config, str(tmp_path), "dev", BadRows(False))


def test_half_a_surrogate_pair(tmp_path, finished):
    config = task_config({"name": "t", "kind": "qa", "dev": "dev.json"}, "")
    content = json.dumps(squad(("a cat \ud83d", [("1", "who?", [("cat", 2)])])))
    (tmp_path / "dev.json").write_text(content)
    with pytest.raises(UserError, match="question 1: half of a surrogate pair"):
        read_split(QuestionAnswering, config, str(tmp_path), "dev", BadRows(False))
    predictor = Predictor.from_pretrained(str(finished / "run/model"))
    with pytest.raises(UserError, match="input 0: half of a surrogate pair"):
        predictor(("who", "a cat \ud83d"))


def test_questions_without_an_answer(tmp_path):
    content = squad(("a cat", [("1", "who?", []), ("2", "who?", [("cat", 2)])]))
    content["data"][0]["paragraphs"][0]["qas"][1]["is_impossible"] = True
    examples, _ = read(tmp_path / "a.json", content, version_2=True)
    assert [e.label for e in examples] == [NO_ANSWER, NO_ANSWER]
    del content["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    examples, _ = read(tmp_path / "a.json", content, version_2=True, is_test=True)
    assert [e.label for e in examples] == [None, NO_ANSWER]


def test_real_questions(shared_data):
    """Counts of the data's README; and answers of the labels' tokens are those of the files.

    What is not found begins or ends within a piece (Japan in Japanese), or is longer than a window.
    """
    tokenizer = Tokenizer.from_vocab(str(shared_data / "vocab" / "vocab.txt"))
    for path, version_2, number, cut in (
        ("squad/train-v2.0.json", True, 4341, 1),
        ("squad/dev-v1.1.json", False, 324, 0),
        ("policyqa/dev.json", False, 718, 8),
        ("cmrc2018_zh_trial.json", False, 997, 4),
    ):
        task = QuestionAnswering(
            task_config({"name": "t", "kind": "qa", "version_2": version_2}, "")
        )
        path = str(shared_data / "qa" / path)
        examples = task.read_file(task.config, path, "train", BadRows(False))
        assert len(examples) == number
        found = answers_by_labels(task.features(examples, tokenizer, 384), examples)
        texts = [
            {" ".join(e.inputs[1][start:end].split()) for start, end in spans}
            for e, spans in zip(examples, found)
        ]
        true = [set(e.label.texts[:1]) for e in examples]
        assert sum({" ".join(t.split()) for t in a} != b for a, b in zip(true, texts)) == cut


def test_mrqa(tmp_path):
    row = {
        "context": "[PAR] a cat and a dog",
        "qas": [
            {
                "qid": "x",
                "question": "who?",
                "answers": ["a cat", "The cat"],
                # Its last character is named, not the one after it.
                "detected_answers": [{"text": "a cat", "char_spans": [[6, 10]]}],
            }
        ],
    }
    text = '{ "header": {"dataset": "X", "split": "dev"}}\n' + json.dumps(row) + "\n"
    [example], _ = read(tmp_path / "a.jsonl", text, questions_format="mrqa")
    assert example.id == "x" and example.label == Answers(("a cat", "The cat"), 6, 11)
    assert example.place.startswith(f"{tmp_path}/a.jsonl:2")
    row["qas"][0]["detected_answers"][0]["char_spans"] = [[6]]
    with pytest.raises(UserError, match=r"a\.jsonl:2, question 1 \(x\): 'char_spans' has \[6\]"):
        read(
            tmp_path / "a.jsonl",
            json.dumps({"header": 1}) + "\n" + json.dumps(row),
            questions_format="mrqa",
        )


@pytest.mark.parametrize(
    "num_pieces, room, stride", [(0, 9, 4), (9, 9, 4), (10, 9, 4), (57, 13, 5), (57, 13, 40)]
)
def test_windows_and_most_context(num_pieces, room, stride):
    found = context_windows(num_pieces, room, stride)
    # The original's loops (finetune/qa/qa_tasks.py), word by word from their description.
    spans, start = [], 0
    while start < num_pieces or not spans:
        length = min(num_pieces - start, room)
        spans.append((start, start + length))
        if start + length == num_pieces:
            break
        start += min(length, stride)
    assert [window[:2] for window in found] == spans
    for piece in range(num_pieces):
        scores = {
            number: min(piece - start, end - 1 - piece) + 0.01 * (end - start)
            for number, (start, end) in enumerate(spans)
            if start <= piece < end
        }
        best = max(scores, key=scores.get)
        owners = [
            n
            for n, (start, end, is_max) in enumerate(found)
            if start <= piece < end and is_max[piece - start]
        ]
        assert owners == [best]


def answers_by_labels(features, examples):
    """The texts that labels stand for, by question: what is between their tokens' characters."""
    found = [set() for _ in examples]
    for row, owner in enumerate(features.rows["example"]):
        first, last, _ = features.rows["label"][row]
        offset = features.row_splits[row]
        if first:
            start = features.kept["starts"][offset + first]
            found[owner].add((start, features.kept["ends"][offset + last]))
    return found


def test_labels_are_the_answers_characters():
    tokenizer = Tokenizer(VOCAB)
    context = "Cat, dogs  (北京城) " + "tree " * 30 + "réd dogsx!"
    spans = [(0, 3), (5, 9), (12, 14), (len(context) - 6, len(context) - 1)]
    examples = [
        Example("", str(n), ("who", context), Answers((context[a:b],), a, b))
        for n, (a, b) in enumerate(spans)
    ]
    task = QuestionAnswering(load_task_config("squad1", {"doc_stride": 7}))
    features = task.features(examples, tokenizer, 20)
    assert answers_by_labels(features, examples) == [{span} for span in spans]
    # Every window ends in [SEP], its question is not in the context, and each piece has one owner.
    ends = features.row_splits[1:] - 1
    assert (features.tokens["input_ids"][ends] == tokenizer.sep_id).all()
    assert (features.tokens["is_context"][ends] == 0).all() and features.lengths.max() == 20
    num_pieces = len(tokenizer.tokenize([context])[0])
    assert features.tokens["is_max_context"].sum() == num_pieces * len(examples)


def test_an_answer_that_a_window_cuts_is_not_its_answer():
    tokenizer, context = Tokenizer(VOCAB), "a b c d e f g h"
    example = Example("", "1", ("who", context), Answers(("c d e",), 4, 9))
    task = QuestionAnswering(load_task_config("squad1", {"doc_stride": 2}))
    features = task.features([example], tokenizer, 8)  # Room for four pieces: a-d, c-f, e-h.
    assert features.rows["label"].tolist() == [[0, 0, 0], [3, 5, 0], [0, 0, 0]]
    impossible = task.features([example._replace(label=NO_ANSWER)], tokenizer, 8)
    assert impossible.rows["label"].tolist() == [[0, 0, 1]] * 3


def test_best_spans():
    rng = np.random.default_rng(0)
    start_scores, end_scores = rng.normal(size=[2, 6]), rng.normal(size=[2, 6, 5])
    starts, ends = rng.integers(0, 9, [2, 6]), rng.integers(0, 9, [2, 6, 5])
    is_context, is_max = rng.integers(0, 2, [2, 9]), rng.integers(0, 2, [2, 9])
    beams = [start_scores.astype(np.float32), starts, end_scores.astype(np.float32), ends]
    found = find_spans(
        [tf.constant(b) for b in beams], tf.constant(is_context), tf.constant(is_max), 4, 8
    )
    for row in range(2):
        spans = sorted(
            (
                (start_scores[row, i] + end_scores[row, i, j], starts[row, i], ends[row, i, j])
                for i in range(6)
                for j in range(5)
                if is_max[row, starts[row, i]]
                and is_context[row, ends[row, i, j]]
                and 0 <= ends[row, i, j] - starts[row, i] < 4
            ),
            reverse=True,
        )[:8]
        assert 0 < len(spans) < 8
        table = found[row].numpy()
        np.testing.assert_allclose(
            table[: len(spans), 2:].sum(-1), [s for s, _, _ in spans], rtol=1e-5
        )
        assert table[: len(spans), :2].tolist() == [[a, b] for _, a, b in spans]
        assert (table[len(spans) :, 2:] == -1e9).all()


@pytest.fixture(scope="module")
def windows():
    """Random windows, and a batch of them without padding: [CLS] question [SEP] context [SEP]."""
    rng = np.random.default_rng(1)
    ids = rng.integers(5, len(VOCAB), [3, 12]).astype(np.int32)
    is_context = np.zeros([3, 12], np.int32)
    is_context[:, 4:11] = 1
    return {
        "input_ids": ids,
        "segment_ids": np.repeat([[0, 1]], 3, 0).repeat([4, 8], 1).astype(np.int32),
        "is_context": is_context,
        "start_positions": np.array([4, 0, 9], np.int32),
    }


def test_joint_head_is_the_originals_formula(windows):
    keras.utils.set_random_seed(0)
    network = QuestionAnswerer(CONFIG, head="joint", answerable=True, beam_size=3, n_best_size=4)
    outputs = network(windows)
    hidden, logits, head = outputs["sequence_output"].numpy(), outputs["logits"], network.head

    def dense(layer, x):
        return x @ layer.kernel.numpy() + layer.bias.numpy()

    def gelu(x):
        return x * 0.5 * (1 + erf(x / 2**0.5))

    mask = windows["is_context"].astype(float)
    mask[:, 0] = 1
    start = dense(head.start, hidden)[..., 0] + 1000 * (mask - 1)
    np.testing.assert_allclose(logits["start"], start, atol=1e-4)

    def end_given(positions):
        starts = hidden[np.arange(3), positions][:, None] + 0 * hidden
        end = dense(head.end, gelu(dense(head.end_hidden, np.concatenate([starts, hidden], -1))))
        return end[..., 0] + 1000 * (mask - 1)

    np.testing.assert_allclose(logits["end"], end_given(windows["start_positions"]), atol=1e-4)
    weights = np.exp(log_softmax(start, -1))
    features = np.concatenate([hidden[:, 0], np.einsum("bt,bth->bh", weights, hidden)], -1)
    answerable = dense(head.answerable_logit, gelu(dense(head.answerable_hidden, features)))
    np.testing.assert_allclose(logits["answerable"], answerable[:, 0], atol=1e-4)
    np.testing.assert_allclose(logits["no_answer"], np.pad(answerable, [[0, 0], [0, 1]]), atol=1e-4)
    # A beam: the three best starts, for each the three best ends.
    start_scores = log_softmax(start, -1)
    for row in range(3):
        spans = {}
        for first in np.argsort(-start[row])[:3]:
            end_scores = log_softmax(end_given(np.full(3, first))[row])
            for last in np.argsort(-end_scores)[:3]:
                if first >= 4 and first <= last <= 10:
                    spans[first, last] = start_scores[row, first] + end_scores[last]
        best = sorted(spans, key=spans.get, reverse=True)[:4]
        table = logits["spans"][row].numpy()[: len(best)]
        assert [tuple(span) for span in table[:, :2].astype(int)] == best
        np.testing.assert_allclose(table[:, 2:].sum(-1), [spans[s] for s in best], atol=1e-4)


def test_start_end_head_is_one_dense_layer(windows):
    network = QuestionAnswerer(CONFIG, head="start_end", n_best_size=2, beam_size=20)
    outputs = network(windows)
    hidden, logits, layer = (
        outputs["sequence_output"].numpy(),
        outputs["logits"],
        network.head.qa_outputs,
    )
    plain = hidden @ layer.kernel.numpy() + layer.bias.numpy()
    allowed = windows["is_context"].astype(bool)
    np.testing.assert_allclose(logits["start"].numpy()[allowed], plain[..., 0][allowed], atol=1e-5)
    np.testing.assert_allclose(logits["end"].numpy()[allowed], plain[..., 1][allowed], atol=1e-5)
    np.testing.assert_allclose(logits["no_answer"][:, 0], plain[:, 0].sum(-1), atol=1e-5)
    for row in range(3):
        scores = {
            (i, j): plain[row, i, 0] + plain[row, j, 1] for i in range(4, 11) for j in range(i, 11)
        }
        best = sorted(scores, key=scores.get, reverse=True)[:2]
        assert [tuple(span) for span in logits["spans"][row].numpy()[:, :2].astype(int)] == best


@pytest.mark.parametrize("head", ["joint", "start_end"])
@pytest.mark.parametrize("answerable", [False, True])
def test_folder_of_a_network(tmp_path, windows, head, answerable):
    network = QuestionAnswerer(CONFIG, head=head, answerable=answerable, beam_size=3)
    network.save_pretrained(str(tmp_path))
    from electra_tf.interop import huggingface

    again = huggingface.load_model(QuestionAnswerer, str(tmp_path), beam_size=3)
    for a, b in zip(tf.nest.flatten(network(windows)), tf.nest.flatten(again(windows))):
        np.testing.assert_array_equal(a, b)


def test_metrics_by_hand():
    true = {"1": ("the red cat", "dog"), "2": ("house",)}
    values = question_answering_metrics({"1": "Red cat tree", "2": "a house!"}, true)
    # "red cat tree" and "red cat": 2 of 3 and 2 of 2; articles and punctuation do not count.
    assert values == pytest.approx({"exact_match": 0.5, "f1": (0.8 + 1.0) / 2})


def test_the_best_threshold_by_hand():
    true = {"1": ("cat",), "2": (), "3": ("dog",), "4": ()}
    predicted = {"1": "cat", "2": "x", "3": "y", "4": "z"}
    scores = {"1": -2.0, "2": 1.0, "3": 0.5, "4": 2.0}
    values = question_answering_metrics(predicted, true, scores)
    # 1 alone is answered: 1, 2, 4 are right. The next score is 0.5.
    assert values["no_answer_threshold"] == -0.75
    assert values["f1"] == values["exact_match"] == 0.75
    assert values["has_answer_f1"] == 0.5 and values["no_answer_f1"] == 1.0
    kept = question_answering_metrics(predicted, true, scores, threshold=1.5)
    assert kept["f1"] == 0.5 and kept["no_answer_f1"] == 0.5  # 1 and 4 are right.
    wrong = question_answering_metrics(predicted | {"1": "x"}, true, scores)
    assert wrong["f1"] == 0.5 and wrong["no_answer_threshold"] < -2.0  # Best to answer nothing.


def make_questions(rng, number):
    """Which of good and bad is in the context? The word after it, or there is no such word."""
    paragraphs = []
    for index in range(number):
        words = list(
            rng.choice(["cat", "dog", "house", "tree", "red", "blue"], rng.integers(3, 40))
        )
        question, answers = "who" if index % 2 else "what", []
        asked = "good" if index % 2 else "bad"
        if rng.random() < 0.6:
            place = rng.integers(0, len(words) - 1)
            words.insert(place, asked)
            answers = [(words[place + 1], len(" ".join(words[: place + 1])) + 1)]
        paragraphs.append((" ".join(words), [(str(index), question, answers)]))
    return squad(*paragraphs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on questions that a small network learns to answer."""
    folder = tmp_path_factory.mktemp("qa")
    save_tiny_encoder(folder / "encoder", VOCAB)
    rng = np.random.default_rng(0)
    for split, number in (("train", 1200), ("dev", 60)):
        (folder / f"{split}.json").write_text(json.dumps(make_questions(rng, number)))
    (folder / "task.yaml").write_text(
        "name: mine\nkind: qa\ntrain: train.json\ndev: dev.json\nversion_2: true\n"
    )
    assert run(folder) == 0
    return folder


def run(folder, *more):
    return command.main(
        [
            "",
            f"--task={folder}/task.yaml",
            f"--data_dir={folder}",
            f"--init_from={folder}/encoder",
            f"--output_dir={folder}/run",
            "--override=learning_rate=5e-3",
            "--override=layerwise_lr_decay=1.0",
            "--override=num_train_epochs=6",
            "--override=max_seq_length=24",
            "--override=doc_stride=8",
            "--override=beam_size=5",
            "--override=length_buckets=[]",
            *more,
        ]
    )


def test_files_of_a_run(finished):
    results = json.loads((finished / "run/results.json").read_text())
    metrics = results["metrics"]
    assert metrics["f1"] > 0.9 and results["metric"] == "f1"
    task = json.loads((finished / "run/model/task.json").read_text())
    assert task["threshold"] == metrics["no_answer_threshold"]
    folder = finished / "run/trial-1/predictions"
    answers, nbest, odds = (
        json.loads((folder / f"dev_{name}.json").read_text())
        for name in ("answers", "nbest_predictions", "null_odds")
    )
    dev = json.loads((finished / "dev.json").read_text())["data"][0]["paragraphs"]
    assert list(answers) == list(nbest) == list(odds) == [p["qas"][0]["id"] for p in dev]
    right = 0
    for paragraph in dev:
        [question] = paragraph["qas"]
        best = nbest[question["id"]][0]
        assert paragraph["context"][best["start"] : best["end"]] == best["text"]
        expected = best["text"] if odds[question["id"]] <= task["threshold"] else ""
        assert answers[question["id"]] == expected
        right += expected in ([a["text"] for a in question["answers"]] or [""])
    assert metrics["exact_match"] == pytest.approx(right / len(dev))


def test_evaluation_uses_the_kept_threshold(finished, capsys):
    assert run(finished, "--mode=evaluate") == 0
    metrics = json.loads((finished / "run/dev_metrics.json").read_text())
    results = json.loads((finished / "run/results.json").read_text())
    assert metrics["f1"] == pytest.approx(results["metrics"]["f1"])
    assert metrics["no_answer_threshold"] == results["metrics"]["no_answer_threshold"]


def test_another_stride_is_another_run(finished, capsys):
    assert run(finished, "--override=doc_stride=9") == 2
    assert "doc_stride is 8 there and 9 here" in capsys.readouterr().err


def test_predictor_finds_the_end_of_a_long_context(finished):
    predictor = Predictor.from_pretrained(str(finished / "run/model"), batch_size=16)
    words = np.random.default_rng(5).choice(["cat", "dog", "house", "tree", "red", "blue"], 5300)
    text = " ".join(words)
    place = text.index(" ", 19_000) + 1
    context = f"{text[:place]}good Tree, {text[place:]}"[:23_000]
    result = predictor(("who", context))
    assert (result["answer"], result["start"]) == ("Tree", place + 5)
    assert context[result["start"] : result["end"]] == "Tree"
    assert result["no_answer_score"] <= result["threshold"]
    nothing, again = predictor([("what", "cat dog Tree, red"), ["who", context]])
    assert nothing["answer"] == "" and nothing["no_answer_score"] > nothing["threshold"]
    assert nothing["answers"][0]["text"] and again["start"] == result["start"]
    with pytest.raises(UserError, match=r"is not \(question, context\), two str"):
        predictor(["who"])


def test_evaluation_searches_as_the_model_was_trained_to(finished, tmp_path):
    """The task's file leaves the stride at the usual; a key that is given goes first."""
    trained = task_config({"name": "a", "kind": "qa", "doc_stride": 8, "beam_size": 5}, "")
    usual = task_config({"name": "a", "kind": "qa", "beam_size": 7}, "")
    searching = usual.searching_like(trained, {"beam_size"})
    assert (searching.doc_stride, searching.beam_size) == (8, 7)
    # Also a key that is given as it usually is.
    searching = usual.searching_like(trained, {"beam_size", "doc_stride"})
    assert (searching.doc_stride, searching.beam_size) == (128, 7)


@pytest.mark.parametrize("head, threshold", [("joint", -2.75), ("start_end", 0.0)])
def test_the_threshold_that_no_dev_set_decided(tmp_path, head, threshold):
    save_tiny_task(tmp_path, "qa2", head)
    assert json.loads((tmp_path / "task.json").read_text())["threshold"] is None
    assert load_finetuned(str(tmp_path)).task.threshold == threshold
    save_tiny_task(tmp_path / "all", "qa")
    assert load_finetuned(str(tmp_path / "all")).task.threshold is None


def test_a_model_without_a_classifier_cannot_tell_that_there_is_no_answer(finished, capsys):
    task = finished / "run/model/task.json"
    before = task.read_text()
    task.write_text(before.replace('"version_2": true', '"version_2": false'))
    code = run(finished, "--mode=evaluate")
    task.write_text(before)
    assert code == 2 and "cannot tell which have none" in capsys.readouterr().err
    assert run(finished, "--mode=evaluate", "--override=version_2=false") == 2
    assert "(version_2: true), and tells which; leave version_2 out" in capsys.readouterr().err


def test_other_kinds_have_no_stride():
    with pytest.raises(UserError, match="doc_stride: a key of qa; leave it out"):
        load_task_config("cola", {"doc_stride": 3})
    with pytest.raises(UserError, match="beam_size=0"):
        task_config({"name": "a", "kind": "qa", "beam_size": 0}, "x")


def test_a_misspelt_key_of_the_task(finished, capsys):
    assert run(finished, "--override=doc_strid=3") == 2
    assert "did you mean 'doc_stride'?" in capsys.readouterr().err


def test_an_unknown_head(tmp_path, finished, capsys):
    assert run(finished, "--override=head=dense") == 2
    assert "a qa task has joint or start_end" in capsys.readouterr().err
