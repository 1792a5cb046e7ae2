"""transformers on PyTorch: fine-tuning with the settings of benchmarks/finetuning_parity.py.

Reads one JSON file: `encoder` (folder), `kind`, `num_labels`, `train` and `dev` (lists of `inputs`
and `label`: numbers), and the settings by the names of our configuration. Writes another: for
each epoch the dev set's logits or numbers (tagging: a label a word; question answering: the best text and
the score of "no answer"), and seconds of training.
"""

import json
import math
import sys
import time

import questions_torch
import torch
import transformers
from torch.nn.utils import clip_grad_norm_
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
    set_seed,
)


def encode(tokenizer, task, examples):
    """One dict of lists of ids an example; for tagging with labels at the words' first pieces."""
    if task["kind"] == "qa":
        return questions_torch.encode(tokenizer, task, examples)
    most = task["max_seq_length"]
    rows = []
    for example in examples:
        if task["kind"] == "tagging":
            row = tokenizer(
                example["inputs"], is_split_into_words=True, truncation=True, max_length=most
            )
            words = row.word_ids()
            firsts = [w is not None and w != before for w, before in zip(words, [None, *words])]
            labels = [
                example["label"][word] if first else -100 for word, first in zip(words, firsts)
            ]
        else:
            row = tokenizer(*example["inputs"], truncation="longest_first", max_length=most)
            labels = example["label"]
        rows.append({**row, "labels": labels})
    return rows


def batch_of(rows, pad_id, kind, length=None, device="cpu"):
    """Tensors of rows, padded to the longest one or to `length`."""
    length = length or max(len(row["input_ids"]) for row in rows)

    def padded(name, value):
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in rows])

    batch = {
        "input_ids": padded("input_ids", pad_id),
        "attention_mask": padded("attention_mask", 0),
        "token_type_ids": padded("token_type_ids", 0),
    }
    if kind == "qa":
        starts_and_ends = torch.tensor([row["labels"] for row in rows])
        batch["start_positions"], batch["end_positions"] = starts_and_ends.unbind(1)
    elif kind == "tagging":
        batch["labels"] = padded("labels", -100)
    else:
        dtype = torch.float32 if kind == "regression" else torch.int64
        batch["labels"] = torch.tensor([row["labels"] for row in rows], dtype=dtype)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def parameter_groups(model, rate, decay, weight_decay):
    """Rates by layer as our `fixed` has them: 1 for the head, `decay` for the top block, and so on."""
    num_layers = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if ".encoder.layer." in name:
            depth = int(name.split(".encoder.layer.")[1].split(".")[0]) + 1
        elif ".embeddings" in name:
            depth = 0
        else:
            depth = num_layers + 1
        decays = not any(word in name for word in ("LayerNorm", "bias"))
        groups.append(
            {
                "params": [parameter],
                "lr": rate * decay ** (num_layers + 1 - depth),
                "weight_decay": weight_decay if decays else 0.0,
            }
        )
    return groups


def predict_answers(model, rows, task, pad_id):
    """`questions_torch.answers` of the dev set."""
    model.eval()
    starts, ends = [], []
    with torch.no_grad(), torch.autocast(task["device"], torch.bfloat16, task["bfloat16"]):
        for first in range(0, len(rows), task["eval_batch_size"]):
            batch = batch_of(
                rows[first : first + task["eval_batch_size"]], pad_id, "qa", device=task["device"]
            )
            outputs = model(**batch)
            starts += outputs.start_logits.float().cpu()
            ends += outputs.end_logits.float().cpu()
    return questions_torch.answers(task["dev"], rows, starts, ends)


def predict(model, rows, task, pad_id):
    """The dev set's outputs in its order."""
    if task["kind"] == "qa":
        return predict_answers(model, rows, task, pad_id)
    model.eval()
    outputs = []
    with torch.no_grad(), torch.autocast(task["device"], torch.bfloat16, task["bfloat16"]):
        for start in range(0, len(rows), task["eval_batch_size"]):
            chosen = rows[start : start + task["eval_batch_size"]]
            batch = batch_of(chosen, pad_id, task["kind"], device=task["device"])
            labels = batch.pop("labels")
            logits = model(**batch).logits.float()
            if task["kind"] == "tagging":
                best = logits.argmax(-1)
                outputs += [b[known].tolist() for b, known in zip(best, labels != -100)]
            else:
                outputs += logits.tolist()
    return outputs


def create_model(task):
    """The encoder with a new head."""
    if task["kind"] == "qa":
        return AutoModelForQuestionAnswering.from_pretrained(task["encoder"], dtype=torch.float32)
    auto = AutoModelForSequenceClassification
    options = {"num_labels": task["num_labels"], "dtype": torch.float32}
    if task["kind"] == "tagging":
        auto = AutoModelForTokenClassification
    if task["kind"] == "regression":
        options["problem_type"] = "regression"
    return auto.from_pretrained(task["encoder"], **options)


def create_optimizer(model, task, num_steps):
    """`(optimizer, schedule)` of AdamW with warm-up and linear decay."""
    groups = parameter_groups(
        model, task["learning_rate"], task["layerwise_lr_decay"], task["weight_decay_rate"]
    )
    optimizer = torch.optim.AdamW(groups, eps=1e-6, fused=True)
    num_warmup_steps = int(num_steps * task["warmup_proportion"])
    return optimizer, get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)


def train_step(model, batch, optimizer, schedule, task):
    """One update; returns the loss."""
    with torch.autocast(task["device"], torch.bfloat16, task["bfloat16"]):
        loss = model(**batch).loss
    loss.backward()
    clip_grad_norm_(model.parameters(), task["clip_norm"])
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss.detach()


def train(task):
    """Trains; returns what is written."""
    set_seed(task["seed"])
    tokenizer = AutoTokenizer.from_pretrained(task["encoder"])
    model = create_model(task).to(task["device"])
    rows = {name: encode(tokenizer, task, task[name]) for name in ("train", "dev")}
    size = task["train_batch_size"]
    steps_per_epoch = math.ceil(len(rows["train"]) / size)
    num_steps = math.ceil(steps_per_epoch * task["num_train_epochs"])
    optimizer, schedule = create_optimizer(model, task, num_steps)
    epochs, seconds, step = [], 0.0, 0
    while step < num_steps:
        model.train()
        order = torch.randperm(len(rows["train"])).tolist()
        start = time.perf_counter()
        for first in range(0, len(order), size):
            chosen = [rows["train"][i] for i in order[first : first + size]]
            batch = batch_of(chosen, tokenizer.pad_token_id, task["kind"], device=task["device"])
            loss = train_step(model, batch, optimizer, schedule, task)
            step += 1
            if step == num_steps:
                break
        seconds += time.perf_counter() - start
        epochs.append(predict(model, rows["dev"], task, tokenizer.pad_token_id))
        print(f"epoch {len(epochs)}: loss {loss.item():.3f}", flush=True)
    return {
        "epochs": epochs,
        "seconds": seconds,
        "num_train_steps": num_steps,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


if __name__ == "__main__":
    source, target = sys.argv[1:]
    with open(source) as f:
        result = train(json.load(f))
    with open(target, "w") as f:
        json.dump(result, f)
