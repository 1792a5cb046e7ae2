"""electra_tf: the loop that finetune.py runs, from examples to update and statistics."""


def build(task):
    """As `protocol.serve` wants it; see benchmarks/finetuning_throughput.py."""
    from electra_tf import commands

    commands.import_tensorflow()
    import tensorflow as tf

    from electra_tf.commands.finetune import read_data
    from electra_tf.configs import load_finetuning_config
    from electra_tf.tasks.config import load_task_config
    from electra_tf.tasks.reading import BadRows
    from electra_tf.training.strategies import create_strategy
    from electra_tf.training.task_setup import benchmark_trainer, load_encoder

    strategy = create_strategy()
    task_config = load_task_config(task["task"])
    data = read_data(task_config, task["data_dir"], ("train",), BadRows(False))
    encoder = load_encoder(task["encoder"])
    config = load_finetuning_config(overrides=task["config"])
    trainer = benchmark_trainer(config, data, encoder, strategy)
    return lambda steps: trainer.train(tf.constant(steps))["loss"]


if __name__ == "__main__":
    from protocol import serve

    serve(build)
