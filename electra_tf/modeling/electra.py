"""The networks of ELECTRA as Keras models: its two (Clark et al., 2020, section 2) and fine-tuned ones."""

import keras
import tensorflow as tf

from electra_tf import randomness
from electra_tf.configs import ConvolutionalRecurrentConfig
from electra_tf.masking import gather_positions
from electra_tf.modeling.convolutional_recurrent import ConvolutionalRecurrentEncoder
from electra_tf.modeling.heads import (
    CLASSIFICATION_HEADS,
    ClassificationHead,
    DiscriminatorHead,
    LogitHead,
    MaskedLMHead,
    MultipleChoiceHead,
)
from electra_tf.modeling.layers import Embeddings, Encoder
from electra_tf.modeling.proposals import Proposals, sample
from electra_tf.modeling.spans import SPAN_HEADS, find_spans


class ElectraModel(keras.Model):
    """What generator and discriminator have in common: embeddings, encoder, folders."""

    #: Dropout of the head; None for a network without.
    classifier_dropout = None

    def __init__(
        self, config, embeddings=None, recompute_activations=False, encoder=None, **kwargs
    ):
        """Makes the layers and their variables.

        Args:
          config: `configs.EncoderConfig`, or `configs.ConvolutionalRecurrentConfig` for another
            encoder than the Transformer.
          embeddings: `Embeddings` to share, or None for new ones.
          recompute_activations: see `layers.Encoder`; of no effect on another encoder.
          encoder: encoder to share, or None for a new one.
        """
        super().__init__(**kwargs)
        self.config = config
        self.embeddings = embeddings or Embeddings(config, dtype=self.dtype_policy)
        self.encoder = encoder or _create_encoder(config, recompute_activations, self.dtype_policy)
        self.seed_generator = keras.random.SeedGenerator()
        if embeddings is None:
            self.embeddings.build()
        if encoder is None:
            self.encoder.build()

    @classmethod
    def from_pretrained(cls, folder):
        """Reads `config.json` and `model.safetensors` of a folder in Hugging Face's layout.

        ```python
        discriminator = Discriminator.from_pretrained("runs/demo/discriminator")
        ```

        Raises:
          UserError: a file is missing, or tensors and model do not match one to one (all named).
        """
        from electra_tf.interop import huggingface

        return huggingface.load_model(cls, folder)

    def save_pretrained(self, folder):
        """Writes `config.json` and `model.safetensors` in Hugging Face's layout."""
        from electra_tf.interop import huggingface

        huggingface.save_model(self, folder)

    def _dropout_seed(self, training, dropout_seed):
        """None outside of training; there a new seed where none is given."""
        if training and dropout_seed is None:
            return tf.cast(self.seed_generator.next(), tf.int32)
        return dropout_seed if training else None

    def encode(self, inputs, training, dropout_seed):
        """Embeds and encodes a batch: the list of hidden states, in the dtype of the products."""
        dropout_seed = self._dropout_seed(training, dropout_seed)
        embeddings_seed, encoder_seed = randomness.split(dropout_seed, 2)
        input_ids = tf.cast(inputs["input_ids"], tf.int32)
        input_mask = tf.cast(inputs.get("input_mask", tf.ones_like(input_ids)), tf.int32)
        segment_ids = tf.cast(inputs.get("segment_ids", tf.zeros_like(input_ids)), tf.int32)
        embedded = self.embeddings(input_ids, segment_ids, seed=embeddings_seed)
        return self.encoder(embedded, input_mask, seed=encoder_seed)


def _create_encoder(config, recompute_activations, dtype):
    if isinstance(config, ConvolutionalRecurrentConfig):
        return ConvolutionalRecurrentEncoder(config, dtype=dtype)
    return Encoder(config, recompute_activations, dtype=dtype)


def _outputs(logits, hidden_states, output_hidden_states):
    outputs = {"logits": logits, "sequence_output": tf.cast(hidden_states[-1], tf.float32)}
    if output_hidden_states:
        outputs["hidden_states"] = tuple(tf.cast(h, tf.float32) for h in hidden_states)
    return outputs


