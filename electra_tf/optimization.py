"""The original's optimizer and schedule (google-research/electra `model/optimization.py`)."""

import itertools
import math

import keras
import tensorflow as tf

from electra_tf.modeling import islands

NO_WEIGHT_DECAY = ("LayerNorm", "layer_norm", "bias")  # The second is KerasHub's.


class LinearWarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Polynomial decay to 0 from step 0, *times* a linear warm-up (SEMANTICS 11).

    ```python
    schedule = LinearWarmupDecay(5e-4, num_train_steps=1_000_000, num_warmup_steps=10_000)
    ```
    """

    def __init__(self, learning_rate, num_train_steps, num_warmup_steps=None, power=1.0):
        """Makes the schedule.

        Args:
          learning_rate: nominal rate; warm-up and decay overlap, so the peak lies below it.
          num_train_steps: step at which the rate is 0.
          num_warmup_steps: steps of warm-up; None for no warm-up. 0 is the original's 0 / 0 at
            step 0.
          power: of the decay, 1 for linear.
        """
        self.learning_rate = learning_rate
        self.num_train_steps = num_train_steps
        self.num_warmup_steps = num_warmup_steps
        self.power = power

    def __call__(self, step):
        """The rate at `step` (counted from 0), float32 scalar."""
        step = tf.cast(step, tf.float32)
        rate = (
            self.learning_rate * (1.0 - tf.minimum(step / self.num_train_steps, 1.0)) ** self.power
        )
        if self.num_warmup_steps is None:
            return rate
        return rate * tf.minimum(step / tf.cast(self.num_warmup_steps, tf.float32), 1.0)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "num_train_steps": self.num_train_steps,
            "num_warmup_steps": self.num_warmup_steps,
            "power": self.power,
        }


def adam_weight_decay(*tensors, weight_decay_rates, multipliers, beta_1, beta_2, epsilon):
    """A step of Adam with decoupled weight decay (SEMANTICS 12).

    Plain operations, since TensorFlow's fused Adam kernel computes 1 - beta_2 in float32, which is
    off by 1.3e-5: more than what separates five steps of ours from the original's.

    Args:
      *tensors: float32; N variables, their N first and N second moments, their N gradients; then
        scalars: the learning rate, what the gradients are to be multiplied by, and what the first and
        the second moments are divided by where they are used (`AdamWeightDecay.bias_corrections`).
      weight_decay_rates, multipliers: tuples of N floats; the latter are of the learning rate.
      beta_1, beta_2, epsilon: float.

    Returns:
      list of the next N variables, N first and N second moments; the same as before for a variable
      with a gradient that is not finite.
    """
    *tensors, learning_rate, gradient_scale, m_correction, v_correction = tensors
    size = len(weight_decay_rates)
    lists = [tensors[i : i + size] for i in range(0, 4 * size, size)]
    updated = []
    for variable, m, v, gradient, weight_decay_rate, multiplier in zip(
        *lists, weight_decay_rates, multipliers
    ):
        gradient *= gradient_scale
        next_m = beta_1 * m + (1.0 - beta_1) * gradient
        next_v = beta_2 * v + (1.0 - beta_2) * tf.square(gradient)
        update = next_m / m_correction / (tf.sqrt(next_v / v_correction) + epsilon)
        update += weight_decay_rate * variable
        rate = tf.cast(learning_rate, variable.dtype) * multiplier
        next_variable = variable - rate * update
        is_finite = tf.math.is_finite(gradient)
        updated.append(
            [
                tf.where(is_finite, new, old)
                for new, old in ((next_variable, variable), (next_m, m), (next_v, v))
            ]
        )
    return [tensor for column in zip(*updated) for tensor in column]


class AdamWeightDecay(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay, without bias correction unless it is asked for (SEMANTICS 12).

    ```python
    optimizer = AdamWeightDecay(LinearWarmupDecay(5e-4, 1000, 100), weight_decay_rate=0.01)
    ```

    LayerNorm's parameters and biases are not decayed. A variable whose gradient is not finite keeps
    its value and its moments, while the step counts.
    """

    def __init__(
        self,
        learning_rate,
        weight_decay_rate=0.01,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        multipliers=None,
        bias_correction=False,
        name="adam_weight_decay",
    ):
        """Makes the optimizer.

        Args:
          learning_rate: float or schedule.
          weight_decay_rate, beta_1, beta_2, epsilon: float.
          multipliers: list of floats, of the learning rate of each variable in the order of `build`
            (`layerwise_multipliers`); None for 1.
          bias_correction: whether the moments are divided by what they lack in the first steps (Kingma
            and Ba, 2015, section 3); the original does without.
        """
        super().__init__(learning_rate=learning_rate, name=name)
        self.weight_decay_rate = weight_decay_rate
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.multipliers = multipliers
        self.bias_correction = bias_correction
        self._gradient_scale = 1.0

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._m, self._v = (
            [self.add_variable_from_reference(variable, name=name) for variable in variables]
            for name in ("adam_m", "adam_v")
        )
        if self.multipliers is None:
            self.multipliers = [1.0] * len(variables)
        self._decays = [not any(word in v.path for word in NO_WEIGHT_DECAY) for v in variables]

    def slots(self):
        """`(variable index, m, v)` of each trained variable, in the order of `build`."""
        return list(enumerate(zip(self._m, self._v)))

    def apply_scaled(self, gradients, variables, scale):
        """Like `apply`, of gradients that are yet to be multiplied by `scale`, float32 scalar.

        So clipping takes no pass over memory of its own.
        """
        self._gradient_scale = scale
        self.apply(gradients, variables)
        self._gradient_scale = 1.0

    def bias_corrections(self):
        """What the first and the second moments of the step to come are divided by, float32 scalars."""
        if not self.bias_correction:
            return tf.constant(1.0), tf.constant(1.0)
        step = tf.cast(self.iterations.value + 1, tf.float32)
        # 1 - beta ** step, of which float32 would leave four digits in the first steps.
        return tuple(-tf.math.expm1(step * math.log(beta)) for beta in (self.beta_1, self.beta_2))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Keras's hook for all variables at once.

        Those of a layer are updated together: to start an island takes longer than the update of a
        bias. Gradients stay as they are: `reduce_and_clip` has summed them over the replicas before
        it clipped; Keras would sum here.
        """
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        columns = [
            [variable.value for variable in trainable_variables],
            [self._m[index].value for index in indices],
            [self._v[index].value for index in indices],
        ]
        rates = [self.weight_decay_rate if self._decays[index] else 0.0 for index in indices]
        multipliers = [self.multipliers[index] for index in indices]
        layers = [variable.path.split("/")[:2] for variable in trainable_variables]
        scalars = [learning_rate, self._gradient_scale, *self.bias_corrections()]

        def update_all(distribution, gradients, *scalars):
            for _, group in itertools.groupby(range(len(layers)), lambda i: layers[i]):
                first, *_ = group = list(group)
                chosen = slice(first, first + len(group))
                distribution.extended.update(
                    columns[0][first],
                    self._update_layer,
                    args=(
                        [column[chosen] for column in columns],
                        gradients[chosen],
                        scalars,
                        rates[chosen],
                        multipliers[chosen],
                    ),
                    group=False,
                )

        tf.__internal__.distribute.interim.maybe_merge_call(
            update_all,
            self._distribution_strategy,
            grads,
            *scalars,
        )

    def _update_layer(self, _, states, gradients, scalars, weight_decay_rates, multipliers):
        """One step of some variables, on one device; `states` are they, their m and their v."""
        states = [variable for column in states for variable in column]
        values = islands.compiled(
            adam_weight_decay,
            *states,
            *gradients,
            *scalars,
            weight_decay_rates=tuple(weight_decay_rates),
            multipliers=tuple(multipliers),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
        )
        for variable, value in zip(states, values):
            variable.assign(value)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay_rate": self.weight_decay_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "multipliers": self.multipliers,
            "bias_correction": self.bias_correction,
        }


class LossScale:
    """What the loss is multiplied by so that small gradients survive float16, and skipped steps.

    Under `float16` the scale is halved when gradients overflow, and doubled after `GROWTH_STEPS`
    steps without (Micikevicius et al., 2018, section 3.2); other precisions need none. Belongs into
    the strategy's scope.

    Attributes:
      value: float32 variable, a power of 2.
      finite_in_a_row: int32 variable, steps since the scale has changed.
      skipped_in_a_row: int32 variable, the latest steps whose gradients were not finite.
    """

    INITIAL, GROWTH_STEPS = 2.0**15, 2000

    def __init__(self, mixed_precision):
        """Makes the scale for one of the values of `mixed_precision`."""
        self.is_dynamic = mixed_precision == "float16"
        self.value = self._variable(self.INITIAL if self.is_dynamic else 1.0, tf.float32)
        self.finite_in_a_row = self._variable(0, tf.int32)
        self.skipped_in_a_row = self._variable(0, tf.int32)

    def _variable(self, value, dtype):
        # All replicas assign the same.
        return tf.Variable(
            value,
            trainable=False,
            dtype=dtype,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def scale(self, loss):
        """The loss to differentiate."""
        return loss * self.value if self.is_dynamic else loss

    def unscale(self, gradients):
        """The gradients of the loss itself, a list."""
        return [g / self.value for g in gradients] if self.is_dynamic else gradients

    def update(self, is_finite):
        """Notes whether a step's gradients were finite, bool scalar."""
        self.skipped_in_a_row.assign(tf.where(is_finite, 0, self.skipped_in_a_row + 1))
        if not self.is_dynamic:
            return
        finite_in_a_row = tf.where(is_finite, self.finite_in_a_row + 1, 0)
        grows = finite_in_a_row == self.GROWTH_STEPS
        factor = tf.where(is_finite, tf.where(grows, 2.0, 1.0), 0.5)
        self.value.assign(tf.maximum(self.value * factor, 1.0))
        self.finite_in_a_row.assign(tf.where(grows, 0, finite_in_a_row))


