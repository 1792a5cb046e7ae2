"""Exports a model for TensorFlow Serving.

  python -m electra_tf.export --model_dir=runs/sst2/model --output_dir=served --name=sst2

writes served/sst2/1, which takes ids, and served/sst2_text/1, which takes strings. Both are run through
TensorFlow's C API before they are there. Beside them stand the server's files: models.config,
batching_parameters.txt and monitoring.config. docs/serving.md has the signatures.
"""

import os
import sys

from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError


def define_flags(values):
    flags.DEFINE_string(
        "model_dir",
        None,
        "Folder of a fine-tuned model, a discriminator, a generator or a run.",
        flag_values=values,
    )
    flags.DEFINE_string("output_dir", None, "Folder of served models.", flag_values=values)
    flags.DEFINE_string("name", None, "Name of the model.", flag_values=values)
    flags.mark_flags_as_required(["model_dir", "output_dir", "name"], flag_values=values)
    flags.DEFINE_integer(
        "version",
        None,
        "Version (default: the one after the last).",
        lower_bound=1,
        upper_bound=2**63 - 1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_seq_length",
        None,
        "Longest sequence (default: the model's).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_batch_size",
        None,
        "Most rows that a server joins to a batch, and of windows that are computed at once "
        "(default: 32).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "warmup",
        None,
        "File of warm-up requests, a JSON object of the inputs of strings a line; or 'none' "
        "(default: two requests of our own).",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "label",
        [],
        "Label in models.config that is to mean this version, such as stable; repeatable.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "server_dir",
        None,
        "Where the server sees --output_dir (default: as models.config has it, else /models).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "top_k",
        None,
        "Of a generator: pieces that are proposed for each [MASK] (default: 5).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string("task", None, "Which task, of a model of several.", flag_values=values)


def _run(values):
    if not values.name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"--name={values.name}: use letters, digits, - and _")
    if "" in values.label:
        raise UserError("--label=: an empty label; give it a name, such as stable")
    if values.name.endswith("_text"):
        raise UserError(f"--name={values.name}: a name with _text is that of a model of strings")
    commands.import_tensorflow()
    from electra_tf import files
    from electra_tf.export import server_files, warmup
    from electra_tf.export.loading import load_servables
    from electra_tf.export.saved_model import export

    # A malformed one is found before the work.
    server_files.read_models(os.path.join(values.output_dir, server_files.MODELS_FILE))
    servables = load_servables(values.model_dir, values.max_seq_length, values.task, values.top_k)
    limit = server_files.batch_limit(values.output_dir)
    if limit and (values.max_batch_size or 0) > limit:
        raise UserError(
            f"--max_batch_size={values.max_batch_size}: {server_files.BATCHING_FILE} in {values.output_dir} "
            f"has {limit} for all models; change it there, or give {limit} at most"
        )
    usual = min(limit or servables.max_batch_size, servables.max_batch_size)
    servables.max_batch_size = values.max_batch_size or usual
    requests = None
    if values.warmup == "none":
        requests = []
    elif values.warmup:
        requests = warmup.read_requests(
            values.warmup, servables.text_specs(), servables.max_batch_size
        )
    files.make_folder(values.output_dir)
    folders = export(servables, values.output_dir, values.name, values.version, requests)
    names = [os.path.basename(os.path.dirname(folder)) for folder in folders]
    version = int(os.path.basename(folders[0]))
    server_files.add_to_models(values.output_dir, names, version, values.label, values.server_dir)
    server_files.write_server_files(values.output_dir, servables.max_batch_size)
    for folder in folders:
        print(folder)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
