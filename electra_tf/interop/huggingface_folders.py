"""Folders of transformers' models, to and from run folders.

Our own networks are kept in the same layout (`interop.huggingface`), so that no tensor changes. What is
converted is what stands around them: `config.yaml` of a pre-training run, `task.json` of a fine-tuned
model, the tokenizer's files.
"""

import re

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.characters import is_text
from electra_tf.errors import UserError
from electra_tf.interop import huggingface, runs
from electra_tf.interop.tensors import Row, allows
from electra_tf.modeling.electra import (
    Discriminator,
    Generator,
    MultipleChoiceClassifier,
    QuestionAnswerer,
    SequenceClassifier,
    TokenClassifier,
)
from electra_tf.tasks import kind_of
from electra_tf.tasks.config import label_text, load_task_config, task_config
from electra_tf.tasks.model_folder import (
    LABEL_RANGE,
    FinetunedModel,
    dropout_key,
    is_finetuned,
    load_finetuned,
    save_finetuned,
    save_network,
    task_names,
)
from electra_tf.tokenization import TOKENIZER_CONFIG_FILE, tokenizer_of

MODEL = "model"  # What a run folder calls a fine-tuned model.

# By the network's name in a run folder: its class, and what transformers calls it. `ElectraModel` has no
# head.
_PRETRAINED = {
    "discriminator": (Discriminator, ("ElectraForPreTraining", "ElectraModel")),
    "generator": (Generator, ("ElectraForMaskedLM",)),
}
# By what transformers calls it: a network's class, and its kind of task. Classification may turn out to be
# regression.
_FINETUNED = {
    "ElectraForSequenceClassification": (SequenceClassifier, "classification"),
    "ElectraForTokenClassification": (TokenClassifier, "tagging"),
    "ElectraForQuestionAnswering": (QuestionAnswerer, "qa"),
    "ElectraForMultipleChoice": (MultipleChoiceClassifier, "multiple_choice"),
}
# What no folder of transformers tells of a task: the columns of its data, and what it is to be.
_COLUMNS = {
    "classification": {"text": "text", "label": "label"},
    "regression": {"text": "text", "label": "label"},
    "tagging": {"token": 0, "tag": 1},
    "qa": {},
    "multiple_choice": {"text": "text", "choices": "choices", "label": "label"},
}
_ASSUMED = {
    "classification": "one text an example, no pair",
    "regression": "one text an example, no pair",
    "tagging": "tags of single words, no phrases",
    "qa": "every question has an answer",
    "multiple_choice": "choices that go on from one text",
}
_REGRESSION, _ONE_LABEL, _SEVERAL_LABELS = (
    "regression",
    "single_label_classification",
    "multi_label_classification",
)
# What transformers' `ElectraForMultipleChoice` may do otherwise.
_SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}


def to_run(folder, run, generator=None, task=None, tokenizer=None, allow_missing=None):
    """Makes a run folder of a folder of transformers.

    ```python
    to_run("electra-small-discriminator", "runs/small", generator="electra-small-generator")
    ```

    Args:
      folder: of a discriminator, of a generator or of a fine-tuned model, or one with `discriminator/`
        and `generator/` in it.
      run: folder that is yet to be made; it gets `discriminator/` and `generator/`, or `model/`.
      generator: folder of the generator, where `folder` is the discriminator's.
      task: of a fine-tuned model, name or YAML file of its task (`tasks.config.load_task_config`); None
        for one of which the kind and the labels alone are known.
      tokenizer: `Tokenizer`; None for the folder's own.
      allow_missing: regular expression of names of tensors; those that it matches may be missing on
        either side. Ours then keep what a new model begins with.

    Returns:
      `(rows, notes)`: list of `tensors.Row`; list of str, what was found and what is assumed.

    Raises:
      UserError: `run` is there, a file is missing or malformed, the folder is of another network, or
        its tensors and the network's do not match one to one.
    """
    files.refuse_present(run)
    architecture = None
    if tf.io.gfile.exists(_config_file(folder)):
        architecture = _architecture(folder)
    if architecture in _FINETUNED:
        if generator:
            raise UserError(
                f"--generator={generator}: {folder} is a fine-tuned model; leave it out"
            )
        return _finetuned_to_run(folder, architecture, run, task, tokenizer, allow_missing)
    if task:
        raise UserError(f"--task={task}: {folder} is no fine-tuned model; leave it out")
    sources = _pretrained_folders(folder, architecture, generator)
    networks = _load_pretrained(sources, allow_missing)
    configs = {source: network.config for source, network in zip(sources.values(), networks)}
    tokenizer = _choose_tokenizer(configs, tokenizer)
    with files.replacing(run) as temporary:
        runs.write(temporary, networks, tokenizer=tokenizer, init_from=folder)
        rows = []
        for name, source in sources.items():
            arrays = huggingface.read_tensors(tf.io.gfile.join(temporary, name))
            rows += _compare(huggingface.read_tensors(source), arrays, name)
    notes = runs.describe(networks)
    if tokenizer is None:
        notes.append("no vocabulary in it; --vocab_file puts one beside the networks")
    return rows, notes


