"""What commonly goes wrong in pre-training, noticed while it runs and said in words.

Each check looks at figures and returns a sentence (what, the figure, the remedy) or None. The
thresholds are meant to leave healthy runs alone: a warning that comes always is not read.
"""

from absl import logging

from electra_tf.training.metrics import majority_baseline, ratio

# Of a sampled token being the true one; late in training about 0.6 is usual (SEMANTICS).
MAX_SAMPLED_ACCURACY = 0.75
# What the generator may restore of the hidden tokens while the discriminator has learnt nothing.
MAX_ACCURACY_WITHOUT_DISCRIMINATOR = 0.3
MAX_PADDING = 0.2
MAX_INPUT_WAIT = 0.2
# Muennighoff et al. (2023) find that passing the same text again stops helping at about 40 times.
MAX_EPOCHS = 40
# A discriminator learns later than its generator; nobody judges it before this.
PATIENCE_STEPS, PATIENCE_SHARE = 10_000, 0.25


def repeated_corpus(config, num_train_examples):
    """The schedule passes the corpus too often."""
    epochs = config.num_train_steps * config.train_batch_size / num_train_examples
    if epochs <= MAX_EPOCHS:
        return None
    steps = MAX_EPOCHS * num_train_examples // config.train_batch_size
    return (
        f"the schedule passes the {num_train_examples:,} training examples {epochs:,.0f} times, and "
        f"more than about {MAX_EPOCHS} times teaches nothing new; give more text, or set "
        f"num_train_steps to {max(1, steps):,} or less"
    )


def loss_not_finite(config, step, metrics):
    """Gradients are not finite. Under float16 that is usual while a loss scale is looked for."""
    skipped = metrics["skipped_steps"]
    if not skipped or metrics["loss_scale"] > 1.0:
        return None
    return (
        f"the loss or its gradients are not finite: {skipped} step(s) skipped since the last line of "
        f"metrics (loss {metrics['loss']:g}, grad_norm {metrics['grad_norm']:g} of the others); "
        f"lower learning_rate (now {config.learning_rate:g}) or raise num_warmup_steps (now "
        f"{config.num_warmup_steps:,}); after {config.max_skipped_steps} in a row "
        "(max_skipped_steps) the run stops"
    )


def wasted_padding(config, padding_rate):
    """Too many positions hold no token."""
    if padding_rate <= MAX_PADDING:
        return None
    return (
        f"{100 * padding_rate:.0f} % of the token positions are padding, which costs as much time as "
        f"text; build the records with a smaller --max_seq_length than {config.max_seq_length}, or "
        "join short documents"
    )


def slow_input(input_wait):
    """Steps wait for their data."""
    if input_wait <= MAX_INPUT_WAIT:
        return None
    return (
        f"the input pipeline is the bottleneck: training waits for its data {100 * input_wait:.0f} % "
        "of the time; put the records on a faster disk, and leave them uncompressed"
    )


def generator_ahead(config, step, metrics):
    """The generator is too good for the discriminator to learn from."""
    sampled, restored = metrics["sampled_masked_lm_accuracy"], metrics["masked_lm_accuracy"]
    remedy = "make the generator smaller (generator_hidden_size, generator_layers)"
    warmer = f" or temperature (now {config.temperature:g})" if config.has_temperature else ""
    if sampled > MAX_SAMPLED_ACCURACY:
        return (
            f"the generator runs far ahead: {100 * sampled:.0f} % of its samples are the true token "
            f"(about 60 % is usual late in training), so that only "
            f"{100 * metrics['replaced_rate']:.1f} % of the tokens are replaced; {remedy}, or raise "
            f"mask_prob (now {config.mask_prob:g}){warmer}"
        )
    if (
        _is_due(config, step)
        and restored > MAX_ACCURACY_WITHOUT_DISCRIMINATOR
        and _disc_loss_share(metrics) > 0.95
    ):
        return (
            f"the generator runs far ahead: it restores {100 * restored:.0f} % of the hidden tokens, "
            f"while the discriminator's disc_loss of {metrics['disc_loss']:.3f} is hardly below the "
            f"{majority_baseline(metrics['replaced_rate'])[1]:.3f} of not looking at the text; "
            f"{remedy}, or raise disc_weight (now {config.disc_weight:g})"
        )
    return None


def idle_discriminator(config, step, metrics):
    """The discriminator does not beat a constant."""
    accuracy, loss = majority_baseline(metrics["replaced_rate"])
    is_worse = metrics["disc_accuracy"] <= accuracy and _disc_loss_share(metrics) >= 0.99
    if not (_is_due(config, step) and is_worse):
        return None
    easier = ", or make the generator smaller" if config.generator_loss else ""
    if config.has_temperature:
        easier += f" or its temperature (now {config.temperature:g}) higher"
    return (
        f"the discriminator is no better than the majority baseline: disc_accuracy "
        f"{metrics['disc_accuracy']:.4f} against {accuracy:.4f} for calling every token real, "
        f"disc_loss {metrics['disc_loss']:.3f} against {loss:.3f}; train longer or raise disc_weight "
        f"(now {config.disc_weight:g}){easier}"
    )


def _is_due(config, step):
    patience = min(PATIENCE_STEPS, PATIENCE_SHARE * config.num_train_steps)
    # In two stages the discriminator begins with the second one.
    first = max(config.num_warmup_steps, config.generator_steps)
    return step >= min(first + patience, config.num_train_steps)


def _disc_loss_share(metrics):
    """`disc_loss` over that of the majority baseline; NaN where nothing was replaced."""
    return ratio(metrics["disc_loss"], majority_baseline(metrics["replaced_rate"])[1])


class HealthMonitor:
    """Warns of each trouble once."""

    def __init__(self, config, num_train_examples, has_eval_data):
        """Makes the monitor.

        Args:
          config: `configs.PretrainingConfig`.
          num_train_examples: int.
          has_eval_data: whether the networks can be judged on held-out text.
        """
        self._config = config
        self.num_train_examples = num_train_examples
        self._training_checks = [loss_not_finite]
        self._evaluation_checks = [generator_ahead, idle_discriminator]
        if not has_eval_data:
            self._training_checks += self._evaluation_checks
        self._warned = set()
        self._input_waits = []

    def before_training(self, padding_rate):
        """Looks at the data and the schedule."""
        self._warn(repeated_corpus, repeated_corpus(self._config, self.num_train_examples))
        self._warn(wasted_padding, wasted_padding(self._config, padding_rate))

    def after_training(self, step, metrics):
        """Looks at a training line of `metrics.jsonl`."""
        self._run(self._training_checks, step, metrics)
        self._input_waits.append(metrics["input_wait"])
        if len(self._input_waits) > 2:  # In the first stretch the pipeline starts up.
            waits = self._input_waits[1:]
            self._warn(slow_input, slow_input(sum(waits) / len(waits)))

    def after_evaluation(self, step, metrics):
        """Looks at an evaluation line of `metrics.jsonl`."""
        self._run(self._evaluation_checks, step, metrics)

    def _run(self, checks, step, metrics):
        for check in checks:
            sentence = check(self._config, step, metrics)
            self._warn(check, sentence and f"step {step:,}: {sentence}")

    def _warn(self, check, sentence):
        if sentence and check not in self._warned:
            self._warned.add(check)
            logging.warning("health: %s", sentence)
