"""The notebook, executed as it stands."""

import json
import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_quickstart(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1500, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    text = "".join(o["text"] for o in outputs if o.output_type == "stream")
    restored = next(line for line in text.splitlines() if line.startswith("hidden tokens restored"))
    model, baseline = (float(word) for word in restored.split() if "." in word)
    assert model > 1.5 * baseline
    lines = (tmp_path / "runs/notebook/run/metrics.jsonl").read_text().splitlines()
    final = [line for line in map(json.loads, lines) if line["split"] == "eval"][-1]
    assert final["disc_auc"] > 0.6
