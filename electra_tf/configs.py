"""Configuration: encoders, pre-training, fine-tuning, presets, YAML files and overrides.

Keys carry the names of google-research/electra `configure_pretraining.py` and
`configure_finetuning.py` where those have them.
"""

import dataclasses
import difflib
import math
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from electra_tf.errors import UserError

PositiveInt = Annotated[int, Gt(0)]
CountOrZero = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**31)]
Probability = Annotated[float, Ge(0), Lt(1)]

_LONGEST_LOOP = 100  # Steps after which a run of any length looks up.


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes of one Transformer encoder, by the names of Hugging Face's ELECTRA `config.json`.

    ```python
    config = EncoderConfig(vocab_size=30522, embedding_size=128, hidden_size=256,
                           num_hidden_layers=12, num_attention_heads=4, intermediate_size=1024)
    ```

    Raises:
      UserError: `num_attention_heads` does not divide `hidden_size`.
    """

    vocab_size: PositiveInt
    embedding_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    initializer_range: Annotated[float, Gt(0)] = 0.02
    layer_norm_eps: Annotated[float, Gt(0)] = 1e-12
    pad_token_id: CountOrZero = 0
    hidden_act: Literal["gelu"] = "gelu"

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"num_attention_heads={self.num_attention_heads} does not divide "
                f"hidden_size={self.hidden_size}; choose a number of heads that does"
            )


@dataclasses.dataclass(frozen=True)
class ConvolutionalRecurrentConfig:
    """Sizes of a convolutional-recurrent encoder, by the names of Keras's Conv1D, MaxPooling1D and LSTM.

    ```python
    config = ConvolutionalRecurrentConfig(vocab_size=30522, embedding_size=128, filters=128,
                                          kernel_size=5, units=144)
    ```

    With `pool_size` it is a network for texts: max-pooling, then an LSTM of `units` units that gives one
    vector a text. Without, a network for tokens: two LSTMs, one in each direction, side by side.
    """

    vocab_size: PositiveInt
    embedding_size: PositiveInt
    filters: PositiveInt
    kernel_size: PositiveInt
    units: PositiveInt
    pool_size: PositiveInt | None = None
    hidden_dropout_prob: Probability = 0.1
    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    initializer_range: Annotated[float, Gt(0)] = 0.02
    layer_norm_eps: Annotated[float, Gt(0)] = 1e-12

    @property
    def hidden_size(self):
        """Width of the encoder's last output."""
        return self.units if self.pool_size else 2 * self.units


# What makes two networks' weights exchangeable; dropout and initialization do not.
ARCHITECTURE_KEYS = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "filters",
    "kernel_size",
    "units",
    "pool_size",
    "max_position_embeddings",
    "type_vocab_size",
)


def architecture_differences(one, other, one_place="there", other_place="here"):
    """What keeps the weights of one encoder's configuration from another's network: list of str.

    Args:
      one, other: `EncoderConfig` or `ConvolutionalRecurrentConfig`.
      one_place, other_place: where they are, in words.
    """
    keys = [key for key in ARCHITECTURE_KEYS if hasattr(one, key) or hasattr(other, key)]
    values = [(key, *(getattr(config, key, None) for config in (one, other))) for key in keys]
    return [f"{key} is {a} {one_place} and {b} {other_place}" for key, a, b in values if a != b]


