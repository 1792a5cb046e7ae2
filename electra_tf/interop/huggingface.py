"""Model folders in Hugging Face's ELECTRA layout: `config.json` and `model.safetensors`.

`transformers` opens what is written here, and what it wrote is read here. A dense kernel is
[inputs, outputs] in Keras and [outputs, inputs] there.
"""

import dataclasses
import json
import re

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.configs import EncoderConfig, validate
from electra_tf.errors import UserError
from electra_tf.interop.tensors import check_finite, match
from electra_tf.modeling.electra import (
    Discriminator,
    Generator,
    MultipleChoiceClassifier,
    QuestionAnswerer,
    SequenceClassifier,
    TokenClassifier,
)
from electra_tf.modeling.heads import (
    ClassificationHead,
    DiscriminatorHead,
    MultipleChoiceHead,
    TwoLayerClassificationHead,
)
from electra_tf.modeling.spans import JointHead, StartEndHead

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# Tensors of older folders that repeat others or hold no parameter.
REDUNDANT = frozenset({"electra.embeddings.position_ids", "generator_lm_head.weight"})

# What stands on top of an encoder, in folders of ELECTRA and of BERT.
_HEADS = (
    "discriminator_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
    "classifier.",
    "qa_outputs.",
    "joint_qa.",
    "sequence_summary.",
    "electra.pooler.",
    "cls.",
)

# The names of heads' dense layers, and which of the head's attributes they are.
_HEAD_LAYERS = {
    DiscriminatorHead: {
        "discriminator_predictions.dense": "dense",
        "discriminator_predictions.dense_prediction": "dense_prediction",
    },
    ClassificationHead: {"classifier": "dense"},
    TwoLayerClassificationHead: {"classifier.dense": "dense", "classifier.out_proj": "out_proj"},
    MultipleChoiceHead: {"sequence_summary.summary": "summary", "classifier": "classifier"},
    StartEndHead: {"qa_outputs": "qa_outputs"},
    # transformers has no such head.
    JointHead: {
        f"joint_qa.{name}": name
        for name in ("start", "end_hidden", "end", "answerable_hidden", "answerable_logit")
    },
}


def model_tensors(model):
    """The tensors of a network by their names in `model.safetensors`.

    Returns:
      dict from name to `(keras.Variable, transposed)`.
    """
    return encoder_tensors(model) | head_tensors(model)


def head_tensors(model):
    """The tensors of a model's head, as `model_tensors` gives them."""
    head, tensors = model.head, {}
    if isinstance(model, Generator):
        tensors |= _layer_norm("generator_predictions.LayerNorm", head.LayerNorm)
        tensors |= _dense("generator_predictions.dense", head.dense)
        tensors["generator_lm_head.bias"] = (head.bias, False)
        return tensors
    for name, attribute in _HEAD_LAYERS[type(head)].items():
        if hasattr(head, attribute):
            tensors |= _dense(name, getattr(head, attribute))
    return tensors


def encoder_tensors(model):
    """The tensors of a model's embeddings and encoder, as `model_tensors` gives them."""
    embeddings, encoder = model.embeddings, model.encoder
    tensors = {
        f"electra.embeddings.{name}.weight": (getattr(embeddings, name), False)
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
    }
    tensors |= _layer_norm("electra.embeddings.LayerNorm", embeddings.LayerNorm)
    if encoder.embeddings_project is not None:
        tensors |= _dense("electra.embeddings_project", encoder.embeddings_project)
    for i, (attention, feed_forward) in enumerate(zip(encoder.attention, encoder.feed_forward)):
        layer = f"electra.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            tensors |= _dense(f"{layer}.attention.self.{name}", getattr(attention, name))
        tensors |= _dense(f"{layer}.attention.output.dense", attention.dense)
        tensors |= _layer_norm(f"{layer}.attention.output.LayerNorm", attention.LayerNorm)
        tensors |= _dense(f"{layer}.intermediate.dense", feed_forward.intermediate)
        tensors |= _dense(f"{layer}.output.dense", feed_forward.output_dense)
        tensors |= _layer_norm(f"{layer}.output.LayerNorm", feed_forward.LayerNorm)
    return tensors


def _dense(name, layer):
    return {f"{name}.weight": (layer.kernel, True), f"{name}.bias": (layer.bias, False)}


def _layer_norm(name, layer):
    return {f"{name}.weight": (layer.gamma, False), f"{name}.bias": (layer.beta, False)}


