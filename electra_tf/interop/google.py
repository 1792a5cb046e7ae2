"""The original's TF1 checkpoints (google-research/electra), to and from run folders.

A dense kernel is [inputs, outputs] in them, as in Keras; `model.safetensors` has [outputs, inputs].
"""

import contextlib
import math
import os
import re

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.configs import EncoderConfig, architecture_differences, validate
from electra_tf.errors import UserError, first_line
from electra_tf.interop import huggingface, runs
from electra_tf.interop.tensors import Tensor, allows, assign, check_finite, compare

# Parts of our names, those of `model.safetensors`, and the original's; each in turn.
_RENAMED = (
    ("electra.embeddings.", "{embeddings}.embeddings."),
    ("electra.", "{network}."),
    ("encoder.layer.", "encoder.layer_"),
    ("_embeddings.weight", "_embeddings"),
    ("LayerNorm.weight", "LayerNorm.gamma"),
    ("LayerNorm.bias", "LayerNorm.beta"),
    ("discriminator_predictions.dense_prediction", "discriminator_predictions.dense_1"),
    ("generator_lm_head.bias", "generator_predictions.output_bias"),
    (".weight", ".kernel"),
    (".", "/"),
)
_STEP, _MOMENTS = "global_step", ("adam_m", "adam_v")

_SUFFIXES = (".data-00000-of-00001", ".index")

# What TensorFlow raises for a checkpoint that is damaged.
_MALFORMED = (tf.errors.OpError, IndexError, ValueError)


def original_name(name, network, embeddings):
    """What the original calls a tensor.

    ```python
    original_name("electra.encoder.layer.0.output.dense.weight", "generator", "electra")
    # "generator/encoder/layer_0/output/dense/kernel"
    ```

    Args:
      name: ours, see `huggingface.model_tensors`.
      network: "electra", as the original calls the discriminator, or "generator".
      embeddings: whose embeddings the network has, one of the two.
    """
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    return name.format(network=network, embeddings=embeddings)


def network_tensors(networks, shares_embeddings):
    """The weights of networks by the original's names; shared embeddings stand once.

    Args:
      networks: list of `Discriminator` and perhaps `Generator`.
      shares_embeddings: whether both have the same embeddings.

    Returns:
      dict from name to `Tensor`.
    """
    tensors = {}
    for network, scope in zip(networks, ("electra", "generator")):
        embeddings = "electra" if shares_embeddings else scope
        for ours, (variable, transposed) in huggingface.model_tensors(network).items():
            tensor = Tensor(variable, [f"{network.name}/{ours}"], transposed)
            first = tensors.setdefault(original_name(ours, scope, embeddings), tensor)
            if first is not tensor:
                first.names.extend(tensor.names)
    return tensors


def pretrainer_tensors(model):
    """Weights, Adam's moments and the step of a compiled `ElectraPretrainer`, as `network_tensors`."""
    tensors = network_tensors(model.networks, not model.config.untied_generator_embeddings)
    names = {id(tensor.variable): name for name, tensor in tensors.items()}
    tensors[_STEP] = Tensor(model.optimizer.iterations, ["step"])
    for (_, moments), variable in zip(model.optimizer.slots(), model.trainable_variables):
        name = names[id(variable)]
        for kind, moment in zip(_MOMENTS, moments):
            tensors[f"{name}/{kind}"] = Tensor(moment, [f"{tensors[name].names[0]}/{kind}"])
    return tensors


_SMALL = 2**20  # Bytes; no network of that size does harm.


