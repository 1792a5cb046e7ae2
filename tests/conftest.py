"""Fixtures that the tests share."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

# Two devices on any machine; before TensorFlow starts. One device's work stays on the first.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

GOLDEN = pathlib.Path(__file__).parent / "golden"
SHARED = pathlib.Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def two_devices():
    """A strategy with two replicas on CPU devices."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


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
