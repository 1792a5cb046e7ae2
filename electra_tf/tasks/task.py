"""What every kind of task does, and its examples."""

import abc
from typing import Any, NamedTuple

from electra_tf.characters import is_text
from electra_tf.errors import UserError
from electra_tf.tasks import reading


class Example(NamedTuple):
    """One row of a task's data.

    Attributes:
      place: "file:line", for messages.
      id: str, of its column, or its number in the file.
      inputs: tuple of one or two str; of tagging, list of words; of question answering
        `(question, context)`, of multiple choice `(text, choices)`.
      label: str, float, tuple of str, list of tags or `questions.Answers`, as the kind has it; None
        where it is unknown.
    """

    place: str
    id: str
    inputs: Any
    label: Any


class Task(abc.ABC):
    """One kind of task: from the rows of its files to a network's features, and back to predictions.

    Attributes:
      config: `tasks.config.TaskConfig`.
      labels: list of str by the network's outputs; None for a kind without.
      label_range: lowest and highest number of regression, else None.
      threshold: score above which a question has no answer; None where that is not yet known.
    """

    #: What chooses the best checkpoint if `config.metric` does not say.
    default_metric: str
    #: Subclass of `modeling.electra.ElectraModel`.
    network_class: type
    #: Whether the network has outputs for each token, not for a text.
    has_outputs_for_tokens = False
    #: Whether the means of several networks' outputs are outputs, too.
    averages_outputs = True
    #: Whether a set's examples are told apart by their `id`.
    has_unique_ids = False

    def __init__(self, config, labels=None, label_range=None, threshold=None):
        self.config, self.labels, self.label_range = config, labels, label_range
        self.threshold = threshold

    @property
    def metric(self):
        """Name of the metric that chooses the best checkpoint."""
        return self.config.metric or self.default_metric

    @classmethod
    @abc.abstractmethod
    def from_training_examples(cls, config, examples):
        """Makes the task; what the YAML file does not say, the training examples do."""

    @classmethod
    @abc.abstractmethod
    def read_file(cls, config, path, split, bad_rows):
        """Reads `Example`s of a file; `split` is "train", "dev" or "test"."""

    def problem_of(self, example):
        """What is wrong with an example: str, or None."""
        return None if example.label is None else self.problem_of_label(example)

    @abc.abstractmethod
    def problem_of_label(self, example):
        """What is wrong with the label of an example that has one: str, or None."""

    @abc.abstractmethod
    def features(self, examples, tokenizer, max_seq_length):
        """`Features` of examples. Where labels are known `rows` or `tokens` has `label`."""

    #: Outputs of the network: `num_labels` of `network_class`; None where that has no such option.
    num_outputs = None

    @property
    def network_options(self):
        """Those of `network_class` that do not show in its tensors: a dict."""
        return {}

    def create_network(self, encoder_config, **options):
        """A network for this task with random weights; `options` are of `network_class`."""
        return self.network_class(encoder_config, num_labels=self.num_outputs, **options)

    @abc.abstractmethod
    def losses(self, logits, batch):
        """The losses of a batch, float32: [B], or [B, T] for labels of tokens.

        Args:
          logits: what the network gives by this name.
          batch: dict of tensors [B, ...].
        """

    def weights(self, batch):
        """The weights of `losses`, of the same shape; 0 for a row or token that does not count."""
        return batch["weight"]

    @abc.abstractmethod
    def outputs(self, logits):
        """What is predicted by, of a network's logits: probabilities or numbers."""

    @abc.abstractmethod
    def predictions(self, outputs, examples, features):
        """Turns outputs into predictions.

        Args:
          outputs: list of arrays by the rows of `features`, without padding.
          examples: list of `Example`.
          features: their `Features`.

        Returns:
          list of dicts as JSON has them, one an example, in order; `prediction` is the label, number,
          list of labels or of tags.
        """

    @abc.abstractmethod
    def metrics(self, predictions, examples):
        """Dict of floats by name, of what `predictions` returned."""

    def fitted(self, metrics):
        """The task with what the dev set's metrics decide, for the model folder."""
        return self

    def with_threshold(self, network):
        """The task with the usual threshold of a network's head, where no dev set has decided one."""
        return self

    @property
    def options(self):
        """Keys of the task's own that decide a run, with their values: a dict."""
        names = ("metric", "both_orders", "scheme")
        values = {name: getattr(self.config, name) for name in names}
        label_range = self.label_range and list(self.label_range)
        return {**values, "labels": self.labels, "label_range": label_range}

    def files(self, predictions, examples):
        """More files of predictions: dict from a name's end to what the JSON file holds."""
        return {}

    def confusion_pairs(self, predictions, examples):
        """`(predicted, true)`, lists of single labels to compare one by one; None without such."""
        return None

    def training_examples(self, examples):
        """The examples to train on: with `both_orders` pairs also the other way round (SEMANTICS 20)."""
        if not self.config.both_orders:
            return examples
        return examples + [e._replace(inputs=e.inputs[::-1]) for e in examples]

    def submission(self, predictions, examples):
        """Text of a file for GLUE's leaderboard: a line of index and prediction an example."""
        lines = [f"{e.id}\t{self.submitted(p)}" for e, p in zip(examples, predictions)]
        return "\n".join(["index\tprediction", *lines]) + "\n"

    def submitted(self, prediction):
        """A prediction as the leaderboard wants it."""
        return prediction["prediction"]

    def is_stuck(self, predictions, examples):
        """Whether all examples, which are not alike, got the same prediction."""
        return len({str(p["prediction"]) for p in predictions}) == 1


