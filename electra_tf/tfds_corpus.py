"""Text of TensorFlow Datasets: `tfds:NAME[:SPLIT][:FIELD]` is a corpus.

TensorFlow Datasets is imported where it is used, since most corpora are files.
"""

import contextlib
import difflib
import json
import re
import textwrap
from typing import NamedTuple

import tensorflow as tf
from google.protobuf import json_format

from electra_tf import files
from electra_tf.errors import UserError

PREFIX = "tfds:"
DEFAULT_SPLIT = "train"

_SOURCE = re.compile(
    PREFIX
    + r"""
    (?P<name>
        [a-z]\w* (/[\w.+-]+)?                           # data set and configuration
        (:[\d*]+\.[\d*]+\.[\d*]+)?                      # version
    )
    (: (?P<split> ( [^:\[\]] | \[[^\[\]]+\] )+ ) )?     # a slice holds its colon in brackets
    (: (?P<field> [^:\[\]]+ ) )?
    """,
    re.VERBOSE | re.IGNORECASE,
)

# The downloader's own 10 waits take more than three minutes where there is no network; 3 take one
# second.
_MAX_RETRIES = 3
_CATALOG = "https://www.tensorflow.org/datasets/catalog"
_BATCH_SIZE = 32  # Fetching examples one by one takes twice the time.


class Source(NamedTuple):
    """The parts of `tfds:NAME[:SPLIT][:FIELD]`; `field` is None where there is none."""

    name: str
    split: str
    field: str


def parse(source):
    """Takes a source apart.

    ```python
    parse("tfds:lm1b:1.1.0:train[:10%]:text")  # Source("lm1b:1.1.0", "train[:10%]", "text")
    ```

    Args:
      source: str.

    Returns:
      `Source`.

    Raises:
      UserError: it is malformed.
    """
    found = _SOURCE.fullmatch(source)
    if not found:
        raise UserError(
            f"{source}: malformed; write tfds:NAME[:SPLIT][:FIELD], as in "
            "tfds:wikipedia/20230601.en or tfds:lm1b:1.1.0:train[:10%]:text"
        )
    return Source(found["name"], found["split"] or DEFAULT_SPLIT, found["field"])


class TextSplit:
    """The texts of a split, of a slice (`train[:10%]`) or of several (`train+test`).

    Iterating yields one text after the other (bytes), in the order of the split's files.

    Attributes:
      num_examples: how many texts there are.
      num_bytes: size of the split's files; of one that a slice takes a part of, that part.
    """

    def __init__(self, source, default_field):
        """Finds a split; downloads and prepares the data set unless it is prepared.

        Args:
          source: str that `parse` takes.
          default_field: field that holds the text, unless the source names it.

        Raises:
          UserError: no such data set, split or text field, or it cannot be prepared or read.
        """
        name, self._split, field = parse(source)
        self._source = source
        self._field = field or default_field
        self._builder = _find(source, name)
        _check_field(source, self._builder, self._field)  # Before a download of hours.
        _prepare(source, name, self._builder)
        parts = _file_instructions(source, self._builder, self._split)
        self.num_examples = sum(part.take for part in parts)
        with self._reading():
            self.num_bytes = sum(
                tf.io.gfile.stat(part.filename).length * part.take // part.examples_in_shard
                for part in parts
            )

    def __iter__(self):
        import tensorflow_datasets as tfds

        # One file after the other, and nothing kept in memory.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False, skip_prefetch=True)
        with self._reading():
            examples = self._builder.as_dataset(
                split=self._split, shuffle_files=False, read_config=config
            )
            texts = examples.map(lambda example: example[self._field])
            for batch in texts.batch(_BATCH_SIZE).prefetch(1).as_numpy_iterator():
                yield from batch

    @contextlib.contextmanager
    def _reading(self):
        try:
            yield
        except tf.errors.OpError as error:
            raise UserError(
                f"{self._source}: cannot read what is prepared in {self._builder.data_dir}: "
                f"{_brief(error)}; remove that folder and prepare it again"
            ) from None


def _find(source, name):
    import tensorflow_datasets as tfds

    dataset = re.split("[/:]", name)[0]
    folder = tfds.core.constants.DATA_DIR
    try:
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        prepared = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
        known = [*prepared, *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(dataset, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"see {_CATALOG}"
        raise UserError(
            f"{source}: TensorFlow Datasets knows no '{name}', and none is prepared in {folder} "
            f"(TFDS_DATA_DIR); {hint}"
        ) from None
    except (OSError, tf.errors.OpError, json.JSONDecodeError, json_format.ParseError) as error:
        raise UserError(
            f"{source}: cannot read what is prepared in {folder}: {_brief(error)}; remove its "
            "folder there and prepare it again"
        ) from None
    except (
        ValueError,  # An unknown configuration.
        AssertionError,  # An unknown version.
        ImportError,  # A data set whose code needs another package.
    ) as error:
        raise UserError(f"{source}: {_brief(error)}; see {_CATALOG}/{dataset}") from None


def _check_field(source, builder, field):
    specs = builder.info.features.get_tensor_spec()
    remedy = "name one as in tfds:NAME:SPLIT:FIELD, or with --json_field"
    if field not in specs:
        raise UserError(
            f"{source}: no field '{field}'; it has {', '.join(sorted(specs))}; {remedy}"
        )
    text = tf.TensorSpec((), tf.string)
    if specs[field] != text:
        texts = ", ".join(sorted(name for name, spec in specs.items() if spec == text)) or "none"
        raise UserError(f"{source}: field '{field}' is no text; those that are: {texts}; {remedy}")


def _prepare(source, name, builder):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager, downloader, extractor

    downloader.MAX_RETRIES = _MAX_RETRIES
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except (
        OSError,  # Those of `requests` and `urllib` are among them.
        tf.errors.OpError,
        tfds.download.DownloadError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
        ImportError,
        AssertionError,  # Files that have to be downloaded by hand.
        ValueError,  # A version that only an older TensorFlow Datasets can prepare.
    ) as error:
        if isinstance(error, files.WRITE_ERRORS) and files.no_room(error):
            raise
        raise UserError(
            f"{source}: cannot download and prepare it in {builder.data_dir_root}: "
            f"{_brief(error)}; mend that, or prepare it on another machine ('tfds build {name}') "
            "and set TFDS_DATA_DIR to the folder that holds it"
        ) from None


def _file_instructions(source, builder, split):
    """Which examples of which files make up a split."""
    try:
        parts = builder.info.splits[split].file_instructions
    # A slice of "all" is not implemented; a data set without splits raises a KeyError.
    except (ValueError, NotImplementedError, KeyError) as error:
        raise UserError(
            f"{source}: {_brief(str(error).splitlines()[-1])}; its splits: "
            f"{', '.join(builder.info.splits)}; a slice is written as in train[:10%]"
        ) from None
    if not parts:
        raise UserError(f"{source}: '{split}' holds no examples; choose another split or slice")
    return parts


def _brief(error):
    """What an exception says, in one line and without the names of TensorFlow's operations."""
    message = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error), flags=re.DOTALL)
    return textwrap.shorten(message, 400, placeholder=" ...").rstrip(".;: ")
