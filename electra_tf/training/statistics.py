"""What several trials say together."""

import math

import numpy as np

# Metrics of which less is better.
_ERRORS = ("mse", "loss")


def goodness(metric, value):
    """A number that is the higher the better; the lowest one for an undefined value."""
    if value is None or math.isnan(value):
        return -math.inf
    return -value if metric in _ERRORS else value


def finite(value):
    """A number as JSON has it: None for NaN and for what is infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def summarize(metric, results):
    """Medians, means, standard deviations and the best of trials.

    Args:
      metric: what the best trial is best by; where all are stuck, the best of those.
      results: list of dicts with `seed`, `metrics` and `is_stuck`.

    Returns:
      dict of `metrics` (the medians by name; None where a trial's is undefined), `mean`,
      `standard_deviation` (of the sample, with n - 1; None for a single trial), `best` (`trial`,
      `seed`, `metrics`) and `num_stuck`.
    """
    columns = {
        name: np.array(
            [np.nan if r["metrics"][name] is None else r["metrics"][name] for r in results]
        )
        for name in results[0]["metrics"]
    }
    # A trial that answers the same to everything may have the best F1, and is no model to be used.
    best = max(
        range(len(results)),
        key=lambda i: (
            not results[i]["is_stuck"],
            goodness(metric, results[i]["metrics"].get(metric)),
        ),
    )
    several = len(results) > 1
    return {
        "metrics": {name: finite(np.median(values)) for name, values in columns.items()},
        "mean": {name: finite(np.mean(values)) for name, values in columns.items()},
        "standard_deviation": {
            name: finite(np.std(values, ddof=1)) if several else None
            for name, values in columns.items()
        },
        "best": {
            "trial": best + 1,
            "seed": results[best]["seed"],
            "metrics": results[best]["metrics"],
        },
        "num_stuck": sum(result["is_stuck"] for result in results),
    }