def reduce_and_clip(gradients, clip_norm, fidelity, excess=None):
    """The replicas' gradients together, clipped by their global norm (SEMANTICS 13).

    Under `fixed` each replica's loss is divided by the global batch's numbers of tokens, so that the
    sum over replicas is what one device computes; it is clipped. Under `google2020` each replica's
    loss is a mean of its own, and its gradients are clipped before they are averaged, as the
    original's `CrossShardOptimizer` does.

    Args:
      gradients: list of float32 tensors, those of one replica (in a replica context).
      clip_norm: largest global norm.
      fidelity: "fixed" or "google2020".
      excess: float32 scalar, what a replica's squared norm is larger by than its gradients say,
        under `google2020`; None for nothing.

    Returns:
      `(gradients, scale, norm)`, the same on every replica: gradients that are clipped when they
      are multiplied by the scale, float32 scalar (NaN where a gradient is not finite); their norm
      before that (under `google2020` the mean of the replicas' norms).
    """
    replica = tf.distribute.get_replica_context()
    if fidelity == "google2020" and replica.num_replicas_in_sync > 1:
        norm = _norm(gradients, excess)
        gradients, norm = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
        gradients, norm = replica.all_reduce(tf.distribute.ReduceOp.MEAN, [gradients, norm])
        return gradients, tf.ones([]), norm
    if replica.num_replicas_in_sync > 1:
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    norm = _norm(gradients, excess)
    scale = clip_norm * tf.minimum(1.0 / norm, 1.0 / clip_norm)
    return gradients, tf.where(tf.math.is_finite(norm), scale, float("nan")), norm


