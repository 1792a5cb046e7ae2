"""Small models that several tests fine-tune, export or serve."""

import keras

from electra_tf import Discriminator, EncoderConfig, Tokenizer
from electra_tf.tasks import kind_of
from electra_tf.tasks.config import task_config
from electra_tf.tasks.model_folder import FinetunedModel, save_finetuned

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "good bad cat dog house tree red blue".split()
VOCAB = [*SPECIAL, *"abcdefgh", *WORDS]
VOCAB_WITH_SUFFIX = [*VOCAB, "##s"]
# By kind: columns, labels and the labels' range.
TASKS = {
    "classification": ({"text": 0, "label": 1}, ["no", "yes", "maybe"], None),
    "regression": ({"text": 0, "text_pair": 1, "label": 2}, None, (1.0, 5.0)),
}


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


def save_tiny_task(folder, kind):
    """Writes a fine-tuned model of a kind of `TASKS`, with random weights."""
    columns, labels, label_range = TASKS[kind]
    config = task_config({"name": "t", "kind": kind, "columns": columns}, "")
    task = kind_of(config)(config, labels, label_range)
    keras.utils.set_random_seed(1)
    encoder_config = tiny_config(VOCAB_WITH_SUFFIX)
    network = task.create_network(encoder_config, head="dense", classifier_dropout=0.1)
    model = FinetunedModel(task, network, Tokenizer(VOCAB_WITH_SUFFIX), 24)
    save_finetuned([model], str(folder))
