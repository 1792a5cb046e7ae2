"""A game of two networks over whole texts: one continues them, the other tells whose continuation it is.

The texts of a pair begin with the same prompt and have the same number of the generator's tokens, and
both are decoded by its vocabulary: neither length, casing nor an ending tells them apart.
"""

import dataclasses
import hashlib
import os
import random
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import yaml

from electra_tf import files
from electra_tf.configs import load_pretraining_config
from electra_tf.errors import UserError
from electra_tf.modeling.electra import SequenceDiscriminator
from electra_tf.tasks import reading

LABELS = ("real", "generated")
TASK_FILE, SETTINGS_FILE = "task.yaml", "game.json"

_POOL_SIZE = 4  # Of a convolutional-recurrent discriminator.
# So many characters have as many tokens as needed in most languages; a passage with fewer is left out.
_CHARS_PER_TOKEN = 8


class Pair(NamedTuple):
    """Two texts that begin alike.

    Attributes: `prompt`, how both begin; `real` and `generated`, the whole texts; each a str.
    """

    prompt: str
    real: str
    generated: str


def passages(documents, max_length):
    """Cuts documents at their lines to passages of about `max_length` tokens or more.

    Args:
      documents: iterable of `corpus.Document`.
      max_length: tokens wanted.

    Yields:
      str.
    """
    for document in documents:
        lines, size = [], 0
        for line in document.lines:
            lines.append(line.decode())
            size += len(lines[-1]) + 1
            if size > _CHARS_PER_TOKEN * max_length:
                yield "\n".join(lines)
                lines, size = [], 0
        if lines:
            yield "\n".join(lines)


def draw_texts(texts, vocabulary, prompt_length, max_length, num_texts, seed):
    """Draws texts that are long enough, of each prompt one.

    Args:
      texts: list of str.
      vocabulary: as `TextGenerator.vocabulary`.
      prompt_length, max_length: tokens of a prompt, and of a text with it.
      num_texts: how many to draw.
      seed: int that decides which, and their order.

    Returns:
      int32 [num_texts, max_length].

    Raises:
      UserError: there are fewer.
    """
    drawn = {}
    for text in random.Random(seed).sample(texts, len(texts)):
        if len(drawn) == num_texts:
            break
        # What is far beyond the last token need not be tokenized.
        ids = vocabulary.encode(text[: 4 * _CHARS_PER_TOKEN * max_length])[:max_length]
        if len(ids) == max_length:
            drawn.setdefault(tuple(ids[:prompt_length]), ids)
    if len(drawn) < num_texts:
        raise UserError(
            f"{len(drawn)} of {len(texts)} passages have max_length={max_length} tokens and a prompt "
            f"of their own, which is too few for num_examples={num_texts}; give more text, or lower "
            "one of the two"
        )
    return np.array(list(drawn.values()), np.int32)


def make_pairs(generator, texts, prompt_length, sampler, progress=None):
    """Continues the beginnings of texts.

    Args:
      generator: `generation.TextGenerator`.
      texts: int32 [N, T], what `draw_texts` gives.
      prompt_length: tokens of each that are kept.
      sampler, progress: as of `TextGenerator.fill`.

    Returns:
      list of N `Pair`.

    Raises:
      UserError: as of `TextGenerator.fill`.
    """
    prompts = texts[:, :prompt_length].tolist()
    generated = generator.fill(prompts, texts.shape[1], sampler, progress)
    pairs = []
    for rows in zip(prompts, texts.tolist(), generated.tolist()):
        # A row of a table has neither tabs nor line breaks.
        prompt, *whole = (" ".join(generator.vocabulary.decode(row).split()) for row in rows)
        # The prompt of byte pairs may end within a character.
        pairs.append(Pair(os.path.commonprefix([prompt, *whole]), *whole))
    return pairs


def fingerprint(generator):
    """What identifies a generator: the SHA-256 of its weights, str."""
    sha256 = hashlib.sha256()
    for variable in generator.model.backbone.trainable_variables:
        sha256.update(variable.path.encode() + variable.numpy().tobytes())
    return sha256.hexdigest()