class Discriminator(ElectraModel):
    """Tells for each token whether it was replaced; the network that is fine-tuned afterwards.

    ```python
    discriminator = Discriminator(EncoderConfig(...))
    outputs = discriminator(tokenizer.pack([tokenizer.tokenize(["A text."])], 128))
    probabilities = tf.sigmoid(outputs["logits"])      # [1, 128]
    ```
    """

    def __init__(self, config, embeddings=None, **kwargs):
        super().__init__(config, embeddings, name="discriminator", **kwargs)
        is_transformer = isinstance(self.encoder, Encoder)
        self.head = (DiscriminatorHead if is_transformer else LogitHead)(
            config, dtype=self.dtype_policy
        )
        self.head.build()
        self.built = True

    def call(self, inputs, training=False, dropout_seed=None, output_hidden_states=False):
        """Runs the network.

        Args:
          inputs: dict of int tensors [B, T]: `input_ids`; `input_mask` (1 on real tokens, default
            all) and `segment_ids` (0 or 1, default 0).
          training: whether dropout is on.
          dropout_seed: int32 [2] that decides the dropout; None draws one.
          output_hidden_states: whether to return them.

        Returns:
          dict of float32 tensors: `logits` [B, T] (positive: replaced), `sequence_output`
          [B, T, hidden_size], `hidden_states` (tuple of [B, T, hidden_size]: the projected
          embeddings, then each block's output; or what `ConvolutionalRecurrentEncoder` gives).
        """
        hidden_states = self.encode(inputs, training, dropout_seed)
        return _outputs(
            self.head(hidden_states[-1], training=training), hidden_states, output_hidden_states
        )


class SequenceDiscriminator(ElectraModel):
    """Tells of a text whether it was generated, by one logit.

    ```python
    config = ConvolutionalRecurrentConfig(..., pool_size=4)
    discriminator = SequenceDiscriminator(config)
    outputs = discriminator(tokenizer.pack([tokenizer.tokenize(["A text."])], 128))
    probabilities = tf.sigmoid(outputs["logits"])      # [1]
    ```

    Of a network for texts it takes the one vector, else that of [CLS].
    """

    def __init__(self, config, embeddings=None, **kwargs):
        super().__init__(config, embeddings, name="sequence_discriminator", **kwargs)
        self.head = ClassificationHead(config, num_labels=1, dropout=0.0)
        self.head.build()
        self.built = True

    def call(self, inputs, training=False, dropout_seed=None, output_hidden_states=False):
        """Runs the network; as `Discriminator.call`, but `logits` is [B] (positive: generated)."""
        hidden_states = self.encode(inputs, training, dropout_seed)
        logits = self.head(hidden_states[-1][:, 0])[:, 0]
        return _outputs(logits, hidden_states, output_hidden_states)


class Generator(ElectraModel):
    """A small masked language model that proposes replacements.

    ```python
    generator = Generator(EncoderConfig(...), embeddings=discriminator.embeddings)
    logits = generator({"input_ids": ids, "masked_positions": positions})["logits"]  # [B, P, V]
    ```
    """

    def __init__(self, config, embeddings=None, **kwargs):
        super().__init__(config, embeddings, name="generator", **kwargs)
        self.head = MaskedLMHead(config, self.embeddings, dtype=self.dtype_policy)
        self.head.build()
        self.built = True

    def call(self, inputs, training=False, dropout_seed=None, output_hidden_states=False):
        """Runs the network.

        Args:
          inputs: as `Discriminator.call` takes them; with `masked_positions` (int [B, P]) the
            vocabulary's logits are computed there alone.
          training, dropout_seed, output_hidden_states: as in `Discriminator.call`.

        Returns:
          dict of float32 tensors: `logits` [B, T, vocab_size], or [B, P, vocab_size];
          `sequence_output` and `hidden_states` as in `Discriminator.call`; `unbiased_logits`, the
          logits before the bias, in the compute dtype.
        """
        hidden_states = self.encode(inputs, training, dropout_seed)
        hidden = hidden_states[-1]
        if "masked_positions" in inputs:
            hidden = gather_positions(hidden, tf.cast(inputs["masked_positions"], tf.int32))
        unbiased_logits, bias = self.head(hidden, training=training)
        logits = tf.cast(unbiased_logits, tf.float32) + bias
        return {
            **_outputs(logits, hidden_states, output_hidden_states),
            "unbiased_logits": unbiased_logits,
        }

    def totals(self, batch):
        """Its loss is divided by the number of hidden tokens, which the pre-trainer counts."""
        del batch
        return {}

    def propose(self, batch, masked, noise, sampling, training=False, dropout_seed=None):
        """Draws replacements, each by the tokens on both sides.

        Args:
          batch: dict of int32 [B, T], as `call` takes it.
          masked: `masking.MaskedInputs`, what is read in place of the batch's tokens.
          noise: float32 [B, P, 2], uniform in [0, 1).
          sampling: `proposals.Sampling`.
          training, dropout_seed: as of `call`.

        Returns:
          `proposals.Proposals`.
        """
        inputs = {
            **batch,
            "input_ids": masked.input_ids,
            "masked_positions": masked.positions,
        }
        generated = self(inputs, training=training, dropout_seed=dropout_seed)
        unbiased_logits, bias = generated["unbiased_logits"], self.head.bias
        sampled = sample(unbiased_logits, bias, masked, noise, sampling, training)
        hidden = gather_positions(generated["sequence_output"], masked.positions)
        return Proposals(generated["logits"], hidden, *sampled, sums={})


