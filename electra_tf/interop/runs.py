"""Run folders, as conversions from and to other programs' checkpoints write and read them."""

import dataclasses

import numpy as np
import tensorflow as tf
import yaml

from electra_tf import files
from electra_tf.configs import (
    ARCHITECTURE_KEYS,
    PRETRAINING_PRESETS,
    ConvolutionalRecurrentConfig,
    PretrainingConfig,
    read_yaml,
    validate,
)
from electra_tf.errors import UserError
from electra_tf.interop import huggingface
from electra_tf.interop.tensors import allows
from electra_tf.modeling.electra import Discriminator, Generator
from electra_tf.modeling.pretrainer import ElectraPretrainer
from electra_tf.optimization import create_optimizer
from electra_tf.tokenization import vocab_sha256
from electra_tf.training.checkpoints import (
    create_checkpoint_manager,
    create_run_checkpoint,
    restore,
    save_checkpoint,
    saved_checkpoints,
)
from electra_tf.training.run_folder import CHECKPOINTS, CONFIG_FILE, DATA_FILE


def create_networks(configs, shares_embeddings):
    """New networks.

    Args:
      configs: list of `EncoderConfig`s, of the discriminator and perhaps of the generator.
      shares_embeddings: whether the generator has the discriminator's embeddings.

    Returns:
      list of `Discriminator` and perhaps `Generator`.
    """
    discriminator = Discriminator(configs[0])
    embeddings = discriminator.embeddings if shares_embeddings else None
    return [discriminator, *(Generator(config, embeddings=embeddings) for config in configs[1:])]


def pretraining_config(sizes, where):
    """A `PretrainingConfig` that tells the variables of an `ElectraPretrainer` and their names.

    Args:
      sizes: dict of its keys, at least those of `sizes_of`; the other ones are of no matter.
      where: begins an error.
    """
    others = {**PRETRAINING_PRESETS["small"], "max_seq_length": 5}  # Any model has 5 positions.
    return validate(PretrainingConfig, {**others, **sizes}, where)


def create_pretrainer(config):
    """A new `ElectraPretrainer` of a `PretrainingConfig` with its optimizer."""
    model = ElectraPretrainer(config)
    model.compile(create_optimizer(config))
    return model


def sizes_of(configs, shares_embeddings=True):
    """The keys of a `PretrainingConfig` that the networks tell, a dict.

    Args:
      configs, shares_embeddings: as of `create_networks`.
    """
    discriminator, *generators = configs
    keys = {field.name for field in dataclasses.fields(PretrainingConfig)}
    known = [key for key in ARCHITECTURE_KEYS if key in keys and hasattr(discriminator, key)]
    sizes = {key: getattr(discriminator, key) for key in known}
    if isinstance(discriminator, ConvolutionalRecurrentConfig):
        sizes |= {"discriminator": "convolutional_recurrent", "hidden_size": discriminator.filters}
    for generator in generators:
        sizes["generator_hidden_size"] = generator.hidden_size / sizes["hidden_size"]
        # A convolution and an LSTM are no number of blocks.
        num_blocks = sizes.setdefault("num_hidden_layers", generator.num_hidden_layers)
        sizes["generator_layers"] = generator.num_hidden_layers / num_blocks
        if not shares_embeddings:
            sizes["untied_generator_embeddings"] = True
    return sizes


def write(folder, networks, model=None, tokenizer=None, init_from=None):
    """Writes a run folder: what was converted, so that `pretrain` takes it and nothing else.

    `config.yaml` holds the sizes alone: the run's first start adds its schedule and the rest. A generator
    alone does not tell them.

    Args:
      folder: where to.
      networks: list of `Discriminator`, `Generator` or both, in this order.
      model: `ElectraPretrainer` of a run that can be continued; None for networks alone.
      tokenizer: `Tokenizer`, or None.
      init_from: where networks alone come from. `pretrain` refuses the folder as its own then, in
        which it would begin with random weights.
    """
    for network in networks:
        path = tf.io.gfile.join(folder, network.name)
        network.save_pretrained(path)
        if tokenizer:
            tokenizer.save_pretrained(path)
    is_generator_alone = networks[0].name == "generator"
    configs = [] if is_generator_alone else [network.config for network in networks]
    if model:
        shares_embeddings = not model.config.untied_generator_embeddings
    else:
        shares_embeddings = share_embeddings(networks)
    write_origin(folder, configs, tokenizer, init_from, shares_embeddings)
    if model:
        checkpoint, _ = create_run_checkpoint(model)
        checkpoints = tf.io.gfile.join(folder, CHECKPOINTS)
        manager = create_checkpoint_manager(checkpoint, checkpoints, max_to_keep=1)
        save_checkpoint(manager, int(model.optimizer.iterations.numpy()))


