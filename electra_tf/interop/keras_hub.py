"""KerasHub's presets of an `ElectraBackbone`, to and from encoders in our layout.

A dense kernel is [inputs, outputs] in a preset, as in Keras; the attention's are split by heads, such
as [inputs, heads, outputs / heads]. docs/migrate.md says what KerasHub computes otherwise.
"""

import contextlib
import dataclasses
import io
import math
import os
import re
import tempfile

import h5py
import keras
import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.configs import EncoderConfig, PositiveInt, Probability, validate
from electra_tf.errors import UserError, first_line
from electra_tf.interop import huggingface, runs
from electra_tf.interop.tensors import Row, Tensor, assign, check_finite, compare
from electra_tf.modeling.causal import import_keras_hub
from electra_tf.modeling.electra import ElectraModel
from electra_tf.tokenization import SUFFIX, UNK, Tokenizer, tokenizer_of, vocab_text

CONFIG_FILE, WEIGHTS_FILE, SHARDS_FILE = "config.json", "model.weights.h5", "model.weights.json"
TOKENIZER_FILE, VOCAB_FILE = "tokenizer.json", "assets/tokenizer/vocabulary.txt"

# Our layers, by their names in `model.safetensors`, and the preset's.
_LAYERS = {
    "electra.embeddings.word_embeddings": "reversible_embedding",
    "electra.embeddings.position_embeddings": "position_embedding",
    "electra.embeddings.token_type_embeddings": "embedding",
    "electra.embeddings.LayerNorm": "layer_normalization",
    "electra.embeddings_project": "dense",
}
_LAYERS_OF_BLOCKS = {
    "attention.self.query": "_self_attention_layer/query_dense",
    "attention.self.key": "_self_attention_layer/key_dense",
    "attention.self.value": "_self_attention_layer/value_dense",
    "attention.output.dense": "_self_attention_layer/output_dense",
    "attention.output.LayerNorm": "_self_attention_layer_norm",
    "intermediate.dense": "_feedforward_intermediate_dense",
    "output.dense": "_feedforward_output_dense",
    "output.LayerNorm": "_feedforward_layer_norm",
}
_VARIABLES = {"weight": "vars/0", "bias": "vars/1"}

# KerasHub's keys, and those of an `EncoderConfig`.
_KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "embedding_dim": "embedding_size",
    "intermediate_dim": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}
# Keys of any Keras object.
_KEYS_OF_KERAS = ("name", "trainable", "dtype")
# What a tokenizer of KerasHub's could do that ours does not.
_TOKENIZER_KEYS = {"split": True, "suffix_indicator": SUFFIX, "oov_token": UNK}

# What h5py raises for a file that is damaged.
_MALFORMED = (OSError, RuntimeError, KeyError, ValueError, TypeError)
# What KerasHub raises for a preset that it cannot find, or not load.
_UNLOADABLE = (ImportError, OSError, ValueError, KeyError, TypeError, tf.errors.OpError)


@dataclasses.dataclass(frozen=True)
class _BackboneConfig:
    """What decides an `ElectraBackbone`."""

    vocab_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    hidden_dim: PositiveInt
    embedding_dim: PositiveInt
    intermediate_dim: PositiveInt
    dropout: Probability = 0.1
    max_sequence_length: PositiveInt = 512
    num_segments: PositiveInt = 2


class _Reshaped:
    """A variable in another shape: its `shape`, `assign` and `numpy`."""

    def __init__(self, variable, shape):
        self._variable, self.shape = variable, shape

    def assign(self, array):
        self._variable.assign(array.reshape(self._variable.shape))

    def numpy(self):
        return self._variable.numpy().reshape(self.shape)


def preset_name(name):
    """What a tensor is called in `model.weights.h5`.

    ```python
    preset_name("electra.encoder.layer.1.output.dense.weight")
    # "layers/transformer_encoder_1/_feedforward_output_dense/vars/0"
    ```

    Args:
      name: ours, see `huggingface.encoder_tensors`.
    """
    layer, _, variable = name.rpartition(".")
    found = re.fullmatch(r"electra\.encoder\.layer\.(\d+)\.(.+)", layer)
    if found:
        block = "transformer_encoder" + (f"_{found[1]}" if found[1] != "0" else "")
        layer = f"{block}/{_LAYERS_OF_BLOCKS[found[2]]}"
    else:
        layer = _LAYERS[layer]
    return f"layers/{layer}/{_VARIABLES[variable]}"


