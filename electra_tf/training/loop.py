"""Pre-training's inner loops for Orbit: how steps are run, not when."""

import time

import numpy as np
import orbit
import tensorflow as tf
from orbit import controller as orbit_controller

from electra_tf import masking, schedule
from electra_tf.modeling import phases
from electra_tf.modeling.pretrainer import AUC_BINS
from electra_tf.training import tensorboard
from electra_tf.training.examples import view_examples
from electra_tf.training.flops import steps_flops
from electra_tf.training.metrics import pretraining_metrics, ratio

# Orbit prints each loop's output; it would break the progress bar, which says the same.
orbit_controller._log = lambda message: None


class _Summaries(orbit.utils.SummaryManager):
    """Writes the numbers as arrays.

    TensorFlow keeps every Python number that it made a tensor of for good (its issue 68196), which
    here would be 9 KB a loop.
    """

    def write_summaries(self, summary_dict):
        super().write_summaries({name: np.asarray(value) for name, value in summary_dict.items()})


orbit_controller.utils.SummaryManager = _Summaries

_SCALARS = (
    "examples",
    "positions",
    "tokens",
    "masked",
    "masked_lm_loss",
    "masked_lm_correct",
    "sampled_correct",
    "disc_tokens",
    "disc_loss",
    "disc_example_loss",
    "replaced",
    "predicted",
    "true_positive",
)
_HISTOGRAMS = ("auc_positive", "auc_negative")


class Sums:
    """Statistics summed over steps on each device, and over devices where they are read.

    In float64: a float32 sum of a million ones stands still at 2 ** 24.
    """

    def __init__(self, shapes):
        """Makes the sums, dict from name to shape; in the strategy's scope."""
        self._variables = {
            name: tf.Variable(
                tf.zeros(shape, tf.float64),
                trainable=False,
                name=f"sum_{name}",
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for name, shape in shapes.items()
        }

    def reset(self):
        """Sets all sums to 0."""
        for variable in self._variables.values():
            variable.assign(tf.zeros(variable.shape, tf.float64))

    def add(self, statistics):
        """Adds a replica's statistics (inside `strategy.run`); what did not run has none."""
        for name in statistics.keys() & self._variables.keys():
            variable = self._variables[name]
            variable.assign_add(tf.cast(statistics[name], tf.float64))

    def numpy(self):
        """The sums so far, dict of NumPy values."""
        return {
            name: np.array(tf.convert_to_tensor(variable))
            for name, variable in self._variables.items()
        }


def pretraining_sums(config, *more_scalars):
    """`Sums` of the statistics of a `PretrainingConfig`'s `ElectraPretrainer`, and of more scalars."""
    names = (*_SCALARS, *(config.generator_loss or ()), *more_scalars)
    scalars = {name: () for name in names}
    return Sums({**scalars, **{name: (AUC_BINS,) for name in _HISTOGRAMS}})


class GradientStepTrainer(orbit.StandardTrainer):
    """Runs `TrainableModel.gradient_step` over batches and sums its statistics over a loop."""

    def __init__(self, strategy, model, dataset, sums):
        """Makes the trainer, in the strategy's scope.

        Args:
          strategy: `tf.distribute.Strategy`.
          model: compiled `TrainableModel`.
          dataset: the remaining steps' batches, distributed.
          sums: `Sums` of the model's statistics, `grad_norm`, `steps` and `skipped_steps`.
        """
        super().__init__(dataset, orbit.StandardTrainerOptions(use_tf_while_loop=True))
        self._strategy, self._model, self._sums = strategy, model, sums
        self._trained = model  # What `train_step` runs.
        self.train_dataset = dataset
        self._input_wait = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="input_wait")

    @property
    def step(self):
        """Number of the steps done."""
        return int(self._model.optimizer.iterations.value.numpy())

    def train_loop_begin(self):
        self._sums.reset()
        self._input_wait.assign(0.0)
        self._start = time.perf_counter()

    # AutoGraph would read all that this calls, and find nothing to convert.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, iterator):
        start = tf.timestamp()
        with tf.control_dependencies([start]):
            batch = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            self._input_wait.assign_add(tf.timestamp() - start)
        self._strategy.run(self._train_rows, args=(batch,))

    def _train_rows(self, rows):
        statistics = self._trained.gradient_step(rows)
        skipped = statistics.pop("skipped_steps")
        statistics["steps"] = tf.constant(1.0)
        # Of a skipped step nothing counts: its losses may be NaN.
        statistics = {
            name: tf.math.multiply_no_nan(value, 1.0 - skipped)
            for name, value in statistics.items()
        }
        self._sums.add({**statistics, "skipped_steps": skipped})

    def loop_metrics(self, sums, seconds):
        """The metrics of a loop that do not depend on what is trained, dict of numbers."""
        optimizer = self._model.optimizer
        return {
            # The rate of the last update, which was made one step ago.
            "learning_rate": float(optimizer._learning_rate(np.asarray(self.step - 1))),
            "grad_norm": ratio(sums["grad_norm"], sums["steps"]),  # Of each replica the same.
            "skipped_steps": int(sums["skipped_steps"]) // self._strategy.num_replicas_in_sync,
            "loss_scale": float(self._model.loss_scale.value.numpy()),
            "examples_per_second": float(sums["examples"]) / seconds,
            "tokens_per_second": float(sums["tokens"]) / seconds,
            "input_wait": float(self._input_wait.numpy()) / seconds,
        }