class SequenceClassifier(ElectraModel):
    """An encoder with a head for one label, several labels or a number a text.

    ```python
    classifier = SequenceClassifier(EncoderConfig(...), num_labels=2)
    outputs = classifier(tokenizer.pack([tokenizer.tokenize(["A text."])], 128))
    outputs["logits"]      # [1, 2]
    ```
    """

    def __init__(
        self,
        config,
        embeddings=None,
        num_labels=2,
        head="dense",
        classifier_dropout=0.1,
        **kwargs,
    ):
        """Makes the layers and their variables.

        Args:
          config: `configs.EncoderConfig`.
          embeddings: `Embeddings` to share, or None for new ones.
          num_labels: outputs.
          head: "dense", the original's single layer, or "two_layers", transformers' head.
          classifier_dropout: of the head.
        """
        super().__init__(config, embeddings, name="sequence_classifier", **kwargs)
        self.classifier_dropout = classifier_dropout
        self.head = CLASSIFICATION_HEADS[head](config, num_labels, classifier_dropout)
        self.head.build()
        self.built = True

    def call(self, inputs, training=False, dropout_seed=None, output_hidden_states=False):
        """Runs the network; arguments and results as of `Discriminator.call`, but `logits` is [B, num_labels]."""
        encoder_seed, head_seed = randomness.split(self._dropout_seed(training, dropout_seed), 2)
        hidden_states = self.encode(inputs, training, encoder_seed)
        logits = self.head(hidden_states[-1][:, 0], seed=head_seed)
        return _outputs(logits, hidden_states, output_hidden_states)


class TokenClassifier(ElectraModel):
    """An encoder with a label for each token: transformers' `ElectraForTokenClassification`.

    ```python
    tagger = TokenClassifier(EncoderConfig(...), num_labels=9)
    tagger({"input_ids": ids})["logits"]      # [B, T, 9]
    ```
    """

    def __init__(self, config, embeddings=None, num_labels=2, classifier_dropout=0.1, **kwargs):
        """Makes the layers; arguments as of `SequenceClassifier`."""
        super().__init__(config, embeddings, name="token_classifier", **kwargs)
        self.classifier_dropout = classifier_dropout
        self.head = ClassificationHead(config, num_labels, classifier_dropout)
        self.head.build()
        self.built = True

    def call(self, inputs, training=False, dropout_seed=None, output_hidden_states=False):
        """Runs the network; as `Discriminator.call`, but `logits` is [B, T, num_labels]."""
        encoder_seed, head_seed = randomness.split(self._dropout_seed(training, dropout_seed), 2)
        hidden_states = self.encode(inputs, training, encoder_seed)
        logits = self.head(hidden_states[-1], seed=head_seed)
        return _outputs(logits, hidden_states, output_hidden_states)


