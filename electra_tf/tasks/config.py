"""A task as its YAML file describes it."""

import dataclasses
import math
import os
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len

from electra_tf.configs import PositiveInt, read_yaml, validate
from electra_tf.errors import UserError

_BUILTIN = os.path.join(os.path.dirname(__file__), "builtin")

# Names by which the built-in tasks go, too.
_ALIASES = {
    "sst-2": "sst2",
    "sts-b": "stsb",
    "conll2000": "chunk",
    "chunking": "chunk",
    "mnli-m": "mnli",
    # What the original calls them.
    "squadv1": "squad1",
    "squad": "squad2",
}

Format = Literal["tsv", "csv", "jsonl", "conll", "tfrecord", "squad", "mrqa", "race"]
Files = str | Annotated[dict[str, str], Len(min_length=1)] | None

_COLUMNS = {
    "classification": ({"text", "label"}, {"text_pair", "id"}),
    "regression": ({"text", "label"}, {"text_pair", "id"}),
    "tagging": ({"token", "tag"}, set()),
    "qa": (set(), set()),
    "multiple_choice": ({"text", "choices", "label"}, {"text_pair", "id"}),
}

_FORMATS = {
    "classification": ("tsv", "csv", "jsonl", "tfrecord"),
    "regression": ("tsv", "csv", "jsonl", "tfrecord"),
    "tagging": ("conll", "tsv", "csv", "jsonl", "tfrecord"),
    "qa": ("squad", "mrqa"),
    "multiple_choice": ("tsv", "csv", "jsonl", "race"),
}

# Keys by which answers are searched for.
QA_KEYS = (
    "version_2",
    "max_query_length",
    "doc_stride",
    "max_answer_length",
    "n_best_size",
    "beam_size",
    "answerable_weight",
)

