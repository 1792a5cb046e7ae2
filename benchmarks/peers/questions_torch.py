"""transformers' side of question answering: windows by its tokenizer, spans by its two logits.

  python questions_torch.py QUESTIONS.json    # windows alone, timed: prints CPU seconds

QUESTIONS.json: `encoder`, `max_seq_length`, `doc_stride`, `max_query_length` and `train`, a list of
`inputs` (question, context) and `label` (start and end in characters, -1 where there is no answer).
"""

import json
import sys
import time

import torch
from transformers import AutoTokenizer

N_BEST, MOST_PIECES = 20, 30


def encode(tokenizer, task, examples):
    """Windows of all questions: inputs, labels, the question's number and its characters."""
    rows = []
    for number, example in enumerate(examples):
        question, context = example["inputs"]
        ids = tokenizer(
            question, add_special_tokens=False, truncation=True, max_length=task["max_query_length"]
        )["input_ids"]
        question = tokenizer.decode(ids) if len(ids) == task["max_query_length"] else question
        room = task["max_seq_length"] - len(ids) - 3
        encoded = tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=task["max_seq_length"],
            stride=max(0, room - task["doc_stride"]),  # There: by how much windows overlap.
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for index in range(len(encoded["input_ids"])):
            offsets = [
                span if sequence == 1 else None
                for span, sequence in zip(
                    encoded["offset_mapping"][index], encoded.sequence_ids(index)
                )
            ]
            rows.append(
                {
                    "input_ids": encoded["input_ids"][index],
                    "attention_mask": encoded["attention_mask"][index],
                    "token_type_ids": encoded["token_type_ids"][index],
                    "labels": positions(offsets, *example["label"]),
                    "number": number,
                    "offsets": offsets,
                }
            )
    return rows


def positions(offsets, start, end):
    """First and last token of an answer; [CLS] where the window does not have all of it."""
    inside = [i for i, span in enumerate(offsets) if span]
    if start < 0 or not inside:
        return [0, 0]
    if offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return [0, 0]
    first = max(i for i in inside if offsets[i][0] <= start)
    last = min(i for i in inside if offsets[i][1] >= end)
    return [first, last] if first <= last else [0, 0]


def answers(examples, rows, starts, ends):
    """For each question `[text, score of "no answer"]`, from the logits of its windows."""
    best = [(-1e9, "") for _ in examples]
    nothing = [1e9] * len(examples)
    for row, start, end in zip(rows, starts, ends):
        number, context = row["number"], examples[row["number"]]["inputs"][1]
        nothing[number] = min(nothing[number], float(start[0] + end[0]))
        offsets = row["offsets"]
        start, end = start[: len(offsets)], end[: len(offsets)]  # Without the padding.
        for first in start.topk(min(N_BEST, len(start))).indices.tolist():
            for last in end.topk(min(N_BEST, len(end))).indices.tolist():
                if not offsets[first] or not offsets[last]:
                    continue
                score = float(start[first] + end[last])
                if 0 <= last - first < MOST_PIECES and score > best[number][0]:
                    best[number] = score, context[offsets[first][0] : offsets[last][1]]
    return [[text, none - score] for (score, text), none in zip(best, nothing)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(sys.argv[1]) as f:
        description = json.load(f)
    pretrained = AutoTokenizer.from_pretrained(description["encoder"])
    begin = time.process_time()
    windows = encode(pretrained, description, description["train"])
    print(json.dumps({"cpu_seconds": time.process_time() - begin, "windows": len(windows)}))
