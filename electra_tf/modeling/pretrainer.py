"""Joint pre-training of generator and discriminator (Clark et al., 2020, section 2.1).

mask -> generate -> sample -> replace -> discriminate -> losses; each a method, in this order.
"""

from typing import NamedTuple

import tensorflow as tf

from electra_tf import masking, randomness
from electra_tf.modeling import islands
from electra_tf.modeling.electra import Discriminator, Generator
from electra_tf.modeling.layers import runner
from electra_tf.modeling.trainable import DTYPE_POLICIES, TrainableModel

AUC_BINS = 4096

# What a random number is for; folded into the seed, so that no two uses share numbers.
MASKING, HIDING, SAMPLING, DROPOUT = range(4)


class PretrainingOutputs(NamedTuple):
    """What one batch gives.

    Attributes:
      masked: `masking.MaskedInputs`.
      generator_logits: float32 [B, P, V].
      masked_lm_loss: float32 [B, P], the generator's.
      is_restored: float32 [B, P], 1 where its likeliest token is the true one.
      sampled_ids: int32 [B, P].
      replaced_ids: int32 [B, T], the discriminator's input.
      is_replaced: float32 [B, T], its labels.
      discriminator_logits: float32 [B, T].
    """

    masked: masking.MaskedInputs
    generator_logits: tf.Tensor
    masked_lm_loss: tf.Tensor
    is_restored: tf.Tensor
    sampled_ids: tf.Tensor
    replaced_ids: tf.Tensor
    is_replaced: tf.Tensor
    discriminator_logits: tf.Tensor


