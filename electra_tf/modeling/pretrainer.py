"""Joint pre-training of generator and discriminator (Clark et al., 2020, section 2.1).

mask -> propose -> replace -> discriminate -> losses; each a method, in this order.
"""

from typing import NamedTuple

import tensorflow as tf

from electra_tf import masking, randomness
from electra_tf.errors import UserError
from electra_tf.modeling.adversarial import Adversary
from electra_tf.modeling.causal import CausalGenerator
from electra_tf.modeling.counting import CountingGenerator
from electra_tf.modeling.electra import Discriminator, Generator
from electra_tf.modeling.phases import copy_weights
from electra_tf.modeling.proposals import Sampling
from electra_tf.modeling.trainable import DTYPE_POLICIES, TrainableModel

AUC_BINS = 4096

# What a random number is for; folded into the seed, so that no two uses share numbers.
MASKING, HIDING, SAMPLING, DROPOUT = range(4)


class PretrainingOutputs(NamedTuple):
    """What one batch gives.

    Attributes:
      masked: `masking.MaskedInputs`.
      generator_logits, generator_hidden, masked_lm_loss, is_restored, sampled_ids, generator_sums:
        of `proposals.Proposals`.
      replaced_ids: int32 [B, T], the discriminator's input; this and the next two are None where
        it did not run.
      is_replaced: float32 [B, T], its labels.
      discriminator_logits: float32 [B, T].
    """

    masked: masking.MaskedInputs
    generator_logits: tf.Tensor
    generator_hidden: tf.Tensor
    masked_lm_loss: tf.Tensor
    is_restored: tf.Tensor
    sampled_ids: tf.Tensor
    generator_sums: dict
    replaced_ids: tf.Tensor = None
    is_replaced: tf.Tensor = None
    discriminator_logits: tf.Tensor = None


