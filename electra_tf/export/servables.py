"""What a server runs: a model of ids and a model of strings, each with named inputs and outputs.

A model of ids has TensorFlow's own operations alone and, in `serving_default`, numbers alone, so that
other runtimes read it. A server that was asked to
(`pad_variable_length_inputs`) pads its inputs with each one's first value, ids with [CLS] and the mask
with 1; such padding is found and left out.
"""

from typing import NamedTuple

import tensorflow as tf

IDS = ("input_ids", "input_mask", "segment_ids")
EXAMPLES_SPEC = tf.TensorSpec([None], tf.string, name="inputs")  # Serialized.
MAX_BATCH_SIZE = 32


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

    Attributes:
      network: `modeling.electra.ElectraModel`.
      tokenizer: `Tokenizer`.
      max_seq_length: of the sequences to be served.
      max_batch_size: rows that the network computes at once where texts are cut into windows.
    """

    #: The inputs of strings [B].
    texts = ("text",)
    #: Least `max_seq_length`.
    min_seq_length = 5

    def __init__(self, network, tokenizer, max_seq_length):
        self.network, self.tokenizer = network, tokenizer
        self.max_seq_length, self.max_batch_size = max_seq_length, MAX_BATCH_SIZE

    def outputs(self, batch):
        """Dict of tensors of numbers for a dict of int32 [B, T]."""
        raise NotImplementedError

    def named(self, outputs):
        """Outputs with the strings that numbers stand for."""
        return outputs

    def example_signatures(self, outputs_of):
        """More signatures: of serialized tf.Examples. `outputs_of`: function of those."""
        return {}

    def ids_specs(self):
        """`tf.TensorSpec`s of the inputs of ids."""
        return [tf.TensorSpec([None, None], tf.int32, name=name) for name in IDS]

    def text_specs(self):
        """`tf.TensorSpec`s of the inputs of strings."""
        return [tf.TensorSpec([None], tf.string, name=name) for name in self.texts]

    def ids(self):
        """The `Servable` of ids: `serving_default`, and what `example_signatures` gives."""

        @tf.function(input_signature=self.ids_specs(), autograph=False)
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
            return self.named(self.outputs(self._batch(*dense)))

        return self._servable(serving_default, self.example_signatures(parse))

    def text(self):
        """The `Servable` of strings, of any length."""

        @tf.function(input_signature=self.text_specs(), autograph=False)
        def serving_default(*texts):
            return self.text_outputs(texts)

        def parse(serialized):
            features = {name: tf.io.FixedLenFeature([], tf.string) for name in self.texts}
            parsed = tf.io.parse_example(serialized, features)
            return self.text_outputs([parsed[name] for name in self.texts])

        return self._servable(serving_default, self.example_signatures(parse), self.tokenizer)

    def text_outputs(self, texts):
        """Dict of tensors for the inputs of `text_specs`; of a text that is too long, the beginning counts."""
        return self.named(self.outputs(self.batch_of(texts)))

    def batch_of(self, texts):
        """The batch of ids for the inputs of `text_specs`."""
        return self.pack([self.tokenizer.tokenize(text) for text in texts])

    def pack(self, segments):
        """A batch of pieces, padded to its longest row."""
        packed = self.tokenizer.pack(segments, self.max_seq_length)
        # Of no rows the highest is the lowest number.
        longest = tf.maximum(tf.reduce_max(tf.reduce_sum(packed["input_mask"], axis=1)), 0)
        return {name: values[:, :longest] for name, values in packed.items()}

    def _servable(self, serving_default, signatures, *tables):
        module = tf.Module()
        module.variables_of_network = [variable.value for variable in self.network.variables]
        module.tables = tables
        return Servable(module, {"serving_default": serving_default, **signatures})

    def _batch(self, input_ids, input_mask, segment_ids):
        """A batch of ids without the server's padding, nor ours, nor what is too long."""
        mask = input_mask * real_tokens(input_ids, self.tokenizer.pad_id)
        values = {"input_ids": input_ids, "input_mask": mask, "segment_ids": segment_ids}
        return {name: value[..., : self.max_seq_length] for name, value in values.items()}


class TaskServables(Servables):
    """The models of a fine-tuned one."""

    def __init__(self, finetuned):
        """Takes a `tasks.model_folder.FinetunedModel`."""
        super().__init__(finetuned.network, finetuned.tokenizer, finetuned.max_seq_length)
        self.task = finetuned.task

    def predict(self, batch):
        """What the task predicts by (`Task.outputs`), for a batch of ids."""
        return self.task.outputs(self.network(batch)["logits"])


def real_tokens(input_ids, pad_id):
    """int32 [..., T], 0 on padding: `pad_id`, or at the end the row's first id again."""
    others = tf.cast(tf.not_equal(input_ids, input_ids[..., :1]), tf.int32)
    has_others_behind = tf.cumsum(others, axis=-1, reverse=True) > 0
    is_first = tf.range(tf.shape(input_ids)[-1]) == 0
    return tf.cast((input_ids != pad_id) & (has_others_behind | is_first), tf.int32)


def in_chunks(function, batch, size):
    """Computes a batch's rows some at a time, so that memory does not grow with their number.

    Args:
      function: of a dict of tensors [n, ...]; gives float32 [n, ...].
      batch: dict of tensors [N, ...].
      size: most rows at once.

    Returns:
      float32 [N, ...].
    """
    num_rows = tf.shape(next(iter(batch.values())))[0]
    num_chunks = tf.maximum(-(-num_rows // size), 1)  # Of no rows, an empty one.

    def compute(number, chunks):
        rows = {name: v[number * size : (number + 1) * size] for name, v in batch.items()}
        return number + 1, chunks.write(number, function(rows))

    chunks = tf.TensorArray(tf.float32, num_chunks)
    _, chunks = tf.while_loop(
        lambda number, _: number < num_chunks, compute, (0, chunks), parallel_iterations=1
    )
    return chunks.concat()
