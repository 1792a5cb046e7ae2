"""transformers' ELECTRA in PyTorch, run eagerly, and a training step, which it does not have."""

import os

import numpy as np
import torch
from protocol import serve, step_by_step
from torch.nn import functional as F
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    get_linear_schedule_with_warmup,
)

MASK_RATE = 0.85  # Chosen positions that become [MASK]; the others keep their token.


def make_networks(task):
    """`(generator, discriminator)` with the same embeddings."""
    # What is faster on a CPU, with dropout.
    attention = {"float32": "sdpa", "bfloat16": "eager"}[task["dtype"]]
    discriminator, generator = (
        network(ElectraConfig(**task[name], attn_implementation=attention))
        for name, network in (
            ("discriminator", ElectraForPreTraining),
            ("generator", ElectraForMaskedLM),
        )
    )
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.generator_lm_head.weight = discriminator.electra.embeddings.word_embeddings.weight
    return generator.train(), discriminator.train()


def hide(batch, task):
    """Hides 15 % of each example's tokens; as `masking_tf.hide`."""
    input_ids, input_mask = batch["input_ids"], batch["input_mask"]
    max_predictions = task["max_predictions"]
    is_special = torch.isin(input_ids, torch.tensor(task["special_ids"]))
    noise = torch.rand(input_ids.shape).masked_fill(is_special | (input_mask == 0), -1.0)
    best, positions = noise.topk(max_predictions)
    num = (input_mask.sum(-1, keepdim=True) * task["config"]["mask_prob"]).round().clamp(min=1)
    is_used = (torch.arange(max_predictions) < num) & (best >= 0.0)
    positions = positions.where(is_used, 0)
    ids = input_ids.gather(1, positions)
    is_hidden = torch.rand(positions.shape) < MASK_RATE
    masked_ids = write(input_ids, ids.masked_fill(is_hidden, task["mask_id"]), positions)
    return masked_ids, positions, ids, is_used.float()


def write(input_ids, updates, positions):
    """`input_ids` [B, T] with `updates` at `positions` [B, P]; position 0, [CLS], is never written."""
    written = input_ids.scatter(1, positions, updates)
    written[:, 0] = input_ids[:, 0]
    return written


def generator_logits(generator, input_ids, positions, **inputs):
    """The vocabulary's logits at `positions` alone, [B, P, V]: `generator(...)` takes all."""
    hidden = generator.electra(input_ids, **inputs).last_hidden_state
    index = positions[..., None].expand(-1, -1, hidden.shape[-1])
    return generator.generator_lm_head(generator.generator_predictions(hidden.gather(1, index)))


def mean(values, weights):
    """The weighted mean."""
    return (values * weights).sum() / weights.sum()


def make_optimizer(generator, discriminator, config):
    """`(optimizer, schedule, parameters)`: biases and LayerNorms are not decayed."""
    # A dict: the embeddings belong to both.
    parameters = list(dict.fromkeys([*discriminator.parameters(), *generator.parameters()]))
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config["weight_decay_rate"]},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=config["learning_rate"], eps=1e-6, fused=True)
    schedule = get_linear_schedule_with_warmup(
        optimizer, config["num_warmup_steps"], config["num_train_steps"]
    )
    return optimizer, schedule, parameters


def read_batches(task):
    """Yields dicts of int64 [batch_size, T], without an end."""
    arrays = {name: torch.from_numpy(x).long() for name, x in np.load(task["batches"]).items()}
    size = task["batch_size"]
    last = len(arrays["input_ids"]) - size
    while True:
        for first in range(0, last + 1, size):
            yield {name: x[first : first + size] for name, x in arrays.items()}


def build(task):
    """As `protocol.serve` wants it."""
    torch.set_num_threads(os.cpu_count())
    config = task["config"]
    generator, discriminator = make_networks(task)
    optimizer, schedule, parameters = make_optimizer(generator, discriminator, config)
    is_mixed = task["dtype"] == "bfloat16"

    def loss_of(batch):
        inputs = {"attention_mask": batch["input_mask"], "token_type_ids": batch["segment_ids"]}
        masked_ids, positions, ids, weights = hide(batch, task)
        logits = generator_logits(generator, masked_ids, positions, **inputs).float().flatten(0, 1)
        losses = F.cross_entropy(logits, ids.flatten(), reduction="none")
        generator_loss = mean(losses, weights.flatten())
        sampled = torch.multinomial(logits.detach().softmax(-1), 1).view(ids.shape)
        replaced = write(batch["input_ids"], sampled, positions)
        is_replaced = (replaced != batch["input_ids"]).float()
        logits = discriminator(replaced, **inputs).logits.float()
        losses = F.binary_cross_entropy_with_logits(logits, is_replaced, reduction="none")
        discriminator_loss = mean(losses, batch["input_mask"])
        return config["gen_weight"] * generator_loss + config["disc_weight"] * discriminator_loss

    def train_step(batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config["clip_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss.detach()

    return step_by_step(train_step, read_batches(task))


if __name__ == "__main__":
    serve(build)
