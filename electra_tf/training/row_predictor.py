"""Predicting every row of features exactly once, in their order, whatever the size of batches."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from electra_tf.training.feature_batches import FeatureBatches
from electra_tf.training.metrics import ratio
from electra_tf.training.strategies import distribute


class RowOutputs(NamedTuple):
    """Attributes: `outputs`, list of arrays by row; `loss`, their mean loss, NaN without labels."""

    outputs: list
    loss: float


class RowPredictor:
    """Runs a `Finetuner` over all rows of features, each exactly once."""

    def __init__(self, strategy, model, task):
        """Takes the model.

        Args:
          strategy: `tf.distribute.Strategy`; its replicas share each batch.
          model: `Finetuner`.
          task: `tasks.task.Task`, which says what is predicted by.
        """
        self._strategy, self._model, self._task = strategy, model, task
        self._run = tf.function(self._run_batch, reduce_retracing=True, autograph=False)

    def _run_batch(self, batch):
        results = self._strategy.run(self._run_rows, args=(batch,))
        return tuple(self._strategy.gather(result, axis=0) for result in results)

    def _run_rows(self, batch):
        logits = self._model(batch, training=False)
        loss, weight = tf.zeros_like(batch["weight"]), tf.zeros_like(batch["weight"])
        if "label" in batch:
            loss, weight = self._model.weighted_losses(logits, batch)
        return batch["index"], self._task.outputs(logits), loss, weight

    def predict(self, batches, lengths):
        """Predicts.

        Args:
          batches: `FeatureBatches`.
          lengths: int [N], tokens of each row, for outputs that have one for each.

        Returns:
          `RowOutputs`.
        """
        outputs, loss, weight = [None] * batches.num_rows, 0.0, 0.0
        for batch in distribute(self._strategy, batches.evaluation):
            index, values, row_losses, row_weights = (x.numpy() for x in self._run(batch))
            for row, value in zip(index, values):
                if row >= 0:
                    has_tokens = self._task.has_outputs_for_tokens
                    outputs[row] = value[: lengths[row]] if has_tokens else value
            loss += float(np.sum(row_losses, dtype=np.float64))
            weight += float(np.sum(row_weights, dtype=np.float64))
        return RowOutputs(outputs, ratio(loss, weight))


def predict_examples(predictor, task, examples, tokenizer, config):
    """The predictions of a task's examples, in their order.

    Args:
      predictor: `RowPredictor`.
      task: its `tasks.task.Task`.
      examples: list of `Example`.
      tokenizer: `Tokenizer`.
      config: resolved `configs.FinetuningConfig`; of it the sizes count.
    """
    features = task.features(examples, tokenizer, config.max_seq_length)
    batches = FeatureBatches(
        features, config.eval_batch_size, config.max_seq_length, config.length_buckets
    )
    rows = predictor.predict(batches, features.lengths)
    return task.predictions(rows.outputs, examples, features)