KERNEL_SIZE = 5  # Of a convolution, unless the configuration says another.


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """All that decides a pre-training run, apart from its data.

    `load_pretraining_config` makes one from a preset's name or a YAML file; `docs/configuration.md`
    explains the keys.

    Raises:
      UserError: two keys contradict each other.
    """

    # The discriminator. Of another than the Transformer, heads and intermediate size have no effect,
    # and the number of layers is what the generator has a fraction of.
    embedding_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    # The generator: its width and depth as fractions of the discriminator's.
    generator_hidden_size: Annotated[float, Gt(0), Le(1)]
    # The run.
    max_seq_length: Annotated[int, Ge(5)]
    train_batch_size: PositiveInt
    learning_rate: Annotated[float, Gt(0)]
    num_train_steps: PositiveInt
    num_warmup_steps: CountOrZero
    mask_prob: Annotated[float, Gt(0), Lt(1)]

    discriminator: Literal["transformer", "convolutional_recurrent"] = "transformer"
    kernel_size: PositiveInt | None = None
    units: PositiveInt | None = None
    generator_layers: Annotated[float, Gt(0), Le(1)] = 1.0
    vocab_size: PositiveInt = 30522
    do_lower_case: bool = True
    strip_accents: bool | None = None
    max_position_embeddings: PositiveInt = 512
    initializer_range: Annotated[float, Gt(0)] = 0.02
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1

    generator: Literal["masked", "causal", "uniform", "unigram"] = "masked"
    # How the generator begins, and what it shares with the discriminator.
    init: Literal["default", "same"] = "default"
    tied: bool = False
    untied_generator_embeddings: bool = False
    # Which network is trained when.
    schedule: Literal["joint", "alternating", "two_stage", "adversarial"] = "joint"
    alternating_steps: PositiveInt = 1
    generator_steps: CountOrZero = 0

    gen_weight: Annotated[float, Ge(0)] = 1.0
    disc_weight: Annotated[float, Ge(0)] = 50.0
    temperature: Annotated[float, Gt(0)] = 1.0
    disallow_correct: bool = False

    lr_decay_power: Annotated[float, Gt(0)] = 1.0
    weight_decay_rate: Annotated[float, Ge(0)] = 0.01
    clip_norm: Annotated[float, Gt(0)] = 1.0
    seed: Seed = 42
    mixed_precision: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_accumulation_steps: PositiveInt | Literal["auto"] = 1
    recompute_activations: bool = False
    max_skipped_steps: PositiveInt = 20
    fidelity: Literal["fixed", "google2020"] = "fixed"

    # What is written when; none of these changes the weights.
    steps_per_loop: CountOrZero = 0
    save_checkpoints_steps: PositiveInt = 1000
    keep_checkpoint_max: PositiveInt = 5
    eval_steps: CountOrZero = 1000
    num_eval_steps: CountOrZero = 100
    eval_batch_size: PositiveInt = 128
    encoder_export_steps: CountOrZero | list[PositiveInt] = 0
    peak_tflops: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self):
        if self.max_seq_length > self.max_position_embeddings:
            raise UserError(
                f"max_seq_length={self.max_seq_length} exceeds max_position_embeddings="
                f"{self.max_position_embeddings}; lower the one or raise the other"
            )
        num_parts = self.gradient_accumulation_steps
        if num_parts != "auto" and self.train_batch_size % num_parts:
            raise UserError(
                f"gradient_accumulation_steps={num_parts} does not divide "
                f"train_batch_size={self.train_batch_size}; choose a number that does"
            )
        if self.num_warmup_steps > self.num_train_steps:
            raise UserError(
                f"num_warmup_steps={self.num_warmup_steps} exceeds num_train_steps="
                f"{self.num_train_steps}; lower the one or raise the other"
            )
        if self.generator in ("uniform", "unigram") and self.temperature != 1.0:
            raise UserError(
                f"temperature={self.temperature:g}: the generator '{self.generator}' has no logits to "
                "divide; leave the key out"
            )
        if self.discriminator == "transformer":
            for key in ("kernel_size", "units"):
                if getattr(self, key) is not None:
                    raise UserError(
                        f"{key}={getattr(self, key)}: goes with discriminator=convolutional_recurrent; "
                        "set both or neither"
                    )
        self.discriminator_config()
        try:
            self.generator_config()
        except UserError as error:
            raise UserError(
                f"generator_hidden_size={self.generator_hidden_size}: {error}"
            ) from None
        self._check_schedule()
        self._check_sharing()

    def _check_schedule(self):
        """Refuses a schedule that the generator cannot follow, and keys of another one."""
        if self.schedule != "joint" and self.generator_loss is None:
            raise UserError(
                f"schedule={self.schedule}: the generator '{self.generator}' is not trained; leave the "
                "key out"
            )
        if self.schedule == "two_stage" and not 0 < self.generator_steps < self.num_train_steps:
            raise UserError(
                f"generator_steps={self.generator_steps}: two_stage needs how many of the "
                f"{self.num_train_steps:,} steps train the generator; choose half of them, say"
            )
        if self.schedule == "two_stage" and not self.untied_generator_embeddings:
            raise UserError(
                "schedule=two_stage: the second stage would train embeddings that the generator shares; "
                "set untied_generator_embeddings=true"
            )
        if self.schedule == "alternating" and self.alternating_steps >= self.num_train_steps:
            raise UserError(
                f"alternating_steps={self.alternating_steps}: none of the {self.num_train_steps:,} steps "
                "would train the discriminator; choose fewer"
            )
        for key, schedule, is_set in (
            ("generator_steps", "two_stage", self.generator_steps > 0),
            ("alternating_steps", "alternating", self.alternating_steps > 1),
        ):
            if is_set and self.schedule != schedule:
                raise UserError(
                    f"{key}={getattr(self, key)}: goes with schedule={schedule}; leave it out"
                )
        if self.schedule == "adversarial":
            for key, needed in (
                ("generator", "masked"),
                ("temperature", 1.0),
                ("disallow_correct", False),
            ):
                if getattr(self, key) != needed:
                    raise UserError(
                        f"{key}={getattr(self, key)}: schedule=adversarial needs {needed}: what is "
                        "rewarded is a masked language model's own samples"
                    )

    def _check_sharing(self):
        """Refuses to share or to copy weights of networks that are not alike."""
        alike = {
            "tied=true": self.tied,
            "init=same": self.init == "same",
            "schedule=two_stage": self.schedule == "two_stage",
        }
        chosen = [name for name, is_chosen in alike.items() if is_chosen]
        if self.generator != "masked":
            chosen += ["untied_generator_embeddings=true"] * self.untied_generator_embeddings
            if chosen:
                raise UserError(
                    f"{chosen[0]}: needs generator=masked, which shares its architecture with the "
                    "discriminator"
                )
        if chosen and self.discriminator != "transformer":
            raise UserError(
                f"{chosen[0]}: needs discriminator=transformer, whose architecture the generator has"
            )
        if chosen:
            differences = architecture_differences(
                self.generator_config(),
                self.discriminator_config(),
                "in the generator",
                "in the discriminator",
            )
            if differences:
                raise UserError(
                    f"{chosen[0]}: generator and discriminator must be alike, but "
                    f"{'; '.join(differences)}; choose generator_hidden_size=1.0, generator_layers="
                    "1.0, heads of 64 and an intermediate_size of four times hidden_size"
                )
        if self.tied:
            for name, is_chosen in (
                *alike.items(),
                ("untied_generator_embeddings=true", self.untied_generator_embeddings),
            ):
                if is_chosen and name != "tied=true":
                    raise UserError(f"tied=true: contradicts {name}; leave one of them out")

    @property
    def max_predictions_per_seq(self):
        """Most positions hidden in one example (`configure_pretraining.py`)."""
        number = int((self.mask_prob + 0.005) * self.max_seq_length)
        return min(max(1, number), self.max_seq_length)

    @property
    def generator_loss(self):
        """What trains the generator: the names of the sums whose quotient its loss is.

        Returns:
          `(loss, number)`, such as `("masked_lm_loss", "masked")`, the former also the loss's own
          name; None for a generator that is not trained.
        """
        if self.schedule == "adversarial":
            return "adversarial_loss", "masked"
        return {
            "masked": ("masked_lm_loss", "masked"),
            "causal": ("causal_lm_loss", "causal_lm_tokens"),
        }.get(self.generator)

    @property
    def has_phases(self):
        """Whether a step trains one network alone, now the one and now the other."""
        return self.schedule in ("alternating", "two_stage")

    @property
    def has_temperature(self):
        """Whether samples may be drawn at another `temperature` than 1."""
        return self.generator_loss is not None and self.schedule != "adversarial"

    @property
    def metrics_steps(self):
        """Steps between two training lines of `metrics.jsonl`, at whose end a run can be stopped."""
        return self.steps_per_loop or min(_LONGEST_LOOP, max(1, self.num_train_steps // 1000))

    def discriminator_config(self):
        """The discriminator's `EncoderConfig`, or `ConvolutionalRecurrentConfig` of the level of tokens."""
        if self.discriminator == "transformer":
            return self._encoder_config(EncoderConfig)
        return self._encoder_config(
            ConvolutionalRecurrentConfig,
            filters=self.hidden_size,
            kernel_size=self.kernel_size or KERNEL_SIZE,
            units=self.units or self.hidden_size,
        )

    def generator_config(self):
        """The generator's `EncoderConfig`: a narrower discriminator with heads of 64 (SEMANTICS 18a).

        A causal one's embeddings are its own, as wide as its blocks.
        """
        hidden_size = max(1, round(self.hidden_size * self.generator_hidden_size))
        return self._encoder_config(
            EncoderConfig,
            embedding_size=hidden_size if self.generator == "causal" else self.embedding_size,
            hidden_size=hidden_size,
            num_hidden_layers=max(1, round(self.num_hidden_layers * self.generator_layers)),
            num_attention_heads=max(1, hidden_size // 64),
            intermediate_size=4 * hidden_size,
        )

    def _encoder_config(self, config_class, **sizes):
        """An encoder's configuration of given sizes, and of this one's keys."""
        keys = [f.name for f in dataclasses.fields(config_class) if hasattr(self, f.name)]
        return config_class(**{**{key: getattr(self, key) for key in keys}, **sizes})

    def exports_encoder_at(self, step):
        """Whether `encoder_export_steps` (every N steps, or a list of steps) asks for a copy at `step`."""
        wanted = self.encoder_export_steps
        if isinstance(wanted, list):
            return step in wanted
        return wanted > 0 and step % wanted == 0


@dataclasses.dataclass(frozen=True)
class FinetuningConfig:
    """All that decides the fine-tuning of an encoder, apart from the task and its data.

    `load_finetuning_config` makes one; `docs/finetuning.md` explains the keys. None stands for the
    value that goes with the encoder's size or with `fidelity` (SEMANTICS, fine-tuning), see
    `resolved`.
    """

    learning_rate: Annotated[float, Gt(0)] | None = None
    layerwise_lr_decay: Annotated[float, Gt(0), Le(1)] | None = None
    weight_decay_rate: Annotated[float, Ge(0)] | None = None
    num_train_epochs: Annotated[float, Gt(0)] = 3.0
    num_train_steps: CountOrZero = 0
    warmup_proportion: Probability = 0.1
    lr_decay_power: Annotated[float, Gt(0)] = 1.0
    train_batch_size: PositiveInt = 32
    max_seq_length: Annotated[int, Ge(5)] | None = None
    length_buckets: list[PositiveInt] | None = None
    hidden_dropout_prob: Probability | None = None
    attention_probs_dropout_prob: Probability | None = None
    head: Literal["dense", "two_layers", "joint", "start_end", "summary"] | None = None
    classifier_dropout: Probability = 0.1
    bias_correction: bool = False
    clip_norm: Annotated[float, Gt(0)] = 1.0
    task_sampling_power: Annotated[float, Ge(0)] = 0.75
    seed: Seed = 42
    mixed_precision: Literal["float32", "bfloat16", "float16"] = "float32"
    fidelity: Literal["fixed", "google2020"] = "fixed"

    # None of these changes the weights.
    gradient_accumulation_steps: PositiveInt = 1
    recompute_activations: bool = False
    max_skipped_steps: PositiveInt = 20
    eval_batch_size: PositiveInt = 32
    steps_per_loop: CountOrZero = 0
    save_checkpoints_steps: CountOrZero = 0

    # How often the dev set is looked at; which checkpoint is the best depends on it.
    eval_steps: CountOrZero = 0

    def __post_init__(self):
        if self.train_batch_size % self.gradient_accumulation_steps:
            raise UserError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} does not divide "
                f"train_batch_size={self.train_batch_size}; choose a number that does"
            )
        if self.bias_correction and self.fidelity == "google2020":
            raise UserError(
                "bias_correction=true: fidelity=google2020 is the original, which has none"
            )

    def resolved(self, encoder_config, kind):
        """This configuration with a value for every key.

        Args:
          encoder_config: `EncoderConfig` or `ConvolutionalRecurrentConfig` of the encoder to
            fine-tune. The latter has no attention: `attention_probs_dropout_prob` stays None.
          kind: of the task; it has its own heads and its own usual length.

        Raises:
          UserError: `max_seq_length` exceeds the encoder's positions, the buckets do not ascend, the
            kind has no such `head`, or the encoder no such dropout or no outputs for tokens.
        """
        heads = HEADS_BY_KIND[kind]
        if self.head and self.head not in heads:
            raise UserError(f"head={self.head}: a {kind} task has {' or '.join(heads)}")
        attention_dropout = getattr(encoder_config, "attention_probs_dropout_prob", None)
        if self.attention_probs_dropout_prob is not None and attention_dropout is None:
            raise UserError(
                f"attention_probs_dropout_prob={self.attention_probs_dropout_prob}: the encoder is "
                "convolutional-recurrent and has no attention; leave the key out"
            )
        pool_size = getattr(encoder_config, "pool_size", None)
        if pool_size and kind in KINDS_OF_TOKENS:
            raise UserError(
                f"a {kind} task needs a vector for each token; the encoder pools (pool_size={pool_size}) "
                "and has one a text: take another --init_from"
            )
        most = encoder_config.max_position_embeddings
        length = self.max_seq_length or min(MAX_SEQ_LENGTH_BY_KIND.get(kind, 128), most)
        if kind == "qa" and length < 7:
            raise UserError(
                f"max_seq_length={length}: no room for a question and a context; raise it"
            )
        if length > most:
            raise UserError(
                f"max_seq_length={length} exceeds the encoder's {most} positions; lower it"
            )
        buckets = self.length_buckets or []
        if buckets != sorted(set(buckets)) or any(bucket >= length for bucket in buckets):
            raise UserError(
                f"length_buckets={buckets}: give ascending lengths below max_seq_length={length}"
            )
        # A convolutional-recurrent encoder is wide where it is small.
        is_transformer = isinstance(encoder_config, EncoderConfig)
        is_large = is_transformer and encoder_config.hidden_size >= 1024
        rate = 5e-5 if is_large else 1e-4
        is_small = encoder_config.hidden_size <= 256 or not is_transformer
        if self.fidelity == "fixed" and is_small:
            rate = 3e-4
        chosen = {
            "learning_rate": rate,
            "layerwise_lr_decay": 0.9 if is_large else 0.8,
            "weight_decay_rate": 0.01 if self.fidelity == "google2020" else 0.0,
            "max_seq_length": length,
            "length_buckets": [b for b in LENGTH_BUCKETS if b < length],
            "head": heads[0],
            "hidden_dropout_prob": encoder_config.hidden_dropout_prob,
            "attention_probs_dropout_prob": attention_dropout,
        }
        return dataclasses.replace(
            self, **{key: v for key, v in chosen.items() if getattr(self, key) is None}
        )


# The first one is the usual one.
HEADS_BY_KIND = {
    "classification": ("dense", "two_layers"),
    "regression": ("dense", "two_layers"),
    "tagging": ("dense",),
    "qa": ("joint", "start_end"),
    "multiple_choice": ("summary",),
}
KINDS_OF_TOKENS = ("tagging", "qa")
MAX_SEQ_LENGTH_BY_KIND = {"tagging": 256, "qa": 512}

# Few, since each length of a batch is compiled on its own.
LENGTH_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384)