class ElectraPretrainer(TrainableModel):
    """Generator and discriminator with shared embeddings, and their training step.

    ```python
    config = load_pretraining_config("tiny")
    model = ElectraPretrainer(config, mask_id=tokenizer.mask_id, special_ids=tokenizer.special_ids)
    model.compile(optimizer=create_optimizer(config))
    model.fit(dataset)      # batches of input_ids, input_mask, segment_ids, int32 [B, T]
    model.discriminator.save_pretrained("discriminator")
    ```
    """

    def __init__(self, config, mask_id=103, special_ids=(0, 101, 102, 103), **kwargs):
        """Makes both networks.

        Args:
          config: `configs.PretrainingConfig`.
          mask_id: id of [MASK] (default: BERT's).
          special_ids: ids that are never hidden: [PAD], [CLS], [SEP], [MASK].
        """
        super().__init__(config, name="electra_pretrainer", **kwargs)
        self.mask_id = mask_id
        self.special_ids = tuple(special_ids)
        dtype = DTYPE_POLICIES[config.mixed_precision]
        options = {"recompute_activations": config.recompute_activations, "dtype": dtype}
        self.discriminator = Discriminator(config.discriminator_config(), **options)
        self.generator = Generator(
            config.generator_config(), embeddings=self.discriminator.embeddings, **options
        )
        self.built = True

    @property
    def networks(self):
        return [self.discriminator, self.generator]

    # The parts of one step, in their order.

    def noise(self, shape, purpose, step, part):
        """A part's rows of the global batch's uniform noise, float32 of `shape`."""
        seed = self.seed(purpose, step)
        if part is None:
            return randomness.uniform(shape, seed)
        noise = randomness.uniform([part.num_rows, *shape[1:]], seed)
        return tf.slice(noise, [part.first_row] + [0] * (len(shape) - 1), shape)

    def mask(self, batch, step, part=None):
        """Hides about 15 % of the tokens: `masking.MaskedInputs`."""
        config = self.config
        input_ids, input_mask = batch["input_ids"], batch["input_mask"]
        size, length = tf.shape(input_ids)[0], tf.shape(input_ids)[1]
        choose = {
            "fixed": masking.choose_positions,
            "google2020": masking.choose_positions_with_replacement,
        }[config.fidelity]
        positions, weights = choose(
            masking.candidates(input_ids, input_mask, self.special_ids),
            masking.num_to_predict(input_mask, config.mask_prob, config.max_predictions_per_seq),
            self.noise([size, length], MASKING, step, part),
            config.max_predictions_per_seq,
        )
        noise = self.noise([size, config.max_predictions_per_seq], HIDING, step, part)
        return masking.hide(input_ids, positions, weights, noise, self.mask_id)

    def generate(self, batch, masked, training, dropout_seed):
        """The generator's outputs at the hidden positions, with `logits` [B, P, V]."""
        inputs = {
            **batch,
            "input_ids": masked.input_ids,
            "masked_positions": masked.positions,
        }
        return self.generator(inputs, training=training, dropout_seed=dropout_seed)

    def sample(self, generated, masked, training, step, part=None):
        """Replacements drawn from the generator, and its loss, which takes the same softmax.

        Returns:
          `(sampled_ids, masked_lm_loss, is_restored)`, each [B, P]: int32, without a gradient;
          float32; float32, 1 where the likeliest token is the true one.
        """
        config, shape = self.config, tf.shape(masked.ids)
        logits = tf.reshape(generated["unbiased_logits"], [-1, config.vocab_size])
        bias, ids = self.generator.head.bias, tf.reshape(masked.ids, [-1])
        options = {
            "temperature": config.temperature,
            "disallow_correct": config.disallow_correct,
        }
        loss, is_restored, _, weights = runner(training)(
            islands.masked_lm, logits, bias, ids, **options
        )

        def sampling_logits_of(tokens):
            chosen = tf.cast(tf.gather(logits, tokens, batch_dims=1), tf.float32)
            chosen += tf.gather(bias, tokens)
            return masking.sampling_logits(chosen, tokens == ids[:, None], **options)

        noise = self.noise([shape[0], shape[1], 2], SAMPLING, step, part)
        sampled_ids = masking.sample_tokens(
            weights, sampling_logits_of, config.vocab_size, tf.reshape(noise, [-1, 2])
        )
        return tuple(tf.reshape(x, shape) for x in (sampled_ids, loss, is_restored))

    def replace(self, batch, masked, sampled_ids):
        """The discriminator's input and labels.

        A token sampled right counts as real (SEMANTICS 1).

        Returns:
          `(replaced_ids, is_replaced)`, int32 and float32 [B, T].
        """
        replaced_ids = masking.scatter_update(batch["input_ids"], sampled_ids, masked.positions)
        return replaced_ids, tf.cast(replaced_ids != batch["input_ids"], tf.float32)

    def discriminate(self, batch, replaced_ids, training, dropout_seed):
        """The discriminator's logits, float32 [B, T]."""
        inputs = {**batch, "input_ids": replaced_ids}
        return self.discriminator(inputs, training=training, dropout_seed=dropout_seed)["logits"]

    def call(self, batch, training=False, step=0, part=None):
        """Runs both networks on a batch.

        Args:
          batch: dict of int32 [B, T]: `input_ids`, `input_mask`, `segment_ids`.
          training: whether dropout is on.
          step: int scalar; with `config.seed` it decides all randomness.
          part: `BatchPart` where the batch is not the step's whole one.

        Returns:
          `PretrainingOutputs`.
        """
        batch = {
            name: tf.cast(batch[name], tf.int32)
            for name in ("input_ids", "input_mask", "segment_ids")
        }
        seed = self.seed(DROPOUT, step)
        if part is not None:
            seed = randomness.fold_in(seed, part.index)
        generator_seed, discriminator_seed = randomness.split(seed, 2)
        masked = self.mask(batch, step, part)
        generated = self.generate(batch, masked, training, generator_seed)
        sampled_ids, masked_lm_loss, is_restored = self.sample(
            generated, masked, training, step, part
        )
        replaced_ids, is_replaced = self.replace(batch, masked, sampled_ids)
        discriminator_logits = self.discriminate(batch, replaced_ids, training, discriminator_seed)
        return PretrainingOutputs(
            masked,
            generated["logits"],
            masked_lm_loss,
            is_restored,
            sampled_ids,
            replaced_ids,
            is_replaced,
            discriminator_logits,
        )

    def statistics(self, batch, outputs):
        """Sums from which every loss and metric follows; sums of batches are those of their union.

        Args:
          batch: what the networks were called with.
          outputs: `PretrainingOutputs`.

        Returns:
          dict of float32 scalars, and `auc_positive`, `auc_negative` [AUC_BINS]: counts of real
          tokens by the discriminator's probability.
        """
        masked, logits = outputs.masked, outputs.discriminator_logits
        input_mask = tf.cast(batch["input_mask"], tf.float32)
        disc_loss = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=outputs.is_replaced, logits=logits
        )
        predicted = tf.cast(logits >= 0.0, tf.float32) * input_mask
        replaced = outputs.is_replaced * input_mask
        sampled_correct = tf.cast(outputs.sampled_ids == masked.ids, tf.float32)
        bins = tf.cast(tf.sigmoid(logits) * (AUC_BINS - 1), tf.int32)

        def histogram(weights):
            return tf.math.unsorted_segment_sum(
                tf.reshape(weights, [-1]), tf.reshape(bins, [-1]), AUC_BINS
            )

        return {
            "examples": tf.cast(tf.shape(logits)[0], tf.float32),
            "positions": tf.cast(tf.size(logits), tf.float32),
            "tokens": tf.reduce_sum(input_mask),
            "masked": tf.reduce_sum(masked.weights),
            "masked_lm_loss": tf.reduce_sum(_weighted(outputs.masked_lm_loss, masked.weights)),
            "masked_lm_correct": tf.reduce_sum(outputs.is_restored * masked.weights),
            "sampled_correct": tf.reduce_sum(sampled_correct * masked.weights),
            "disc_loss": tf.reduce_sum(disc_loss * input_mask),
            "disc_example_loss": tf.reduce_sum(
                tf.reduce_sum(disc_loss * input_mask, -1) / (1e-6 + tf.reduce_sum(input_mask, -1))
            ),
            "replaced": tf.reduce_sum(replaced),
            "predicted": tf.reduce_sum(predicted),
            "true_positive": tf.reduce_sum(predicted * replaced),
            "auc_positive": histogram(replaced),
            "auc_negative": histogram(input_mask - replaced),
        }

    def totals(self, batch, step, part):
        """What losses are divided by, the numbers of hidden and of real tokens, before any network runs."""
        return {
            "masked": tf.reduce_sum(self.mask(batch, step, part).weights),
            "tokens": tf.reduce_sum(tf.cast(batch["input_mask"], tf.float32)),
        }

    def training_statistics(self, batch, step, part):
        return self.statistics(batch, self(batch, training=True, step=step, part=part))

    def loss_of(self, statistics, totals):
        return self.losses_of(statistics, totals)[0]

    def losses_of(self, statistics, totals=None):
        """`(loss, masked_lm_loss, disc_loss)`: means over the masked and over the real tokens.

        Args:
          statistics: of `statistics`.
          totals: dict of `masked` and `tokens` to divide by; None for those of the statistics.
        """
        totals = statistics if totals is None else totals
        masked_lm_loss = statistics["masked_lm_loss"] / (1e-6 + totals["masked"])
        disc_loss = statistics["disc_loss"] / (1e-6 + totals["tokens"])
        loss = self.config.gen_weight * masked_lm_loss + self.config.disc_weight * disc_loss
        return loss, masked_lm_loss, disc_loss

    # Keras's overrides, for `fit` and `evaluate`.

    def train_step(self, data):
        """One step of `fit`."""
        return self._readable(self.gradient_step(data))

    def test_step(self, data):
        """One step of `evaluate`."""
        outputs = self(data, training=False, step=self.optimizer.iterations.value)
        return self._readable(self.statistics(data, outputs))

    def _readable(self, statistics):
        loss, masked_lm_loss, disc_loss = self.losses_of(statistics)
        return {
            "loss": loss,
            "masked_lm_loss": masked_lm_loss,
            "masked_lm_accuracy": tf.math.divide_no_nan(
                statistics["masked_lm_correct"], statistics["masked"]
            ),
            "disc_loss": disc_loss,
            "disc_recall": tf.math.divide_no_nan(
                statistics["true_positive"], statistics["replaced"]
            ),
        }


def _weighted(values, weights):
    """`values * weights` that keeps the weights' NaN but not an unused slot's infinity."""
    return tf.where(weights == 0.0, 0.0, values * weights)
