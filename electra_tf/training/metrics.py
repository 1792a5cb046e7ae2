"""The sums of `ElectraPretrainer.statistics` as metrics, by the original's names."""

import math

import numpy as np


def pretraining_metrics(statistics, config, is_evaluation):
    """Losses and metrics of the examples behind some statistics.

    Args:
      statistics: dict of NumPy scalars and arrays, sums over batches.
      config: `configs.PretrainingConfig`. With `fidelity: google2020` padding counts as easy
        negatives in `disc_auc`, and in evaluation `disc_loss` is a mean of the examples' means
        (SEMANTICS 15).
      is_evaluation: whether the statistics are of held-out examples.

    Returns:
      dict of float, NaN where a metric is undefined.
    """
    s = {name: np.asarray(value, np.float64) for name, value in statistics.items()}
    masked_lm_loss = _ratio(s["masked_lm_loss"], s["masked"])
    disc_loss = _ratio(s["disc_loss"], s["tokens"])
    loss = config.gen_weight * masked_lm_loss + config.disc_weight * disc_loss
    negatives = s["auc_negative"].copy()
    if config.fidelity == "google2020":
        negatives[0] += s["positions"] - s["tokens"]
        if is_evaluation:
            disc_loss = _ratio(s["disc_example_loss"], s["examples"])
    wrong = s["predicted"] + s["replaced"] - 2 * s["true_positive"]
    return {
        "loss": loss,
        "masked_lm_loss": masked_lm_loss,
        "masked_lm_accuracy": _ratio(s["masked_lm_correct"], s["masked"]),
        "sampled_masked_lm_accuracy": _ratio(s["sampled_correct"], s["masked"]),
        "disc_loss": disc_loss,
        "disc_accuracy": _ratio(s["tokens"] - wrong, s["tokens"]),
        "disc_precision": _ratio(s["true_positive"], s["predicted"]),
        "disc_recall": _ratio(s["true_positive"], s["replaced"]),
        "disc_auc": _auc(s["auc_positive"], negatives),
        "replaced_rate": _ratio(s["replaced"], s["tokens"]),
    }


def _ratio(numerator, denominator):
    return float(numerator / denominator) if denominator else math.nan


def _auc(positives, negatives):
    """Area under the ROC curve of scores counted in bins; NaN where a class is missing."""
    from sklearn.metrics import roc_auc_score

    if not positives.sum() or not negatives.sum():
        return math.nan
    bins = np.arange(len(positives))
    labels = np.repeat([1, 0], len(bins))
    weights = np.concatenate([positives, negatives])
    return float(roc_auc_score(labels, np.tile(bins, 2), sample_weight=weights))
