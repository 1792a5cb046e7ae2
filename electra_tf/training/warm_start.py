"""What a pre-training run begins with in place of random weights: another run's, or a released model's."""

import dataclasses

import numpy as np
import tensorflow as tf

from electra_tf.configs import architecture_differences, read_yaml
from electra_tf.errors import UserError
from electra_tf.interop import gpt2, huggingface
from electra_tf.interop.runs import pretraining_config
from electra_tf.modeling.causal import CausalGenerator, backbone_options
from electra_tf.tokenization import (
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
    Tokenizer,
    strips_accents,
    vocab_sha256,
)
from electra_tf.training.checkpoints import restore
from electra_tf.training.run_folder import CHECKPOINTS, CONFIG_FILE, read_data

_POSITIONS = "electra.embeddings.position_embeddings.weight"

# What decides, beside the architectures, which variables there are.
_VARIABLE_KEYS = ("generator", "tied", "untied_generator_embeddings")

_WORDS = "electra.embeddings.word_embeddings.weight"
# What has a row for each piece of the vocabulary.
_BY_PIECE = (_WORDS, "generator_lm_head.bias", *huggingface.REPEATED)


def find_networks(folder):
    """Paths of the networks of a folder, by their names.

    Args:
      folder: of a run or of an export, with `discriminator/` and perhaps `generator/`; or of one
        encoder, ELECTRA's or BERT's, which is the discriminator's.
    """
    paths = {"discriminator": huggingface.find_encoder(folder)}
    generator = tf.io.gfile.join(folder, "generator")
    if tf.io.gfile.isdir(generator):
        paths["generator"] = generator
    return paths


def check_networks(config, tokenizer, folder):
    """Compares the networks of a folder with the run that is to begin with their weights.

    Args:
      config: `configs.PretrainingConfig`.
      tokenizer: `Tokenizer` of the run.
      folder: as of `find_networks`.

    Raises:
      UserError: a file is missing, or a network has another architecture, vocabulary or casing, or the
        generator embeddings of its own. It may have fewer positions, but for a causal generator.
    """
    paths = find_networks(folder)
    for name, path in paths.items():
        if name == "generator" and config.generator_loss is None:
            continue
        _refuse_differences(folder, name, _differences(name, path, config))
        there = Tokenizer.from_pretrained(path)
        if there.vocab != tokenizer.vocab:
            raise UserError(
                f"--init_from={folder}: the {name} has another vocabulary; build the records with "
                f"--vocab_file={tf.io.gfile.join(path, VOCAB_FILE)}"
            )
        if tf.io.gfile.exists(tf.io.gfile.join(path, TOKENIZER_CONFIG_FILE)):
            _refuse_casing(folder, there.lowercase, there.strip_accents, tokenizer)
    shares_embeddings = config.generator == "masked" and not config.untied_generator_embeddings
    if shares_embeddings and "generator" in paths:
        _refuse_own_embeddings(folder, *(paths[name] for name in ("discriminator", "generator")))


def _refuse_casing(folder, lowercase, strip_accents, tokenizer):
    """Refuses to go on with text that is written otherwise."""
    for key, there, here in (
        ("do_lower_case", lowercase, tokenizer.lowercase),
        ("strip_accents", strip_accents, tokenizer.strip_accents),
    ):
        if there != here:
            raise UserError(
                f"--init_from={folder}: {key} is {there} there and {here} here; set "
                f"--override={key}={str(there).lower()}, with records that were built so"
            )


def _refuse_own_embeddings(folder, discriminator, generator):
    """Refuses a generator whose embeddings would give way to the discriminator's."""
    one, other = (huggingface.read_encoder(path)[1] for path in (discriminator, generator))
    if not np.array_equal(one.get(_WORDS), other.get(_WORDS)):
        raise UserError(
            f"--init_from={folder}: the generator has embeddings of its own; set "
            f"--override=untied_generator_embeddings=true, or give {discriminator} for the discriminator "
            "alone"
        )