def from_run(run, folder, allow_missing=None):
    """Makes a folder of a run, which transformers opens.

    ```python
    from_run("runs/small", "electra-small")
    ```

    Args:
      run: of pre-training; of fine-tuning, or its model.
      folder: that is yet to be made; it gets `discriminator/` and `generator/`, as far as the run has
        them. Of a fine-tuned model it is the model's, of several tasks it gets a folder for each.
      allow_missing: regular expression of names in the run's folders; tensors that it matches may be
        missing on either side. One that matches a head that transformers lacks gives the encoder alone.

    Returns:
      `(rows, notes)` as of `to_run`.

    Raises:
      UserError: `folder` is there, a file is missing or damaged, or transformers has no such head.
    """
    files.refuse_present(folder)
    for model in (tf.io.gfile.join(run, MODEL), run):
        if is_finetuned(model):
            return _finetuned_from_run(model, folder, allow_missing)
    sources = _networks_below(run)
    if not sources:
        raise UserError(
            f"{run}: no discriminator/, generator/ or {MODEL}/ in it; give the folder of a run"
        )
    generator = sources.get("generator")
    if generator and runs.is_causal(generator):
        if not allows(allow_missing, "generator/"):
            raise UserError(
                f"{generator}: a causal generator, which transformers opens as it is (GPT2LMHeadModel); "
                "--allow_missing='generator.*' converts the discriminator alone"
            )
        del sources["generator"]
    networks, rows = _load_pretrained(sources, allow_missing), []
    with files.replacing(folder) as temporary:
        for network, source in zip(networks, sources.values()):
            target = tf.io.gfile.join(temporary, network.name)
            network.save_pretrained(target)
            tokenizer = tokenizer_of(source)
            if tokenizer:
                tokenizer.save_pretrained(target, network.config.max_position_embeddings)
            arrays = huggingface.read_tensors(source)
            rows += _compare(huggingface.read_tensors(target), arrays, network.name)
    return rows, runs.describe(networks)


def _compare(theirs, ours, where, prefix=""):
    """Compares the tensors of two folders.

    Args:
      theirs, ours: dicts of arrays by name, transformers' and the run's.
      where: what the run calls its folder.
      prefix: of our names of the head's tensors, in a folder with the heads of several tasks.

    Returns:
      list of `Row`, of the tensors of both sides.
    """
    own = {
        name.removeprefix(prefix): (f"{where}/{name}", array)
        for name, array in ours.items()
        if name.startswith((prefix, "electra."))
    }
    rows = []
    for name in sorted({*own, *theirs}, key=_natural_order):
        full_name, array = own.get(huggingface.REPEATED.get(name, name), (None, None))
        difference = None
        if name in theirs and full_name:
            difference = float(np.max(np.abs(theirs[name] - array), initial=0.0))
        shape = theirs[name].shape if name in theirs else array.shape
        rows.append(
            Row(
                name if name in theirs else None,
                [full_name] if full_name else [],
                shape,
                difference=difference,
            )
        )
    return rows


