"""transformers on PyTorch: the steps of finetune_torch.py, for benchmarks/finetuning_throughput.py."""

import json
import os

import torch
from finetune_torch import (
    batch_of,
    create_model,
    create_optimizer,
    encode,
    train_step,
)
from protocol import serve, step_by_step
from transformers import AutoTokenizer


def build(task):
    """As `protocol.serve` wants it."""
    torch.set_num_threads(os.cpu_count())
    with open(task["rows"]) as f:
        description = json.load(f)
    description |= task["config"]
    description |= {"bfloat16": task["dtype"] == "bfloat16", "device": "cpu"}
    tokenizer = AutoTokenizer.from_pretrained(task["encoder"])
    model = create_model({**description, "encoder": task["encoder"]})
    rows = encode(tokenizer, description, description["train"])
    if len(rows) < task["batch_size"]:
        raise SystemExit(f"{len(rows)} rows make no batch of {task['batch_size']}")
    optimizer, schedule = create_optimizer(model, description, num_steps=100_000)
    # The same shapes as ours: all of max_seq_length, or of the longest row.
    length = None if task["dynamic"] else description["max_seq_length"]

    def batches():
        while True:
            order = torch.randperm(len(rows)).tolist()
            for first in range(0, len(order) - task["batch_size"] + 1, task["batch_size"]):
                chosen = [rows[i] for i in order[first : first + task["batch_size"]]]
                yield batch_of(chosen, tokenizer.pad_token_id, description["kind"], length)

    model.train()
    return step_by_step(
        lambda batch: train_step(model, batch, optimizer, schedule, description), batches()
    )


if __name__ == "__main__":
    serve(build)
