"""Model folders in Hugging Face's ELECTRA layout: `config.json` and `model.safetensors`.

`transformers` opens what is written here, and what it wrote is read here. A dense kernel is
[inputs, outputs] in Keras and [outputs, inputs] there. A network that transformers lacks is written in
the same two files, by Keras's names.
"""

import dataclasses
import math
import re

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.configs import ConvolutionalRecurrentConfig, EncoderConfig, validate
from electra_tf.errors import UserError
from electra_tf.interop.tensors import allows, check_finite, match
from electra_tf.modeling.electra import (
    Discriminator,
    Generator,
    MultipleChoiceClassifier,
    QuestionAnswerer,
    SequenceClassifier,
    SequenceDiscriminator,
    TokenClassifier,
)
from electra_tf.modeling.heads import (
    ClassificationHead,
    DiscriminatorHead,
    LogitHead,
    MultipleChoiceHead,
    TwoLayerClassificationHead,
)
from electra_tf.modeling.spans import JointHead, StartEndHead

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
# By `model_type` of `config.json`.
_CONFIG_CLASSES = {
    "electra": EncoderConfig,
    "bert": EncoderConfig,
    "electra_tf_convolutional_recurrent": ConvolutionalRecurrentConfig,
}
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# Tensors that some releases of transformers write: one repeats another, one holds no parameter.
REPEATED = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}
REDUNDANT = frozenset({"electra.embeddings.position_ids", *REPEATED})

# Which keys of `config.json` a tensor's first sizes are.
_SIZES = {
    "electra.embeddings.word_embeddings.weight": ("vocab_size", "embedding_size"),
    "electra.embeddings.position_embeddings.weight": ("max_position_embeddings", "embedding_size"),
    "electra.embeddings.token_type_embeddings.weight": ("type_vocab_size", "embedding_size"),
    "electra.encoder.layer.0.intermediate.dense.weight": ("intermediate_size", "hidden_size"),
    "electra.encoder.conv.kernel": ("kernel_size", "embedding_size", "filters"),
    "electra.encoder.forward_lstm.recurrent_kernel": ("units",),
    "electra.encoder.lstm.recurrent_kernel": ("units",),
}

_LAYER = re.compile(r"electra\.encoder\.layer\.(\d+)\.")

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
    # transformers has no such head.
    LogitHead: {"discriminator_predictions": "dense"},
    ClassificationHead: {"classifier": "dense"},
    TwoLayerClassificationHead: {"classifier.dense": "dense", "classifier.out_proj": "out_proj"},
    MultipleChoiceHead: {"sequence_summary.summary": "summary", "classifier": "classifier"},
    StartEndHead: {"qa_outputs": "qa_outputs"},
    # Nor this one.
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
    if isinstance(model.config, ConvolutionalRecurrentConfig):
        return tensors | _convolutional_recurrent(encoder)
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


def _convolutional_recurrent(encoder):
    layers = {"conv": encoder.conv, **{lstm.name: lstm.cell for lstm in encoder.lstms}}
    return {
        f"electra.encoder.{layer}.{name}": (getattr(weights, name), False)
        for layer, weights in layers.items()
        for name in ("kernel", "recurrent_kernel", "bias")
        if hasattr(weights, name)
    }


def stored_shape(tensor):
    """The shape that one of `model_tensors` has in `model.safetensors`, a tuple."""
    variable, transposed = tensor
    return tuple(variable.shape)[::-1] if transposed else tuple(variable.shape)


def stored_arrays(tensors):
    """What `model.safetensors` holds of tensors as `model_tensors` gives them: dict of float32 arrays."""
    arrays = {}
    for name, (variable, transposed) in tensors.items():
        array = np.asarray(variable.numpy(), np.float32)
        arrays[name] = np.ascontiguousarray(array.T if transposed else array)
    return arrays


def _dense(name, layer):
    return {f"{name}.weight": (layer.kernel, True), f"{name}.bias": (layer.bias, False)}


def _layer_norm(name, layer):
    return {f"{name}.weight": (layer.gamma, False), f"{name}.bias": (layer.beta, False)}


def architecture_of(model):
    """The class of transformers that opens a network's folder; of one that it lacks, the encoder's.

    Where it lacks the encoder too, or where nothing else tells the network: our own class.
    """
    if isinstance(model.config, ConvolutionalRecurrentConfig):
        return type(model).__name__
    if isinstance(model.head, JointHead) or (
        isinstance(model, SequenceClassifier) and isinstance(model.head, ClassificationHead)
    ):
        return "ElectraModel"
    return {
        Discriminator: "ElectraForPreTraining",
        SequenceDiscriminator: "SequenceDiscriminator",
        Generator: "ElectraForMaskedLM",
        SequenceClassifier: "ElectraForSequenceClassification",
        TokenClassifier: "ElectraForTokenClassification",
        QuestionAnswerer: "ElectraForQuestionAnswering",
        MultipleChoiceClassifier: "ElectraForMultipleChoice",
    }[type(model)]


