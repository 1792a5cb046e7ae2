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
      dict of float, NaN where a metric is undefined; with a causal generator `causal_lm_loss` too.
    """
    s = {name: np.asarray(value, np.float64) for name, value in statistics.items()}
    generator_losses = {"masked_lm_loss": ratio(s["masked_lm_loss"], s["masked"])}
    generator_loss = 0.0
    if config.generator_loss:
        name, number = config.generator_loss
        generator_losses[name] = generator_loss = ratio(s[name], s[number])
    disc_loss = ratio(s["disc_loss"], s["disc_tokens"])
    loss = config.gen_weight * generator_loss
    if s["disc_tokens"]:  # Else the discriminator did not run.
        loss += config.disc_weight * disc_loss
    negatives = s["auc_negative"].copy()
    if config.fidelity == "google2020":
        negatives[0] += (s["positions"] - s["tokens"]) * bool(s["disc_tokens"])
        if is_evaluation:
            disc_loss = ratio(s["disc_example_loss"], s["examples"])
    wrong = s["predicted"] + s["replaced"] - 2 * s["true_positive"]
    return {
        "loss": loss,
        **generator_losses,
        "masked_lm_accuracy": ratio(s["masked_lm_correct"], s["masked"]),
        "sampled_masked_lm_accuracy": ratio(s["sampled_correct"], s["masked"]),
        "disc_loss": disc_loss,
        "disc_accuracy": ratio(s["disc_tokens"] - wrong, s["disc_tokens"]),
        "disc_precision": ratio(s["true_positive"], s["predicted"]),
        "disc_recall": ratio(s["true_positive"], s["replaced"]),
        "disc_auc": _auc(s["auc_positive"], negatives),
        "replaced_rate": ratio(s["replaced"], s["disc_tokens"]),
    }


def majority_baseline(replaced_rate):
    """What a discriminator reaches that gives every token the same probability, `replaced_rate`.

    Returns:
      `(disc_accuracy, disc_loss)`: calling every token real, and the entropy in nats.
    """
    from scipy.special import entr

    accuracy = max(replaced_rate, 1.0 - replaced_rate)
    return accuracy, float(entr(replaced_rate) + entr(1.0 - replaced_rate))


def ratio(numerator, denominator):
    """The quotient; NaN where the denominator is 0."""
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
