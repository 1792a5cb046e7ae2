"""Which network a step of pre-training trains: both, the generator alone, or the discriminator alone.

The schedule `alternating` takes turns; `two_stage` trains the generator first and the discriminator
from its weights (Clark et al., 2020, section 3.3). `joint` and `adversarial` train both at every step.
"""

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
