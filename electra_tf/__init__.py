"""ELECTRA for TensorFlow and Keras 3.

Names load where they are first used, so that `--help` and a wrong flag answer at once.
"""

import importlib

from electra_tf.version import __version__

_PUBLIC = {
    "ConvolutionalRecurrentConfig": "electra_tf.configs",
    "Discriminator": "electra_tf.modeling.electra",
    "ElectraPretrainer": "electra_tf.modeling.pretrainer",
    "EncoderConfig": "electra_tf.configs",
    "Generator": "electra_tf.modeling.electra",
    "FinetuningConfig": "electra_tf.configs",
    "Predictor": "electra_tf.predictor",
    "PretrainingConfig": "electra_tf.configs",
    "SequenceClassifier": "electra_tf.modeling.electra",
    "SequenceDiscriminator": "electra_tf.modeling.electra",
    "TokenClassifier": "electra_tf.modeling.electra",
    "Tokenizer": "electra_tf.tokenization",
    "UserError": "electra_tf.errors",
    "create_finetuning_optimizer": "electra_tf.optimization",
    "create_optimizer": "electra_tf.optimization",
    "load_finetuning_config": "electra_tf.configs",
    "load_pretraining_config": "electra_tf.configs",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'electra_tf' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