def _natural_order(name):
    """Sorts numbers in names by their size."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# Folders of networks.


def _config_file(folder):
    return tf.io.gfile.join(folder, huggingface.CONFIG_FILE)


def _networks_below(folder):
    """The folders of pre-trained networks in a folder, by name."""
    paths = {name: tf.io.gfile.join(folder, name) for name in _PRETRAINED}
    return {name: path for name, path in paths.items() if tf.io.gfile.isdir(path)}


def _architecture(folder):
    """What transformers calls the network of a folder."""
    found = huggingface.architectures(folder)
    known = [name for _, names in _PRETRAINED.values() for name in names] + list(_FINETUNED)
    if len(found) != 1 or found[0] not in known:
        raise UserError(
            f"{_config_file(folder)}: architectures is {found}; one of {', '.join(known)} is converted"
        )
    return found[0]


def _pretrained_folders(folder, architecture, generator):
    """The folders of networks by name; `architecture`: of `folder` itself, None of one that has others."""
    if architecture is None:
        sources = _networks_below(folder)
        if not sources:
            raise UserError(
                f"{_config_file(folder)}: no such file, and neither discriminator/ nor generator/ "
                "beside it; is this a model's folder?"
            )
    else:
        is_generator = architecture in _PRETRAINED["generator"][1]
        sources = {"generator" if is_generator else "discriminator": folder}
    if generator:
        if "generator" in sources:
            raise UserError(f"--generator={generator}: {folder} has one already; leave it out")
        sources["generator"] = generator
    for name, source in sources.items():
        found, (_, names) = _architecture(source), _PRETRAINED[name]
        if found not in names:
            raise UserError(
                f"{_config_file(source)}: architectures is {[found]}; a {name} is of "
                f"{' or '.join(names)}"
            )
    return sources


def _load_pretrained(sources, allow_missing):
    """The networks of some folders, by name."""
    for source in sources.values():
        runs.check_transformer(huggingface.read_config(source), source)
    return [
        huggingface.load_model(_PRETRAINED[name][0], source, allow_missing=allow_missing)
        for name, source in sources.items()
    ]


# Tokenizers.


def _choose_tokenizer(configs, tokenizer):
    """The one of --vocab_file, else the one that all folders have, else None.

    Args:
      configs: dict of `EncoderConfig`s by folder.
      tokenizer: of --vocab_file, or None.
    """
    if tokenizer:
        for folder, config in configs.items():
            runs.check_vocabulary(tokenizer, config, folder)
        return tokenizer
    chosen, chosen_folder = None, None
    for folder, config in configs.items():
        own = tokenizer_of(folder)
        if own is None:
            continue
        own.check_fits(config.vocab_size, folder)
        if chosen and _identity(own) != _identity(chosen):
            raise UserError(
                f"{folder}: another vocabulary or casing than {chosen_folder}; give the one that both "
                "were trained with by --vocab_file"
            )
        chosen, chosen_folder = own, folder
    return chosen


def _identity(tokenizer):
    return tokenizer.vocab, tokenizer.lowercase, tokenizer.strip_accents


# Fine-tuned models.


def _finetuned_to_run(folder, architecture, run, task, tokenizer, allow_missing):
    """`to_run` of a fine-tuned model."""
    config = huggingface.read_config(folder)
    tokenizer = _choose_tokenizer({folder: config}, tokenizer)
    if tokenizer is None:
        raise UserError(f"{folder}: no vocabulary in it; give --vocab_file")
    values = files.read_json_object(_config_file(folder))
    network = _load_finetuned_network(folder, architecture, values, config, allow_missing)
    given = load_task_config(task) if task else None
    finetuned_task = _task_of(network, values, given, _config_file(folder))
    max_seq_length = _max_seq_length(folder, config)
    model = FinetunedModel(finetuned_task, network, tokenizer, max_seq_length)
    with files.replacing(run) as temporary:
        target = tf.io.gfile.join(temporary, MODEL)
        save_finetuned([model], target)
        rows = _compare(huggingface.read_tensors(folder), huggingface.read_tensors(target), MODEL)
    notes = _describe(model)
    if not given:
        notes.append(
            f"assumed: {_ASSUMED[finetuned_task.config.kind]}; --task=NAME or FILE.yaml says otherwise"
        )
    return rows, notes


def _load_finetuned_network(folder, architecture, values, config, allow_missing):
    """The network of a folder of transformers; `values`: of its `config.json`."""
    network_class, kind = _FINETUNED[architecture]
    if kind == "qa":  # No dropout in this head.
        return huggingface.load_model(network_class, folder, allow_missing=allow_missing)
    path, key = _config_file(folder), dropout_key(kind)
    if kind == "multiple_choice":
        for name, supported in _SUMMARY.items():
            if values.get(name, supported) != supported:
                raise UserError(
                    f"{path}: {name} is {values[name]!r}; only {supported!r} is supported"
                )
    dropout = values.get(key)
    if dropout is None:
        dropout = config.hidden_dropout_prob
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{path}: {key} is {dropout!r}, no number from 0 to below 1")
    return huggingface.load_model(
        network_class, folder, allow_missing=allow_missing, classifier_dropout=float(dropout)
    )


def _task_of(network, values, given, path):
    """The `Task` of a network.

    Args:
      network: of a fine-tuned model.
      values: dict, `config.json`.
      given: `TaskConfig` of --task, or None.
      path: of `config.json`, for errors.
    """
    kind = next(k for network_class, k in _FINETUNED.values() if network_class is type(network))
    problem = None
    if kind == "classification":
        problem = _problem_type(values, _num_outputs(network), given, path)
        kind = "regression" if problem == _REGRESSION else kind
    several_labels = problem == _SEVERAL_LABELS
    config = given or task_config(
        {
            "name": kind,
            "kind": kind,
            "columns": _COLUMNS[kind],
            "multi_label": several_labels,
        },
        path,
    )
    if (config.kind, config.multi_label) != (kind, several_labels):
        raise UserError(
            f"--task={config.name}: of {_kind_text(config.kind, config.multi_label)}; {path} is of "
            f"{_kind_text(kind, several_labels)}"
        )
    if kind == "regression":
        return kind_of(config)(config, label_range=_label_range(values, path))
    if kind == "qa":
        return kind_of(config)(config)
    return kind_of(config)(config, _labels(network, values, given, path))


def _kind_text(kind, several_labels):
    return f"{kind} (multi_label)" if several_labels else kind


def _problem_type(values, number, given, path):
    """Which problem transformers' classifier with `number` outputs was trained for, by its own rule."""
    problem = values.get("problem_type")
    if problem is None and number == 1:
        problem = _REGRESSION
    if problem is None:
        problem = _SEVERAL_LABELS if given and given.multi_label else _ONE_LABEL
    if problem not in (_REGRESSION, _ONE_LABEL, _SEVERAL_LABELS):
        raise UserError(f"{path}: problem_type is {problem!r}, which transformers does not have")
    if (problem == _REGRESSION and number > 1) or (problem == _ONE_LABEL and number == 1):
        raise UserError(f"{path}: problem_type is {problem}, but the head has {number} output(s)")
    return problem