class MultipleChoiceClassifier(ElectraModel):
    """An encoder that scores each of some choices: transformers' `ElectraForMultipleChoice`.

    ```python
    network = MultipleChoiceClassifier(EncoderConfig(...))
    network({"input_ids": ids})["logits"]      # ids [B, C, T] -> [B, C]
    ```
    """

    def __init__(self, config, embeddings=None, classifier_dropout=0.1, **kwargs):
        """Makes the layers; arguments as of `SequenceClassifier`."""
        super().__init__(config, embeddings, name="multiple_choice_classifier", **kwargs)
        self.classifier_dropout = classifier_dropout
        self.head = MultipleChoiceHead(config, classifier_dropout)
        self.head.build()
        self.built = True

    def call(self, inputs, training=False, dropout_seed=None, output_hidden_states=False):
        """Runs the network; as `Discriminator.call`, but inputs are [B, C, T] and `logits` [B, C].

        `sequence_output` and `hidden_states` are [B * C, T, hidden_size].
        """
        encoder_seed, head_seed = randomness.split(self._dropout_seed(training, dropout_seed), 2)
        shape = tf.shape(inputs["input_ids"])
        names = ("input_ids", "input_mask", "segment_ids")
        flat = {n: tf.reshape(inputs[n], [-1, shape[-1]]) for n in names if n in inputs}
        hidden_states = self.encode(flat, training, encoder_seed)
        logits = self.head(hidden_states[-1][:, 0], seed=head_seed)
        return _outputs(tf.reshape(logits, shape[:2]), hidden_states, output_hidden_states)


class QuestionAnswerer(ElectraModel):
    """An encoder with a head that finds an answer's span in a window of a context.

    ```python
    network = QuestionAnswerer(EncoderConfig(...), head="joint", answerable=True)
    logits = network(batch)["logits"]
    logits["spans"]      # [B, 20, 4]: first and last token, their scores
    logits["no_answer"]  # [B, 2]
    ```
    """

    def __init__(
        self,
        config,
        embeddings=None,
        head="joint",
        answerable=False,
        beam_size=20,
        n_best_size=20,
        max_answer_length=30,
        **kwargs,
    ):
        """Makes the layers and their variables.

        Args:
          config: `configs.EncoderConfig`.
          embeddings: `Embeddings` to share, or None for new ones.
          head: "joint", the original's, or "start_end", transformers' (`modeling.spans`).
          answerable: whether questions may have no answer.
          beam_size: starts that are tried, and ends for each.
          n_best_size: spans that are found.
          max_answer_length: most tokens of a span.
        """
        super().__init__(config, embeddings, name="question_answerer", **kwargs)
        self.n_best_size, self.max_answer_length = n_best_size, max_answer_length
        self.head = SPAN_HEADS[head](config, beam_size, answerable)
        self.head.build()
        self.built = True

    def call(self, inputs, training=False, dropout_seed=None, output_hidden_states=False):
        """Runs the network.

        Args:
          inputs: as `Discriminator.call` takes them; with `is_context` (int [B, T], 1 on the context's
            tokens), `is_max_context` (1 on those of them where an answer may begin; default
            `is_context`) and `start_positions` (int [B], the starts that ends are predicted for;
            the head `joint` needs it for `end`).
          training, dropout_seed, output_hidden_states: as in `Discriminator.call`.

        Returns:
          as `Discriminator.call`, but `logits` is a dict of float32 tensors: those of the head, and
          outside of training `spans` [B, n_best_size, 4] (`spans.find_spans`) and `no_answer`
          [B, 2]: its score, and 1 if the best span's score is to be taken from it, else 0.
        """
        hidden_states = self.encode(inputs, training, dropout_seed)
        hidden = tf.cast(hidden_states[-1], tf.float32)
        is_context = tf.cast(inputs["is_context"], tf.int32)
        # [CLS] stands for "not in this window", or "no answer".
        is_first = tf.cast(tf.range(tf.shape(hidden)[1]) == 0, tf.float32)
        candidates = tf.cast(is_context, tf.float32) + is_first
        starts = inputs.get("start_positions")
        logits = self.head(hidden, candidates, starts, training=training)
        if not training:
            score, relative = self.head.no_answer(logits)
            logits["no_answer"] = tf.stack([score, tf.fill(tf.shape(score), relative)], axis=1)
            logits["spans"] = find_spans(
                self.head.beams(hidden, candidates, logits),
                is_context,
                tf.cast(inputs.get("is_max_context", is_context), tf.int32),
                self.max_answer_length,
                self.n_best_size,
            )
        return _outputs(logits, hidden_states, output_hidden_states)
