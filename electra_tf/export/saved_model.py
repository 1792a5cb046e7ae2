"""Writes servables as versions of models, as TensorFlow Serving finds them below a folder."""

import io

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.errors import UserError
from electra_tf.export.c_session import write_arrays
from electra_tf.export.verify import REFERENCE_FILE, verify

# The last ones: nothing at all, and bytes that are no UTF-8.
_TEXTS = (b"Time flies like an arrow.", "Naïve? 北京!".encode(), b"", b"half \xff\xfe a word")


def export(servables, output_dir, name, version=None):
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

    Returns:
      list of the two folders.

    Raises:
      UserError: the version is there, or a model does not run outside of Python.
    """
    bases = [tf.io.gfile.join(output_dir, name), tf.io.gfile.join(output_dir, f"{name}_text")]
    version = version or 1 + max((v for base in bases for v in _versions(base)), default=0)
    folders = [tf.io.gfile.join(base, str(version)) for base in bases]
    for folder in folders:
        if tf.io.gfile.exists(folder):
            raise UserError(f"{folder}: this version is there; give another --version")
    with files.replacing(folders[0]) as ids_folder, files.replacing(folders[1]) as text_folder:
        write_ids(servables, ids_folder)
        write_text(servables, text_folder)
    return folders


def write_ids(servables, folder):
    """Writes the SavedModel that takes ids into a folder, and verifies it.

    Raises:
      UserError: it does not run outside of Python.
    """
    _write(servables.ids(), folder, _reference_ids(servables))
    verify(folder)


def write_text(servables, folder):
    """Writes the SavedModel that takes strings into a folder, and verifies it.

    Raises:
      UserError: it does not run outside of Python.
    """
    _write(servables.text(), folder, _reference_texts(servables))
    verify(folder)


def _versions(base):
    names = tf.io.gfile.listdir(base) if tf.io.gfile.isdir(base) else []
    return [int(name) for name in (n.rstrip("/") for n in names) if name.isdecimal()]


def _reference_texts(servables):
    return {
        name: np.array(_TEXTS[i:] + _TEXTS[:i], object) for i, name in enumerate(servables.texts)
    }


def _reference_ids(servables):
    texts = [tf.constant(list(column)) for column in _reference_texts(servables).values()]
    return {name: values.numpy() for name, values in servables.batch_of(texts).items()}


def _write(servable, folder, inputs):
    """Writes a SavedModel, and what it gives for some inputs.

    Args:
      servable: `Servable`.
      folder: where to.
      inputs: dict of arrays, of `serving_default`.
    """
    tf.saved_model.save(
        servable.module,
        folder,
        servable.signatures,
        tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    arrays = {}
    for name, function in servable.signatures.items():
        given = inputs if name == "serving_default" else {"inputs": _examples(inputs)}
        arrays |= {f"{name}/input/{key}": value for key, value in given.items()}
        outputs = function(*(tf.constant(value) for value in given.values()))
        arrays |= {f"{name}/output/{key}": value.numpy() for key, value in outputs.items()}
    content = io.BytesIO()
    write_arrays(content, arrays)
    files.write(tf.io.gfile.join(folder, REFERENCE_FILE), content.getvalue())


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
