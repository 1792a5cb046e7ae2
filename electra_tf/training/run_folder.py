"""The folder of a run: its configuration, metrics, checkpoints and models (DESIGN, contracts)."""

import dataclasses
import json
import math

import tensorflow as tf
import yaml

from electra_tf import files
from electra_tf.configs import read_yaml
from electra_tf.errors import UserError

CONFIG_FILE, DATA_FILE, METRICS_FILE = "config.yaml", "data.json", "metrics.jsonl"
CHECKPOINTS = "checkpoints"
# Those with files that others write.
FOLDERS = ("discriminator", "generator", "model", "predictions", "submission")


def read_data(folder):
    """What identifies the data of a run in a folder, a dict; empty without."""
    path = tf.io.gfile.join(folder, DATA_FILE)
    if not tf.io.gfile.exists(path):
        return {}
    return files.read_json_object(path)


def _defaults(config, before):
    """What a run from before some keys were there did: what their defaults do.

    A converted run's `config.yaml` holds sizes alone, and leaves the rest to its first start.
    """
    fields = dataclasses.fields(config)
    needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    if not needed <= set(before):
        return {}
    return {f.name: f.default for f in fields if f.default not in (None, dataclasses.MISSING)}


class RunFolder:
    """`config.yaml`, `data.json`, `metrics.jsonl`, `checkpoints/`, `tensorboard/`, models."""

    def __init__(self, path, config, data, run_keys, is_writer=True):
        """Opens a folder, or makes it.

        Args:
          path: local or `gs://`.
          config: dataclass that decides the run.
          data: dict that identifies the data.
          run_keys: names of configuration keys that may change between two starts.
          is_writer: whether this process writes; other workers only read.

        Raises:
          UserError: the folder belongs to a run of another configuration or other data.
        """
        self.path, self._is_writer = path, is_writer
        values = dataclasses.asdict(config)
        before = self._read_config()
        if before is not None:
            self._refuse_others(
                {**_defaults(config, before), **before}, values, run_keys, CONFIG_FILE
            )
            self._refuse_others(read_data(path), data, (), DATA_FILE)
        if is_writer:
            self._remove_leftovers()
            files.write_json(self.join(DATA_FILE), data)
            files.write(self.join(CONFIG_FILE), yaml.safe_dump(values, sort_keys=False))

    def join(self, *names):
        """Path of something in the folder."""
        return tf.io.gfile.join(self.path, *names)

    def _remove_leftovers(self):
        """Removes what a process that was killed was writing."""
        folders = ("", *(f"{name}/" for name in FOLDERS), "encoders/*/*/")
        for pattern in ("checkpoints/*_temp", *(f"{folder}*.tmp-*" for folder in folders)):
            for path in files.glob(self.path, pattern):
                files.remove(path)

    def _read_config(self):
        path = self.join(CONFIG_FILE)
        if not tf.io.gfile.exists(path):
            return None
        return read_yaml(path, "--output_dir")

    def _refuse_others(self, before, now, free, file):
        differences = [
            f"{key} is {before[key]!r} there and {now[key]!r} here"
            for key in now
            if key not in free and key in before and before[key] != now[key]
        ]
        if differences:
            raise UserError(
                f"{self.join(file)}: the folder belongs to another run: {'; '.join(differences)}; "
                "choose another --output_dir, or the same values to continue"
            )

    def cut_metrics(self, step):
        """Drops the lines of `metrics.jsonl` after a step, and a last one that was half written.

        Returns:
          the lines that stay, list of dicts; also to a worker that is not the writer, which may read
          them before they are cut.
        """
        path = self.join(METRICS_FILE)
        if not tf.io.gfile.exists(path):
            return []
        with tf.io.gfile.GFile(path) as f:
            lines = f.read().splitlines()
        kept = []
        for line in lines:
            try:
                metrics = json.loads(line)
                if metrics["step"] > step:
                    break
            except (json.JSONDecodeError, KeyError):
                break
            kept.append(metrics)
        if self._is_writer:
            files.write(path, "".join(line + "\n" for line in lines[: len(kept)]))
        return kept

    def write_metrics(self, step, split, metrics):
        """Appends a line to `metrics.jsonl`; what is not finite is written as null."""
        if not self._is_writer:
            return
        line = {"step": step, "split": split}
        for name, value in metrics.items():
            line[name] = value if math.isfinite(value) else None
        with tf.io.gfile.GFile(self.join(METRICS_FILE), "a") as f:
            f.write(json.dumps(line) + "\n")
