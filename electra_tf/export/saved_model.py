"""Writes servables as versions of models, as TensorFlow Serving finds them below a folder."""

import io

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.errors import UserError
from electra_tf.export import warmup
from electra_tf.export.c_session import write_arrays
from electra_tf.export.server_files import versions_below
from electra_tf.export.verify import REFERENCE_FILE, verify

# Also nothing at all, and bytes that are no UTF-8. The last one is repeated until it fills a sequence.
_TEXTS = (b"Time flies like an arrow.", "Naïve? 北京 [MASK]!".encode(), b"", b"half \xff\xfe ")


def export(servables, output_dir, name, version=None, requests=None):
    """Writes `OUTPUT_DIR/NAME/VERSION`, which takes ids, and `OUTPUT_DIR/NAME_text/VERSION`, strings.

    ```python
    export(load_servables("runs/sst2/model"), "served", "sst2")
    ```

    Both are verified before either of them is there.

    Args:
      servables: `servables.Servables`.
      output_dir: folder of models.
      name: of the model.
      version: positive int; None for the one after the last.
      requests: of warm-up, list of dicts from input of strings to array; None for some of our own.

    Returns:
      list of the two folders.

    Raises:
      UserError: the version is there, or a model does not run outside of Python.
    """
    names = (name, f"{name}_text")
    bases = [tf.io.gfile.join(output_dir, each) for each in names]
    version = version or 1 + max((v for base in bases for v in versions_below(base)), default=0)
    folders = [tf.io.gfile.join(base, str(version)) for base in bases]
    for folder in folders:
        if tf.io.gfile.exists(folder):
            raise UserError(f"{folder}: this version is there; give another --version")
    with files.replacing(folders[0]) as ids_folder, files.replacing(folders[1]) as text_folder:
        write_text(servables, text_folder, names[1], requests)
        write_ids(servables, ids_folder, names[0], requests)
    return folders


def write_ids(servables, folder, name, requests=None):
    """Writes the SavedModel that takes ids into a folder, and verifies it.

    Args:
      servables: `servables.Servables`.
      folder: where to.
      name: by which a server will know the model.
      requests: as of `export`.

    Raises:
      UserError: it does not run outside of Python.
    """
    inputs = _ids_of(servables, _reference_texts(servables))
    if requests is not None:
        # A long context is several windows; a server that batches refuses more of them.
        requests = [
            {key: values[: servables.max_batch_size] for key, values in ids.items()}
            for ids in (_ids_of(servables, request) for request in requests)
        ]
    _write(servables.ids(), folder, name, inputs, requests, servables.max_batch_size)


def write_text(servables, folder, name, requests=None):
    """Writes the SavedModel that takes strings; arguments and errors as of `write_ids`."""
    inputs = _reference_texts(servables)
    _write(servables.text(), folder, name, inputs, requests, servables.max_batch_size)


def _reference_texts(servables):
    """Inputs of strings, a dict of arrays: what is short, long, empty or malformed."""
    long = _TEXTS[-1] * (1 + servables.max_seq_length // 3)
    texts, results = (*_TEXTS[:-1], long), {}
    for number, spec in enumerate(servables.text_specs()):
        values = np.array(texts[number:] + texts[:number], object)
        for size in spec.shape[1:]:
            values = np.stack([np.roll(values, shift) for shift in range(size)], axis=1)
        results[spec.name] = values
    return results


def _ids_of(servables, texts):
    """The inputs of ids of inputs of strings; both are dicts of arrays."""
    columns = [tf.constant(column.tolist(), tf.string) for column in texts.values()]
    return {name: values.numpy() for name, values in servables.batch_of(columns).items()}


def _write(servable, folder, name, inputs, requests, max_batch_size):
    """Writes a SavedModel with what it gives for some inputs, and with warm-up; verifies it.

    Args:
      servable: `Servable`.
      folder, name: as of `write_ids`.
      inputs: dict of arrays, of `serving_default`.
      requests: list of dicts like `inputs`, of warm-up; None for these inputs, and their first row.
      max_batch_size: rows beyond which a server that batches refuses a request, of warm-up too.
    """
    if requests is None:
        requests = [
            {key: value[:rows] for key, value in inputs.items()} for rows in (1, max_batch_size)
        ]
    num_logs = len(requests) * len(servable.signatures)
    if num_logs > warmup.MAX_REQUESTS:
        raise UserError(
            f"{len(requests)} requests of warm-up for {len(servable.signatures)} signatures each; a "
            f"server takes {warmup.MAX_REQUESTS} in all"
        )
    # Traced once, for the file and for the reference.
    functions = {key: f.get_concrete_function() for key, f in servable.signatures.items()}
    tf.saved_model.save(
        servable.module,
        folder,
        functions,
        tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    arrays = {}
    for signature, function in functions.items():
        given = _given(signature, inputs)
        arrays |= {f"{signature}/input/{key}": value for key, value in given.items()}
        outputs = function(**{key: tf.constant(value) for key, value in given.items()})
        arrays |= {f"{signature}/output/{key}": value.numpy() for key, value in outputs.items()}
    content = io.BytesIO()
    write_arrays(content, arrays)
    files.write(tf.io.gfile.join(folder, REFERENCE_FILE), content.getvalue())
    if requests:
        logs = [
            warmup.prediction_log(name, signature, _given(signature, request))
            for signature in servable.signatures
            for request in requests
        ]
        warmup.write_logs(folder, logs)
    verify(folder)


def _given(signature, inputs):
    """What a signature takes for some inputs of `serving_default`."""
    return inputs if signature == "serving_default" else {"inputs": _examples(inputs)}


def _examples(inputs):
    """The rows of inputs as serialized tf.Examples, ids without their padding."""
    examples = []
    for row in range(len(next(iter(inputs.values())))):
        example = tf.train.Example()
        for name, values in inputs.items():
            feature = example.features.feature[name]
            if values.dtype == object:
                feature.bytes_list.value.append(values[row])
            else:
                length = int(inputs["input_mask"][row].sum())
                feature.int64_list.value.extend(values[row, :length].tolist())
        examples.append(example.SerializeToString())
    return np.array(examples, object)
