"""transformers on PyTorch, from strings to probabilities, for benchmarks/serving.py."""

import functools
import os

import torch
from protocol import serve_requests
from transformers import AutoTokenizer, ElectraForSequenceClassification


def create_tokenizer(task, return_tensors):
    """Function from a list of str to the model's inputs, "pt" or "np" tensors."""
    return functools.partial(
        AutoTokenizer.from_pretrained(task["model"]),
        padding=True,
        truncation=True,
        max_length=task["max_seq_length"],
        return_tensors=return_tensors,
    )


def build(task):
    """As `protocol.serve_requests` wants it."""
    torch.set_num_threads(os.cpu_count())
    tokenizer = create_tokenizer(task, "pt")
    model = ElectraForSequenceClassification.from_pretrained(task["model"]).eval()

    @torch.inference_mode()
    def predict(texts):
        return model(**tokenizer(texts)).logits.softmax(dim=-1).tolist()

    return predict


if __name__ == "__main__":
    serve_requests(build)