FINETUNING_RUN_KEYS = frozenset(
    {
        "gradient_accumulation_steps",
        "recompute_activations",
        "max_skipped_steps",
        "eval_batch_size",
        "steps_per_loop",
        "save_checkpoints_steps",
    }
)

# Keys that may change between two starts of one run: they do not touch the weights.
RUN_KEYS = frozenset(
    {
        "gradient_accumulation_steps",
        "recompute_activations",
        "max_skipped_steps",
        "steps_per_loop",
        "save_checkpoints_steps",
        "keep_checkpoint_max",
        "eval_steps",
        "num_eval_steps",
        "eval_batch_size",
        "encoder_export_steps",
        "peak_tflops",
    }
)

# small, base, large: Clark et al. (2020), tables 6 and 1; tiny, mini: BERT's sizes of these names.
PRETRAINING_PRESETS = {
    "tiny": dict(
        embedding_size=128,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        generator_hidden_size=0.5,
        max_seq_length=128,
        train_batch_size=64,
        learning_rate=1e-3,
        num_train_steps=20_000,
        num_warmup_steps=1_000,
        mask_prob=0.15,
    ),
    "mini": dict(
        embedding_size=128,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        generator_hidden_size=0.25,
        max_seq_length=128,
        train_batch_size=128,
        learning_rate=1e-3,
        num_train_steps=100_000,
        num_warmup_steps=5_000,
        mask_prob=0.15,
    ),
    "small": dict(
        embedding_size=128,
        hidden_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=1024,
        generator_hidden_size=0.25,
        max_seq_length=128,
        train_batch_size=128,
        learning_rate=5e-4,
        num_train_steps=1_000_000,
        num_warmup_steps=10_000,
        mask_prob=0.15,
    ),
    "base": dict(
        embedding_size=768,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        generator_hidden_size=1 / 3,
        max_seq_length=512,
        train_batch_size=256,
        learning_rate=2e-4,
        num_train_steps=766_000,
        num_warmup_steps=10_000,
        mask_prob=0.15,
    ),
    "large": dict(
        embedding_size=1024,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        generator_hidden_size=0.25,
        max_seq_length=512,
        train_batch_size=2048,
        learning_rate=2e-4,
        num_train_steps=400_000,
        num_warmup_steps=10_000,
        mask_prob=0.25,
    ),
}

