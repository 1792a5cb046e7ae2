"""Fine-tuned models on plain Python strings."""

from collections.abc import Iterable

import tensorflow as tf

from electra_tf.characters import is_text
from electra_tf.configs import FinetuningConfig
from electra_tf.errors import UserError
from electra_tf.modeling.finetuner import Finetuner
from electra_tf.tasks.model_folder import load_finetuned
from electra_tf.tasks.task import Example
from electra_tf.tasks.words import Word, split_words
from electra_tf.training.row_predictor import RowPredictor, predict_examples


class Predictor:
    """A fine-tuned model that takes strings.

    ```python
    predictor = Predictor.from_pretrained("runs/sst2/model")
    predictor(["A fine film.", "Dull."])
    # [{"label": "1", "score": 0.98, "scores": {"0": 0.02, "1": 0.98}}, ...]
    ```

    What it gives for a text depends on the task's kind:

    - classification: `label`, its `score` (probability) and all `scores` by label; of several labels
      a text, `labels` and `scores`;
    - multiple choice: `label`, `choice`, its text, its `score` and all `scores` by label;
    - regression: `value`, on the scale of the training data;
    - tagging: `words`, a list of `word`, `label`, `score`, `start` and `end`, where
      `text[start:end] == word`; with phrases also `entities`, a list of `text`, `label`, `score` (the
      least of its words'), `start` and `end`;
    - question answering: `answer` (empty where there is none), `score`, its probability among the
      `answers`, `start` and `end`, where `context[start:end] == answer`, and all `answers`, best
      first; with questions that may have no answer also `no_answer_score`, and the `threshold` above
      which there is none.
    """

    def __init__(self, finetuned, batch_size=32):
        """Takes a `tasks.model_folder.FinetunedModel`; `batch_size`: texts computed at once.

        Raises:
          UserError: `batch_size` is no positive number.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size={batch_size!r}: not a positive integer")
        self.task, self.tokenizer = finetuned.task, finetuned.tokenizer
        self.max_seq_length = finetuned.max_seq_length
        self._config = FinetuningConfig(
            max_seq_length=finetuned.max_seq_length, eval_batch_size=batch_size
        ).resolved(finetuned.network.config, self.task.config.kind)
        model = Finetuner(self._config, finetuned.network, self.task.losses, self.task.weights)
        self._rows = RowPredictor(tf.distribute.get_strategy(), model, self.task)

    @classmethod
    def from_pretrained(cls, folder, batch_size=32, task=None):
        """Reads a folder that `finetune.py` wrote, such as `OUTPUT_DIR/model`.

        Args:
          folder: where it is.
          batch_size: texts computed at once.
          task: name of the task, where the folder has several.

        Raises:
          UserError: a file is missing or malformed, or there is no such task.
        """
        return cls(load_finetuned(folder, task), batch_size)

    def __call__(self, inputs):
        """Predicts.

        Args:
          inputs: list of texts; for a task of pairs of `(text, text_pair)`; for tagging of texts or
            of lists of words; for question answering of `(question, context)`; for multiple choice
            of `(text, choices)`, a list. Or a single one of them that is a str or a tuple. Texts
            may have any length: tagging and question answering read a longer one in windows, the
            others take its beginning, as in training.

        Returns:
          list of dicts in the order of `inputs`; a dict for a single one.

        Raises:
          UserError: an input is no text, or not as many as the task takes.
        """
        if isinstance(inputs, (str, tuple)):
            return self([inputs])[0]
        if not isinstance(inputs, Iterable):
            raise UserError(f"{inputs!r} is neither a text nor a list of them")
        inputs = list(inputs)
        if not inputs:
            return []
        for number, item in enumerate(inputs):
            if not is_text(item):
                raise UserError(f"input {number}: half of a surrogate pair, which is no character")
        if self.task.config.kind == "tagging":
            return self._tag(inputs)
        examples = [
            Example("", str(number), self._texts_of(number, item), None)
            for number, item in enumerate(inputs)
        ]
        results = [self._readable(p) for p in self._predict(examples)]
        if self.task.config.kind == "multiple_choice":
            for example, result in zip(examples, results):
                result["choice"] = example.inputs[1][self.task.labels.index(result["label"])]
        return results

    def _texts_of(self, number, item):
        if self.task.config.kind == "multiple_choice":
            return self._choices_of(number, item)
        names = ["question", "context"]
        if self.task.config.kind != "qa":
            names = self.task.config.texts
        texts = tuple(item) if isinstance(item, (list, tuple)) else (item,)
        if len(texts) != len(names) or not all(isinstance(text, str) for text in texts):
            expected = "a str" if len(names) == 1 else f"({', '.join(names)}), two str"
            raise UserError(f"input {number}: {item!r} is not {expected}")
        return texts

    def _choices_of(self, number, item):
        count = len(self.task.labels)
        is_pair = isinstance(item, (list, tuple)) and len(item) == 2
        choices = list(item[1]) if is_pair and isinstance(item[1], (list, tuple)) else []
        if len(choices) != count or not all(isinstance(t, str) for t in (item[0], *choices)):
            raise UserError(
                f"input {number}: {item!r} is not (text, choices), a str and {count} str"
            )
        return item[0], tuple(choices)

    def _predict(self, examples):
        return predict_examples(self._rows, self.task, examples, self.tokenizer, self._config)

    def _readable(self, prediction):
        value = prediction["prediction"]
        if self.task.config.kind == "qa":
            return self._answer(prediction)
        if self.task.config.kind == "regression":
            return {"value": value}
        scores = prediction["scores"]
        if self.task.config.multi_label:
            return {"labels": value, "scores": scores}
        return {"label": value, "score": scores[value], "scores": scores}

    def _answer(self, prediction):
        answers = [
            {"text": a["text"], "score": a["probability"], "start": a["start"], "end": a["end"]}
            for a in prediction["answers"]
        ]
        best = {"answer": "", "score": 0.0, "start": -1, "end": -1}
        if prediction["prediction"]:
            best = {"answer": answers[0]["text"], **answers[0]}
            del best["text"]
        result = {**best, "answers": answers}
        if self.task.config.version_2:
            result |= {
                "no_answer_score": prediction["no_answer_score"],
                "threshold": self.task.threshold,
            }
        return result

    def _tag(self, inputs):
        texts = [item for item in inputs if isinstance(item, str)]
        split = iter(split_words(texts, self.tokenizer))
        sentences = [
            next(split) if isinstance(item, str) else _spaced(number, item)
            for number, item in enumerate(inputs)
        ]
        examples = [
            Example("", str(number), [word.text for word in words], None)
            for number, words in enumerate(sentences)
            if words
        ]
        predictions = iter(self._predict(examples) if examples else ())
        results = []
        for item, words in zip(inputs, sentences):
            text = item if isinstance(item, str) else " ".join(item)
            results.append(self._tagged(text, words, next(predictions) if words else None))
        return results

    def _tagged(self, text, words, prediction):
        tags = prediction["prediction"] if prediction else []
        scores = prediction["scores"] if prediction else []
        result = {
            "words": [
                {
                    "word": word.text,
                    "label": tag,
                    "score": score,
                    "start": word.start,
                    "end": word.end,
                }
                for word, tag, score in zip(words, tags, scores)
            ]
        }
        if self.task.config.scheme:
            from seqeval.metrics.sequence_labeling import get_entities

            result["entities"] = [
                {
                    "text": text[words[first].start : words[last].end],
                    "label": kind,
                    "score": min(scores[first : last + 1]),
                    "start": words[first].start,
                    "end": words[last].end,
                }
                for kind, first, last in get_entities(tags)
            ]
        return result


def _spaced(number, words):
    """`Word`s of a list of str, at their places in the text with spaces between."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"input {number}: {words!r} is neither a str nor a list of them")
    result, start = [], 0
    for word in words:
        result.append(Word(word, start, start + len(word)))
        start += len(word) + 1
    return result
