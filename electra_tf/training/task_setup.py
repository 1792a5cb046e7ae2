"""What a fine-tuning run trains: tasks with their data above one encoder."""

import dataclasses
import hashlib
import json
import math
from typing import NamedTuple

import keras
import numpy as np
from absl import logging

from electra_tf.configs import ARCHITECTURE_KEYS, HEADS_BY_KIND
from electra_tf.errors import UserError
from electra_tf.interop import huggingface
from electra_tf.modeling.electra import ElectraModel
from electra_tf.modeling.finetuner import Finetuner
from electra_tf.modeling.trainable import DTYPE_POLICIES
from electra_tf.optimization import create_finetuning_optimizer
from electra_tf.tasks.task import Task, keep_good
from electra_tf.tokenization import Tokenizer, vocab_sha256
from electra_tf.training.feature_batches import FeatureBatches
from electra_tf.training.finetune_loop import DevSet, FinetuningTrainer, MultiTaskTrainer
from electra_tf.training.strategies import (
    check_divisible,
    compiles,
    distribute,
    is_chief,
    sub_batch_rows,
)

#: What a run of several tasks is measured by: the mean of each one's own metric.
SCORE = "score"


class Encoder(NamedTuple):
    """What is fine-tuned.

    Attributes:
      config: `EncoderConfig` or `ConvolutionalRecurrentConfig`.
      arrays: dict of its tensors, by the names of `huggingface.encoder_tensors`.
      tokenizer: `Tokenizer`.
      sha256: of the tensors.
    """

    config: object
    arrays: dict
    tokenizer: Tokenizer
    sha256: str

    @property
    def identity(self):
        """What tells whether encoders and their tokenizers are the same, a dict."""
        return {
            "encoder_sha256": self.sha256,
            "vocab_sha256": vocab_sha256(self.tokenizer.vocab),
            "lowercase": self.tokenizer.lowercase,
            "strip_accents": self.tokenizer.strip_accents,
            "layer_norm_eps": self.config.layer_norm_eps,
            **{k: v for k, v in dataclasses.asdict(self.config).items() if k in ARCHITECTURE_KEYS},
        }


def load_encoder(folder):
    """Reads the encoder and the tokenizer of a folder of ELECTRA or BERT.

    Args:
      folder: of a model, or of a run with `discriminator/` in it.

    Raises:
      UserError: a file is missing or malformed, the vocabulary has another size, or the tensors are not
        an encoder's with these sizes.
    """
    folder = huggingface.find_encoder(folder)
    config, arrays, heads = huggingface.read_encoder(folder)
    # What does not fit is told here, before a run has written anything.
    huggingface.assign_tensors(huggingface.encoder_tensors(ElectraModel(config)), arrays, folder)
    if heads:
        logging.info("%s: left out %s", folder, ", ".join(sorted(heads)))
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.check_fits(config.vocab_size, folder)
    return Encoder(config, arrays, tokenizer, _sha256(arrays))


def create_encoder(config, tokenizer, seed):
    """An `Encoder` with random weights.

    Args:
      config: `EncoderConfig` or `ConvolutionalRecurrentConfig`.
      tokenizer: `Tokenizer`.
      seed: int that decides the weights.
    """
    keras.utils.set_random_seed(seed)
    arrays = huggingface.stored_arrays(huggingface.encoder_tensors(ElectraModel(config)))
    return Encoder(config, arrays, tokenizer, _sha256(arrays))


def _sha256(arrays):
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        sha256.update(name.encode() + arrays[name].tobytes())
    return sha256.hexdigest()


class FinetuningData(NamedTuple):
    """A task and all of its examples.

    Attributes:
      task: `Task`.
      train: list of `Example`.
      dev, test: dicts from name of a set to list of `Example`.
    """

    task: Task
    train: list
    dev: dict
    test: dict

    @property
    def identity(self):
        """What tells whether examples are the same: dict from `train_sha256` and so on to str."""
        sets = {"train": {"": self.train}, "dev": self.dev, "test": self.test}
        return {f"{split}_sha256": _sha256_of_examples(sets[split]) for split in sets}


