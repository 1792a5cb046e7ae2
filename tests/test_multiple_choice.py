"""Multiple choice: SWAG's and RACE's files, groups of rows, and a model that learns to choose."""

import json

import numpy as np
import pytest
import safetensors.numpy
from tiny_models import VOCAB, WORDS, save_tiny_encoder, tiny_config

from electra_tf import Predictor, Tokenizer, UserError
from electra_tf.commands import finetune as command
from electra_tf.modeling.electra import MultipleChoiceClassifier
from electra_tf.tasks.config import load_task_config, task_config
from electra_tf.tasks.multiple_choice import MultipleChoice
from electra_tf.tasks.reading import BadRows
from electra_tf.tasks.task import read_split
from electra_tf.training.feature_batches import FeatureBatches

CONFIG = tiny_config(VOCAB)
SWAG = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    '0,v,1,s,"A cat, red.",He,gold,runs.,sits.,"goes, then.",is.,2\n'
    "1,v,1,s,A dog.,,gold,a,b,c,d,0\n"
)


def test_swag(tmp_path):
    (tmp_path / "train.csv").write_text(SWAG)
    config = load_task_config("SWAG")
    first, second = read_split(MultipleChoice, config, str(tmp_path), "train", BadRows(False))[""]
    assert first.inputs == ("A cat, red.", ("He runs.", "He sits.", "He goes, then.", "He is."))
    assert second.inputs == ("A dog.", ("a", "b", "c", "d")) and second.label == "0"
    task = MultipleChoice.from_training_examples(config, [first, second])
    assert task.labels == ["0", "1", "2", "3"] and task.problem_of(first) is None
    assert task.problem_of(first._replace(label="4")) == "unknown label '4'; known: 0, 1, 2, 3"
    fewer = first._replace(inputs=("a", ("b", "c")), label=None)
    assert task.problem_of(fewer) == "2 choices, where the task has 4"


def test_a_test_set_without_its_labels(tmp_path):
    (tmp_path / "test.csv").write_text(
        "sent1,sent2,ending0,ending1,ending2,ending3,label\na,b,c,d,e,f,\n"
    )
    config = load_task_config("swag")
    [example] = read_split(MultipleChoice, config, str(tmp_path), "test", BadRows(False))[""]
    assert example.label is None and example.inputs[1][0] == "b c"


def test_race(tmp_path):
    folder = tmp_path / "train" / "high"
    folder.mkdir(parents=True)
    passage = {
        "id": "high1.txt",
        "article": "A cat is red.",
        "questions": ["A cat is _ .", "What is red?"],
        "options": [["red", "blue"], ["a cat", "a dog"]],
        "answers": ["A", "B"],
    }
    (folder / "1.txt").write_text(json.dumps(passage))
    config = load_task_config("race")
    first, second = read_split(MultipleChoice, config, str(tmp_path), "train", BadRows(False))[""]
    assert first.inputs == ("A cat is red.", ("A cat is red .", "A cat is blue ."))
    assert second.inputs[1] == ("What is red? a cat", "What is red? a dog")
    assert [first.id, first.label, second.label] == ["high1.txt-1", "A", "B"]
    assert MultipleChoice.from_training_examples(config, [first, second]).labels == ["A", "B"]
    for change, message in (
        ({"answers": ["A"]}, "unlike numbers"),
        ({"options": [["red", 3], ["a", "b"]]}, "question 1: a question, an option or an answer"),
        ({"questions": None}, "no list 'questions'"),
        ({"answers": [["A"], "B"]}, "question 1: a question, an option or an answer"),
        ({"answers": [None, "B"]}, "question 1: no label"),
    ):
        (folder / "1.txt").write_text(json.dumps(passage | change))
        with pytest.raises(UserError, match=message):
            read_split(MultipleChoice, config, str(tmp_path), "train", BadRows(False))
    (folder / "2.txt").write_text('{"article": ')
    blanks = passage | {"questions": ["A cat ____ is _ .", "What?"]}
    (folder / "1.txt").write_text(json.dumps(blanks))
    bad_rows = BadRows(True)
    first, _ = read_split(MultipleChoice, config, str(tmp_path), "train", bad_rows)[""]
    assert first.inputs[1][0] == "A cat red is _ ." and "2.txt:1: not JSON" in str(bad_rows.first)
    (folder / "2.txt").unlink()
    (folder / "1.txt").write_text('{"article": "a"}')
    with pytest.raises(UserError, match=r"1\.txt: no list 'questions'; is this a file of RACE\?"):
        read_split(MultipleChoice, config, str(tmp_path), "train", BadRows(False))