class Checkpoint:
    """A checkpoint whose tensors are read when they are asked for.

    Attributes:
      path: without `.index`.
      shapes: dict from name to tuple.
    """

    def __init__(self, path):
        """Opens a checkpoint.

        Args:
          path: without `.index`, local or `gs://`.

        Raises:
          UserError: it is not there, or it is no checkpoint.
        """
        self.path, index = path, f"{path}.index"
        if not tf.io.gfile.exists(index):
            raise UserError(f"{index}: no such file; give a checkpoint's path without '.index'")
        try:
            self._reader = tf.train.load_checkpoint(path)
            self._dtypes = self._reader.get_variable_to_dtype_map()
            shapes = self._reader.get_variable_to_shape_map()
        except _MALFORMED as error:
            raise UserError(f"{index}: cannot open the checkpoint ({first_line(error)})") from None
        self.shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
        self._check_size()

    def _check_size(self):
        """Refuses sizes of an index that its data are far from, before a network is made of them."""
        claimed = sum(
            math.prod(shape) * self._dtypes[name].size for name, shape in self.shapes.items()
        )
        data = files.glob(*os.path.split(f"{self.path}.data-*"))
        size = sum(tf.io.gfile.stat(name).length for name in data)
        if claimed > 2 * size + _SMALL:  # What is a little short is told by the tensor's name.
            raise UserError(
                f"{self.path}.data-*: {size:,} bytes for tensors of {claimed:,}; the checkpoint is not whole"
            )

    def read(self, name):
        """A tensor as an array.

        Raises:
          UserError: it cannot be read, is of another type than the original's (float32, the step
            int64), or not finite.
        """
        dtype, expected = self._dtypes[name], tf.int64 if name == _STEP else tf.float32
        if dtype != expected:
            raise UserError(f"{self.path}: {name} is of type {dtype.name}, not {expected.name}")
        try:
            array = self._reader.get_tensor(name)
        except _MALFORMED as error:
            data = f"{self.path}{_SUFFIXES[0]}"
            if not tf.io.gfile.exists(data):  # In several files.
                data = f"{self.path}.data-*"
            raise UserError(
                f"{data}: cannot read {name}, the file is truncated or damaged ({first_line(error)})"
            ) from None
        check_finite(array, name, self.path)
        return array


@contextlib.contextmanager
def writing(path, arrays):
    """Writes a checkpoint, bit for bit what the original's `tf.train.Saver` would write.

    Yields the temporary path that it has, and renames it if all went well; the index, without which
    it is no checkpoint, comes last.

    Args:
      path: without `.index`.
      arrays: dict from name to array.

    Raises:
      UserError: it may not be written there.
    """
    folder, name = os.path.split(path)
    temporary, names = f"{name}.tmp-{os.getpid()}", sorted(arrays)
    files.make_folder(folder or ".")
    try:
        with files.users_mistake(f"{path}: cannot write it"):
            tf.raw_ops.SaveV2(
                prefix=os.path.join(folder, temporary),
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[arrays[name] for name in names],
            )
        yield os.path.join(folder, temporary)
        for suffix in _SUFFIXES:
            tf.io.gfile.rename(os.path.join(folder, temporary + suffix), path + suffix)
    finally:
        for leftover in tf.io.gfile.listdir(folder or "."):
            if leftover.startswith(temporary):
                files.remove(os.path.join(folder, leftover))


def infer_configs(shapes, where, num_attention_heads=None, allow_missing=None):
    """The sizes of both networks, by their tensors.

    Args:
      shapes: dict from name to shape.
      where: begins an error.
      num_attention_heads: of the discriminator, which no tensor tells; None for heads of 64, which
        the generator always has (SEMANTICS 18a).
      allow_missing: regular expression; one that matches "generator/" does without a generator.

    Returns:
      `(configs, shares_embeddings)`: list of `EncoderConfig`s, of the discriminator and perhaps of
      the generator; whether this one has no embeddings of its own.

    Raises:
      UserError: a tensor that tells a size is missing, or the sizes contradict each other.
    """
    configs = [_infer_config(shapes, "electra", "electra", where, num_attention_heads)]
    shares_embeddings = not any(name.startswith("generator/embeddings/") for name in shapes)
    if any(name.startswith("generator/") for name in shapes):
        embeddings = "electra" if shares_embeddings else "generator"
        configs.append(_infer_config(shapes, "generator", embeddings, where))
    elif not allows(allow_missing, "generator/"):
        raise UserError(
            f"{where}: no tensor generator/... in it; --allow_missing='generator.*' converts the "
            "discriminator alone"
        )
    return configs, shares_embeddings


