"""Fixtures that the tests share."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tiny models run for less time than LLVM takes to optimize them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

from electra_tf.commands import build_pretraining_data, build_vocab  # noqa: E402
from electra_tf.training.strategies import create_strategy  # noqa: E402

# Two devices on any machine; before TensorFlow starts. One device's work stays on the first.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

GOLDEN = pathlib.Path(__file__).parent / "golden"
SHARED = pathlib.Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def two_devices():
    """A strategy with two replicas on CPU devices."""
    return create_strategy("mirrored", num_virtual_devices=2)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real corpora, which the project does not ship."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the corpora of ../shared/data are not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def google_curve():
    """GZIP records that the original's own builder wrote."""
    folder = SHARED / "golden" / "google_curve"
    if not folder.is_dir():
        pytest.skip("the original's records of ../shared/golden/google_curve are not here")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Text, vocabulary, records and held-out records."""
    folder = tmp_path_factory.mktemp("data")
    words = "red green blue cat dog owl runs sleeps eats very quite then".split()
    lines = [
        " ".join(words[(d * 5 + i * 3 + j * j) % len(words)] for j in range(4 + (d + i) % 7))
        for d in range(80)
        for i in (*range(5), None)
        if i is not None
    ]
    documents = ["\n".join(lines[i : i + 5]) for i in range(0, len(lines), 5)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    assert (
        build_vocab.main(
            ["", f"--input={folder}/text.txt", "--vocab_size=120", f"--output={folder}/vocab.txt"]
        )
        == 0
    )
    arguments = [
        f"--input={folder}/text.txt",
        f"--vocab_file={folder}/vocab.txt",
        f"--output_dir={folder}/records",
    ]
    arguments += ["--max_seq_length=16", "--num_shards=3", "--num_workers=1", "--eval_fraction=0.2"]
    assert build_pretraining_data.main(["", *arguments]) == 0
    return folder