def _sha256_of_examples(sets):
    """Of sets of examples by name, wherever they are from."""
    values = {name: [example[1:] for example in examples] for name, examples in sets.items()}
    text = json.dumps(values, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def checked_data(task, sets, bad_rows):
    """Checks the examples that were read of a task.

    Args:
      task: `Task`.
      sets: dict from "train", "dev" and "test" to dict from name of a set to list of `Example`.
      bad_rows: `tasks.reading.BadRows`.

    Returns:
      `FinetuningData`.

    Raises:
      UserError: a row that is not to be left out; or a set has none but such.
    """
    checked = {
        split: {name: keep_good(task, examples, bad_rows) for name, examples in by_name.items()}
        for split, by_name in sets.items()
    }
    for split, by_name in checked.items():
        for name, examples in by_name.items():
            if not examples:
                raise UserError(f"{sets[split][name][0].place}: no usable row in this file")
    bad_rows.report()
    return FinetuningData(task, checked["train"].get("", []), checked["dev"], checked["test"])


class TaskSetup:
    """One task of a run.

    Attributes:
      task: `Task`.
      config: resolved `FinetuningConfig`.
      prefix: of the names of its metrics and files: "" for the only task of a run, else its name and
        an underscore.
      train: `FeatureBatches`.
      dev, test: dicts from a set's name to `DevSet`.
    """

    def __init__(self, data, config, tokenizer, prefix):
        self.task, self.config, self.prefix = data.task, config, prefix
        self._tokenizer = tokenizer
        examples = self.task.training_examples(data.train)
        features = self.task.features(examples, tokenizer, config.max_seq_length)
        self.train = self._batches(features, config.train_batch_size)
        self.dev, self.test = (
            {name: self._dev_set(examples) for name, examples in sets.items()}
            for sets in (data.dev, data.test)
        )

    def _batches(self, features, batch_size):
        config = self.config
        return FeatureBatches(features, batch_size, config.max_seq_length, config.length_buckets)

    def _dev_set(self, examples):
        features = self.task.features(examples, self._tokenizer, self.config.max_seq_length)
        return DevSet(examples, features, self._batches(features, self.config.eval_batch_size))

    @property
    def num_train_steps(self):
        """Steps of all its epochs."""
        return max(1, math.ceil(self.train.steps_per_epoch * self.config.num_train_epochs))

    def fitted(self, metrics):
        """The task with what the run's dev metrics decide."""
        own = {k.removeprefix(self.prefix): v for k, v in metrics.items()}
        return self.task.fitted(own)


class Setup:
    """What all trials of a run share.

    Attributes:
      config: `FinetuningConfig` of the run; what depends on a task's kind is there where the run has
        one task, or where it was given.
      tasks: list of `TaskSetup`.
      encoder: `Encoder`.
      identity: dict for `RunFolder`.
      strategy, jit_compile: as of `finetuning.finetune`.
      metric: name of what chooses the best checkpoint.
      num_train_steps: int.
    """

    def __init__(self, config, data, encoder, strategy, jit_compile):
        """Takes a configuration and a list of `FinetuningData`.

        Raises:
          UserError: batches do not divide by the replicas, or two tasks have one name.
        """
        names = [one.task.config.name for one in data]
        if len(set(names)) < len(names):
            raise UserError(f"--task={','.join(names)}: a task twice; name each one once")
        several = len(data) > 1
        kinds = [one.task.config.kind for one in data]
        configs = [_resolved(config, encoder.config, kind, kinds) for kind in kinds]
        self.config = configs[0]
        if several:
            _check_names(names)
            kinds_own = ("max_seq_length", "length_buckets", "head")
            given = {key: getattr(config, key) for key in kinds_own}
            self.config = dataclasses.replace(configs[0], **given)
        check_divisible(self.config, strategy)
        check_eval_batch(self.config, strategy)
        self.encoder, self.strategy = encoder, strategy
        # In their order, which decides the turns.
        self.identity = {"task": ",".join(names), **encoder.identity}
        prefixes = [f"{name}_" if several else "" for name in names]
        for one, prefix in zip(data, prefixes):
            identity = {**one.task.options, **one.identity}
            self.identity |= {f"{prefix}{key}": value for key, value in identity.items()}
        self.tasks = [
            TaskSetup(one, resolved, encoder.tokenizer, prefix)
            for one, resolved, prefix in zip(data, configs, prefixes)
        ]
        self.jit_compile = compiles(strategy) if jit_compile is None else jit_compile
        self.is_writer = is_chief(strategy)
        self.metric = SCORE if several else self.tasks[0].task.metric
        all_epochs = sum(task.num_train_steps for task in self.tasks)
        self.num_train_steps = self.config.num_train_steps or all_epochs

    @property
    def steps_per_epoch(self):
        """Steps in which each task is gone through once, on the average."""
        return sum(task.train.steps_per_epoch for task in self.tasks)

    def turns(self, seed):
        """Which task each step trains: int array [num_train_steps].

        Tasks are drawn by the power `task_sampling_power` of their numbers of steps.
        """
        weights = np.array([task.num_train_steps for task in self.tasks], np.float64)
        weights **= self.config.task_sampling_power
        generator = np.random.Generator(np.random.Philox(seed))
        return generator.choice(len(weights), self.num_train_steps, p=weights / weights.sum())


def _resolved(config, encoder_config, kind, kinds):
    """The configuration of a task among others of some kinds: without what those alone can have."""
    if config.head and any(config.head in HEADS_BY_KIND[other] for other in kinds):
        if config.head not in HEADS_BY_KIND[kind]:
            config = dataclasses.replace(config, head=None)
    if config.length_buckets and len(kinds) > 1:
        usual = dataclasses.replace(config, length_buckets=None).resolved(encoder_config, kind)
        buckets = [b for b in config.length_buckets if b < usual.max_seq_length]
        config = dataclasses.replace(config, length_buckets=buckets)
    return config.resolved(encoder_config, kind)


def _check_names(names):
    """Refuses names of tasks that their heads' tensors could not have, in a folder of several."""
    for name in names:
        if "." in name or name == "electra":
            raise UserError(
                f"--task={name}: among several tasks a name has no '.', and is not 'electra'; write "
                "another 'name' into its YAML file"
            )


def check_eval_batch(config, strategy):
    """Refuses an `eval_batch_size` that replicas cannot share."""
    if config.eval_batch_size % strategy.num_replicas_in_sync:
        raise UserError(
            f"eval_batch_size={config.eval_batch_size} is no multiple of "
            f"{strategy.num_replicas_in_sync} replicas; choose one that is"
        )


class FinetunedNetworks:
    """The networks of a trial: one a task, above one encoder, trained by one optimizer.

    Attributes:
      finetuners: list of `Finetuner`.
      networks: list of their networks.
      trainable_variables: of all, each once.
      optimizer, loss_scale: of all.
    """

    def __init__(self, setup, seed):
        """Makes networks of the encoder's weights and random heads, and the optimizer."""
        config = setup.config
        rows = config.train_batch_size // setup.strategy.num_replicas_in_sync
        with setup.strategy.scope():
            self.networks = _create_networks(setup)
            self.finetuners = [
                Finetuner(
                    dataclasses.replace(one.config, seed=seed),
                    network,
                    one.task.losses,
                    one.task.weights,
                )
                for one, network in zip(setup.tasks, self.networks)
            ]
            self.optimizer = create_finetuning_optimizer(
                config, self.networks, setup.num_train_steps
            )
            by_id = {id(v): v for network in self.networks for v in network.trainable_variables}
            self.trainable_variables = list(by_id.values())
            self.optimizer.build(self.trainable_variables)
            self.loss_scale = self.finetuners[0].loss_scale
            for finetuner in self.finetuners:
                finetuner.loss_scale = self.loss_scale
                finetuner.compile(
                    self.optimizer,
                    jit_compile=setup.jit_compile,
                    sub_batch_rows=None if setup.jit_compile else sub_batch_rows(rows),
                )

    @property
    def step(self):
        """Number of the steps done."""
        return int(self.optimizer.iterations.value.numpy())


def _create_networks(setup):
    config, networks = setup.config, []
    dropout = {"hidden_dropout_prob": config.hidden_dropout_prob}
    if config.attention_probs_dropout_prob is not None:  # An encoder without attention.
        dropout["attention_probs_dropout_prob"] = config.attention_probs_dropout_prob
    encoder_config = dataclasses.replace(setup.encoder.config, **dropout)
    for one in setup.tasks:
        shared = {}
        if networks:
            shared = {"embeddings": networks[0].embeddings, "encoder": networks[0].encoder}
        network = one.task.create_network(
            encoder_config,
            head=one.config.head,
            classifier_dropout=config.classifier_dropout,
            recompute_activations=config.recompute_activations,
            dtype=DTYPE_POLICIES[config.mixed_precision],
            **shared,
        )
        network.name = f"{one.prefix}{network.name}"  # For the names in checkpoints.
        networks.append(network)
    tensors = huggingface.encoder_tensors(networks[0])
    huggingface.assign_tensors(tensors, setup.encoder.arrays, "--init_from")
    return networks


def create_trainer(setup, model, seed, first_step):
    """Orbit's trainer of the steps from `first_step` on; `model`: `FinetunedNetworks`."""
    turns = setup.turns(seed)
    with setup.strategy.scope():
        trainers = []
        for index, (one, finetuner) in enumerate(zip(setup.tasks, model.finetuners)):
            done, all_steps = (int(np.sum(turns[:end] == index)) for end in (first_step, None))
            dataset = distribute(setup.strategy, one.train.training, seed, done, all_steps)
            trainers.append(FinetuningTrainer(setup.strategy, finetuner, dataset))
        if len(trainers) == 1:
            return trainers[0]
        return MultiTaskTrainer({one.prefix: t for one, t in zip(setup.tasks, trainers)}, turns)


def benchmark_trainer(config, data, encoder, strategy, jit_compile=None):
    """The trainer of a new trial of one task, without a run folder: for benchmarks."""
    setup = Setup(config, [data], encoder, strategy, jit_compile)
    return create_trainer(setup, FinetunedNetworks(setup, config.seed), config.seed, 0)
