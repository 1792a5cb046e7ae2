"""What networks are fine-tuned for: a task is a YAML file, its kind one of the modules here."""


def kind_of(config):
    """The class of a `TaskConfig`'s kind."""
    from electra_tf.tasks.classification import Classification
    from electra_tf.tasks.multiple_choice import MultipleChoice
    from electra_tf.tasks.question_answering import QuestionAnswering
    from electra_tf.tasks.regression import Regression
    from electra_tf.tasks.tagging import Tagging

    return {
        "classification": Classification,
        "regression": Regression,
        "tagging": Tagging,
        "qa": QuestionAnswering,
        "multiple_choice": MultipleChoice,
    }[config.kind]