def test_choices_may_be_a_list(tmp_path):
    values = {"name": "t", "kind": "multiple_choice", "train": "a.jsonl"}
    config = task_config(values | {"columns": {"text": "q", "choices": "c", "label": "l"}}, "")
    rows = [{"q": "a", "c": ["b", "c"], "l": 1}, {"q": "a", "c": "b", "l": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bad_rows = BadRows(True)
    [example] = read_split(MultipleChoice, config, str(tmp_path), "train", bad_rows)[""]
    assert example.inputs == ("a", ("b", "c")) and example.label == "1"
    assert "a.jsonl:2: a text or a choice that is not a string" in str(bad_rows.first)
    usual, odd = example, example._replace(inputs=("a", ("b",)))
    task = MultipleChoice.from_training_examples(config, [odd, usual, usual])
    assert task.labels == ["0", "1"]  # The first row does not decide.
    with pytest.raises(UserError, match=r"most examples have 1 choice\(s\)"):
        MultipleChoice.from_training_examples(config, [odd])
    with pytest.raises(UserError, match="only 'choices' may be several columns"):
        task_config(values | {"columns": {"text": ["q"], "choices": "c", "label": "l"}}, "")


def test_batches_keep_choices_together():
    task = MultipleChoice(
        task_config(
            {
                "name": "t",
                "kind": "multiple_choice",
                "columns": {"text": 0, "choices": [1, 2], "label": 3},
            },
            "",
        ),
        ["0", "1"],
    )
    tokenizer = Tokenizer(VOCAB)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(21)]
    from electra_tf.tasks.task import Example

    examples = [
        Example("", "", (a, (b, c)), str(i % 2))
        for i, (a, b, c) in enumerate(zip(*[iter(texts)] * 3))
    ]
    features = task.features(examples, tokenizer, 16)
    seen = {}
    for batch in FeatureBatches(features, 3, 16, [8]).evaluation():
        batch = {name: values.numpy() for name, values in batch.items()}
        assert (
            batch["input_ids"].shape
            == batch["input_mask"].shape
            == (3, 2, batch["input_ids"].shape[2])
        )
        for row, index in enumerate(batch["index"]):
            if index >= 0:
                seen[index] = batch["label"][row]
                for choice in range(2):
                    packed = tokenizer.pack(
                        [
                            tokenizer.tokenize([t])
                            for t in (examples[index].inputs[0], examples[index].inputs[1][choice])
                        ],
                        16,
                    )
                    length = int(packed["input_mask"].numpy().sum())
                    ids = batch["input_ids"][row, choice]
                    np.testing.assert_array_equal(ids[:length], packed["input_ids"][0, :length])
                    assert (
                        batch["input_mask"][row, choice].sum() == length and not ids[length:].any()
                    )
    assert seen == {i: i % 2 for i in range(7)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run: the right choice is the one with the word that the text has."""
    folder = tmp_path_factory.mktemp("choice")
    save_tiny_encoder(folder / "encoder", VOCAB)
    rng = np.random.default_rng(0)
    for split, number in (("train", 600), ("dev", 41)):
        rows = ["text\ta\tb\tc\tright"]
        for _ in range(number):
            choices = [" ".join(rng.choice(WORDS[2:], 3)) for _ in range(3)]
            right = rng.integers(3)
            choices[right] = f"good {choices[right]}"
            rows.append("\t".join(["cat house", *choices, str(right)]))
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "task.yaml").write_text(
        "name: mine\nkind: multiple_choice\ntrain: train.tsv\ndev: dev.tsv\nmetric: accuracy\n"
        "columns: {text: text, choices: [a, b, c], label: right}\n"
    )
    arguments = [
        f"--task={folder}/task.yaml",
        f"--data_dir={folder}",
        f"--init_from={folder}/encoder",
        f"--output_dir={folder}/run",
        "--override=learning_rate=5e-3",
        "--override=layerwise_lr_decay=1.0",
        "--override=num_train_epochs=4",
        "--override=max_seq_length=16",
        "--override=length_buckets=[]",
    ]
    assert command.main(["", *arguments]) == 0
    return folder


def test_a_model_learns_to_choose(finished):
    results = json.loads((finished / "run/results.json").read_text())
    assert results["metrics"]["accuracy"] > 0.9  # By chance 1 / 3.
    predictor = Predictor.from_pretrained(str(finished / "run/model"))
    result = predictor(("cat house", ["red tree dog", "blue dog tree", "good dog tree"]))
    assert (result["label"], result["choice"]) == ("2", "good dog tree")
    assert sum(result["scores"].values()) == pytest.approx(1)
    with pytest.raises(UserError, match=r"is not \(text, choices\), a str and 3 str"):
        predictor([("cat", ["dog", "red"])])


def test_folder_has_the_names_of_transformers(finished):
    config = json.loads((finished / "run/model/config.json").read_text())
    assert config["architectures"] == ["ElectraForMultipleChoice"]
    assert config["summary_type"] == "first" and config["summary_activation"] == "gelu"
    tensors = safetensors.numpy.load_file(finished / "run/model/model.safetensors")
    heads = {
        name: array.shape for name, array in tensors.items() if not name.startswith("electra.")
    }
    assert heads == {
        "sequence_summary.summary.weight": (16, 16),
        "sequence_summary.summary.bias": (16,),
        "classifier.weight": (1, 16),
        "classifier.bias": (1,),
    }
    network = MultipleChoiceClassifier.from_pretrained(str(finished / "run/model"))
    ids = np.random.default_rng(0).integers(5, len(VOCAB), [2, 3, 7])
    outputs = network({"input_ids": ids})
    hidden = outputs["sequence_output"].numpy()[:, 0]
    from scipy.special import erf

    summary = hidden @ tensors["sequence_summary.summary.weight"].T
    summary += tensors["sequence_summary.summary.bias"]
    summary = summary * 0.5 * (1 + erf(summary / 2**0.5))
    logits = summary @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(outputs["logits"], logits.reshape(2, 3), atol=1e-5)