# Of about tiny's and small's numbers of parameters (docs/discriminators.md).
for _name, _units in (("tiny", 144), ("small", 960)):
    PRETRAINING_PRESETS[f"{_name}_convolutional_recurrent"] = {
        **PRETRAINING_PRESETS[_name],
        "discriminator": "convolutional_recurrent",
        "units": _units,
    }


def parse_overrides(overrides, as_written=()):
    """Parses `["key=value", ...]`, the values in YAML, to a dict; `as_written` as of `read_yaml`.

    Raises:
      UserError: an override without `=`, or a value that is not YAML.
    """
    import yaml

    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--override={override}: no '='; write --override=key=value")
        key = key.strip()
        try:
            values |= _as_written({key: yaml.safe_load(text)}, f"{key}: {text}", as_written)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not.
            raise UserError(
                f"--override={override}: the value is not YAML ({getattr(error, 'problem', error)})"
            ) from None
    return values


def load_pretraining_config(name_or_file, overrides=None):
    """Makes a `PretrainingConfig` from a preset or a YAML file.

    ```python
    config = load_pretraining_config("small", {"num_train_steps": 1000})
    ```

    A YAML file holds the keys of `PretrainingConfig`; `preset: NAME` in it takes the others from a
    preset.

    Args:
      name_or_file: one of `PRETRAINING_PRESETS`, or a path ending in .yaml or .yml.
      overrides: dict of keys and values that go before the file's.

    Returns:
      `PretrainingConfig`.

    Raises:
      UserError: an unknown preset or key, a missing key, a value of the wrong type or out of range.
    """
    if name_or_file.endswith((".yaml", ".yml")):
        values = read_yaml(name_or_file)
        preset = values.pop("preset", None)
        values = {**(_preset(preset, f"{name_or_file}: preset") if preset else {}), **values}
    else:
        values = _preset(name_or_file, "--config")
    return validate(PretrainingConfig, {**values, **(overrides or {})}, name_or_file)