def _architecture(model):
    """The class of transformers that opens a network's folder; of one that it lacks, the encoder's."""
    if isinstance(model.head, JointHead) or (
        isinstance(model, SequenceClassifier) and isinstance(model.head, ClassificationHead)
    ):
        return "ElectraModel"
    return {
        Discriminator: "ElectraForPreTraining",
        Generator: "ElectraForMaskedLM",
        SequenceClassifier: "ElectraForSequenceClassification",
        TokenClassifier: "ElectraForTokenClassification",
        QuestionAnswerer: "ElectraForQuestionAnswering",
        MultipleChoiceClassifier: "ElectraForMultipleChoice",
    }[type(model)]


def save_model(model, folder, more_config=None):
    """Writes a network in float32, each file at once.

    Args:
      model: `ElectraModel`.
      folder: where to.
      more_config: dict of more keys for `config.json`, such as `id2label`.
    """
    architecture = _architecture(model)
    save_tensors(model_tensors(model), model.config, architecture, folder, more_config)


def save_tensors(tensors, config, architecture, folder, more_config=None):
    """Writes tensors in float32, each file at once.

    Args:
      tensors: as `model_tensors` gives them.
      config: `EncoderConfig`.
      architecture: the class of transformers that opens the folder.
      folder, more_config: as of `save_model`.
    """
    import safetensors.numpy

    arrays = {}
    for name, (variable, transposed) in tensors.items():
        array = np.asarray(variable.numpy(), np.float32)
        arrays[name] = np.ascontiguousarray(array.T if transposed else array)
    values = {
        "architectures": [architecture],
        "model_type": "electra",
        **dataclasses.asdict(config),
        # What transformers' classes assume and our networks do.
        "position_embedding_type": "absolute",
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        **(more_config or {}),
    }
    # transformers asks for the metadata "format".
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    files.write(tf.io.gfile.join(folder, WEIGHTS_FILE), content)
    files.write_json(tf.io.gfile.join(folder, CONFIG_FILE), values)


def load_model(model_class, folder, prefix="", allow_missing=None, **options):
    """Reads a network.

    Args:
      model_class: `ElectraModel`.
      folder: where it is.
      prefix: of the names of the head's tensors, in a folder with the heads of several tasks.
      allow_missing: as of `tensors.match`.
      options: of `model_class`, which its tensors do not tell.

    Raises:
      UserError: a file is missing or malformed, or a tensor of the folder or of the model has no
        counterpart of its shape; every such tensor is named.
    """
    config = read_config(folder)
    arrays = read_tensors(folder)
    if prefix:
        arrays = {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith((prefix, "electra."))
        }
    model = model_class(config, **_head_options(model_class, arrays), **options)
    assign_tensors(model_tensors(model), arrays, folder, allow_missing)
    return model


def _head_options(model_class, arrays):
    """What a network's tensors say about its head."""
    if model_class is QuestionAnswerer:
        return {
            "head": "start_end" if "qa_outputs.bias" in arrays else "joint",
            "answerable": "joint_qa.answerable_logit.bias" in arrays,
        }
    if model_class not in (SequenceClassifier, TokenClassifier):
        return {}
    two_layers = "classifier.out_proj.bias" in arrays
    bias = arrays.get("classifier.out_proj.bias" if two_layers else "classifier.bias")
    options = {} if bias is None else {"num_labels": len(bias)}
    if model_class is SequenceClassifier and two_layers:
        options["head"] = "two_layers"
    return options


def find_encoder(folder):
    """The folder of an encoder: `folder` itself, or the discriminator of a run or of an export in it."""
    below = tf.io.gfile.join(folder, "discriminator")
    has_config = tf.io.gfile.exists(tf.io.gfile.join(folder, CONFIG_FILE))
    return below if not has_config and tf.io.gfile.isdir(below) else folder


def read_encoder(folder):
    """Reads the encoder of a folder of ELECTRA or BERT, whatever head it has.

    Returns:
      `(config, arrays, heads)`: `EncoderConfig`; dict of arrays by our tensors' names
      (`encoder_tensors`); dict of the other ones, of heads and poolers.

    Raises:
      UserError: as `read_config` and `read_tensors`.
    """
    config, arrays, heads = read_config(folder), {}, {}
    for name, array in read_tensors(folder).items():
        short = name.removeprefix("electra.").removeprefix("bert.")
        is_encoder = short.startswith(("embeddings.", "embeddings_project.", "encoder."))
        if is_encoder or short.startswith("pooler."):
            name = f"electra.{short}"
        # In a folder with the heads of several tasks their names go before.
        is_head = name.startswith(_HEADS) or name.partition(".")[2].startswith(_HEADS)
        (heads if is_head else arrays)[name] = array
    return config, arrays, heads


