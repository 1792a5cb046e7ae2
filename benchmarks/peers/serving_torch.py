"""transformers on PyTorch, from strings to probabilities, for benchmarks/serving.py."""

import os

import torch
from protocol import serve_requests
from transformers import AutoTokenizer, ElectraForSequenceClassification


def build(task):
    """As `protocol.serve_requests` wants it."""
    torch.set_num_threads(os.cpu_count())
    tokenizer = AutoTokenizer.from_pretrained(task["model"])
    model = ElectraForSequenceClassification.from_pretrained(task["model"]).eval()

    @torch.inference_mode()
    def predict(texts):
        batch = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=task["max_seq_length"],
            return_tensors="pt",
        )
        return model(**batch).logits.softmax(dim=-1).tolist()

    return predict


if __name__ == "__main__":
    serve_requests(build)