# What transformers' classes assume and our networks do.
_ASSUMPTIONS = {
    "position_embedding_type": "absolute",
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": "gelu",
    "summary_last_dropout": 0.1,
}


def save_model(model, folder, more_config=None):
    """Writes a network in float32, each file at once.

    Args:
      model: `ElectraModel`.
      folder: where to.
      more_config: dict of more keys for `config.json`, such as `id2label`.
    """
    save_tensors(model_tensors(model), model.config, architecture_of(model), folder, more_config)


def save_tensors(tensors, config, architecture, folder, more_config=None):
    """Writes tensors in float32, each file at once.

    Args:
      tensors: as `model_tensors` gives them.
      config: `EncoderConfig` or `ConvolutionalRecurrentConfig`.
      architecture: the class that opens the folder.
      folder, more_config: as of `save_model`.
    """
    import safetensors.numpy

    values = {
        "architectures": [architecture],
        "model_type": next(key for key, c in _CONFIG_CLASSES.items() if c is type(config)),
        **dataclasses.asdict(config),
        **(_ASSUMPTIONS if isinstance(config, EncoderConfig) else {}),
        **(more_config or {}),
    }
    # transformers asks for the metadata "format".
    content = safetensors.numpy.save(stored_arrays(tensors), metadata={"format": "pt"})
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
    _check_sizes(config, arrays, folder, allow_missing)
    if prefix:
        arrays = {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith((prefix, "electra."))
        }
    model = model_class(config, **_head_options(model_class, arrays), **options)
    assign_tensors(model_tensors(model), arrays, folder, allow_missing)
    return model


def _check_sizes(config, arrays, folder, allow_missing):
    """Refuses sizes that the tensors contradict, before a network of any size is made."""
    path = tf.io.gfile.join(folder, CONFIG_FILE)
    num_weights = sum(array.size for array in arrays.values())
    for name, keys in sorted(_SIZES.items(), key=lambda item: item[0] not in arrays):
        if not all(hasattr(config, key) for key in keys):
            continue
        expected = tuple(getattr(config, key) for key in keys)
        if name in arrays and arrays[name].shape[: len(keys)] != expected:
            raise UserError(
                f"{path}: {' x '.join(keys)} is {' x '.join(map(str, expected))}, but {name} has "
                f"shape {arrays[name].shape}"
            )
        if name not in arrays and math.prod(expected) > num_weights:
            raise UserError(
                f"{path}: {' x '.join(keys)} is {' x '.join(map(str, expected))}, more than all weights "
                f"beside it, and {name} is missing"
            )
    if not isinstance(config, EncoderConfig):
        return
    layers = {found[1] for found in map(_LAYER.match, arrays) if found}
    last = f"electra.encoder.layer.{config.num_hidden_layers - 1}.output.dense.bias"
    if config.num_hidden_layers > len(layers) and not allows(allow_missing, last):
        raise UserError(
            f"{path}: num_hidden_layers is {config.num_hidden_layers}, but there are tensors of "
            f"{len(layers)} layer(s)"
        )


def _head_options(model_class, arrays):
    """What a network's tensors say about its head."""
    if model_class is QuestionAnswerer:
        return {
            "head": "joint" if any(n.startswith("joint_qa.") for n in arrays) else "start_end",
            "answerable": "joint_qa.answerable_logit.bias" in arrays,
        }
    if model_class not in (SequenceClassifier, TokenClassifier):
        return {}
    two_layers = "classifier.out_proj.bias" in arrays
    bias = arrays.get("classifier.out_proj.bias" if two_layers else "classifier.bias")
    has_labels = bias is not None and bias.ndim == 1 and len(bias)
    options = {"num_labels": len(bias)} if has_labels else {}
    if model_class is SequenceClassifier and two_layers:
        options["head"] = "two_layers"
    return options


def find_encoder(folder):
    """The folder of an encoder.

    `folder` itself, or what a run or an export has in it: the discriminator, or the fine-tuned model.
    """
    below = [tf.io.gfile.join(folder, name) for name in ("discriminator", "model")]
    has_config = tf.io.gfile.exists(tf.io.gfile.join(folder, CONFIG_FILE))
    return folder if has_config else next(filter(tf.io.gfile.isdir, below), folder)


