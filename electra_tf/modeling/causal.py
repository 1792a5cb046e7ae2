"""A generator that proposes from the left context alone: a GPT-2 of KerasHub's over our vocabulary.

Trained with the causal loss on every real token's successor. It reads the text as it is, since what is
hidden at a position and after it is out of its sight anyway: one pass gives the loss and the
proposals.
"""

import keras
import numpy as np
import tensorflow as tf

from electra_tf import masking, randomness
from electra_tf.errors import UserError
from electra_tf.modeling.proposals import Proposals, sample

_NEVER = -1e9  # Bias of a token that is never proposed.


def import_keras_hub(purpose="a causal language model needs KerasHub, which is not installed"):
    """KerasHub, which is an extra.

    Args:
      purpose: what to say where it is missing, before how to install it.

    Raises:
      UserError: it is not installed.
    """
    try:
        import keras_hub
    except ModuleNotFoundError as error:
        if error.name != "keras_hub":
            raise
        raise UserError(f"{purpose}: pip install 'electra_tf[keras_hub]'") from None
    return keras_hub


def backbone_options(config):
    """The arguments of `keras_hub.models.GPT2Backbone`, a dict, for an `EncoderConfig`."""
    return {
        "vocabulary_size": config.vocab_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "hidden_dim": config.hidden_size,
        "intermediate_dim": config.intermediate_size,
        "dropout": config.hidden_dropout_prob,
        "max_sequence_length": config.max_position_embeddings,
    }


class CausalGenerator(keras.Model):
    """A decoder with embeddings of its own.

    ```python
    generator = CausalGenerator(config.generator_config(), tokenizer.special_ids)
    logits = generator({"input_ids": ids, "input_mask": mask})  # [B, T, V]: of the tokens after
    ```
    """

    def __init__(self, config, special_ids, **kwargs):
        """Makes the decoder and its variables.

        Args:
          config: `configs.EncoderConfig`.
          special_ids: ids of [PAD], [CLS], [SEP] and [MASK], which are never proposed.
        """
        super().__init__(name="generator", **kwargs)
        self.config, self.special_ids = config, tuple(special_ids)
        self.backbone = import_keras_hub().models.GPT2Backbone(
            **backbone_options(config), dtype=self.dtype_policy
        )
        self._proposal_bias = np.zeros(config.vocab_size, np.float32)
        self._proposal_bias[list(special_ids)] = _NEVER
        self.built = True

    def save_pretrained(self, folder):
        """Writes `config.json` and `model.safetensors` in Hugging Face's layout of GPT-2."""
        from electra_tf.interop import gpt2

        pad_id, cls_id, sep_id, _ = self.special_ids
        gpt2.save_backbone(self.backbone, folder, pad_id, cls_id, sep_id)

    def call(self, inputs, training=False, dropout_seed=None):
        """Runs the decoder.

        Args:
          inputs: dict of int [B, T]: `input_ids`, and `input_mask`, 1 on real tokens, which come
            first.
          training: whether dropout is on.
          dropout_seed: int32 [2] that decides the dropout; None leaves it to Keras.

        Returns:
          [B, T, V] in the compute dtype: logits of the token after each.
        """
        tokens = {"token_ids": inputs["input_ids"], "padding_mask": inputs["input_mask"]}
        if dropout_seed is None:
            return self._logits(tokens, training)
        # Of these Keras would draw the seeds of dropout, and count on; here the step decides.
        seeds = [
            (state, tf.cast(randomness.fold_in(dropout_seed, i), state.dtype))
            for i, state in enumerate(self.backbone.non_trainable_variables)
        ]
        with keras.StatelessScope(state_mapping=seeds):
            return self._logits(tokens, training)

    def _logits(self, tokens, training):
        hidden = self.backbone(tokens, training=training)
        return self.backbone.token_embedding(hidden, reverse=True)

    def totals(self, batch):
        """How many tokens have one before them, dict of a float32 scalar."""
        return {"causal_lm_tokens": tf.reduce_sum(tf.cast(batch["input_mask"][:, 1:], tf.float32))}

    def propose(self, batch, masked, noise, sampling, training=False, dropout_seed=None):
        """Draws replacements, each by the tokens left of it.

        Args:
          batch: dict of int32 [B, T]: `input_ids`, `input_mask`.
          masked: `masking.MaskedInputs`; where tokens are hidden.
          noise: float32 [B, P, 2], uniform in [0, 1).
          sampling: `proposals.Sampling`.
          training, dropout_seed: as of `call`.

        Returns:
          `proposals.Proposals`; the distribution of `logits` is the decoder's without the special
          tokens, and has no gradient.
        """
        logits = self(batch, training=training, dropout_seed=dropout_seed)[:, :-1]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=batch["input_ids"][:, 1:], logits=tf.cast(logits, tf.float32)
        )
        # Unused slots have position 0, [CLS], which has nothing before it.
        before = tf.maximum(masked.positions - 1, 0)
        unbiased_logits = masking.gather_positions(tf.stop_gradient(logits), before)
        sampled_ids, masked_lm_loss, is_restored = sample(
            unbiased_logits, tf.constant(self._proposal_bias), masked, noise, sampling, training
        )
        is_token = tf.cast(batch["input_mask"][:, 1:], tf.float32)
        return Proposals(
            logits=tf.cast(unbiased_logits, tf.float32) + self._proposal_bias,
            hidden=None,
            sampled_ids=sampled_ids,
            masked_lm_loss=masked_lm_loss,
            is_restored=is_restored,
            sums={"causal_lm_loss": tf.reduce_sum(losses * is_token), **self.totals(batch)},
        )