def write_origin(folder, configs, tokenizer, init_from, shares_embeddings=True):
    """Writes `config.yaml` and `data.json` of a run folder, as `write` does.

    Args:
      folder: where to.
      configs: as of `create_networks`; empty where a discriminator's sizes are not known.
      tokenizer, init_from: as of `write`.
      shares_embeddings: as of `create_networks`.
    """
    config = sizes_of(configs, shares_embeddings) if configs else {}
    data = {"init_from": init_from}
    if tokenizer:
        config["do_lower_case"] = tokenizer.lowercase
        data["vocab_sha256"] = vocab_sha256(tokenizer.vocab)
    files.write(tf.io.gfile.join(folder, CONFIG_FILE), yaml.safe_dump(config, sort_keys=False))
    files.write_json(tf.io.gfile.join(folder, DATA_FILE), data)


def check_transformer(config, where):
    """Refuses an encoder that no other program has.

    Args:
      config: its `EncoderConfig` or `ConvolutionalRecurrentConfig`.
      where: begins the error.
    """
    if isinstance(config, ConvolutionalRecurrentConfig):
        raise UserError(
            f"{where}: the encoder is convolutional-recurrent, which no other program has; a "
            "Transformer can be converted"
        )


def check_vocabulary(tokenizer, config, where):
    """Refuses the `Tokenizer` of --vocab_file for a network of another `EncoderConfig`."""
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(
            f"--vocab_file: {tokenizer.vocab_size} pieces, but {where} has embeddings of "
            f"{config.vocab_size}; give the vocabulary that it was trained with"
        )


def describe(networks):
    """Lines that say which networks these are, a list of str."""
    configs = {network.name: network.config for network in networks}
    return describe_configs(configs, len(networks) > 1 and share_embeddings(networks))


def describe_configs(configs, shares_embeddings):
    """Lines that say which networks these are.

    Args:
      configs: dict of `EncoderConfig`s by the network's name.
      shares_embeddings: whether a generator has the discriminator's embeddings.

    Returns:
      list of str.
    """
    notes = []
    for name, config in configs.items():
        own = ""
        if name == "generator" and len(configs) > 1:
            own = " (shared)" if shares_embeddings else " (its own)"
        notes.append(
            f"{name}: layers {config.num_hidden_layers}, width {config.hidden_size}, attention heads "
            f"{config.num_attention_heads}, feed-forward {config.intermediate_size}, embeddings "
            f"{config.embedding_size}{own}, tokens {config.vocab_size}, positions "
            f"{config.max_position_embeddings}"
        )
    return notes


def read_networks(run, allow_missing=None):
    """Reads the networks of a run folder.

    Args:
      run: folder with `discriminator/` and `generator/`.
      allow_missing: as of `tensors.match`; one that matches "generator/" does without that folder.

    Returns:
      list of `Discriminator` and perhaps `Generator`, each with embeddings of its own.

    Raises:
      UserError: as `huggingface.load_model`, there is no masked generator, or other programs lack a
        network.
    """
    path = tf.io.gfile.join(run, "discriminator")
    check_transformer(huggingface.read_config(path), path)
    discriminator = huggingface.load_model(Discriminator, path, allow_missing=allow_missing)
    path = tf.io.gfile.join(run, "generator")
    is_there = tf.io.gfile.isdir(path)
    if not is_there or is_causal(path):
        if allows(allow_missing, "generator/"):
            return [discriminator]
        problem = "a causal generator, which is not converted" if is_there else "no such folder"
        raise UserError(
            f"{path}: {problem}; --allow_missing='generator.*' converts the discriminator alone"
        )
    return [discriminator, huggingface.load_model(Generator, path, allow_missing=allow_missing)]


def is_causal(folder):
    """Whether a generator's folder holds a causal one."""
    return huggingface.architectures(folder) == ["GPT2LMHeadModel"]


def share_embeddings(networks):
    """Whether all networks have the same values in their embeddings."""
    first, *others = (network.embeddings.variables for network in networks)
    return all(
        np.array_equal(variable, other_variable)
        for other in others
        for variable, other_variable in zip(first, other)
    )


def read_pretrainer(run):
    """Reads the newest checkpoint of a pre-training run that can be read.

    Returns:
      `ElectraPretrainer` with its optimizer.

    Raises:
      UserError: it is no such run, has no checkpoint, or none that can be read, other programs lack
        a network, or trains otherwise.
    """
    path, checkpoints = (tf.io.gfile.join(run, name) for name in (CONFIG_FILE, CHECKPOINTS))
    if not saved_checkpoints(checkpoints):
        raise UserError(f"{checkpoints}: no checkpoint in it; leave --optimizer out")
    config = pretraining_config(read_yaml(path, "--input"), path)
    for key, needed in (("generator", "masked"), ("tied", False)):
        if getattr(config, key) != needed:
            raise UserError(
                f"{path}: {key} is {getattr(config, key)}; training can be converted with "
                f"{needed} alone; leave --optimizer out"
            )
    model = create_pretrainer(config)
    if model.adversary is not None:
        raise UserError(
            f"{path}: no other program has the baseline of an adversarial schedule; leave --optimizer "
            "out"
        )
    check_transformer(model.discriminator.config, path)
    restore(create_run_checkpoint(model)[0], checkpoints, model)
    return model