def _label_range(values, path):
    """What outputs of 0 and 1 stand for: themselves, if the folder does not come from here."""
    found = values.get(LABEL_RANGE, [0.0, 1.0])
    are_numbers = isinstance(found, list) and all(isinstance(v, int | float) for v in found)
    if not are_numbers or len(found) != 2 or not -np.inf < found[0] < found[1] < np.inf:
        raise UserError(f"{path}: {LABEL_RANGE} is {found!r}, no two numbers, the lower one first")
    return tuple(map(float, found))


def _labels(network, values, given, path):
    """The labels by the network's outputs, or of the choices; transformers' own names say nothing."""
    are_choices = isinstance(network, MultipleChoiceClassifier)
    labels, wanted = _id2label(values, path), given and given.labels
    number = None if are_choices else _num_outputs(network)
    if labels == _default_labels(len(labels)):
        labels = wanted or (_choices(given, path) if are_choices else _default_labels(number))
    if wanted and labels != wanted:
        raise UserError(
            f"--task={given.name}: its labels are {', '.join(wanted)}; {path} has {', '.join(labels)}"
        )
    if number not in (None, len(labels)):
        raise UserError(
            f"{path}: {len(labels)} label(s), {', '.join(labels)}, but the head has {number} output(s)"
        )
    return labels