def _infer_config(shapes, network, embeddings, where, num_attention_heads=None):
    def size(name, axis):
        if len(shapes.get(name, ())) != 2:
            raise UserError(
                f"{where}: no matrix {name} in it, which tells a size; is this a checkpoint of the "
                "original's ELECTRA?"
            )
        return shapes[name][axis]

    layer = re.compile(rf"{network}/encoder/(layer_\d+)/")
    hidden_size = size(f"{network}/encoder/layer_0/attention/self/query/kernel", 1)
    values = {
        "vocab_size": size(f"{embeddings}/embeddings/word_embeddings", 0),
        "embedding_size": size(f"{embeddings}/embeddings/word_embeddings", 1),
        "hidden_size": hidden_size,
        "num_hidden_layers": len({found[1] for found in map(layer.match, shapes) if found}),
        "num_attention_heads": num_attention_heads or _usual_heads(hidden_size),
        "intermediate_size": size(f"{network}/encoder/layer_0/intermediate/dense/kernel", 1),
        "max_position_embeddings": size(f"{embeddings}/embeddings/position_embeddings", 0),
        "type_vocab_size": size(f"{embeddings}/embeddings/token_type_embeddings", 0),
    }
    return validate(EncoderConfig, values, where)


def _usual_heads(hidden_size):
    return max(1, hidden_size // 64)


def to_run(
    path,
    run,
    num_attention_heads=None,
    with_optimizer=False,
    tokenizer=None,
    allow_missing=None,
):
    """Makes a run folder of a checkpoint.

    ```python
    to_run("electra_small/electra_small", "runs/small", tokenizer=Tokenizer.from_vocab("vocab.txt"))
    ```

    Args:
      path: of the checkpoint, without `.index`.
      run: folder that is yet to be made.
      num_attention_heads: of the discriminator, see `infer_configs`.
      with_optimizer: whether the folder is to have a checkpoint with Adam's moments and the step.
      tokenizer: `Tokenizer`, or None.
      allow_missing: regular expression of the original's names; tensors that it matches may be missing
        on either side. Ours then keep what a new model begins with.

    Returns:
      `(rows, notes)`: list of `tensors.Row`; list of str, what was inferred and left out.

    Raises:
      UserError: the folder is there, the checkpoint is damaged, or its tensors and the model's do not
        match one to one.
    """
    files.refuse_present(run)
    source = Checkpoint(path)
    notes = [] if with_optimizer else _leave_out_optimizer(source)
    configs, shares_embeddings = infer_configs(
        source.shapes, path, num_attention_heads, allow_missing
    )
    if tokenizer:
        runs.check_vocabulary(tokenizer, configs[0], path)
    if with_optimizer:
        model = _create_pretrainer(source, configs, shares_embeddings, allow_missing)
        networks, tensors = model.networks, pretrainer_tensors(model)
    else:
        model, networks = None, runs.create_networks(configs, shares_embeddings)
        tensors = network_tensors(networks, shares_embeddings)
    assign(tensors, source, allow_missing)
    with files.replacing(run) as temporary:
        runs.write(temporary, networks, model, tokenizer, None if model else path)
        del model, networks, tensors  # Memory for one model is enough.
        if with_optimizer:
            tensors = pretrainer_tensors(runs.read_pretrainer(temporary))
        else:
            networks = runs.read_networks(temporary, allow_missing)
            tensors = network_tensors(networks, shares_embeddings)
        rows = compare(tensors, source)
    step = int(tensors[_STEP].variable.numpy()) if with_optimizer else None
    return rows, [*_describe(configs, shares_embeddings, step), *notes]


def _leave_out_optimizer(source):
    """Takes a checkpoint's optimizer for absent; a note that says so, in a list."""
    names = [name for name in source.shapes if name.endswith((_STEP, *_MOMENTS))]
    for name in names:
        del source.shapes[name]
    return [f"left out without --optimizer: {len(names)} tensor(s)"] if names else []


def _create_pretrainer(source, configs, shares_embeddings, allow_missing):
    """The `ElectraPretrainer` that continues a checkpoint, if there is one."""
    if len(configs) == 1:
        raise UserError(
            f"{source.path}: pre-training here has a generator, too; leave --optimizer out"
        )
    has_moments = any(name.endswith(_MOMENTS) for name in source.shapes)
    if not has_moments and not allows(allow_missing, f"/{_MOMENTS[0]}"):
        raise UserError(
            f"{source.path}: no moments of Adam (.../adam_m, .../adam_v) in it; leave --optimizer "
            "out, or let them begin at 0 by --allow_missing='.*/adam_[mv]'"
        )
    sizes = runs.sizes_of(configs, shares_embeddings)
    model = runs.create_pretrainer(runs.pretraining_config(sizes, source.path))
    for config, network in zip(configs, model.networks):
        differences = architecture_differences(config, network.config)
        if differences:
            raise UserError(
                f"{source.path}: pre-training here has another {network.name}: "
                f"{'; '.join(differences)}; leave --optimizer out"
            )
    return model


def from_run(run, path, with_optimizer=False, allow_missing=None):
    """Makes a checkpoint of a run folder, of which the original goes on or fine-tunes.

    ```python
    from_run("runs/small", "electra_small/model.ckpt-1000000")
    ```

    Args:
      run: folder with `discriminator/` and `generator/`.
      path: of the checkpoint, without `.index`.
      with_optimizer: whether to take weights, Adam's moments and the step from the run's newest
        checkpoint; else weights from the two folders, and step 0.
      allow_missing: regular expression of names in the two folders; tensors that it matches may be
        missing on either side.

    Returns:
      `(rows, notes)` as of `to_run`.

    Raises:
      UserError: the checkpoint is there, a file is missing or damaged, or the original has no such
        network.
    """
    for suffix in _SUFFIXES:
        files.refuse_present(path + suffix)
    if with_optimizer:
        model = runs.read_pretrainer(run)
        networks = model.networks
        shares_embeddings = not model.config.untied_generator_embeddings
        tensors = pretrainer_tensors(model)
    else:
        networks = runs.read_networks(run, allow_missing)
        shares_embeddings = runs.share_embeddings(networks)
        tensors = network_tensors(networks, shares_embeddings)
    configs = [network.config for network in networks]
    _check_original_has(configs, run)
    arrays = {name: tensor.variable.numpy() for name, tensor in tensors.items()}
    for name, array in arrays.items():
        check_finite(array, tensors[name].names[0], run)
    step = int(arrays[_STEP]) if with_optimizer else None
    with writing(path, {**arrays, _STEP: np.int64(step or 0)}) as temporary:
        rows = compare(tensors, Checkpoint(temporary))
    return rows, _describe(configs, shares_embeddings, step)


def _check_original_has(configs, run):
    """Refuses what the original computes otherwise, though all shapes are the same."""
    for config in configs:
        if config.layer_norm_eps != 1e-12:
            raise UserError(
                f"{run}: layer_norm_eps is {config.layer_norm_eps:g}; the original's is 1e-12"
            )
    for generator in configs[1:]:
        usual = _usual_heads(generator.hidden_size)
        if generator.num_attention_heads != usual:
            raise UserError(
                f"{run}: the generator has {generator.num_attention_heads} attention heads; the "
                f"original gives one of a width of {generator.hidden_size} {usual}"
            )


def _describe(configs, shares_embeddings, step=None):
    """Lines that say which networks these are, and at which step Adam is."""
    notes = runs.describe_configs(
        dict(zip(("discriminator", "generator"), configs)), shares_embeddings
    )
    return notes if step is None else [*notes, f"optimizer: Adam's moments, step {step}"]
