"""Served pre-trained networks: the discriminator's verdicts and vectors, the generator's proposals."""

import tensorflow as tf

from electra_tf.export.servables import Servables
from electra_tf.tokenization import MASK

TOP_K = 5


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


class SequenceDiscriminatorServables(Servables):
    """Which texts were generated."""

    def outputs(self, batch):
        return {"generated_probability": tf.sigmoid(self.network(batch)["logits"])}


class GeneratorServables(Servables):
    """The most probable pieces for each [MASK].

    M is the number of masks of the row that has most; a row with fewer is padded with empty pieces of
    probability 0.
    """

    def __init__(self, network, tokenizer, max_seq_length):
        super().__init__(network, tokenizer, max_seq_length)
        self.top_k = min(TOP_K, tokenizer.vocab_size)

    def outputs(self, batch):
        is_mask = (batch["input_ids"] == self.tokenizer.mask_id) & (batch["input_mask"] > 0)
        counts = tf.cast(is_mask, tf.int32)
        numbers = tf.cumsum(counts, axis=1, exclusive=True)
        places = tf.cast(tf.where(is_mask), tf.int32)
        rows_and_numbers = tf.stack([places[:, 0], tf.gather_nd(numbers, places)], axis=1)
        counts = tf.reduce_sum(counts, axis=1)
        most = tf.maximum(tf.reduce_max(counts), 0)  # Of no rows it is the lowest number.
        shape = tf.stack([tf.size(counts), most])
        positions = tf.scatter_nd(rows_and_numbers, places[:, 1], shape)
        logits = self.network({**batch, "masked_positions": positions})["logits"]
        # Embeddings beyond the vocabulary have no piece.
        probabilities = tf.nn.softmax(logits)[..., : self.tokenizer.vocab_size]
        scores, ids = tf.math.top_k(probabilities, self.top_k)
        is_there = tf.range(most) < counts[:, None]
        return {
            "positions": positions,
            "token_ids": tf.where(is_there[..., None], ids, self.tokenizer.pad_id),
            "scores": tf.where(is_there[..., None], scores, 0.0),
        }

    def named(self, outputs):
        tokens = tf.gather(tf.constant(self.tokenizer.vocab), outputs["token_ids"])
        return {
            "tokens": tf.where(outputs["scores"] > 0, tokens, ""),
            "scores": outputs["scores"],
        }

    def batch_of(self, texts):
        """`[MASK]` in a text is one token here."""
        parts = tf.strings.split(texts[0], MASK)
        ids = self.tokenizer.tokenize(parts.flat_values)
        # A mask goes before each part; the first of a text has none.
        ids = tf.concat([tf.fill([ids.nrows(), 1], self.tokenizer.mask_id), ids], axis=1)
        return self.pack([parts.with_values(ids).merge_dims(1, 2)[:, 1:]])
