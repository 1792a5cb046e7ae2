"""A small encoder that several tests fine-tune or export."""

import keras

from electra_tf import Discriminator, EncoderConfig, Tokenizer
from electra_tf.configs import HEADS_BY_KIND
from electra_tf.tasks import kind_of
from electra_tf.tasks.config import task_config
from electra_tf.tasks.model_folder import FinetunedModel, save_finetuned

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "good bad cat dog house tree red blue".split()
VOCAB = [*SPECIAL, *"abcdefgh", *WORDS]


def tiny_config(vocab):
    """`EncoderConfig` of two narrow blocks without dropout, initialized widely enough to learn fast."""
    return EncoderConfig(
        vocab_size=len(vocab),
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )


def save_tiny_encoder(folder, vocab):
    """Writes a discriminator with random weights and its tokenizer."""
    keras.utils.set_random_seed(3)
    Discriminator(tiny_config(vocab)).save_pretrained(str(folder))
    Tokenizer(vocab).save_pretrained(str(folder))


def save_tiny_task(folder, vocab, keys, labels=None, head=None):
    """Writes a fine-tuned model with random weights.

    Args:
      folder: where to.
      vocab: list of str.
      keys: dict of the task's keys but `name`.
      labels: str of them with spaces between, or a regression's range.
      head: None for the kind's own.
    """
    config = task_config({"name": "t", **keys}, "")
    is_range = isinstance(labels, tuple)
    task = kind_of(config)(
        config, labels.split() if labels and not is_range else None, labels if is_range else None
    )
    keras.utils.set_random_seed(1)
    network = task.create_network(
        tiny_config(vocab), head=head or HEADS_BY_KIND[config.kind][0], classifier_dropout=0.1
    )
    save_finetuned([FinetunedModel(task, network, Tokenizer(vocab), 24)], str(folder))
