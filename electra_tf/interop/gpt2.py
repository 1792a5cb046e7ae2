"""GPT-2 folders: Hugging Face's layout, read and written, and KerasHub's presets, read.

In Hugging Face's layout query, key and value of a block are one tensor; a kernel is [inputs, outputs] as
in Keras, with the heads side by side.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.configs import PositiveInt, Probability, validate
from electra_tf.errors import UserError, first_line
from electra_tf.interop import huggingface
from electra_tf.interop.tensors import match
from electra_tf.modeling.causal import import_keras_hub


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Sizes of a decoder, by the names of Hugging Face's GPT-2 `config.json`.

    Raises:
      UserError: `n_head` does not divide `n_embd`.
    """

    vocab_size: PositiveInt
    n_positions: PositiveInt
    n_embd: PositiveInt
    n_layer: PositiveInt
    n_head: PositiveInt
    n_inner: PositiveInt | None = None
    resid_pdrop: Probability = 0.1

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise UserError(f"n_head={self.n_head} does not divide n_embd={self.n_embd}")

    def backbone_options(self):
        """The arguments of `keras_hub.models.GPT2Backbone`, a dict."""
        return {
            "vocabulary_size": self.vocab_size,
            "num_layers": self.n_layer,
            "num_heads": self.n_head,
            "hidden_dim": self.n_embd,
            "intermediate_dim": self.n_inner or 4 * self.n_embd,
            "dropout": self.resid_pdrop,
            "max_sequence_length": self.n_positions,
        }


# What another value of would change the formula, with the values that KerasHub's has.
_FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}

# The layers of a block: theirs, and KerasHub's that make it up.
_BLOCK = {
    "ln_1": ["self_attention_layer_norm"],
    "attn.c_attn": [f"self_attention/{name}" for name in ("query", "key", "value")],
    "attn.c_proj": ["self_attention/attention_output"],
    "ln_2": ["feedforward_layer_norm"],
    "mlp.c_fc": ["feedforward_intermediate_dense"],
    "mlp.c_proj": ["feedforward_output_dense"],
}
_KINDS = {
    "embeddings": "weight",
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
}


def backbone_tensors(backbone):
    """The tensors of a decoder by their names in `model.safetensors`, without `transformer.`.

    Args:
      backbone: `keras_hub.models.GPT2Backbone`.

    Returns:
      dict from name to a list of `keras.Variable`s, which stand side by side in the tensor.
    """
    layers = {
        "token_embedding": "wte",
        "position_embedding": "wpe",
        "layer_norm": "ln_f",
        **{
            f"transformer_layer_{i}/{ours}": f"h.{i}.{name}"
            for i in range(backbone.num_layers)
            for name, parts in _BLOCK.items()
            for ours in parts
        },
    }
    tensors = {}
    for variable in backbone.trainable_variables:
        layer, _, kind = variable.path.rpartition("/")
        tensors.setdefault(f"{layers[layer]}.{_KINDS[kind]}", []).append(variable)
    return tensors


def _side_by_side(name, variables, hidden_size):
    """The array of a tensor that variables make up, with their heads side by side, too."""
    arrays = [variable.numpy() for variable in variables]
    if name.endswith("bias"):
        arrays = [array.reshape(-1) for array in arrays]
    elif arrays[0].ndim == 3:
        arrays = [array.reshape(-1, hidden_size) for array in arrays]
    return np.concatenate(arrays, axis=-1).astype(np.float32)


