"""The training step of fine-tuning: one network, the loss of its task."""

import tensorflow as tf

from electra_tf import randomness
from electra_tf.modeling.trainable import TrainableModel


class Finetuner(TrainableModel):
    """A network and its task's loss.

    ```python
    model = Finetuner(config, task.create_network(encoder_config), task.losses, task.weights)
    model.compile(create_finetuning_optimizer(config, [model.network], num_train_steps))
    model.gradient_step(batch)     # input_ids, input_mask, segment_ids, label, weight
    ```

    The loss is the mean of what `losses` gives; under `google2020` the sum over the batch, which is
    why its gradients are nearly always clipped (SEMANTICS 18).
    """

    def __init__(self, config, network, losses, weights, **kwargs):
        """Takes a network.

        Args:
          config: `configs.FinetuningConfig`.
          network: `modeling.electra.ElectraModel`.
          losses: function of `(logits, batch)`: float32 [B], or [B, T] for labels of tokens.
          weights: function of `batch`, of the losses: of the same shape.
        """
        super().__init__(config, name="finetuner", **kwargs)
        self.network = network
        self._losses_of, self._weights_of = losses, weights
        self.built = True

    @property
    def networks(self):
        return [self.network]

    def call(self, batch, training=False, dropout_seed=None):
        """The network's logits."""
        return self.network(batch, training=training, dropout_seed=dropout_seed)["logits"]

    def weighted_losses(self, logits, batch):
        """`(losses, weights)` of each row, float32 [B]: sums over its labels."""
        weights = self._weights_of(batch)
        losses = tf.math.multiply_no_nan(self._losses_of(logits, batch), weights)
        axes = list(range(1, len(losses.shape)))
        return tf.reduce_sum(losses, axes), tf.reduce_sum(weights, axes)

    def training_statistics(self, batch, step, part):
        seed = self.seed(0, step)
        if part is not None:
            seed = randomness.fold_in(seed, part.index)
        logits = self(batch, training=True, dropout_seed=seed)
        losses, weights = self.weighted_losses(logits, batch)
        return {
            "loss": tf.reduce_sum(losses),
            "weight": tf.reduce_sum(weights),
            "examples": tf.reduce_sum(batch["weight"]),
            "tokens": tf.reduce_sum(tf.cast(batch["input_mask"], tf.float32)),
        }

    def totals(self, batch, step, part):
        return {"weight": tf.reduce_sum(self._weights_of(batch))}

    def loss_of(self, statistics, totals):
        if self.config.fidelity == "google2020":
            return statistics["loss"]
        totals = statistics if totals is None else totals
        return statistics["loss"] / (1e-6 + totals["weight"])