def encoder_tensors(model):
    """The weights of an encoder by their names and in their shapes in a preset.

    Args:
      model: `ElectraModel`.

    Returns:
      dict from name to `Tensor`.
    """
    tensors = {}
    for ours, (variable, transposed) in huggingface.encoder_tensors(model).items():
        name = preset_name(ours)
        shape = _shape_there(name, tuple(variable.shape), model.config.num_attention_heads)
        tensors[name] = Tensor(_Reshaped(variable, shape), [ours], transposed)
    return tensors


def _shape_there(name, shape, heads):
    if re.search("/(query|key|value)_dense/", name):
        return (*shape[:-1], heads, shape[-1] // heads)
    if name.endswith("/_self_attention_layer/output_dense/vars/0"):
        return (heads, shape[0] // heads, *shape[1:])
    return shape


def _pooler(config):
    """What we lack, by name: a dense layer on [CLS]. The identity, where one has to be made."""
    layer = "dense" if config.embedding_size == config.hidden_size else "dense_1"
    return {
        f"layers/{layer}/vars/0": np.eye(config.hidden_size, dtype=np.float32),
        f"layers/{layer}/vars/1": np.zeros(config.hidden_size, np.float32),
    }


class Weights:
    """`model.weights.h5`, whose tensors are read when they are asked for.

    Attributes:
      path: of the file.
      size: of the file in bytes, int.
      shapes: dict from name to tuple.
    """

    def __init__(self, path):
        """Lists the tensors; links are not followed.

        Args:
          path: local.

        Raises:
          UserError: it is not there or damaged, or a tensor is not float32 or not in this file.
        """
        self.path, self.shapes = path, {}
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file; is this a preset of KerasHub's?")
        self.size, datasets = os.path.getsize(path), []
        with self._reading() as file:

            def add(name, item):
                if isinstance(item, h5py.Dataset):
                    elsewhere = item.external or item.is_virtual
                    datasets.append((name, item.shape, item.dtype, elsewhere))

            file.visititems(add)
        for name, shape, dtype, elsewhere in datasets:
            if elsewhere:
                raise UserError(f"{path}: {name} lies in another file")
            if dtype != np.float32 or shape is None:
                raise UserError(
                    f"{path}: {name} is of type {dtype}, not float32; load the preset with "
                    "dtype='float32' in KerasHub and save it anew"
                )
            if math.prod(shape) > self.size:  # It could claim any size.
                raise UserError(f"{path}: {name} {shape} is larger than the file; it is damaged")
            self.shapes[name] = shape

    @contextlib.contextmanager
    def _reading(self):
        try:
            with h5py.File(self.path, "r") as file:
                yield file
        except _MALFORMED as error:
            raise UserError(
                f"{self.path}: cannot read it, the file is truncated or damaged ({error})"
            ) from None

    def read(self, name):
        """A tensor as an array.

        Raises:
          UserError: it cannot be read, or is not finite.
        """
        with self._reading() as file:
            array = file[name][()]
        check_finite(array, name, self.path)
        return array


def read_config(folder):
    """Reads a preset's `config.json`.

    Returns:
      `EncoderConfig`.

    Raises:
      UserError: no such file, not JSON, not of an `ElectraBackbone`, or a key is missing, unknown or
        of another type.
    """
    path = os.path.join(folder, CONFIG_FILE)
    values = _read_object(path, "ElectraBackbone")
    backbone = validate(_BackboneConfig, values, path)
    values = {ours: getattr(backbone, theirs) for theirs, ours in _KEYS.items()}
    values["attention_probs_dropout_prob"] = backbone.dropout
    return validate(EncoderConfig, values, path)


def _read_object(path, class_name):
    """The keys of a Keras object of a class, but for those that all objects have."""
    values = files.read_json_object(path)
    found = values.get("registered_name")
    if found not in (f"keras_hub>{class_name}", f"keras_nlp>{class_name}"):
        raise UserError(
            f"{path}: registered_name is {found!r}; only 'keras_hub>{class_name}' is supported"
        )
    config = values.get("config")
    if not isinstance(config, dict):
        raise UserError(f"{path}: no object 'config'")
    return {key: value for key, value in config.items() if key not in _KEYS_OF_KERAS}


def read_tokenizer(folder):
    """Reads a preset's tokenizer.

    Returns:
      `Tokenizer`; None where the preset has no `tokenizer.json`.

    Raises:
      UserError: a file is missing or malformed, or ours cannot do what it says.
    """
    path = os.path.join(folder, TOKENIZER_FILE)
    if not os.path.exists(path):
        return None
    values = _read_object(path, "ElectraTokenizer")
    for key, supported in _TOKENIZER_KEYS.items():
        if values.get(key, supported) != supported:
            raise UserError(f"{path}: {key} is {values[key]!r}; only {supported!r} is supported")
    casing = [values.get(key, False) for key in ("lowercase", "strip_accents")]
    if not all(isinstance(value, bool) for value in casing):
        raise UserError(f"{path}: lowercase and strip_accents must be true or false")
    return Tokenizer.from_vocab(os.path.join(folder, VOCAB_FILE), *casing)


@contextlib.contextmanager
def _local(preset):
    """Yields a preset's folder; one that KerasHub has to find is saved to a temporary one first."""
    if os.path.isdir(preset):
        yield preset
        return
    models = import_keras_hub(f"{preset}: no such folder; for KerasHub to download it").models
    if "://" not in preset and preset not in models.ElectraBackbone.presets:
        names = ", ".join(models.ElectraBackbone.presets)
        raise UserError(f"{preset}: no such folder, and no preset of KerasHub's ({names})")
    with tempfile.TemporaryDirectory() as folder:
        try:
            models.ElectraBackbone.from_preset(preset, dtype="float32").save_to_preset(folder)
            with contextlib.suppress(FileNotFoundError):  # A preset needs no tokenizer.
                models.ElectraTokenizer.from_preset(preset).save_to_preset(folder)
        except _UNLOADABLE as error:
            raise UserError(f"{preset}: KerasHub cannot load it ({first_line(error)})") from None
        yield folder


def to_run(preset, run, tokenizer=None, allow_missing=None):
    """Makes a run folder of a preset, with an encoder alone in `discriminator/`.

    ```python
    to_run("electra_small_discriminator_uncased_en", "runs/small")
    ```

    Args:
      preset: its folder, or its name or handle (`kaggle://`, `hf://`), which KerasHub downloads.
      run: folder that is yet to be made.
      tokenizer: `Tokenizer` in place of the preset's, or None.
      allow_missing: regular expression of the preset's names; tensors that it matches may be missing
        on either side. Ours then keep what a new model begins with.

    Returns:
      `(rows, notes)`: list of `tensors.Row`; list of str, what was left out.

    Raises:
      UserError: the folder is there, a file of the preset is missing or damaged, or its tensors and
        the encoder's do not match one to one.
    """
    files.refuse_present(run)
    with _local(preset) as folder:
        config = read_config(folder)
        tokenizer = tokenizer or read_tokenizer(folder)
        if tokenizer and tokenizer.vocab_size > config.vocab_size:
            raise UserError(
                f"{preset}: embeddings of {config.vocab_size} tokens, but {tokenizer.vocab_size} "
                "pieces in the vocabulary; give the one that it was trained with as --vocab_file"
            )
        source = _open_weights(folder, config)
        pooler = {
            name: source.shapes.pop(name) for name in _pooler(config) if name in source.shapes
        }
        model = ElectraModel(config)
        assign(encoder_tensors(model), source, allow_missing)
        with files.replacing(run) as temporary:
            encoder = tf.io.gfile.join(temporary, "discriminator")
            tensors = huggingface.encoder_tensors(model)
            huggingface.save_tensors(tensors, config, "ElectraModel", encoder)
            if tokenizer:
                tokenizer.save_pretrained(encoder)
            runs.write_origin(temporary, [config], tokenizer, preset)
            del model, tensors  # Memory for one model is enough.
            model, _ = _read_encoder(encoder)
            rows = compare(encoder_tensors(model), source)
    rows += [Row(name, [], shape) for name, shape in pooler.items()]
    return rows, _notes_of_reading(pooler, tokenizer)


def _notes_of_reading(pooler, tokenizer):
    notes = [
        f"left out, which our networks lack: the pooler ({', '.join(pooler)})",
        "not in a preset: heads, the generator; finetune.py and pretrain.py take it by --init_from",
        "computed otherwise: gelu exactly, where KerasHub approximates it by tanh",
    ]
    if tokenizer is None:
        return [*notes, "no tokenizer in the preset; training needs one, give --vocab_file"]
    if tokenizer.lowercase and not tokenizer.strip_accents:
        return [*notes, "accents are kept, as in the preset; ELECTRA's training removed them"]
    return notes


def _open_weights(folder, config):
    path = os.path.join(folder, WEIGHTS_FILE)
    shards = os.path.join(folder, SHARDS_FILE)
    if not os.path.exists(path) and os.path.exists(shards):
        raise UserError(
            f"{shards}: weights in shards; save the preset anew in KerasHub, with "
            "save_to_preset(folder, max_shard_size=None)"
        )
    weights = Weights(path)
    # A config.json could claim any size, and a model of it would be made.
    embeddings = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    matrices = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    least = embeddings * config.embedding_size + config.num_hidden_layers * matrices
    if least > weights.size:
        raise UserError(
            f"{os.path.join(folder, CONFIG_FILE)}: sizes of more than {least} parameters, but "
            f"{path} has {weights.size} bytes; the two belong to different models"
        )
    return weights


def _read_encoder(folder, allow_missing=None):
    """The encoder of one of our model folders as an `ElectraModel`, and a dict of its heads' arrays."""
    config, arrays, heads = huggingface.read_encoder(folder, allow_missing)
    model = ElectraModel(config)
    tensors = huggingface.encoder_tensors(model)
    huggingface.assign_tensors(tensors, arrays, folder, allow_missing)
    return model, heads


def from_run(run, preset, allow_missing=None):
    """Makes a preset of an encoder, and of its tokenizer.

    ```python
    from_run("runs/small", "presets/small")
    keras_hub.models.ElectraBackbone.from_preset("presets/small")
    ```

    Args:
      run: folder of a model, or of a run with `discriminator/` in it.
      preset: folder that is yet to be made, local.
      allow_missing: regular expression of names in the model's folder; tensors that it matches may
        be missing on either side.

    Returns:
      `(rows, notes)` as of `to_run`.

    Raises:
      UserError: the folder is there, a file is missing or damaged, or KerasHub has no such encoder.
    """
    if "://" in preset:
        raise UserError(f"{preset}: presets are written to local folders alone; copy it from one")
    files.refuse_present(preset)
    folder = huggingface.find_encoder(run)
    runs.check_transformer(huggingface.read_config(folder), folder)
    model, heads = _read_encoder(folder, allow_missing)
    config, tensors = model.config, encoder_tensors(model)
    if config.layer_norm_eps != 1e-12:
        raise UserError(
            f"{folder}: layer_norm_eps is {config.layer_norm_eps:g}; KerasHub's is 1e-12"
        )
    tokenizer = tokenizer_of(folder)
    arrays = {name: tensor.variable.numpy() for name, tensor in tensors.items()}
    for name, array in arrays.items():
        check_finite(array, tensors[name].names[0], folder)
    with files.replacing(preset) as temporary:
        _write_backbone(temporary, config, {**arrays, **_pooler(config)})
        if tokenizer:
            _write_tokenizer(temporary, tokenizer)
        rows = compare(tensors, Weights(os.path.join(temporary, WEIGHTS_FILE)))
    rows += [Row(None, [name], array.shape) for name, array in heads.items()]
    return rows, _notes_of_writing(config, heads, tokenizer)


def _write_backbone(folder, config, arrays):
    # In memory: h5py brings the process down where a file of its own finds no room on the disk.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    files.write(os.path.join(folder, WEIGHTS_FILE), content.getvalue())
    values = {theirs: getattr(config, ours) for theirs, ours in _KEYS.items()}
    _write_object(os.path.join(folder, CONFIG_FILE), "electra_backbone", "float32", values)
    metadata = {
        "keras_version": keras.__version__,
        "parameter_count": sum(array.size for array in arrays.values()),
        "tasks": [],
    }
    files.write_json(os.path.join(folder, "metadata.json"), metadata)


def _write_tokenizer(folder, tokenizer):
    files.write(os.path.join(folder, VOCAB_FILE), vocab_text(tokenizer.vocab))
    values = {
        "config_file": TOKENIZER_FILE,
        "vocabulary": None,  # It is in a file.
        "sequence_length": None,
        "lowercase": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        **_TOKENIZER_KEYS,
        "special_tokens": None,
        "special_tokens_in_strings": False,
    }
    _write_object(os.path.join(folder, TOKENIZER_FILE), "electra_tokenizer", "int32", values)


def _write_object(path, name, dtype, config):
    """Writes what Keras makes an object of KerasHub's of, its name in snake case."""
    class_name = name.title().replace("_", "")
    value = {
        "module": f"keras_hub.src.models.electra.{name}",
        "class_name": class_name,
        "config": {
            "name": name,
            "trainable": True,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": dtype},
                "registered_name": None,
            },
            **config,
        },
        "registered_name": f"keras_hub>{class_name}",
    }
    files.write_json(path, value)


def _notes_of_writing(config, heads, tokenizer):
    notes = [
        f"made, which our networks lack: the pooler ({', '.join(_pooler(config))}), the identity",
        "computed otherwise: gelu, which KerasHub approximates by tanh",
    ]
    if heads:
        notes.insert(0, f"left out, which a backbone lacks: {', '.join(sorted(heads))}")
    if config.attention_probs_dropout_prob != config.hidden_dropout_prob:
        notes.append(
            f"one dropout for all: {config.hidden_dropout_prob:g}, here the attention's "
            f"probabilities have {config.attention_probs_dropout_prob:g}"
        )
    if tokenizer is None:
        notes.append("no tokenizer: the folder has no vocab.txt")
    return notes