def save_backbone(backbone, folder, pad_token_id, bos_token_id, eos_token_id):
    """Writes `config.json` and `model.safetensors` in float32, each file at once.

    Args:
      backbone: `keras_hub.models.GPT2Backbone`.
      folder: where to.
      pad_token_id, bos_token_id, eos_token_id: of its vocabulary; text begins with the second and
        ends with the third.
    """
    import safetensors.numpy

    arrays = {
        f"transformer.{name}": _side_by_side(name, variables, backbone.hidden_dim)
        for name, variables in backbone_tensors(backbone).items()
    }
    config = GPT2Config(
        vocab_size=backbone.vocabulary_size,
        n_positions=backbone.max_sequence_length,
        n_embd=backbone.hidden_dim,
        n_layer=backbone.num_layers,
        n_head=backbone.num_heads,
        n_inner=backbone.intermediate_dim,
        resid_pdrop=backbone.dropout,
    )
    values = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **dataclasses.asdict(config),
        "embd_pdrop": config.resid_pdrop,
        "attn_pdrop": config.resid_pdrop,
        **{key: allowed[0] for key, allowed in _FIXED.items()},
        "pad_token_id": pad_token_id,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
    }
    # transformers asks for the metadata "format".
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    files.write(tf.io.gfile.join(folder, huggingface.WEIGHTS_FILE), content)
    files.write_json(tf.io.gfile.join(folder, huggingface.CONFIG_FILE), values)


def read_config(folder):
    """Reads `config.json` of Hugging Face's layout as a `GPT2Config`.

    Raises:
      UserError: no such file, not JSON, no GPT-2, or a key is missing or unsupported.
    """
    path = tf.io.gfile.join(folder, huggingface.CONFIG_FILE)
    values = files.read_json_object(path)
    for key, allowed in {"model_type": ("gpt2",), **_FIXED}.items():
        if values.get(key, allowed[0]) not in allowed:
            expected = " and ".join(map(repr, allowed))
            raise UserError(f"{path}: {key} is {values[key]!r}; only {expected} is supported")
    names = [field.name for field in dataclasses.fields(GPT2Config)]
    return validate(GPT2Config, {key: values[key] for key in names if key in values}, path)


def read_weights(backbone, folder):
    """Fills a decoder from `model.safetensors` of Hugging Face's layout, or from its shards.

    Raises:
      UserError: as `huggingface.read_tensors`, or a tensor of the folder or of the decoder has no
        counterpart of its shape; every such tensor is named.
    """
    arrays = {}
    for name, array in huggingface.read_tensors(folder).items():
        if not name.endswith((".attn.bias", ".attn.masked_bias")):  # Constants of older folders.
            arrays[name.removeprefix("transformer.")] = array
    head = arrays.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, arrays.get("wte.weight")):
        raise UserError(
            f"{folder}: lm_head.weight differs from wte.weight; only a decoder whose head is its "
            "embeddings is supported"
        )
    tensors = backbone_tensors(backbone)
    expected = {
        name: _side_by_side(name, variables, backbone.hidden_dim).shape
        for name, variables in tensors.items()
    }
    match(expected, {name: array.shape for name, array in arrays.items()}, folder)
    for name, variables in tensors.items():
        for variable, part in zip(variables, np.split(arrays[name], len(variables), axis=-1)):
            variable.assign(part.reshape(variable.shape))


def is_preset(folder):
    """Whether a folder is a preset of KerasHub's."""
    path = tf.io.gfile.join(folder, huggingface.CONFIG_FILE)
    return "registered_name" in files.read_json_object(path)


def load_backbone(folder):
    """Reads a decoder of either layout.

    Returns:
      `keras_hub.models.GPT2Backbone`.

    Raises:
      UserError: a file is missing or malformed, or it is another kind of model.
    """
    keras_hub = import_keras_hub()
    if not is_preset(folder):
        backbone = keras_hub.models.GPT2Backbone(**read_config(folder).backbone_options())
        read_weights(backbone, folder)
        return backbone
    path = tf.io.gfile.join(folder, huggingface.CONFIG_FILE)
    name = files.read_json_object(path)["registered_name"]
    if name != "keras_hub>GPT2Backbone":
        raise UserError(f"{path}: registered_name is {name!r}; only GPT2Backbone is supported")
    try:
        return keras_hub.models.GPT2Backbone.from_preset(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: KerasHub cannot load it ({first_line(error)})") from None
