"""Checkpoints: everything a resumed run needs, the newest that can be read."""

import os

import tensorflow as tf
from absl import logging

from electra_tf import files
from electra_tf.errors import UserError, first_line
from electra_tf.interop import huggingface
from electra_tf.modeling.causal import CausalGenerator

# What TensorFlow raises for a checkpoint that is damaged, or of other variables.
_UNREADABLE = (tf.errors.OpError, AssertionError, ValueError, IndexError, RuntimeError)
# What says nothing of a checkpoint, but of the way to it.
_UNREACHABLE = (
    tf.errors.UnavailableError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)


def checkpoint_variables(model):
    """Everything a resumed run needs, by name: weights, Adam's moments, the step.

    Masks, samples, dropout and the order of the data follow from the step and the seed.
    """
    names = {}
    for network in model.networks:
        for name, variable in _variables_by_name(network).items():
            names.setdefault(id(variable), f"{network.name}/{name}")
    variables = {
        "step": model.optimizer.iterations.value,
        "loss_scale": model.loss_scale.value,
        "finite_in_a_row": model.loss_scale.finite_in_a_row,
        "skipped_in_a_row": model.loss_scale.skipped_in_a_row,
    }
    for (_, (m, v)), variable in zip(model.optimizer.slots(), model.trainable_variables):
        name = names.get(id(variable), variable.path)
        variables |= {name: variable.value, f"{name}/adam_m": m.value, f"{name}/adam_v": v.value}
    return variables


def _variables_by_name(network):
    """The trained variables of a network, a dict: by their names in `model.safetensors`, or Keras's."""
    if isinstance(network, CausalGenerator):
        return {variable.path: variable for variable in network.trainable_variables}
    return {name: variable for name, (variable, _) in huggingface.model_tensors(network).items()}


def create_run_checkpoint(model):
    """What the checkpoints of a pre-training run hold.

    Args:
      model: `ElectraPretrainer`, compiled.

    Returns:
      `(checkpoint, num_parts)`: `tf.train.Checkpoint`; int32 variable, how many micro-batches the
      run's batches were cut into, 0 before it has begun. Outside of a strategy's scope: this and the
      checkpoint's own counter are no variables of the workers' together.
    """
    num_parts = tf.Variable(0, trainable=False, name="gradient_accumulation_steps")
    checkpoint = tf.train.Checkpoint(
        variables={
            **checkpoint_variables(model),
            **{v.path: v.value for v in model.non_trainable_weights},  # A generator's counts.
            "gradient_accumulation_steps": num_parts,
        }
    )
    return checkpoint, num_parts


def restore(checkpoint, folder, model):
    """Restores the newest checkpoint that can be read, if any; returns the step to go on at.

    Args:
      checkpoint: `tf.train.Checkpoint`.
      folder: where checkpoints lie.
      model: with an `optimizer`, whose step is returned.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    unreadable = []
    for path in reversed(saved_checkpoints(folder)):
        try:
            checkpoint.restore(path).assert_consumed()
        except _UNREACHABLE:
            raise
        except _UNREADABLE as error:
            unreadable.append(f"{path}: cannot restore the checkpoint ({first_line(error)})")
            continue
        step = int(model.optimizer.iterations.value.numpy())
        if unreadable:
            logging.warning("%s; going on from the one of step %d", "; ".join(unreadable), step)
        return step
    if unreadable:
        raise UserError(
            f"{'; '.join(unreadable)}; none is left to go on from: choose another --output_dir to "
            "start anew"
        )
    return 0


def create_checkpoint_manager(checkpoint, folder, max_to_keep):
    """A `tf.train.CheckpointManager`, also where its state file holds nothing.

    Args:
      checkpoint: `tf.train.Checkpoint`.
      folder: where checkpoints lie.
      max_to_keep: int.
    """
    try:
        return tf.train.CheckpointManager(checkpoint, folder, max_to_keep)
    except ValueError:  # An empty file; the manager takes only an unreadable one for none.
        files.remove(os.path.join(folder, "checkpoint"))
        return tf.train.CheckpointManager(checkpoint, folder, max_to_keep)


def saved_checkpoints(folder):
    """Paths of the checkpoints there are, oldest first; one may be unreadable.

    The files tell, since a `tf.train.CheckpointManager`'s own list can be lost.
    """
    indices = files.glob(folder, "ckpt-*.index")
    paths = [path.removesuffix(".index") for path in indices]
    return sorted(paths, key=lambda path: int(path.rpartition("-")[2]))


def save_checkpoint(manager, step):
    """Saves a checkpoint; one that cannot be written to its end leaves no files behind.

    Args:
      manager: `tf.train.CheckpointManager`.
      step: number of the checkpoint.
    """
    try:
        manager.save(checkpoint_number=step)
    except tf.errors.OpError:
        _remove_unsaved(manager.directory, step)
        raise


def _remove_unsaved(folder, step):
    """Removes the files of a checkpoint that `CheckpointManager` did not get done."""
    unfinished = [f"ckpt-{step}_temp", "checkpoint.tmp"]
    state = tf.train.get_checkpoint_state(folder)
    saved = state.all_model_checkpoint_paths if state else ()
    if f"ckpt-{step}" not in map(os.path.basename, saved):
        unfinished.append(f"ckpt-{step}.")
    for name in tf.io.gfile.listdir(folder):
        if name.startswith(tuple(unfinished)):
            files.remove(tf.io.gfile.join(folder, name))
