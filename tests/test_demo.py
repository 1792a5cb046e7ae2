"""`make demo`'s command on a little text of one's own."""

import json

from electra_tf.commands import demo


def test_demo(tmp_path, capsys):
    words = "red green blue cat dog owl runs sleeps eats very quite then".split()
    documents = [
        "\n".join(
            " ".join(words[(d * 5 + i * 3 + j * j) % 12] for j in range(4 + (d + i) % 7))
            for i in range(6)
        )
        for d in range(300)
    ]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    arguments = [f"--corpus={tmp_path}/text.txt", "--minutes=0.5", "--num_workers=1"]
    folder = tmp_path / "demo"
    assert demo.main(["", *arguments, f"--output_dir={folder}"]) == 0
    printed = capsys.readouterr().out
    assert "Held-out text, after 100 steps" in printed and "[CLS]" in printed
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["split"] == "eval"]
    assert evaluations[-1]["step"] == 100
    # Twelve words in a rigid order: a hundred steps are enough to beat their frequencies.
    loss = json.loads((folder / "report.json").read_text())["masked_lm_loss"]
    assert evaluations[-1]["masked_lm_loss"] == loss["model"] < loss["baseline"] - 0.2
    assert (folder / "discriminator" / "model.safetensors").exists()