# Keys that not every kind of task has, and the kinds that have them.
_KINDS_OF_KEYS = {
    "multi_label": ("classification",),
    "labels": ("classification", "tagging", "multiple_choice"),
    "label_range": ("regression",),
    "scheme": ("tagging",),
    **{key: ("qa",) for key in QA_KEYS},
}


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Where a task's examples are, what they consist of, and what counts.

    docs/finetuning.md explains the keys, `tasks/builtin/` has examples.

    Attributes:
      name: for messages and `task.json`.
      kind: what is predicted.
      columns: which column holds `text`, `text_pair`, `label`, `id`, or `token` and `tag`: by its
        name in the first line, or by its number (from 0) where there is no such line. In JSONL by
        its key, in tf.Examples by the feature's name. `choices` is a list of columns, or a key of
        JSONL that holds a list. Question answering and RACE's files have none.
      train, dev, test: file or glob below the data folder, with or without `.gz`; `dev` and `test`
        may be several, by name.
      format: of the files; None for what their names end in (tagging: `conll`; question answering:
        `squad` for .json and `mrqa` for .jsonl).
      quotes: whether a TSV's cells may be quoted, as a CSV's are.
      test_columns: instead of `columns` for `test`.
      labels: all there are, in the order of the network's outputs; None for those in `train`.
      multi_label: whether an example has any number of labels; separated by `label_separator`.
      label_range: of regression, lowest and highest; None for those in `train`.
      both_orders: train on each pair of texts twice, in both orders.
      scheme: how tags say where a phrase begins; None for tags of single words.
      metric: what chooses the best checkpoint; None for the kind's usual one.
      defaults: of keys of `configs.FinetuningConfig`.
      submission: file of test predictions, in the format of the GLUE leaderboard, by name of the
        test set (or one for a single one).
      version_2: of question answering, whether questions may have no answer.
      max_query_length: most pieces of a question.
      doc_stride: pieces from the beginning of a window of a context to that of the next.
      max_answer_length: most pieces of an answer.
      n_best_size: answers that are kept.
      beam_size: of the head `joint`, starts that are tried, and ends for each.
      answerable_weight: of its loss for whether there is an answer.
    """

    name: str
    kind: Literal["classification", "regression", "tagging", "qa", "multiple_choice"]
    columns: dict[str, int | str | list[int | str]] = dataclasses.field(default_factory=dict)
    train: str | None = None
    dev: Files = None
    test: Files = None
    format: Format | None = None
    quotes: bool = False
    test_columns: dict[str, int | str | list[int | str]] | None = None
    labels: Annotated[list[str], Len(min_length=2)] | None = None
    multi_label: bool = False
    label_separator: Annotated[str, Len(min_length=1)] = ","
    label_range: tuple[float, float] | None = None
    both_orders: bool = False
    scheme: Literal["IOB1", "IOB2", "BIOES"] | None = None
    metric: str | None = None
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    submission: Files = None
    version_2: bool = False
    max_query_length: PositiveInt = 64
    doc_stride: PositiveInt = 128
    max_answer_length: PositiveInt = 30
    n_best_size: PositiveInt = 20
    beam_size: PositiveInt = 20
    answerable_weight: Annotated[float, Ge(0)] = 0.5

    def __post_init__(self):
        if self.format not in (None, *_FORMATS[self.kind]):
            raise UserError(
                f"format={self.format}: a {self.kind} task has {', '.join(_FORMATS[self.kind])}"
            )
        defaults = _defaults()
        for key, kinds in _KINDS_OF_KEYS.items():
            if self.kind not in kinds and getattr(self, key) != defaults[key]:
                raise UserError(f"{key}: a key of {', '.join(kinds)}; leave it out")
        if "/" in self.name:
            raise UserError(f"name={self.name}: files are called by it; leave out the '/'")
        if self.labels and len(set(self.labels)) < len(self.labels):
            raise UserError(f"labels: a label twice among {', '.join(self.labels)}")
        if not self.multi_label and self.label_separator != defaults["label_separator"]:
            raise UserError("label_separator: of several labels, with multi_label: true")
        self._check_columns()
        are_pairs = self.kind in ("classification", "regression") and "text_pair" in self.columns
        if self.both_orders and not are_pairs:
            raise UserError(
                "both_orders: for tasks of pairs, with the column text_pair; leave it out"
            )
        metrics = self.metric_names
        if self.metric is not None and self.metric not in metrics:
            raise UserError(f"metric={self.metric}: choose one of {', '.join(metrics)}")
        if self.label_range and self.label_range[0] >= self.label_range[1]:
            raise UserError("label_range: the first number is to be the lower one")
        names = set(self.test) if isinstance(self.test, dict) else None
        if self.submission and (
            names != (set(self.submission) if isinstance(self.submission, dict) else None)
        ):
            raise UserError(
                "submission: give a file for each set of 'test', by the same names"
                if names
                else "submission: 'test' is one set; give the name of one file"
            )

    def _check_columns(self):
        needed, possible = (set(), set()) if self.format == "race" else _COLUMNS[self.kind]
        for key, columns in (("columns", self.columns), ("test_columns", self.test_columns)):
            if columns is None:
                continue
            # A test set may have no labels.
            missing = needed - set(columns)
            missing = sorted(missing if key == "columns" else missing - {"label", "tag"})
            unknown = sorted(set(columns) - needed - possible)
            if missing or unknown:
                raise UserError(
                    f"{key}: a {self.kind} task has the columns "
                    f"{', '.join(sorted(needed))} and may have {', '.join(sorted(possible))}"
                    + (f"; missing: {', '.join(missing)}" if missing else "")
                    + (f"; unknown: {', '.join(unknown)}" if unknown else "")
                )
            several = {name: column for name, column in columns.items() if isinstance(column, list)}
            if set(several) - {"choices"}:
                raise UserError(f"{key}: only 'choices' may be several columns")
            if any(len(column) < 2 for column in several.values()):
                raise UserError(f"{key}: 'choices' must be two or more columns, or a key of a list")
            flat = [c for v in columns.values() for c in (v if isinstance(v, list) else [v])]
            if any(isinstance(column, int) and column < 0 for column in flat):
                raise UserError(f"{key}: columns are counted from 0; there are none below")
            if len({type(column) for column in flat}) > 1:
                raise UserError(f"{key}: give names or numbers, not both")
            if self.format == "tfrecord" and not all(isinstance(column, str) for column in flat):
                raise UserError(f"{key}: features of tf.Examples have names, not numbers")

    @property
    def metric_names(self):
        """The metrics of this task (`tasks.metrics`)."""
        if self.kind == "regression":
            return ("pearson", "spearman", "mse")
        if self.kind == "qa":
            return ("f1", "exact_match")
        if self.kind == "tagging":
            return ("accuracy", "f1", "precision", "recall") if self.scheme else ("accuracy",)
        metrics = ("accuracy", "f1", "macro_f1")
        if self.multi_label:
            return metrics
        may_have_two = self.labels is None or len(self.labels) == 2
        has_auc = self.kind == "classification" and may_have_two
        return (*metrics, "mcc", "auc") if has_auc else (*metrics, "mcc")

    @property
    def texts(self):
        """Which of `text` and `text_pair` an example has: a tuple."""
        return tuple(name for name in ("text", "text_pair") if name in self.columns)

    def searching_like(self, trained, given):
        """With the keys of the search for answers that `trained` has, but for those that are `given`."""
        if self.kind != "qa" or trained.kind != "qa":
            return self
        left = set(QA_KEYS) - set(given)
        return dataclasses.replace(self, **{key: getattr(trained, key) for key in left})

    def files(self, split):
        """The files of `train`, `dev` or `test`, by name (one file: "")."""
        value = getattr(self, split)
        return value if isinstance(value, dict) else {"": value} if value else {}

    def submission_of(self, name):
        """The leaderboard's file of a test set, or None."""
        value = self.submission
        return value.get(name) if isinstance(value, dict) else value

    def columns_of(self, split):
        """The columns of `train`, `dev` or `test`."""
        return self.test_columns if split == "test" and self.test_columns else self.columns


