"""A small encoder that several tests fine-tune or export."""

import keras

from electra_tf import Discriminator, EncoderConfig, Tokenizer

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
