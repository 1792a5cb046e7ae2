"""Writes this folder: small random models of transformers with heads, and what they compute.

  python tests/golden/heads/make.py     # with transformers 5.23 and PyTorch 2.13
"""

import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent


def main():
    torch.manual_seed(0)
    config = transformers.ElectraConfig(
        vocab_size=40,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    rng = np.random.default_rng(0)
    for name, model_class, shape in (
        ("question_answering", transformers.ElectraForQuestionAnswering, (2, 12)),
        ("multiple_choice", transformers.ElectraForMultipleChoice, (2, 3, 12)),
    ):
        model = model_class(config).eval()
        for parameter in model.parameters():  # Biases are 0 and would show nothing.
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(HERE / name)
        input_ids = rng.integers(1, 40, shape)
        input_mask = np.ones(shape, np.int64)
        input_mask[0, ..., 9:] = 0
        segment_ids = np.zeros(shape, np.int64)
        segment_ids[..., 4:] = 1
        with torch.no_grad():
            outputs = model(
                input_ids=torch.tensor(input_ids),
                attention_mask=torch.tensor(input_mask),
                token_type_ids=torch.tensor(segment_ids),
            )
        np.savez(
            HERE / name / "outputs.npz",
            input_ids=input_ids,
            input_mask=input_mask,
            segment_ids=segment_ids,
            **{key: value.numpy() for key, value in outputs.items()},
        )


if __name__ == "__main__":
    main()
