"""What a server runs: models of ids and models of strings, each with named inputs and outputs.

A model of ids has TensorFlow's own operations alone. A server that was asked to
(`pad_variable_length_inputs`) pads its inputs with each one's first value, ids with [CLS] and the mask
with 1; such padding is found and left out.
"""

from typing import NamedTuple

import tensorflow as tf

from electra_tf.errors import UserError
from electra_tf.interop.huggingface import find_encoder
from electra_tf.modeling.electra import Discriminator
from electra_tf.tasks.model_folder import is_finetuned, load_finetuned
from electra_tf.tokenization import Tokenizer

IDS = ("input_ids", "input_mask", "segment_ids")


class Servable(NamedTuple):
    """A model for `tf.saved_model.save`.

    Attributes:
      module: `tf.Module` that holds variables and tables.
      signatures: dict from name to `tf.function` with an input signature; its results are dicts of
        tensors whose first axis is the batch.
    """

    module: tf.Module
    signatures: dict


class Servables:
    """The models of one kind of network, of ids and of strings.

    A subclass says what is computed from a batch of ids.
    """

    #: Texts of an example, as the inputs of strings are called.
    texts = ("text",)

    def __init__(self, network, tokenizer, max_seq_length):
        self.network, self.tokenizer = network, tokenizer
        self.max_seq_length = max_seq_length

    def outputs(self, batch):
        """Dict of tensors for a dict of int32 [B, T]."""
        raise NotImplementedError

    def example_signatures(self, outputs_of):
        """More signatures: of serialized tf.Examples. `outputs_of`: function of those."""
        return {}

    def ids(self):
        """The `Servable` of ids: `serving_default`, and what `example_signatures` gives."""
        specs = [tf.TensorSpec([None, None], tf.int32, name=name) for name in IDS]

        @tf.function(input_signature=specs, autograph=False)
        def serving_default(input_ids, input_mask, segment_ids):
            return self.outputs(self._batch(input_ids, input_mask, segment_ids))

        def parse(serialized):
            features = {name: tf.io.RaggedFeature(tf.int64) for name in IDS}
            ragged = tf.io.parse_example(serialized, features)
            ids = ragged["input_ids"].to_tensor(self.tokenizer.pad_id)
            shape = tf.shape(ids, tf.int64)
            # An example may leave the mask out, and the segments.
            lengths = ragged["input_ids"].row_lengths()
            mask = tf.sequence_mask(lengths, shape[1], tf.int64)
            segments = ragged["segment_ids"].to_tensor(shape=shape)
            dense = (tf.cast(x, tf.int32) for x in (ids, mask, segments))
            return self.outputs(self._batch(*dense))

        return self._servable(serving_default, self.example_signatures(parse))

    def text(self):
        """The `Servable` of strings; of any length, the beginning counts."""
        specs = [tf.TensorSpec([None], tf.string, name=name) for name in self.texts]

        @tf.function(input_signature=specs, autograph=False)
        def serving_default(*texts):
            return self.text_outputs(texts)

        def parse(serialized):
            features = {name: tf.io.FixedLenFeature([], tf.string) for name in self.texts}
            parsed = tf.io.parse_example(serialized, features)
            return self.text_outputs([parsed[name] for name in self.texts])

        return self._servable(serving_default, self.example_signatures(parse), self.tokenizer)

    def text_outputs(self, texts):
        """Dict of tensors for one or two string tensors [B]."""
        return self.outputs(self.batch_of(texts))

    def batch_of(self, texts):
        """The batch of ids of one or two string tensors [B]."""
        return self.pack([self.tokenizer.tokenize(text) for text in texts])

    def pack(self, segments):
        """A batch of pieces, padded to its longest row."""
        packed = self.tokenizer.pack(segments, self.max_seq_length)
        longest = tf.reduce_max(tf.reduce_sum(packed["input_mask"], axis=1))
        return {name: values[:, :longest] for name, values in packed.items()}

    def _servable(self, serving_default, signatures, *tables):
        module = tf.Module()
        module.variables_of_network = [variable.value for variable in self.network.variables]
        module.tables = tables
        return Servable(module, {"serving_default": serving_default, **signatures})

    def _batch(self, input_ids, input_mask, segment_ids):
        """A batch of ids without the server's padding, nor ours, nor what is too long."""
        cut = slice(None, self.max_seq_length)
        mask = input_mask * real_tokens(input_ids, self.tokenizer.pad_id)
        values = {"input_ids": input_ids, "input_mask": mask, "segment_ids": segment_ids}
        return {name: value[:, cut] for name, value in values.items()}


