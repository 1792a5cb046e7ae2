"""The server's own files beside the models: which models and versions, batching, monitoring."""

import re

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from electra_tf import files
from electra_tf.errors import UserError

MODELS_FILE = "models.config"
BATCHING_FILE = "batching_parameters.txt"
MONITORING_FILE = "monitoring.config"
SERVER_DIR = "/models"

_BATCH_LIMIT = re.compile(r"^\s*max_batch_size\s*:?\s*\{\s*value\s*:\s*(\d+)", re.MULTILINE)

_MONITORING = """prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
# The server pads a batch's shorter rows; our models of ids find such padding.
_BATCHING = """max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 100 }}
pad_variable_length_inputs: true
"""


def versions_below(folder):
    """Numbers of a model's versions, a list."""
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    return [int(name) for name in (n.rstrip("/") for n in names) if name.isdecimal()]


def batch_limit(output_dir):
    """`max_batch_size` of the `batching_parameters.txt` that is there, an int; None without.

    Raises:
      UserError: the file cannot be read.
    """
    path = tf.io.gfile.join(output_dir, BATCHING_FILE)
    if not tf.io.gfile.exists(path):
        return None
    # The package of the server's API lacks this file's protocol buffer.
    found = _BATCH_LIMIT.search(files.read(path).decode("utf-8", "replace"))
    return int(found[1]) if found else None


def write_server_files(output_dir, max_batch_size):
    """Writes `batching_parameters.txt` and `monitoring.config`, unless they are there.

    Args:
      output_dir: folder of models.
      max_batch_size: rows that a server joins to one batch, at most.
    """
    for name, content in (
        (BATCHING_FILE, _BATCHING.format(max_batch_size=max_batch_size)),
        (MONITORING_FILE, _MONITORING),
    ):
        path = tf.io.gfile.join(output_dir, name)
        if not tf.io.gfile.exists(path):
            files.write(path, content)


def add_to_models(output_dir, names, version, labels, server_dir):
    """Adds models to `models.config`, or a version to those that it has.

    Without labels a server serves a model's newest version alone. With labels it serves those that have
    one, and the newest.

    Args:
      output_dir: folder of models.
      names: of models.
      version: the one that was written.
      labels: that are to mean this version from now on, such as "stable".
      server_dir: where a server sees `output_dir`; None for what the file says, or else `SERVER_DIR`.

    Raises:
      UserError: there is such a file, and it is no configuration of models.
    """
    path = tf.io.gfile.join(output_dir, MODELS_FILE)
    config = read_models(path)
    models = {model.name: model for model in config.model_config_list.config}
    for name in names:
        model = models.get(name) or config.model_config_list.config.add(
            name=name, model_platform="tensorflow"
        )
        if server_dir or not model.base_path:
            model.base_path = f"{(server_dir or SERVER_DIR).rstrip('/')}/{name}"
        for label in labels:
            model.version_labels[label] = version
        if model.version_labels:
            there = versions_below(tf.io.gfile.join(output_dir, name))
            newest = max([version, *there])
            wanted = {newest, version, *model.version_labels.values()}
            model.model_version_policy.specific.versions[:] = sorted(wanted)
    files.write(path, text_format.MessageToString(config))


def read_models(path):
    """Reads a `models.config`; an empty one where there is none.

    Returns:
      `model_server_config_pb2.ModelServerConfig`.

    Raises:
      UserError: the file cannot be read, or is none such.
    """
    config = model_server_config_pb2.ModelServerConfig()
    if tf.io.gfile.exists(path):
        try:
            text_format.Parse(files.read(path).decode("utf-8"), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise UserError(f"{path}:{error}; mend or remove the file") from None
    return config
