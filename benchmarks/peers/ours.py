"""electra_tf: the loop that pretrain.py runs, from records to update and statistics."""


def build(task):
    """As `protocol.serve` wants it."""
    from electra_tf import commands

    commands.import_tensorflow()
    import keras
    import tensorflow as tf

    from electra_tf import records
    from electra_tf.configs import PretrainingConfig
    from electra_tf.training.loop import PretrainingTrainer
    from electra_tf.training.pretraining import create_model
    from electra_tf.training.strategies import create_strategy

    config = PretrainingConfig(**task["config"])
    shards = records.read_shards(records.find_shards(task["records"]))
    batches = records.RecordBatches(shards, config.train_batch_size, config.max_seq_length)
    keras.utils.set_random_seed(config.seed)
    strategy = create_strategy()
    model = create_model(config, task["mask_id"], task["special_ids"], strategy)
    with strategy.scope():
        dataset = strategy.distribute_datasets_from_function(
            lambda context: batches.training(config.seed, 0, config.num_train_steps)
        )
        trainer = PretrainingTrainer(strategy, model, dataset, peak_flops=1.0)
    return lambda steps: trainer.train(tf.constant(steps))["loss"]


if __name__ == "__main__":
    from protocol import serve

    serve(build)
