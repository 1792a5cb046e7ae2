"""Which network a step trains: both, the generator alone, or the discriminator alone.

The schedule `alternating` takes turns; `two_stage` trains the generator first and the discriminator
from its weights (Clark et al., 2020, section 3.3). `joint` and `adversarial` train both at every step.
"""

from electra_tf.modeling.trainable import TrainableModel

BOTH, GENERATOR, DISCRIMINATOR = "both", "generator", "discriminator"


def stretches(config, first_step, num_steps):
    """Cuts steps where the trained network changes.

    ```python
    config = load_pretraining_config("tiny", {"schedule": "alternating", "alternating_steps": 2})
    list(stretches(config, 1, 4))     # [("generator", 1), ("discriminator", 2), ("generator", 1)]
    ```

    Args:
      config: `configs.PretrainingConfig`.
      first_step, num_steps: int; the steps from `first_step` on.

    Yields:
      `(phase, number of steps)`.
    """
    step, last = first_step, first_step + num_steps
    while step < last:
        phase, end = _phase_and_end(config, step)
        end = min(last, end)
        yield phase, end - step
        step = end


def _phase_and_end(config, step):
    """The phase of a step, and the next step of another one."""
    if config.schedule == "alternating":
        turn = step // config.alternating_steps
        return (GENERATOR, DISCRIMINATOR)[turn % 2], (turn + 1) * config.alternating_steps
    if config.schedule == "two_stage":
        if step < config.generator_steps:
            return GENERATOR, config.generator_steps
        return DISCRIMINATOR, config.num_train_steps
    return BOTH, config.num_train_steps


def count_steps(config, num_steps):
    """How many of a run's first steps are of which phase, dict of int."""
    if config.schedule == "alternating":
        rounds, rest = divmod(num_steps, 2 * config.alternating_steps)
        generator = rounds * config.alternating_steps + min(rest, config.alternating_steps)
        return {GENERATOR: generator, DISCRIMINATOR: num_steps - generator}
    if config.schedule == "two_stage":
        generator = min(num_steps, config.generator_steps)
        return {GENERATOR: generator, DISCRIMINATOR: num_steps - generator}
    return {BOTH: num_steps}


def copy_weights(source, target):
    """Gives one layer the values of another of the same variables."""
    for variable, other in zip(target.variables, source.variables, strict=True):
        variable.assign(other)


class _Phase(TrainableModel):
    """A step of an `ElectraPretrainer` that trains one of its networks; the optimizer is shared."""

    def __init__(self, pretrainer, network):
        """Makes the phase of a compiled `ElectraPretrainer`, in the strategy's scope."""
        super().__init__(pretrainer.config, name=f"{network.name}_phase")
        self.pretrainer, self.network = pretrainer, network
        self.loss_scale = pretrainer.loss_scale
        self.built = True
        self.compile(pretrainer.optimizer, pretrainer.jit_compile, pretrainer.sub_batch_rows)

    @property
    def networks(self):
        return [self.network]

    @property
    def trainable_variables(self):
        return self.network.trainable_variables

    def totals(self, batch, step, part):
        return self.pretrainer.totals(batch, step, part)


class GeneratorPhase(_Phase):
    """Trains the generator; the discriminator does not run."""

    def __init__(self, pretrainer):
        super().__init__(pretrainer, pretrainer.generator)

    def training_statistics(self, batch, step, part):
        outputs = self.pretrainer.generate(batch, training=True, step=step, part=part)
        return self.pretrainer.generator_statistics(batch, outputs)

    def loss_of(self, statistics, totals):
        config = self.config
        return config.gen_weight * self.pretrainer.generator_loss_of(statistics, totals)


class DiscriminatorPhase(_Phase):
    """Trains the discriminator; the generator only proposes."""

    def __init__(self, pretrainer):
        super().__init__(pretrainer, pretrainer.discriminator)

    def training_statistics(self, batch, step, part):
        return self.pretrainer.training_statistics(batch, step, part)

    def loss_of(self, statistics, totals):
        return self.config.disc_weight * self.pretrainer.disc_loss_of(statistics, totals)


def create_phases(pretrainer):
    """What runs the steps of each phase of a model's schedule, dict of `TrainableModel`."""
    if pretrainer.config.schedule in ("alternating", "two_stage"):
        return {
            GENERATOR: GeneratorPhase(pretrainer),
            DISCRIMINATOR: DiscriminatorPhase(pretrainer),
        }
    return {BOTH: pretrainer}


def hand_over(pretrainer, step):
    """Gives the discriminator the generator's weights where a `two_stage` run comes to its second stage."""
    config = pretrainer.config
    if config.schedule == "two_stage" and step == config.generator_steps:
        generator, discriminator = pretrainer.generator, pretrainer.discriminator
        copy_weights(generator.embeddings, discriminator.embeddings)
        copy_weights(generator.encoder, discriminator.encoder)