class PretrainingTrainer(GradientStepTrainer):
    """Trains an `ElectraPretrainer`."""

    def __init__(self, strategy, model, dataset, peak_flops):
        """Makes the trainer, in the strategy's scope; arguments as of `GradientStepTrainer`.

        Args:
          peak_flops: operations a second that make an mfu of 1, of all devices together.
        """
        sums = pretraining_sums(model.config, "grad_norm", "steps", "skipped_steps")
        super().__init__(strategy, model, dataset, sums)
        self._peak_flops = peak_flops
        self._phases, self._loops = phases.create_phases(model), {}

    def train(self, num_steps):
        """Runs `num_steps` steps, each of the phase that the schedule says."""
        self.train_loop_begin()
        self._first_step = self.step
        if self._train_iter is None:
            self._train_iter = iter(self.train_dataset)
        for phase, number in schedule.stretches(self._model.config, self.step, int(num_steps)):
            phases.hand_over(self._model, self.step)
            self._trained = self._phases[phase]
            if phase not in self._loops:  # Traced with what runs in it.
                self._loops[phase] = self.create_train_loop_fn()
            self._loops[phase](self._train_iter, tf.constant(number))
        return self.train_loop_end()

    def train_loop_end(self):
        sums = self._sums.numpy()
        seconds = time.perf_counter() - self._start
        config, step = self._model.config, self.step
        loop = self.loop_metrics(sums, seconds)
        flops = steps_flops(config, step)
        flops_per_example = (flops - steps_flops(config, self._first_step)) / (
            step - self._first_step
        )
        google2020 = steps_flops(config, step, backward=1)
        return {
            **pretraining_metrics(sums, config, is_evaluation=False),
            **loop,
            "mfu": loop["examples_per_second"] * flops_per_example / self._peak_flops,
            "flops": float(flops * config.train_batch_size),
            "flops_google2020": float(google2020 * config.train_batch_size),
        }


class PretrainingEvaluator(orbit.StandardEvaluator):
    """Evaluates on held-out examples, with the same masks each time.

    Beside the metrics, TensorBoard gets a page of examples, accuracies by token frequency and the
    balance of the two networks.
    """

    def __init__(self, strategy, model, dataset, examples, vocab, token_counts):
        """Makes the evaluator, in the strategy's scope.

        Args:
          strategy: `tf.distribute.Strategy`.
          model: `ElectraPretrainer`.
          dataset: batches, distributed: each replica in turn gets a whole one.
          examples: a batch for the page of examples.
          vocab: list of str.
          token_counts: how often each token stands in the training text, array [vocab_size].
        """
        super().__init__(dataset)
        self._strategy, self._model = strategy, model
        self._examples, self._vocab, self._token_counts = examples, vocab, token_counts
        self._sums = pretraining_sums(model.config)
        self._by_token = Sums(
            {name: (len(vocab),) for name in ("masked", "masked_lm_correct", "disc_correct")}
        )
        self._round = tf.Variable(0, trainable=False, name="evaluation_round")
        self._is_first = True

    def eval_begin(self):
        self._sums.reset()
        self._by_token.reset()
        self._round.assign(0)
        self._start = time.perf_counter()

    def eval_step(self, iterator):
        self._strategy.run(self._add_batch, args=(next(iterator),))
        self._round.assign_add(1)

    def _add_batch(self, batch):
        replica = tf.distribute.get_replica_context()
        replica_id = tf.cast(replica.replica_id_in_sync_group, tf.int32)
        number = self._round * replica.num_replicas_in_sync + replica_id
        outputs = self._model(batch, training=False, step=number)
        self._sums.add(self._model.statistics(batch, outputs))
        self._add_by_token(outputs)

    def _add_by_token(self, outputs):
        """Sums what both networks got right at the hidden positions, by the true token."""
        masked = outputs.masked
        disc_correct = (outputs.discriminator_logits >= 0.0) == (outputs.is_replaced > 0.0)
        values = {
            "masked": tf.ones_like(masked.ids, tf.bool),
            "masked_lm_correct": outputs.is_restored,
            "disc_correct": masking.gather_positions(disc_correct, masked.positions),
        }
        ids, weights = tf.reshape(masked.ids, [-1]), tf.cast(masked.weights, tf.float64)
        self._by_token.add(
            {
                name: tf.math.unsorted_segment_sum(
                    tf.reshape(tf.cast(value, tf.float64) * weights, [-1]), ids, len(self._vocab)
                )
                for name, value in values.items()
            }
        )

    def eval_end(self):
        sums = self._sums.numpy()
        seconds = time.perf_counter() - self._start
        metrics = pretraining_metrics(sums, self._model.config, is_evaluation=True)
        self._show(metrics)
        return {
            **metrics,
            "examples_per_second": float(sums["examples"]) / seconds,
            "tokens_per_second": float(sums["tokens"]) / seconds,
        }

    def _show(self, metrics):
        """Writes TensorBoard's pages; Orbit made its writer the default one."""
        config, step = self._model.config, self._model.optimizer.iterations.value
        if self._is_first:
            tensorboard.write_balance_layout()
            self._is_first = False
        tensorboard.write_balance(metrics, config, step)
        bins = tensorboard.accuracy_by_frequency(self._by_token.numpy(), self._token_counts)
        tensorboard.write_accuracy_by_frequency(bins, step)
        # About 512 tokens make a page.
        num_examples = max(1, 512 // config.max_seq_length)
        views = view_examples(self._model, self._vocab, self._examples, num_examples)
        tensorboard.write_examples(views, step)
