"""Metrics of fine-tuned models, by scikit-learn, SciPy and seqeval (SEMANTICS 21)."""

import math
import warnings


def classification_metrics(predicted, true, labels):
    """Of one label an example.

    Args:
      predicted, true: lists of labels.
      labels: all labels there are; of two, the second is the positive one of `f1`.

    Returns:
      dict of `accuracy`, `f1` (more than two labels: their mean), `macro_f1` and `mcc`, Matthews'
      correlation.
    """
    from sklearn import metrics

    options = {"labels": labels, "zero_division": 0}
    macro = metrics.f1_score(true, predicted, average="macro", **options)
    f1 = macro
    if len(labels) == 2:
        f1 = metrics.f1_score(true, predicted, pos_label=labels[1], zero_division=0)
    return _floats(
        accuracy=metrics.accuracy_score(true, predicted),
        f1=f1,
        macro_f1=macro,
        mcc=metrics.matthews_corrcoef(true, predicted),
    )


def auc(scores, is_positive):
    """Area under the ROC curve: how often an example of one label scores above one of the other.

    Args:
      scores: list of float, the probabilities of the positive label.
      is_positive: list of bool.

    Returns:
      dict of `auc`; 0.5 where all examples are of one label, or scores are no numbers.
    """
    from sklearn import metrics

    if len(set(is_positive)) < 2 or not all(map(math.isfinite, scores)):
        return _floats(auc=0.5)
    return _floats(auc=metrics.roc_auc_score(is_positive, scores))


def multi_label_metrics(predicted, true, labels):
    """Of any number of labels an example.

    Args:
      predicted, true: lists of collections of labels.
      labels: all labels there are.

    Returns:
      dict of `accuracy` (all of an example's labels right), `f1` (of all decisions together, micro)
      and `macro_f1`.
    """
    from sklearn import metrics
    from sklearn.preprocessing import MultiLabelBinarizer

    binarizer = MultiLabelBinarizer(classes=labels)
    true, predicted = binarizer.fit_transform(true), binarizer.transform(predicted)
    return _floats(
        accuracy=metrics.accuracy_score(true, predicted),
        f1=metrics.f1_score(true, predicted, average="micro", zero_division=0),
        macro_f1=metrics.f1_score(true, predicted, average="macro", zero_division=0),
    )


def regression_metrics(predicted, true):
    """Of numbers.

    Returns:
      dict of `pearson` and `spearman` correlation (0 where all predictions are equal) and `mse`, the
      mean squared error.
    """
    from scipy import stats
    from sklearn import metrics

    if not all(map(math.isfinite, predicted)):  # Training diverged.
        return _floats(pearson=0.0, spearman=0.0, mse=math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        pearson = stats.pearsonr(predicted, true)[0] if len(true) > 1 else math.nan
        spearman = stats.spearmanr(predicted, true)[0] if len(true) > 1 else math.nan
    return _floats(
        pearson=0.0 if math.isnan(pearson) else pearson,
        spearman=0.0 if math.isnan(spearman) else spearman,
        mse=metrics.mean_squared_error(true, predicted),
    )


def tagging_metrics(predicted, true, has_phrases):
    """Of tagged words.

    Args:
      predicted, true: lists of lists of tags.
      has_phrases: whether tags say where phrases begin (IOB1, IOB2, BIOES).

    Returns:
      dict of `accuracy` of single words; with phrases of `f1`, `precision`, `recall` of whole ones,
      as `conlleval` counts them.
    """
    from seqeval import metrics

    result = {"accuracy": metrics.accuracy_score(true, predicted)}
    if has_phrases:
        result |= {
            "f1": metrics.f1_score(true, predicted, zero_division=0),
            "precision": metrics.precision_score(true, predicted, zero_division=0),
            "recall": metrics.recall_score(true, predicted, zero_division=0),
        }
    return _floats(**result)


def question_answering_metrics(predicted, true, no_answer_scores=None, threshold=None):
    """Of answers, by the official evaluation of SQuAD 1.1, or of 2.0 where there are scores.

    Args:
      predicted: dict from a question's identifier to the text of its best answer.
      true: dict from identifier to the right texts, none where there is no answer.
      no_answer_scores: dict from identifier to float, for SQuAD 2.0.
      threshold: score above which there is no answer; None for the one with the best F1 on these
        questions.

    Returns:
      dict of `f1` and `exact_match`, from 0 to 1; with scores also `has_answer_f1` and
      `no_answer_f1`, where there are such questions, and `no_answer_threshold`.
    """
    from official.nlp.tools import squad_evaluate_v1_1, squad_evaluate_v2_0

    questions = [{"id": i, "answers": [{"text": t} for t in texts]} for i, texts in true.items()]
    dataset = [{"paragraphs": [{"qas": questions}]}]
    if no_answer_scores is None:
        values = squad_evaluate_v1_1.evaluate(dataset, predicted)
        return _floats(f1=values["final_f1"], exact_match=values["exact_match"])
    if threshold is None:
        values = squad_evaluate_v2_0.evaluate(dataset, predicted, no_answer_scores)
        threshold = _between(values, true, sorted(no_answer_scores.values()))
    answered = {i: "" if no_answer_scores[i] > threshold else t for i, t in predicted.items()}
    values = squad_evaluate_v2_0.evaluate(dataset, answered)
    names = {
        "f1": "f1",
        "exact": "exact_match",
        "HasAns_f1": "has_answer_f1",
        "NoAns_f1": "no_answer_f1",
    }
    shares = {name: values[key] / 100 for key, name in names.items() if key in values}
    return _floats(**shares, no_answer_threshold=threshold)


def _between(values, true, scores):
    """The best threshold of an official evaluation, halfway to the next of the sorted scores.

    So a score that another machine computes a little differently stays on its side.
    """
    num_unanswerable = sum(not texts for texts in true.values())
    if values["final_f1"] <= 100 * num_unanswerable / len(true):  # Best to answer nothing.
        return scores[0] - 1.0
    best = values["final_f1_thresh"]
    above = [score for score in scores if score > best]
    return (best + above[0]) / 2 if above else best + 1.0


def _floats(**values):
    return {name: float(value) for name, value in values.items()}