def _defaults():
    """The values of the keys of `TaskConfig` that a YAML file leaves out, a dict."""
    return {field.name: field.default for field in dataclasses.fields(TaskConfig)}


#: Keys of a task's YAML file.
TASK_KEYS = tuple(field.name for field in dataclasses.fields(TaskConfig))


def builtin_tasks():
    """Names of the built-in tasks."""
    return sorted(name.removesuffix(".yaml") for name in os.listdir(_BUILTIN))


def task_name(name):
    """What the built-in task is called that goes by a name in any case, such as SST-2, too."""
    return _ALIASES.get(name.lower(), name.lower())


def load_task_config(name_or_file, overrides=None):
    """Reads a task's YAML file, or a built-in one by its name in any case.

    ```python
    task = load_task_config("CoLA")
    ```

    Args:
      name_or_file: name, or path that ends in .yaml or .yml.
      overrides: dict of keys and values that go before the file's.

    Raises:
      UserError: no such task or file, an unknown or missing key, a value that does not fit.
    """
    return task_config({**read_task_file(name_or_file), **(overrides or {})}, name_or_file)


def read_task_file(name_or_file):
    """The keys of a task's YAML file and their values, a dict; argument and errors as of `load_task_config`."""
    if name_or_file.endswith((".yaml", ".yml")):
        path = name_or_file
    else:
        name = task_name(name_or_file)
        if name not in builtin_tasks():
            raise UserError(
                f"--task={name_or_file}: no such task; choose one of {', '.join(builtin_tasks())}, "
                "or give a file that ends in .yaml"
            )
        path = os.path.join(_BUILTIN, f"{name}.yaml")
    # A label such as no or 01 is what is written.
    return read_yaml(path, "--task", as_written=("labels",))


def task_config(values, where):
    """Makes a `TaskConfig` of a dict.

    Raises:
      UserError: that begins with `where`.
    """
    values = dict(values)
    if isinstance(values.get("labels"), list):
        try:
            values["labels"] = [label_text(label) for label in values["labels"]]
        except ValueError as error:
            raise UserError(f"{where}: labels: {error}") from None
    return validate(TaskConfig, values, where)


def label_text(value):
    """A label as str: in YAML and JSON it may be a number or a truth value.

    Raises:
      ValueError: it is something else.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the label {value} is no number")
        return repr(value)
    if not isinstance(value, str):
        raise ValueError(f"the label {value!r:.60} is neither a text nor a number")
    return value