def real_tokens(input_ids, pad_id):
    """int32 [B, T], 0 on padding: `pad_id`, or at the end the row's first id again."""
    repeats = tf.cast(tf.equal(input_ids, input_ids[:, :1]), tf.int32)
    at_end = tf.math.cumprod(repeats, axis=1, reverse=True)
    is_first = tf.one_hot(0, tf.shape(input_ids)[1], dtype=tf.int32)
    return tf.cast(tf.not_equal(input_ids, pad_id), tf.int32) * tf.maximum(1 - at_end, is_first)


class DiscriminatorServables(Servables):
    """Which tokens of a text were replaced, and the encoder's vectors."""

    def outputs(self, batch):
        results = self.network(batch)
        return {
            "replaced_probabilities": tf.sigmoid(results["logits"])
            * tf.cast(batch["input_mask"], tf.float32),
            "sequence_output": results["sequence_output"],
            "pooled_output": results["sequence_output"][:, 0],
        }

    def text_outputs(self, texts):
        """Padding: an empty piece at (0, 0) with the probability 0."""
        ids, starts, ends = self.tokenizer.tokenize_with_offsets(texts[0])
        room = self.max_seq_length - 2
        ids, starts, ends = (part[:, :room] for part in (ids, starts, ends))
        batch = self.pack([ids])
        probabilities = tf.sigmoid(self.network(batch)["logits"])
        # [CLS] and [SEP] are no pieces of the text.
        is_piece = tf.ones_like(ids).to_tensor()
        pieces = tf.gather(tf.constant(self.tokenizer.vocab), ids.to_tensor())
        return {
            "pieces": tf.where(is_piece > 0, pieces, ""),
            "starts": starts.to_tensor(),
            "ends": ends.to_tensor(),
            "replaced_probabilities": probabilities[:, 1:-1] * tf.cast(is_piece, tf.float32),
        }


class TextTaskServables(Servables):
    """A fine-tuned model of texts or of pairs of texts."""

    def __init__(self, finetuned):
        super().__init__(finetuned.network, finetuned.tokenizer, finetuned.max_seq_length)
        self.task = finetuned.task
        self.texts = self.task.config.texts


class ClassificationServables(TextTaskServables):
    """Labels with their scores."""

    def outputs(self, batch):
        scores = self.task.outputs(self.network(batch)["logits"])
        labels = tf.constant(self.task.labels)
        return {
            "label": tf.gather(labels, tf.argmax(scores, axis=1)),
            "labels": tf.tile(labels[None], [tf.shape(scores)[0], 1]),
            "scores": scores,
        }

    def example_signatures(self, outputs_of):
        specs = [tf.TensorSpec([None], tf.string, name="inputs")]

        @tf.function(input_signature=specs, autograph=False)
        def classify(inputs):
            outputs = outputs_of(inputs)
            return {"classes": outputs["labels"], "scores": outputs["scores"]}

        return {"classify": classify}


class RegressionServables(TextTaskServables):
    """Numbers on the scale of the training data."""

    def outputs(self, batch):
        low, high = self.task.label_range
        return {
            "outputs": low + (high - low) * self.task.outputs(self.network(batch)["logits"])[:, 0]
        }

    def example_signatures(self, outputs_of):
        specs = [tf.TensorSpec([None], tf.string, name="inputs")]

        @tf.function(input_signature=specs, autograph=False)
        def regress(inputs):
            return {"outputs": outputs_of(inputs)["outputs"]}

        return {"regress": regress}


_BY_KIND = {"classification": ClassificationServables, "regression": RegressionServables}


def load_servables(folder, max_seq_length=None, task=None):
    """The `Servables` of a model folder.

    Args:
      folder: of a discriminator, of a run with one in it, or of a fine-tuned model.
      max_seq_length: of the sequences to be served; None for what the model was trained with, or of a
        discriminator for all of its positions.
      task: name of the task, of a folder with several.

    Raises:
      UserError: a file is missing or malformed, a kind that cannot be exported yet, or sequences longer
        than the model's positions.
    """
    if is_finetuned(folder):
        finetuned = load_finetuned(folder, task)
        kind = finetuned.task.config.kind
        if kind not in _BY_KIND:
            raise UserError(
                f"{folder}: a {kind} model; there is export for {', '.join(_BY_KIND)} yet"
            )
        servables = _BY_KIND[kind](finetuned)
    else:
        folder = find_encoder(folder)
        network = Discriminator.from_pretrained(folder)
        most = network.config.max_position_embeddings
        servables = DiscriminatorServables(network, Tokenizer.from_pretrained(folder), most)
    most = servables.network.config.max_position_embeddings
    if max_seq_length and not 5 <= max_seq_length <= most:
        raise UserError(
            f"--max_seq_length={max_seq_length}: the model has {most} positions; give 5 to {most}"
        )
    servables.max_seq_length = max_seq_length or servables.max_seq_length
    return servables
