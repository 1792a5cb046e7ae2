"""Served models of texts and of pairs of texts: classification, regression, multiple choice."""

import tensorflow as tf

from electra_tf.export.servables import EXAMPLES_SPEC, IDS, TaskServables


class TextTaskServables(TaskServables):
    """A fine-tuned model."""

    def __init__(self, finetuned):
        """Takes a `tasks.model_folder.FinetunedModel`."""
        super().__init__(finetuned)
        self.texts = self.task.config.texts


class ClassificationServables(TextTaskServables):
    """The label, or the labels, and the scores of all."""

    def outputs(self, batch):
        scores = self.predict(batch)
        if self.task.config.multi_label:
            return {"scores": scores, "is_predicted": self.task.is_predicted(scores)}
        return {"scores": scores, "label_id": tf.argmax(scores, axis=1, output_type=tf.int32)}

    def named(self, outputs):
        labels = tf.constant(self.task.labels)
        rows = tf.shape(outputs["scores"])[0]
        outputs = {**outputs, "labels": tf.tile(labels[None], [rows, 1])}
        if not self.task.config.multi_label:
            outputs["label"] = tf.gather(labels, outputs.pop("label_id"))
        return outputs

    def example_signatures(self, outputs_of):
        @tf.function(input_signature=[EXAMPLES_SPEC], autograph=False)
        def classify(inputs):
            outputs = outputs_of(inputs)
            return {"classes": outputs["labels"], "scores": outputs["scores"]}

        return {"classify": classify}


class RegressionServables(TextTaskServables):
    """Numbers on the scale of the training data."""

    def outputs(self, batch):
        low, high = self.task.label_range
        return {"outputs": low + (high - low) * self.predict(batch)[:, 0]}

    def example_signatures(self, outputs_of):
        @tf.function(input_signature=[EXAMPLES_SPEC], autograph=False)
        def regress(inputs):
            return {"outputs": outputs_of(inputs)["outputs"]}

        return {"regress": regress}


class MultipleChoiceServables(ClassificationServables):
    """The best of some choices. Ids are [B, C, T]: C choices, each after the text."""

    def ids_specs(self):
        shape = [None, len(self.task.labels), None]
        return [tf.TensorSpec(shape, tf.int32, name=name) for name in IDS]

    def text_specs(self):
        return [
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([None, len(self.task.labels)], tf.string, name="choices"),
        ]

    def batch_of(self, texts):
        text, choices = texts
        number = len(self.task.labels)
        pairs = [tf.repeat(text, number), tf.reshape(choices, [-1])]
        batch = self.pack([self.tokenizer.tokenize(part) for part in pairs])
        length = tf.shape(batch["input_ids"])[1]
        return {name: tf.reshape(v, [-1, number, length]) for name, v in batch.items()}

    def example_signatures(self, outputs_of):
        return {}  # A tf.Example has no place for lists of lists.