def _id2label(values, path):
    """The labels of `id2label`, a list; empty where there is none."""
    by_id = values.get("id2label")
    if by_id is None:
        return []
    found = []
    if isinstance(by_id, dict):
        found = [by_id.get(str(number)) for number in range(len(by_id))]
    labels = [label_text(label) for label in found if isinstance(label, str | int | float)]
    if not labels or len(set(labels)) < len(by_id) or not is_text(labels):
        raise UserError(f"{path}: id2label is no object from '0', '1', ... to as many labels")
    return labels


def _default_labels(number):
    return [f"LABEL_{index}" for index in range(number)]


def _choices(given, path):
    """Labels for choices that have none: their numbers."""
    columns = given and given.columns.get("choices")
    if not isinstance(columns, list):
        raise UserError(
            f"{path}: id2label does not say how many choices there are; give --task=FILE.yaml with "
            "the key 'labels', one for each choice"
        )
    return [str(number) for number in range(len(columns))]


def _num_outputs(network):
    """Outputs of a classifier's last layer."""
    head = network.head
    return (head.out_proj if hasattr(head, "out_proj") else head.dense).units


def _max_seq_length(folder, config):
    """To how many tokens transformers cuts a text: the tokenizer's limit, at most all positions."""
    path = tf.io.gfile.join(folder, TOKENIZER_CONFIG_FILE)
    positions = config.max_position_embeddings
    limit = None
    if tf.io.gfile.exists(path):
        limit = files.read_json_object(path).get("model_max_length")
    is_limit = isinstance(limit, int | float) and 5 <= limit < positions
    return int(limit) if is_limit else positions


def _finetuned_from_run(model_folder, folder, allow_missing):
    """`from_run` of the folder of a fine-tuned model."""
    rows, notes = [], []
    runs.check_transformer(huggingface.read_config(model_folder), model_folder)
    ours = huggingface.read_tensors(model_folder)
    with files.replacing(folder) as temporary:
        for name in task_names(model_folder):
            model = load_finetuned(model_folder, name, allow_missing=allow_missing)
            target, prefix = temporary, ""
            if name is not None:
                if not re.fullmatch(r"[\w-][\w.-]*", name):
                    raise UserError(f"{model_folder}: the task {name!r} has no name of a folder")
                target, prefix = tf.io.gfile.join(temporary, name), f"{name}."
            _save(model, target, model_folder, allow_missing)
            rows += _compare(huggingface.read_tensors(target), ours, MODEL, prefix)
            notes += _describe(model)
    return rows, notes


def _save(model, folder, where, allow_missing):
    """Writes a `FinetunedModel` for transformers; `where` begins an error."""
    network, task = model.network, model.task
    is_labelled = isinstance(network, SequenceClassifier | TokenClassifier) and task.labels
    if is_labelled and len(task.labels) != _num_outputs(network):
        raise UserError(
            f"{where}: {len(task.labels)} labels in its task.json, but the head has "
            f"{_num_outputs(network)} output(s)"
        )
    if huggingface.architecture_of(network) != "ElectraModel":
        save_network(model, folder)
        return
    head = {
        name: huggingface.stored_shape(tensor)
        for name, tensor in huggingface.head_tensors(network).items()
    }
    refused = [f"{name} {shape}" for name, shape in head.items() if not allows(allow_missing, name)]
    if refused:
        scope = next(iter(head)).partition(".")[0]
        usable = "start_end" if isinstance(network, QuestionAnswerer) else "two_layers"
        raise UserError(
            f"{where}: transformers has no such head ({', '.join(refused)}); fine-tune with "
            f"--override=head={usable}, or convert the encoder alone by --allow_missing='{scope}.*'"
        )
    encoder = huggingface.encoder_tensors(network)
    huggingface.save_tensors(encoder, network.config, "ElectraModel", folder)
    model.tokenizer.save_pretrained(folder, model.max_seq_length)


def _describe(model):
    """Lines that say what a fine-tuned model is for."""
    task = model.task
    what = _kind_text(task.config.kind, task.config.multi_label)
    if task.labels:
        what += f", labels {', '.join(task.labels)}"
    if task.label_range:
        low, high = task.label_range
        what += f", where outputs of 0 and 1 stand for {low:g} and {high:g} ({LABEL_RANGE})"
    return [f"task: {what}", f"sequences: up to {model.max_seq_length} tokens"]
