"""Real examples seen through both networks, token by token."""

from typing import NamedTuple

import tensorflow as tf

NUM_PROPOSALS = 3


class TokenView(NamedTuple):
    """One token of an example.

    Attributes:
      original: the piece in the text.
      proposals: the generator's likeliest pieces, list of (piece, probability); empty where the
        token was not hidden.
      shown: the piece that the discriminator read, which is the sampled one where it was hidden.
      probability: that it was replaced, as the discriminator says.
    """

    original: str
    proposals: list
    shown: str
    probability: float

    @property
    def is_hidden(self):
        """Whether the generator had to restore the token."""
        return bool(self.proposals)

    @property
    def is_replaced(self):
        """Whether the discriminator should say so."""
        return self.shown != self.original


def view_examples(model, vocab, batch, num_examples, step=0):
    """Runs both networks on some examples.

    ```python
    for tokens in view_examples(model, tokenizer.vocab, batch, num_examples=4):
        print([token.shown for token in tokens if token.probability > 0.5])
    ```

    Args:
      model: `ElectraPretrainer`.
      vocab: list of str.
      batch: dict of int32 [B, T]: `input_ids`, `input_mask`, `segment_ids`.
      num_examples: how many of its first rows to look at.
      step: with the model's seed it decides what is hidden.

    Returns:
      list of lists of `TokenView`, without padding.
    """
    batch = {name: values[:num_examples] for name, values in batch.items()}
    outputs = model(batch, training=False, step=step)
    top = tf.math.top_k(tf.nn.softmax(outputs.generator_logits), NUM_PROPOSALS)
    top_ids, top_probabilities = top.indices.numpy(), top.values.numpy()
    probabilities = tf.sigmoid(outputs.discriminator_logits).numpy()
    masked, replaced_ids = outputs.masked, outputs.replaced_ids.numpy()
    lengths = batch["input_mask"].numpy().sum(axis=-1)
    views = []
    for row, ids in enumerate(batch["input_ids"].numpy()):
        slots = {
            int(position): slot
            for slot, position in enumerate(masked.positions[row].numpy())
            if masked.weights[row, slot] > 0
        }
        tokens = []
        for column in range(lengths[row]):
            slot = slots.get(column)
            proposals = []
            if slot is not None:
                pairs = zip(top_ids[row, slot], top_probabilities[row, slot])
                proposals = [(vocab[i], float(p)) for i, p in pairs]
            tokens.append(
                TokenView(
                    original=vocab[ids[column]],
                    proposals=proposals,
                    shown=vocab[replaced_ids[row, column]],
                    probability=float(probabilities[row, column]),
                )
            )
        views.append(tokens)
    return views
