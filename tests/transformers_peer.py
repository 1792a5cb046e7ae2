"""What transformers on PyTorch writes and computes, for tests that compare; runs in its own environment.

  python tests/transformers_peer.py write FOLDER     # random models, and what they compute
  python tests/transformers_peer.py open FOLDER      # what the models below FOLDER compute

FOLDER has `texts.json`, a list of texts, and to write also a tokenizer's files.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

SIZES = {
    "embedding_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
LABELS = {"id2label": {0: "no", 1: "yes", 2: "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
# By the name of their folder: the class without "Electra", and more keys of the configuration.
MODELS = {
    "discriminator": ("ForPreTraining", {}),
    "generator": ("ForMaskedLM", {"hidden_size": 8, "num_attention_heads": 1}),
    "bare": ("Model", {}),
    "classification": ("ForSequenceClassification", LABELS),
    "topics": (
        "ForSequenceClassification",
        {**LABELS, "problem_type": "multi_label_classification"},
    ),
    "regression": ("ForSequenceClassification", {"num_labels": 1}),
    "tagging": ("ForTokenClassification", {"num_labels": 5}),
    "qa": ("ForQuestionAnswering", {}),
    "choice": ("ForMultipleChoice", LABELS),
}


def inputs_of(choices=None):
    """Inputs of any model here; of multiple choice with an axis of choices."""
    rng = np.random.default_rng(0)
    shape = (3, choices, 12) if choices else (3, 12)
    input_ids = rng.integers(5, 20, shape)
    mask, segments = np.ones(shape, np.int64), np.zeros(shape, np.int64)
    mask[1, ..., 9:] = 0
    segments[..., 5:] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": segments}


def compute(folder, model, tokenizer, texts):
    """Writes a model's inputs and outputs: for `inputs_of`, and for texts and pairs of them."""
    model.eval()
    is_choice = "MultipleChoice" in type(model).__name__
    arrays = inputs_of(3 if is_choice else None)
    with torch.no_grad():
        outputs = model(**{name: torch.tensor(value) for name, value in arrays.items()})
        arrays |= {name: value.numpy() for name, value in outputs.items()}
        if "SequenceClassification" in type(model).__name__:
            batch = tokenizer(
                texts, texts[::-1], padding=True, truncation=True, return_tensors="pt"
            )
            arrays["pair_logits"] = model(**batch).logits.numpy()
    np.savez(folder / "outputs.npz", **arrays)
    config = model.config
    about = {
        "ids": tokenizer(texts)["input_ids"],
        "labels": list(config.id2label.values()),
        "label2id": config.label2id,
        "problem_type": config.problem_type,
        "model_max_length": tokenizer.model_max_length,
    }
    (folder / "about.json").write_text(json.dumps(about))


def write(folder):
    """Writes random models, each whole and in shards, with their tokenizer."""
    torch.manual_seed(0)
    texts = json.loads((folder / "texts.json").read_text())
    tokenizer = transformers.ElectraTokenizerFast.from_pretrained(folder, model_max_length=24)
    for name, (class_name, more) in MODELS.items():
        config = transformers.ElectraConfig(**{**SIZES, "vocab_size": len(tokenizer), **more})
        model = getattr(transformers, f"Electra{class_name}")(config)
        for parameter in model.parameters():  # Biases are 0 and would show nothing.
            torch.nn.init.normal_(parameter, std=0.3)
        for path, size in ((folder / name, "1GB"), (folder / "sharded" / name, "4KB")):
            model.save_pretrained(path, max_shard_size=size)
            tokenizer.save_pretrained(path)
            compute(path, model, tokenizer, texts)


def open_all(folder):
    """Opens all models below a folder; each has all that transformers looks for, and no more."""
    texts = json.loads((folder / "texts.json").read_text())
    for path in sorted(folder.rglob("config.json")):
        (class_name,) = json.loads(path.read_text())["architectures"]
        model_class = getattr(transformers, class_name)
        model, loading = model_class.from_pretrained(path.parent, output_loading_info=True)
        assert not any(loading.values()), (path, loading)
        tokenizer = transformers.ElectraTokenizerFast.from_pretrained(path.parent)
        compute(path.parent, model, tokenizer, texts)


if __name__ == "__main__":
    {"write": write, "open": open_all}[sys.argv[1]](pathlib.Path(sys.argv[2]))