def is_prepared(folder, settings):
    """Whether a folder holds the pairs of these settings already.

    Args:
      folder: of `write_pairs`.
      settings: dict as JSON has it.

    Raises:
      UserError: it holds those of others, or something else.
    """
    path = tf.io.gfile.join(folder, SETTINGS_FILE)
    if not tf.io.gfile.exists(path):
        if tf.io.gfile.exists(folder):
            raise UserError(f"{folder}: no pairs of a game in it; choose another --output_dir")
        return False
    before = files.read_json_object(path)
    differences = [
        f"{key} is {before.get(key)!r} there and {value!r} here"
        for key, value in settings.items()
        if before.get(key) != value
    ]
    if differences:
        raise UserError(
            f"{path}: made with other settings: {'; '.join(differences)}; choose another --output_dir, "
            "or the same values to continue"
        )
    return True


def write_pairs(folder, pairs, eval_fraction, settings, max_seq_length):
    """Writes pairs as a task of classification, the folder at once: both texts of a pair on one side.

    Args:
      folder: where to; must not be there.
      pairs: list of `Pair`, in random order.
      eval_fraction: share of the pairs that are held out; one at least is, and one is not.
      settings: dict that `is_prepared` compares.
      max_seq_length: the task's default.
    """
    num_held_out = min(max(1, round(eval_fraction * len(pairs))), len(pairs) - 1)
    task = {
        "name": "sequence_game",
        "kind": "classification",
        "columns": {"id": "id", "text": "text", "label": "label"},
        "train": "train.tsv",
        "dev": "dev.tsv",
        "labels": list(LABELS),
        "defaults": {"max_seq_length": max_seq_length},
    }
    files.make_folder(os.path.dirname(folder) or ".")
    with files.replacing(folder) as temporary:
        held_out, trained_on = pairs[:num_held_out], pairs[num_held_out:]
        for name, part in ((task["dev"], held_out), (task["train"], trained_on)):
            files.write(tf.io.gfile.join(temporary, name), _table(part))
        files.write(tf.io.gfile.join(temporary, TASK_FILE), yaml.safe_dump(task, sort_keys=False))
        files.write_json(tf.io.gfile.join(temporary, SETTINGS_FILE), settings)


def _table(pairs):
    lines = ["id\tprompt\ttext\tlabel"]
    for number, pair in enumerate(pairs):
        for label in LABELS:
            lines.append("\t".join((f"{number}-{label}", pair.prompt, getattr(pair, label), label)))
    return "\n".join(lines) + "\n"


def read_pairs(path):
    """Reads the pairs of one of the tables of `write_pairs`, a list of `Pair`."""
    columns = ["prompt", "text"]
    rows = [
        row.cells for row in reading.read_rows(path, "tsv", columns, reading.BadRows(skip=False))
    ]
    return [
        Pair(real["prompt"], real["text"], generated["text"])
        for real, generated in zip(rows[::2], rows[1::2])
    ]


def discriminator_config(kind, vocab_size):
    """The configuration of a discriminator of texts, of the size of the preset `tiny`.

    Args:
      kind: "transformer" or "convolutional_recurrent".
      vocab_size: pieces.

    Returns:
      `EncoderConfig`, or `ConvolutionalRecurrentConfig` with a `pool_size`.
    """
    preset = "tiny" if kind == "transformer" else f"tiny_{kind}"
    config = load_pretraining_config(preset, {"vocab_size": vocab_size}).discriminator_config()
    if kind == "convolutional_recurrent":
        return dataclasses.replace(config, pool_size=_POOL_SIZE)
    return config


def sequence_discriminator(classifier):
    """The `SequenceDiscriminator` that gives what a classifier of two labels gives, by one logit.

    The softmax of two logits is the sigmoid of their difference.

    Args:
      classifier: `SequenceClassifier` with the head "dense"; its second label is `generated`. Its
        embeddings and its encoder are shared.
    """
    network = SequenceDiscriminator(
        classifier.config, embeddings=classifier.embeddings, encoder=classifier.encoder
    )
    kernel, bias = (v.numpy() for v in (classifier.head.dense.kernel, classifier.head.dense.bias))
    network.head.dense.kernel.assign(kernel[:, 1:] - kernel[:, :1])
    network.head.dense.bias.assign(bias[1:] - bias[:1])
    return network
