"""Writes this folder: a small model of NVIDIA's, its checkpoint, and what it computes.

  TF_USE_LEGACY_KERAS=1 python tests/golden/nvidia/make.py \
      DeepLearningExamples/TensorFlow2/LanguageModeling/ELECTRA

with TensorFlow 2.20, tf_keras 2.20 and tokenizers. The model's code is imported as it is; what it imports
besides, and does not use here, is replaced by empty modules.
"""

import pathlib
import sys
import unittest.mock

import numpy as np
import tensorflow as tf
from tensorflow.python import training
from tensorflow.python.ops import gen_training_ops

HERE = pathlib.Path(__file__).parent
UNUSED = (
    "horovod", "horovod.tensorflow", "horovod.tensorflow.compression", "dllogger", "pynvml", "boto3",
    "botocore", "botocore.config", "botocore.exceptions", "tensorflow_addons",
    "tensorflow_addons.optimizers",
)  # fmt: skip


def main(folder):
    sys.path.insert(0, folder)
    sys.modules.update({name: unittest.mock.MagicMock() for name in UNUSED})
    training.training_ops = gen_training_ops  # It has moved.

    import modeling
    import run_pretraining

    config = run_pretraining.PretrainingConfig("tiny", generator_hidden_size=1 / 3)
    config.update(
        dict(
            vocab_size=32,  # Of 30 pieces, filled up to a multiple of 8.
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            generator_layers=0.5,
            amp=False,
        )
    )
    model = modeling.PretrainingModel(config)
    rng = np.random.default_rng(0)
    batch = {
        "input_ids": rng.integers(5, 30, (3, 12)),
        "input_mask": np.arange(12) < np.array([[12], [7], [9]]),
        "segment_ids": rng.integers(0, 2, (3, 12)),
    }
    batch = {name: array.astype(np.int32) for name, array in batch.items()}
    inputs = [tf.constant(array) for array in batch.values()]
    for network in (model.discriminator, model.generator):
        network(inputs)  # Makes the variables.
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    step, phase2 = tf.Variable(7), tf.Variable(False)
    tf.train.Checkpoint(step=step, phase2=phase2, model=model).write(str(HERE / "ckpt-7"))
    np.savez(
        HERE / "outputs.npz",
        discriminator=model.discriminator(inputs)[0],
        generator=model.generator(inputs)[0],
        **batch,
    )
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxy"]
    (HERE / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))


if __name__ == "__main__":
    main(sys.argv[1])