def read_encoder(folder, allow_missing=None):
    """Reads the encoder of a folder of ELECTRA or BERT, whatever head it has.

    Args:
      folder: where it is.
      allow_missing: as of `tensors.match`.

    Returns:
      `(config, arrays, heads)`: as of `read_config`; dict of arrays by our tensors' names
      (`encoder_tensors`); dict of the other ones, of heads and poolers.

    Raises:
      UserError: as `read_config` and `read_tensors`; or sizes that the tensors contradict.
    """
    config, arrays, heads = read_config(folder), {}, {}
    for name, array in read_tensors(folder).items():
        short = name.removeprefix("electra.").removeprefix("bert.")
        # As BERT's oldest folders call them.
        short = short.replace("LayerNorm.gamma", "LayerNorm.weight")
        short = short.replace("LayerNorm.beta", "LayerNorm.bias")
        is_encoder = short.startswith(("embeddings.", "embeddings_project.", "encoder."))
        if is_encoder or short.startswith("pooler."):
            name = f"electra.{short}"
        # In a folder with the heads of several tasks their names go before.
        is_head = name.startswith(_HEADS) or name.partition(".")[2].startswith(_HEADS)
        (heads if is_head else arrays)[name] = array
    _check_sizes(config, arrays, folder, allow_missing)
    return config, arrays, heads


def read_config(folder):
    """Reads `config.json`; BERT's embeddings are as wide as its blocks.

    Returns:
      `EncoderConfig`, or what else a `model_type` of ours says.

    Raises:
      UserError: no such file, not JSON, neither ELECTRA nor BERT, or a key is missing or unsupported.
    """
    path = tf.io.gfile.join(folder, CONFIG_FILE)
    values = files.read_json_object(path)
    for key, supported in (
        ("model_type", tuple(_CONFIG_CLASSES)),
        ("hidden_act", ("gelu",)),
        ("position_embedding_type", ("absolute",)),
        ("is_decoder", (False,)),
    ):
        if values.get(key, supported[0]) not in supported:
            expected = " and ".join(map(repr, supported))
            raise UserError(f"{path}: {key} is {values[key]!r}; only {expected} is supported")
    if values.get("model_type") == "bert":
        values["embedding_size"] = values.get("hidden_size")
    config_class = _CONFIG_CLASSES[values.get("model_type", "electra")]
    fields = dataclasses.fields(config_class)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise UserError(f"{path}: missing {', '.join(missing)}; is this an ELECTRA model's folder?")
    return validate(
        config_class, {f.name: values[f.name] for f in fields if f.name in values}, path
    )


def architectures(folder):
    """The classes, of transformers or ours, that a folder's `config.json` names, a list of str.

    Raises:
      UserError: no such file, not JSON, or no such list.
    """
    path = tf.io.gfile.join(folder, CONFIG_FILE)
    names = files.read_json_object(path).get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: architectures is {names!r}, no list of names")
    return names


def read_tensors(folder):
    """Reads `model.safetensors`, or the shards that an index lists in its place.

    Returns:
      dict from name to float32 array. A bare `ElectraModel` has names without `electra.`, which
      they get.

    Raises:
      UserError: no such file, a file is malformed, a tensor is of a type that NumPy lacks or not
        finite, or the index and the shards have different tensors.
    """
    path = tf.io.gfile.join(folder, WEIGHTS_FILE)
    if tf.io.gfile.exists(path):
        return _with_prefix(_read_safetensors(path))
    index = tf.io.gfile.join(folder, INDEX_FILE)
    if tf.io.gfile.exists(index):
        return _with_prefix(_read_shards(folder, index))
    for name in _PICKLED:
        pickled = tf.io.gfile.join(folder, name)
        if tf.io.gfile.exists(pickled):
            raise UserError(
                f"{pickled}: pickled weights, which can run any code when they are read; where you "
                "trust them, write the folder anew by transformers' save_pretrained, which makes "
                f"{WEIGHTS_FILE}"
            )
    raise UserError(f"{path}: no such file; is this a model's folder?")


def _with_prefix(arrays):
    if any(name.startswith("electra.") for name in arrays):
        return arrays
    bare = ("embeddings.", "embeddings_project.", "encoder.")
    return {
        f"electra.{name}" if name.startswith(bare) else name: array
        for name, array in arrays.items()
    }


def _read_safetensors(path):
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(files.read(path))
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
    shard_of = files.read_json_object(index).get("weight_map")
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
    expected = {name: stored_shape(tensor) for name, tensor in tensors.items()}
    for name, repeated in REPEATED.items():
        if name in arrays and not np.array_equal(arrays[name], arrays.get(repeated)):
            raise UserError(
                f"{where}: {name} {arrays[name].shape} is to repeat {repeated}, and does not; the "
                "network here has one table"
            )
    found = {name: array.shape for name, array in arrays.items() if name not in REDUNDANT}
    for name in match(expected, found, where, allow_missing):
        variable, transposed = tensors[name]
        variable.assign(arrays[name].T if transposed else arrays[name])
