"""electra_tf: the loop that pretrain.py runs, from records to update and statistics."""


def build(task):
    """As `protocol.serve` wants it."""
    import keras
    import tensorflow as tf

    from electra_tf import ElectraPretrainer, create_optimizer, records
    from electra_tf.configs import PretrainingConfig
    from electra_tf.training.loop import PretrainingTrainer
    from electra_tf.training.strategies import create_strategy, sub_batch_rows

    config = PretrainingConfig(**task["config"])
    shards = records.read_shards(records.find_shards(task["records"]))
    batches = records.RecordBatches(shards, config.train_batch_size, config.max_seq_length)
    keras.utils.set_random_seed(config.seed)
    strategy = create_strategy()
    with strategy.scope():
        model = ElectraPretrainer(config, task["mask_id"], task["special_ids"])
        rows = sub_batch_rows(strategy, config.train_batch_size)
        model.compile(create_optimizer(config), sub_batch_rows=rows)
        dataset = strategy.distribute_datasets_from_function(
            lambda context: batches.training(config.seed, 0, config.num_train_steps)
        )
        trainer = PretrainingTrainer(strategy, model, dataset, peak_flops=1.0)
    return lambda steps: trainer.train(tf.constant(steps))["loss"]


if __name__ == "__main__":
    from protocol import serve

    serve(build)
