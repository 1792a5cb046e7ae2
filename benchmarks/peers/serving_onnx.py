"""ONNX Runtime, from strings to probabilities, for benchmarks/serving.py.

The graph is what PyTorch exports of transformers' model, optimized by the runtime at its highest level.
"""

import os

import numpy as np
import onnxruntime
import torch
from protocol import serve_requests
from serving_torch import create_tokenizer
from transformers import ElectraForSequenceClassification

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Logits(torch.nn.Module):
    """The model's logits of arguments by position."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(**dict(zip(INPUTS, inputs))).logits


def export(folder, path):
    """Writes a model folder as an ONNX file."""
    model = ElectraForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # Three tensors: one that stands for all would become one input.
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in INPUTS)
    torch.onnx.export(
        Logits(model.eval()),
        example,
        path,
        input_names=INPUTS,
        output_names=["logits"],
        dynamic_shapes={"inputs": (dynamic,) * len(INPUTS)},
        dynamo=True,
    )


def build(task):
    """As `protocol.serve_requests` wants it."""
    tokenizer = create_tokenizer(task, "np")
    if not os.path.exists(task["onnx"]):
        export(task["model"], task["onnx"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(task["onnx"], options, ["CPUExecutionProvider"])

    def predict(texts):
        batch = tokenizer(texts)
        [logits] = session.run(["logits"], {name: batch[name].astype(np.int64) for name in INPUTS})
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return (odds / odds.sum(axis=-1, keepdims=True)).tolist()

    return predict


if __name__ == "__main__":
    serve_requests(build)
