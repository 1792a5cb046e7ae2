"""Small models that several tests fine-tune, export or serve."""

import keras

from electra_tf import Discriminator, EncoderConfig, Tokenizer
from electra_tf.tasks import kind_of
from electra_tf.tasks.config import task_config
from electra_tf.tasks.model_folder import FinetunedModel, save_finetuned

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "good bad cat dog house tree red blue".split()
VOCAB = [*SPECIAL, *"abcdefgh", *WORDS]
VOCAB_WITH_SUFFIX = [*SPECIAL, *"abcdefgh.北", "##s", *WORDS]
# What is served, by name: the task's keys, its labels with spaces between or its range, its head.
TASKS = {
    "classification": (
        {"kind": "classification", "columns": {"text": 0, "label": 1}},
        "no yes maybe",
        "dense",
    ),
    "topics": (
        {"kind": "classification", "multi_label": True, "columns": {"text": 0, "label": 1}},
        "a b c d",
        "two_layers",
    ),
    "regression": (
        {"kind": "regression", "columns": {"text": 0, "text_pair": 1, "label": 2}},
        (1.0, 5.0),
        "dense",
    ),
    "tagging": (
        {"kind": "tagging", "scheme": "IOB2", "columns": {"token": 0, "tag": 1}},
        "O B-X I-X B-Y I-Y",
        "dense",
    ),
    "qa": (
        {"kind": "qa", "doc_stride": 7, "max_answer_length": 4, "n_best_size": 5},
        "",
        "start_end",
    ),
    "qa2": ({"kind": "qa", "version_2": True, "doc_stride": 9, "n_best_size": 3}, "", "joint"),
    "choice": (
        {"kind": "multiple_choice", "columns": {"text": 0, "choices": [1, 2, 3], "label": 4}},
        "A B C",
        "summary",
    ),
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


def save_tiny_task(folder, name, head=None, encoder_config=None):
    """Writes a fine-tuned model of `TASKS` with random weights; with another head or of other sizes."""
    keys, labels, usual_head = TASKS[name]
    config = task_config({"name": "t", **keys}, "")
    label_range = labels if isinstance(labels, tuple) else None
    task = kind_of(config)(
        config, None if label_range or not labels else labels.split(), label_range
    )
    keras.utils.set_random_seed(1)
    encoder_config = encoder_config or tiny_config(VOCAB_WITH_SUFFIX)
    network = task.create_network(encoder_config, head=head or usual_head, classifier_dropout=0.1)
    model = FinetunedModel(task, network, Tokenizer(VOCAB_WITH_SUFFIX), 24)
    save_finetuned([model], str(folder))
