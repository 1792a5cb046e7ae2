"""tf-models-official's ElectraPretrainTask: its model, losses, metrics and training step.

Its data sets bring the positions to hide; here they are drawn in the step, as everywhere else.
"""

import tensorflow as tf
import tf_keras
from masking_tf import hide, read_batches
from official.nlp import optimization
from official.nlp.configs import electra, encoders
from official.nlp.data.pretrain_dataloader import BertPretrainDataConfig
from official.nlp.tasks.electra_task import ElectraPretrainConfig, ElectraPretrainTask
from protocol import serve, step_by_step


def encoder_config(sizes):
    """The Garden's configuration of an encoder from Hugging Face's."""
    return encoders.EncoderConfig(
        type="bert",
        bert=encoders.BertEncoderConfig(
            vocab_size=sizes["vocab_size"],
            embedding_size=sizes["embedding_size"],
            hidden_size=sizes["hidden_size"],
            num_layers=sizes["num_hidden_layers"],
            num_attention_heads=sizes["num_attention_heads"],
            intermediate_size=sizes["intermediate_size"],
            dropout_rate=sizes["hidden_dropout_prob"],
            attention_dropout_rate=sizes["attention_probs_dropout_prob"],
            max_position_embeddings=sizes["max_position_embeddings"],
        ),
    )


def make_task(task):
    """The Garden's task for one of ours."""
    model = electra.ElectraPretrainerConfig(
        num_masked_tokens=task["max_predictions"],
        sequence_length=task["config"]["max_seq_length"],
        discriminator_loss_weight=task["config"]["disc_weight"],
        generator_encoder=encoder_config(task["generator"]),
        discriminator_encoder=encoder_config(task["discriminator"]),
        cls_heads=[],
    )
    data = BertPretrainDataConfig(use_next_sentence_label=False)
    return ElectraPretrainTask(ElectraPretrainConfig(model=model, train_data=data))


def inputs_of(batch, task):
    """A batch by the Garden's names, with its hidden positions."""
    input_ids, positions, ids, weights = hide(batch, task)
    return {
        "input_word_ids": input_ids,
        "input_mask": batch["input_mask"],
        "input_type_ids": batch["segment_ids"],
        "masked_lm_positions": positions,
        "masked_lm_ids": ids,
        "masked_lm_weights": weights,
    }


def build(task):
    """As `protocol.serve` wants it."""
    if task["dtype"] == "bfloat16":
        tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    config = task["config"]
    garden_task = make_task(task)
    model, metrics = garden_task.build_model(), garden_task.build_metrics()
    optimizer = optimization.create_optimizer(  # Clips, and decays by 0.01.
        config["learning_rate"], config["num_train_steps"], config["num_warmup_steps"]
    )

    @tf.function
    def train_step(batch):
        logs = garden_task.train_step(inputs_of(batch, task), model, optimizer, metrics)
        return logs[garden_task.loss]

    return step_by_step(train_step, read_batches(task))


if __name__ == "__main__":
    serve(build)