def _differences(name, path, config):
    """What keeps the weights of a folder's network from a run's, but for its lack of positions."""
    if name == "generator" and config.generator == "causal":
        there = gpt2.read_config(path).backbone_options()
        here = backbone_options(config.generator_config())
        return [
            f"{key} is {there[key]} there and {here[key]} here"
            for key in here
            if key != "dropout" and there[key] != here[key]
        ]
    here = config.discriminator_config() if name == "discriminator" else config.generator_config()
    there = huggingface.read_config(path)
    if there.max_position_embeddings < here.max_position_embeddings:
        there = dataclasses.replace(there, max_position_embeddings=here.max_position_embeddings)
    if there.vocab_size > here.vocab_size:  # Rows of no piece, where the vocabulary is the same.
        there = dataclasses.replace(there, vocab_size=here.vocab_size)
    return architecture_differences(there, here)


def check_run(config, tokenizer, folder):
    """Compares the run in a folder with the one that is to continue its schedule.

    Args:
      config, tokenizer: as of `check_networks`.
      folder: of a run of `pretrain`.

    Raises:
      UserError: it is no such run, or of another architecture or vocabulary.
    """
    path = tf.io.gfile.join(folder, CONFIG_FILE)
    values = read_yaml(path, "--continue_schedule")
    there = pretraining_config(values, path)
    _refuse_differences(
        folder,
        "generator",
        [
            f"{key} is {getattr(there, key)!r} there and {getattr(config, key)!r} here"
            for key in _VARIABLE_KEYS
            if getattr(there, key) != getattr(config, key)
        ],
    )
    if (there.schedule == "adversarial") != (config.schedule == "adversarial"):
        raise UserError(
            f"--init_from={folder}: schedule is {there.schedule!r} there and {config.schedule!r} here, but "
            "only adversarial training learns a baseline; leave --continue_schedule out"
        )
    if "two_stage" in (there.schedule, config.schedule):
        for key in ("schedule", "generator_steps"):
            if getattr(there, key) != getattr(config, key):
                raise UserError(
                    f"--init_from={folder}: {key} is {getattr(there, key)!r} there and "
                    f"{getattr(config, key)!r} here, and the second stage begins once, at its step; give the "
                    "same, or leave --continue_schedule out"
                )
    for network, one, other in (
        ("discriminator", there.discriminator_config(), config.discriminator_config()),
        ("generator", there.generator_config(), config.generator_config()),
    ):
        _refuse_differences(folder, network, architecture_differences(one, other))
    if "do_lower_case" in values:  # A converted run's checkpoint tells nothing of it.
        strip_accents = strips_accents(there.do_lower_case, there.strip_accents)
        _refuse_casing(folder, there.do_lower_case, strip_accents, tokenizer)
    if read_data(folder).get("vocab_sha256") != vocab_sha256(tokenizer.vocab):
        raise UserError(
            f"--init_from={folder}: the run has another vocabulary; build the records with its own, or "
            "leave --continue_schedule out"
        )


def _refuse_differences(folder, network, differences):
    if differences:
        raise UserError(
            f"--init_from={folder}: the {network} is of another architecture: "
            f"{'; '.join(differences)}; give the same --config and overrides as it was made with"
        )


def import_networks(model, folder):
    """Reads the weights of a folder; the optimizer's moments begin at 0.

    What a folder lacks stays random: the generator, apart from embeddings that it shares with the
    discriminator; the head above an encoder. Where it has fewer positions than the run, the
    further ones begin as copies of its own, over and over (Beltagy et al., 2020, section 5).

    Args:
      model: `ElectraPretrainer`.
      folder: as of `find_networks`.

    Returns:
      list of str: what came from the folder, what is new, and what was left out.

    Raises:
      UserError: a file is missing or malformed, or tensors do not match one to one; all are named.
    """
    paths, notes = find_networks(folder), []
    # The discriminator last: what both share is its own.
    for network in reversed(model.networks):
        path = paths.get(network.name)
        if path is None:
            notes.append(f"{network.name}: none there; new and random, but for shared embeddings")
        elif isinstance(network, CausalGenerator):
            gpt2.read_weights(network.backbone, path)
            notes.append(f"{network.name}: all of {path}")
        else:
            notes += import_network(network, path, huggingface.read_encoder(path))
    return notes