def load_finetuning_config(file=None, overrides=None, task_defaults=None, other_keys=()):
    """Makes a `FinetuningConfig`.

    ```python
    config = load_finetuning_config(overrides={"num_train_epochs": 1})
    ```

    Args:
      file: YAML file of keys, or None.
      overrides: dict of keys and values that go before the file's.
      task_defaults: dict of those that the file's go before.
      other_keys: names that could be meant, too, by an unknown one.

    Raises:
      UserError: an unknown key, or a value of the wrong type or out of range.
    """
    values = read_yaml(file) if file else {}
    values = {**(task_defaults or {}), **values, **(overrides or {})}
    return validate(FinetuningConfig, values, file or "--override", other_keys)


def _preset(name, where):
    if name not in PRETRAINING_PRESETS:
        raise UserError(
            f"{where}={name}: no such preset; choose one of {', '.join(PRETRAINING_PRESETS)}, or "
            "give a file that ends in .yaml"
        )
    return PRETRAINING_PRESETS[name]


def read_yaml(path, flag="--config", as_written=()):
    """Reads a YAML file of `key: value` lines as a dict.

    Args:
      path: the file.
      flag: which names it, for messages.
      as_written: keys whose lists are of str, not of the numbers and truth values that YAML sees.

    Raises:
      UserError: that names `flag`, or the line.
    """
    import tensorflow as tf
    import yaml

    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            text = f.read().decode("utf-8-sig")
        values = yaml.safe_load(text)
    except tf.errors.OpError as error:
        raise UserError(f"{flag}={path}: cannot read it: {error.message}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (yaml.YAMLError, ValueError) as error:
        place = f":{error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        raise UserError(f"{path}{place}: not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: no 'key: value' lines; write one configuration key a line")
    return _as_written(values, text, as_written)


def _as_written(values, text, keys):
    """The values that a YAML text holds, in the lists of some keys as they are written there."""
    import yaml

    lists = [key for key in keys if isinstance(values.get(key), list)]
    if not lists:
        return values
    written = yaml.load(text, yaml.BaseLoader)
    return {**values, **{key: written[key] for key in lists}}


_KEYS_OF_THE_ORIGINAL = {
    "uniform_generator": "write 'generator: uniform'",
    "untied_generator": "write 'tied: true' for its 'false'; untied is the default",
}


def validate(config_class, values: dict[str, Any], where, other_keys=()):
    """Makes a configuration of a dict; `other_keys` could be meant, too, by an unknown key.

    Raises:
      UserError: that begins with `where`: an unknown or a missing key, or a value that does not fit.
    """
    import pydantic

    known = [field.name for field in dataclasses.fields(config_class)]
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), [*known, *other_keys], n=1)
            if key in _KEYS_OF_THE_ORIGINAL:
                raise UserError(f"{where}: '{key}' is the original's; {_KEYS_OF_THE_ORIGINAL[key]}")
            hint = f"; did you mean '{nearest[0]}'?" if nearest else f"; known: {', '.join(known)}"
            raise UserError(f"{where}: unknown configuration key '{key}'{hint}")
    missing = [
        field.name
        for field in dataclasses.fields(config_class)
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(
            f"{where}: missing {', '.join(missing)}"
            + (
                "; set them, or take them from a preset with a line 'preset: small'"
                if config_class is PretrainingConfig
                else ""
            )
        )
    for key, value in values.items():
        numbers = [x for x in (value if isinstance(value, list) else [value]) if type(x) is float]
        if not all(map(math.isfinite, numbers)):
            raise UserError(f"{where}: {key}={value}: give finite numbers")
    try:
        return pydantic.TypeAdapter(config_class).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if isinstance(first.get("ctx", {}).get("error"), UserError):
            raise UserError(f"{where}: {first['ctx']['error']}") from None
        key = first["loc"][0]
        raise UserError(f"{where}: {key}={values[key]!r}: {first['msg']}") from None