class ElectraPretrainer(TrainableModel):
    """Generator and discriminator, and their training step.

    A masked generator shares the discriminator's embeddings; a causal one has its own.

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
        self.generator = self._create_generator(options)
        self.adversary = None
        if config.schedule == "adversarial":
            self.adversary = Adversary(config.generator_config().hidden_size)
        self.built = True

    def _create_generator(self, options):
        config, discriminator = self.config, self.discriminator
        if config.generator == "causal":
            return CausalGenerator(
                config.generator_config(), self.special_ids, dtype=options["dtype"]
            )
        if config.generator != "masked":
            return CountingGenerator(config.vocab_size, self.special_ids)
        generator = Generator(
            config.generator_config(),
            embeddings=None if config.untied_generator_embeddings else discriminator.embeddings,
            encoder=discriminator.encoder if config.tied else None,
            **options,
        )
        if config.init == "same":
            copy_weights(discriminator.embeddings, generator.embeddings)
            copy_weights(discriminator.encoder, generator.encoder)
        return generator

    @property
    def networks(self):
        """The networks that are trained: the discriminator, and the generator unless it counts."""
        if self.config.generator_loss is None:
            return [self.discriminator]
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

    def propose(self, batch, masked, training, dropout_seed, step, part=None):
        """What the generator makes of the hidden tokens: `proposals.Proposals`."""
        shape = tf.shape(masked.ids)
        return self.generator.propose(
            batch,
            masked,
            self.noise([shape[0], shape[1], 2], SAMPLING, step, part),
            Sampling(self.config.temperature, self.config.disallow_correct),
            training=training,
            dropout_seed=dropout_seed,
        )

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

    def generate(self, batch, training, dropout_seed, step, part=None):
        """Runs the generator on a batch: `call` up to the discriminator, arguments as there.

        Returns:
          `PretrainingOutputs` without the discriminator's.
        """
        batch = _tokens(batch)
        masked = self.mask(batch, step, part)
        proposals = self.propose(batch, masked, training, dropout_seed, step, part)
        return PretrainingOutputs(
            masked,
            proposals.logits,
            proposals.hidden,
            proposals.masked_lm_loss,
            proposals.is_restored,
            proposals.sampled_ids,
            proposals.sums,
        )

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
        batch = _tokens(batch)
        generator_seed, discriminator_seed = self.dropout_seeds(step, part)
        outputs = self.generate(batch, training, generator_seed, step, part)
        replaced_ids, is_replaced = self.replace(batch, outputs.masked, outputs.sampled_ids)
        outputs = outputs._replace(
            replaced_ids=replaced_ids,
            is_replaced=is_replaced,
            discriminator_logits=self.discriminate(
                batch, replaced_ids, training, discriminator_seed
            ),
        )
        if self.adversary is not None:
            losses = _weighted(self.adversary(outputs), outputs.masked.weights)
            sums = {**outputs.generator_sums, "adversarial_loss": tf.reduce_sum(losses)}
            outputs = outputs._replace(generator_sums=sums)
        return outputs

    def dropout_seeds(self, step, part):
        """The generator's and the discriminator's, each int32 [2]."""
        seed = self.seed(DROPOUT, step)
        if part is not None:
            seed = randomness.fold_in(seed, part.index)
        return randomness.split(seed, 2)

    def statistics(self, batch, outputs):
        """Sums from which every loss and metric follows; sums of batches are those of their union.

        Args:
          batch: what the networks were called with.
          outputs: `PretrainingOutputs`.

        Returns:
          dict of float32 scalars, and `auc_positive`, `auc_negative` [AUC_BINS]: counts of real
          tokens by the discriminator's probability.
        """
        input_mask = tf.cast(batch["input_mask"], tf.float32)
        logits = outputs.discriminator_logits
        disc_loss = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=outputs.is_replaced, logits=logits
        )
        predicted = tf.cast(logits >= 0.0, tf.float32) * input_mask
        replaced = outputs.is_replaced * input_mask
        bins = tf.cast(tf.sigmoid(logits) * (AUC_BINS - 1), tf.int32)

        def histogram(weights):
            return tf.math.unsorted_segment_sum(
                tf.reshape(weights, [-1]), tf.reshape(bins, [-1]), AUC_BINS
            )

        return {
            **self.generator_statistics(batch, outputs),
            "disc_tokens": tf.reduce_sum(input_mask),
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

    def generator_statistics(self, batch, outputs):
        """`statistics` of the batch and of the generator alone, whether or not the discriminator ran."""
        masked, input_mask = outputs.masked, batch["input_mask"]
        sampled_correct = tf.cast(outputs.sampled_ids == masked.ids, tf.float32)
        return {
            "examples": tf.cast(tf.shape(input_mask)[0], tf.float32),
            "positions": tf.cast(tf.size(input_mask), tf.float32),
            "tokens": tf.reduce_sum(tf.cast(input_mask, tf.float32)),
            "masked": tf.reduce_sum(masked.weights),
            "masked_lm_loss": tf.reduce_sum(_weighted(outputs.masked_lm_loss, masked.weights)),
            "masked_lm_correct": tf.reduce_sum(outputs.is_restored * masked.weights),
            "sampled_correct": tf.reduce_sum(sampled_correct * masked.weights),
            **outputs.generator_sums,
        }

    def totals(self, batch, step, part):
        """What losses are divided by: the numbers of hidden and of real tokens, and what the generator adds."""
        return {
            "masked": tf.reduce_sum(self.mask(batch, step, part).weights),
            "tokens": tf.reduce_sum(tf.cast(batch["input_mask"], tf.float32)),
            **self.generator.totals(batch),
        }

    def training_statistics(self, batch, step, part):
        return self.statistics(batch, self(batch, training=True, step=step, part=part))

    def loss_of(self, statistics, totals):
        return self.losses_of(statistics, totals)[0]

    def losses_of(self, statistics, totals=None):
        """`(loss, generator_loss, disc_loss)`: the sum that is trained, and its parts before their weights.

        Args:
          statistics: of `statistics`.
          totals: dict of what to divide by, as of `totals`; None for those of the statistics.

        Returns:
          three float32 scalars. The generator's is a mean over the hidden tokens, or of a causal one
          over all that have a token before them; 0 of one that is not trained. The discriminator's
          is one over the real tokens.
        """
        generator_loss = self.generator_loss_of(statistics, totals)
        disc_loss = self.disc_loss_of(statistics, totals)
        loss = self.config.gen_weight * generator_loss + self.config.disc_weight * disc_loss
        return loss, generator_loss, disc_loss

    def generator_loss_of(self, statistics, totals=None):
        """The second of `losses_of`."""
        if self.config.generator_loss is None:
            return tf.zeros([])
        name, number = self.config.generator_loss
        return statistics[name] / (1e-6 + (totals or statistics)[number])

    def disc_loss_of(self, statistics, totals=None):
        """The third of `losses_of`."""
        return statistics["disc_loss"] / (1e-6 + (totals or statistics)["tokens"])

    # Keras's overrides, for `fit` and `evaluate`.

    def train_step(self, data):
        """One step of `fit`. A unigram generator is uniform until `generator.set_counts`.

        Raises:
          UserError: the schedule has phases, which `training.pretraining.pretrain` runs.
        """
        if self.config.has_phases:
            raise UserError(f"schedule={self.config.schedule}: train by pretrain.py, not by fit")
        return self._readable(self.gradient_step(data))

    def test_step(self, data):
        """One step of `evaluate`."""
        outputs = self(data, training=False, step=self.optimizer.iterations.value)
        return self._readable(self.statistics(data, outputs))

    def _readable(self, statistics):
        loss, generator_loss, disc_loss = self.losses_of(statistics)
        trained_by = self.config.generator_loss
        return {
            "loss": loss,
            **({trained_by[0]: generator_loss} if trained_by else {}),
            "masked_lm_accuracy": tf.math.divide_no_nan(
                statistics["masked_lm_correct"], statistics["masked"]
            ),
            "disc_loss": disc_loss,
            "disc_recall": tf.math.divide_no_nan(
                statistics["true_positive"], statistics["replaced"]
            ),
        }


def _tokens(batch):
    """The networks' inputs of a batch, int32."""
    return {
        name: tf.cast(batch[name], tf.int32) for name in ("input_ids", "input_mask", "segment_ids")
    }


def _weighted(values, weights):
    """`values * weights` that keeps the weights' NaN but not an unused slot's infinity."""
    return tf.where(weights == 0.0, 0.0, values * weights)