def read_split(task_class, config, data_dir, split, bad_rows):
    """Reads the examples of `train`, `dev` or `test`.

    Args:
      task_class: subclass of `Task`.
      config: `TaskConfig`.
      data_dir: folder that file names are relative to.
      split: "train", "dev" or "test".
      bad_rows: `reading.BadRows`.

    Returns:
      dict from name of the set (one: "") to list of `Example`; empty where no such file is there.

    Raises:
      UserError: files cannot be used, or rows that are not to be left out.
    """
    sets = {}
    for name, pattern in config.files(split).items():
        paths = reading.find_files(data_dir, pattern)
        if paths:
            sets[name] = read_set(task_class, config, paths, split, bad_rows)
    return sets


def read_set(task_class, config, paths, split, bad_rows):
    """Reads the examples of one set, a list; arguments as of `read_split`, `paths` its files.

    Raises:
      UserError: a file cannot be used, or a row that is not to be left out; or there is none.
    """
    found = [
        example for path in paths for example in task_class.read_file(config, path, split, bad_rows)
    ]
    usable = _usable(found, split != "test", task_class.has_unique_ids, bad_rows)
    if not usable:
        raise UserError(f"{paths[0]}: no usable row in it")
    return usable


def _usable(examples, needs_labels, has_unique_ids, bad_rows):
    """The examples that are text, and labelled and told apart where they must be."""
    usable, ids = [], set()
    for example in examples:
        problem = None
        if not is_text(example[1:]):
            problem = "half of a surrogate pair, which is no character"
        elif needs_labels and example.label is None:
            problem = "no label"
        elif has_unique_ids and example.id in ids:
            problem = f"the identifier {example.id!r}, which an earlier one has, too"
        if problem:
            bad_rows.add(UserError(f"{example.place}: {problem}"))
        else:
            usable.append(example)
            ids.add(example.id)
    return usable


def read_texts(config, path, split, bad_rows, label_of):
    """Reads the examples of a table with one or two texts.

    Args:
      config, path, split, bad_rows: as in `Task.read_file`.
      label_of: function of a cell that gives the label; raises ValueError, whose text says why not.
    """
    columns = config.columns_of(split)
    rows = reading.read_rows(
        path,
        reading.file_format(path, config.format),
        list(columns.values()),
        bad_rows,
        quotes=config.quotes,
        optional=[columns["label"]] if split == "test" and "label" in columns else (),
    )
    # An empty cell of a test set is a label that is not told; or none of several, where others are.
    is_told = config.multi_label and any(cells.get(columns.get("label")) for _, cells in rows)
    examples = []
    for number, (place, cells) in enumerate(rows):
        values = {name: cells[column] for name, column in columns.items()}
        label, texts = values.get("label"), [values["text"]]
        if "text_pair" in values:
            texts.append(values["text_pair"])
        try:
            for name, text in zip(config.texts, texts):
                if not isinstance(text, str):
                    raise ValueError(f"{columns[name]!r} is {text!r:.60}, not a string")
            is_open = label is None or split == "test" and label == "" and not is_told
            label = None if is_open else label_of(label)
        except ValueError as error:
            bad_rows.add(UserError(f"{place}: {error}"))
            continue
        examples.append(Example(place, str(values.get("id", number)), tuple(texts), label))
    return examples


def keep_good(task, examples, bad_rows):
    """The examples that the task can use, with labels that it knows."""
    kept = []
    for example in examples:
        problem = task.problem_of(example)
        if problem:
            bad_rows.add(UserError(f"{example.place}: {problem}"))
        else:
            kept.append(example)
    return kept