def _norm(gradients, excess):
    norm = tf.linalg.global_norm(gradients)
    return norm if excess is None else tf.sqrt(tf.square(norm) + excess)


def layerwise_multipliers(network, decay, fidelity):
    """Multipliers of the learning rate by layer, lower ones near the input (SEMANTICS 17).

    Under `fixed` the head has 1, the top block `decay`, the one below `decay ** 2`, the embeddings
    and their projection `decay ** (blocks + 1)`. Under `google2020` all but the head's are multiplied
    by `decay` once more, as in the original's `_get_layer_lrs`. A convolutional-recurrent encoder's
    blocks are its convolution and, above it, its LSTM.

    Args:
      network: `modeling.electra.ElectraModel` with a head.
      decay: float, 1 for one rate everywhere.
      fidelity: "fixed" or "google2020".

    Returns:
      list of floats like `network.trainable_variables`.
    """
    blocks = network.encoder.blocks
    num_blocks = len(blocks)
    depth_of = {id(variable): 0 for variable in network.trainable_variables}
    for variable in network.head.trainable_variables:
        depth_of[id(variable)] = num_blocks + 1
    for number, layers in enumerate(blocks, 1):
        for layer in layers:
            for variable in layer.trainable_variables:
                depth_of[id(variable)] = number
    extra = 1 if fidelity == "google2020" else 0
    return [
        1.0 if depth > num_blocks else decay ** (num_blocks + 1 - depth + extra)
        for depth in (depth_of[id(variable)] for variable in network.trainable_variables)
    ]


def create_finetuning_optimizer(config, networks, num_train_steps):
    """The optimizer of a resolved `FinetuningConfig` (SEMANTICS, fine-tuning).

    Args:
      config: `configs.FinetuningConfig` without None.
      networks: what it trains, list of `modeling.electra.ElectraModel` above one encoder; `build` is
        to get the first one's variables, then those of the other ones' heads.
      num_train_steps: int; `warmup_proportion` of them are the warm-up.
    """
    # Not rounded in the original.
    schedule = _schedule(config, num_train_steps, num_train_steps * config.warmup_proportion)
    first, *others = networks
    multipliers = layerwise_multipliers(first, config.layerwise_lr_decay, config.fidelity)
    multipliers += [1.0 for other in others for _ in other.head.trainable_variables]
    return AdamWeightDecay(
        schedule,
        config.weight_decay_rate,
        multipliers=multipliers,
        bias_correction=config.bias_correction,
    )


def create_optimizer(config):
    """The optimizer of a `PretrainingConfig`, `fidelity` included."""
    schedule = _schedule(config, config.num_train_steps, config.num_warmup_steps)
    return AdamWeightDecay(schedule, config.weight_decay_rate)


def _schedule(config, num_train_steps, num_warmup_steps):
    if num_warmup_steps == 0 and config.fidelity == "fixed":
        num_warmup_steps = None
    return LinearWarmupDecay(
        config.learning_rate, num_train_steps, num_warmup_steps, config.lr_decay_power
    )