def read_config(folder):
    """Reads `config.json` as an `EncoderConfig`; BERT's embeddings are as wide as its blocks.

    Raises:
      UserError: no such file, not JSON, neither ELECTRA nor BERT, or a key is missing or unsupported.
    """
    path = tf.io.gfile.join(folder, CONFIG_FILE)
    values = read_json(path)
    for key, supported in (
        ("model_type", ("electra", "bert")),
        ("hidden_act", ("gelu",)),
        ("position_embedding_type", ("absolute",)),
    ):
        if values.get(key, supported[0]) not in supported:
            expected = " and ".join(map(repr, supported))
            raise UserError(f"{path}: {key} is {values[key]!r}; only {expected} is supported")
    if values.get("model_type") == "bert":
        values["embedding_size"] = values.get("hidden_size")
    fields = dataclasses.fields(EncoderConfig)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise UserError(f"{path}: missing {', '.join(missing)}; is this an ELECTRA model's folder?")
    return validate(
        EncoderConfig, {f.name: values[f.name] for f in fields if f.name in values}, path
    )


def architectures(folder):
    """The classes of transformers that a folder's `config.json` names, a list of str."""
    return list(read_json(tf.io.gfile.join(folder, CONFIG_FILE)).get("architectures") or ())


def read_tensors(folder):
    """Reads `model.safetensors`, or the shards that an index lists in its place.

    Returns:
      dict from name to float32 array.

    Raises:
      UserError: no such file, a file is malformed, a tensor is of a type that NumPy lacks or not
        finite, or the index and the shards have different tensors.
    """
    path = tf.io.gfile.join(folder, WEIGHTS_FILE)
    if tf.io.gfile.exists(path):
        return _read_safetensors(path)
    index = tf.io.gfile.join(folder, INDEX_FILE)
    if tf.io.gfile.exists(index):
        return _read_shards(folder, index)
    for name in _PICKLED:
        pickled = tf.io.gfile.join(folder, name)
        if tf.io.gfile.exists(pickled):
            raise UserError(
                f"{pickled}: pickled weights, which can run any code when they are read; where you "
                "trust them, write the folder anew by transformers' save_pretrained, which makes "
                f"{WEIGHTS_FILE}"
            )
    raise UserError(f"{path}: no such file; is this a model's folder?")


def _read_safetensors(path):
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(read_bytes(path))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from None
    except KeyError as error:  # A type that NumPy does not have.
        raise UserError(f"{path}: a tensor is of type {error}; save it in float32") from None
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    for name, array in arrays.items():
        check_finite(array, name, path)
    return arrays


def _read_shards(folder, index):
    """Reads the shards of an index, none of which is outside of the folder."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(s, str) for s in shard_of.values()):
        raise UserError(f"{index}: no object 'weight_map' from a tensor's name to its file's")
    found = {}
    for shard in sorted(set(shard_of.values())):
        if not re.fullmatch(r"[\w-][\w.-]*", shard):
            raise UserError(f"{index}: {shard!r} is no name of a file in the same folder")
        arrays = _read_safetensors(tf.io.gfile.join(folder, shard))
        found |= {(name, shard): array for name, array in arrays.items()}
    listed = set(shard_of.items())
    if listed != set(found):
        name, shard = min(listed ^ set(found))
        has, lacks = (index, shard) if (name, shard) in listed else (shard, index)
        raise UserError(f"{index}: {has} has {name} of {shard}, {lacks} has it not")
    return {name: array for (name, _), array in found.items()}


def assign_tensors(tensors, arrays, where, allow_missing=None):
    """Assigns arrays to variables of the same names, one to one.

    Args:
      tensors: dict from name to `(variable, transposed)`.
      arrays: dict from name to array.
      where: named in the error.
      allow_missing: as of `tensors.match`.

    Raises:
      UserError: naming every tensor that is missing, left over or of another shape.
    """
    expected = {}
    for name, (variable, transposed) in tensors.items():
        shape = tuple(variable.shape)
        expected[name] = shape[::-1] if transposed else shape
    found = {name: array.shape for name, array in arrays.items() if name not in REDUNDANT}
    for name in match(expected, found, where, allow_missing):
        variable, transposed = tensors[name]
        variable.assign(arrays[name].T if transposed else arrays[name])


def read_json(path):
    """Reads a file that holds a JSON object, a dict.

    Raises:
      UserError: it cannot be read, or holds anything else.
    """
    content = read_bytes(path)
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (RecursionError, ValueError):
        raise UserError(f"{path}: nested too deeply, or with too long a number") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: no JSON object; is this a model's folder?")
    return values


def read_bytes(path):
    """Reads a file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            return f.read()
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot read it: {error.message}") from None