def import_network(network, path, source):
    """Gives a network the weights of one folder, as `import_networks` does.

    Args:
      network: `Discriminator` or `Generator`.
      path: folder of `config.json` and weights.
      source: what `huggingface.read_encoder` read there.

    Returns, raises: as `import_networks`.
    """
    config, arrays, others = source
    notes = [f"{network.name}: {len(arrays)} tensors of embeddings and encoder are those of {path}"]
    positions = network.config.max_position_embeddings
    if positions > config.max_position_embeddings and _POSITIONS in arrays:
        width = arrays[_POSITIONS].shape[1]
        arrays[_POSITIONS] = np.resize(arrays[_POSITIONS], (positions, width))
        notes.append(
            f"{network.name}: positions {config.max_position_embeddings} to {positions - 1} begin as "
            "copies of the ones before them"
        )
    vocab_size = network.config.vocab_size
    if config.vocab_size > vocab_size:
        notes.append(
            f"{network.name}: left out of {path}: rows {vocab_size} to {config.vocab_size - 1} of the "
            "embeddings, which are of no piece"
        )
        for found in (arrays, others):
            found |= {name: found[name][:vocab_size] for name in _BY_PIECE if name in found}
    head = huggingface.head_tensors(network)
    known = (*head, *huggingface.REPEATED)
    arrays |= {name: others.pop(name) for name in known if name in others}
    has_head = any(name in arrays for name in head)
    tensors = huggingface.encoder_tensors(network) | (head if has_head else {})
    huggingface.assign_tensors(tensors, arrays, path)
    if not has_head:
        notes.append(f"{network.name}: new and random: {', '.join(head)}")
    left_out = sorted(set(others) - huggingface.REDUNDANT)
    if left_out:
        notes.append(f"{network.name}: left out of {path}: {', '.join(left_out)}")
    return notes


def restore_run(checkpoint, model, folder):
    """Takes over weights, Adam's moments and step of a run's newest checkpoint; returns the step.

    Args:
      checkpoint: `tf.train.Checkpoint` of `checkpoints.create_run_checkpoint`.
      model: `ElectraPretrainer`.
      folder: of the run.

    Raises:
      UserError: it has no checkpoint that can be read, or is beyond `num_train_steps`.
    """
    step = restore(checkpoint, tf.io.gfile.join(folder, CHECKPOINTS), model)
    if not step:
        raise UserError(
            f"--init_from={folder}: no checkpoint in it; leave --continue_schedule out to begin a new "
            "schedule"
        )
    if step >= model.config.num_train_steps:
        raise UserError(
            f"--init_from={folder}: is at step {step:,} already; --continue_schedule needs a "
            f"num_train_steps beyond it (now {model.config.num_train_steps:,})"
        )
    return step


def extend_vocabulary(network, spelled, vocab_size):
    """A network of a larger vocabulary: a new piece's row is the mean of those that spelled it.

    Args:
      network: `Discriminator` or `Generator`.
      spelled: for each new piece, the list of old ids that it was written with (`vocabulary.spell`).
      vocab_size: of the old vocabulary; further rows, such as some models are padded with, are dropped.

    Returns:
      network of the same class, with embeddings of its own.
    """
    config = dataclasses.replace(network.config, vocab_size=vocab_size + len(spelled))
    larger = type(network)(config)
    old = huggingface.model_tensors(network)
    for name, (variable, _) in huggingface.model_tensors(larger).items():
        array = old[name][0].numpy()
        if name in _BY_PIECE:
            means = [array[ids].mean(axis=0) for ids in spelled]
            array = np.stack([*array[:vocab_size], *means])
        variable.assign(array)
    return larger
