"""Steps that train one of the two networks alone, and what happens between them.

Which step is of which phase, `schedule` says.
"""

from electra_tf.modeling.trainable import TrainableModel
from electra_tf.schedule import BOTH, DISCRIMINATOR, GENERATOR


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
        seed, _ = self.pretrainer.dropout_seeds(step, part)
        outputs = self.pretrainer.generate(batch, True, seed, step, part)
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
    if pretrainer.config.has_phases:
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
