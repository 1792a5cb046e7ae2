"""transformers' ELECTRA in TensorFlow, its optimizer, and a training step, which it does not have."""

import tensorflow as tf
import tf_keras
from masking_tf import hide, read_batches, write
from protocol import serve, step_by_step
from transformers import (
    ElectraConfig,
    TFElectraForMaskedLM,
    TFElectraForPreTraining,
    create_optimizer,
)


def make_networks(task):
    """`(generator, discriminator)` with the same embeddings."""
    discriminator = TFElectraForPreTraining(ElectraConfig(**task["discriminator"]))
    generator = TFElectraForMaskedLM(ElectraConfig(**task["generator"]))
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.generator_lm_head.input_embeddings = discriminator.electra.embeddings
    return generator, discriminator


def generator_logits(generator, input_ids, positions, **inputs):
    """The vocabulary's logits at `positions` alone, float32 [B, P, V]: `generator(...)` takes all."""
    hidden = generator.electra(input_ids, **inputs).last_hidden_state
    hidden = generator.generator_predictions(tf.gather(hidden, positions, batch_dims=1))
    return tf.cast(generator.generator_lm_head(hidden), tf.float32)


def mean(values, weights):
    """The weighted mean."""
    return tf.reduce_sum(values * weights) / tf.reduce_sum(weights)


def build(task):
    """As `protocol.serve` wants it."""
    if task["dtype"] == "bfloat16":
        tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    config = task["config"]
    generator, discriminator = make_networks(task)
    optimizer, _ = create_optimizer(
        config["learning_rate"],
        config["num_train_steps"],
        config["num_warmup_steps"],
        adam_epsilon=1e-6,
        weight_decay_rate=config["weight_decay_rate"],
    )

    def loss_of(batch):
        inputs = {
            "attention_mask": batch["input_mask"],
            "token_type_ids": batch["segment_ids"],
            "training": True,
        }
        masked_ids, positions, ids, weights = hide(batch, task)
        logits = generator_logits(generator, masked_ids, positions, **inputs)
        generator_loss = mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits), weights
        )
        sampled = tf.random.categorical(
            tf.reshape(tf.stop_gradient(logits), [-1, logits.shape[-1]]), 1, dtype=tf.int32
        )
        replaced = write(batch["input_ids"], tf.reshape(sampled, tf.shape(ids)), positions)
        is_replaced = tf.cast(replaced != batch["input_ids"], tf.float32)
        logits = tf.cast(discriminator(replaced, **inputs).logits, tf.float32)
        discriminator_loss = mean(
            tf.nn.sigmoid_cross_entropy_with_logits(labels=is_replaced, logits=logits),
            tf.cast(batch["input_mask"], tf.float32),
        )
        return config["gen_weight"] * generator_loss + config["disc_weight"] * discriminator_loss

    @tf.function
    def train_step(batch):
        with tf.GradientTape() as tape:
            loss = loss_of(batch)
        # Those that were used: the generator's own embeddings are not, since it shares.
        variables = tape.watched_variables()
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), config["clip_norm"])
        optimizer.apply_gradients(zip(gradients, variables))
        return loss

    return step_by_step(train_step, read_batches(task))


if __name__ == "__main__":
    serve(build)
