"""Asks a model that TensorFlow Serving runs.

  python -m electra_tf.serving.query --server=localhost:8500 --model=sst2_text "A fine film." "Dull."
  python -m electra_tf.serving.query --server=http://localhost:8501 --model=sst2_text --json < texts.txt
  python -m electra_tf.serving.query --server=localhost:8500 --model=sst2_text --status

Texts are arguments, or lines of --input_file or of standard input. A tab separates the texts of a pair,
a question from its context, a text from its choices. docs/serving_client.md says more.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import sys

from absl import flags

from electra_tf import commands
from electra_tf.errors import UserError

_LONGEST_CELL = 60  # Characters.


def define_flags(values):
    flags.DEFINE_string(
        "server",
        None,
        "host:port for gRPC, http://host:port or https://host:port for REST.",
        flag_values=values,
    )
    flags.DEFINE_string("model", None, "Name of the model on the server.", flag_values=values)
    flags.mark_flags_as_required(["server", "model"], flag_values=values)
    flags.DEFINE_integer(
        "version", None, "Version (default: the newest).", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("label", None, "Label of a version, in its place.", flag_values=values)
    flags.DEFINE_string(
        "input_file", None, "File of texts, a line each; in UTF-8.", flag_values=values
    )
    flags.DEFINE_bool("json", False, "Print a line of JSON for each text.", flag_values=values)
    flags.DEFINE_bool("status", False, "Print the model's versions instead.", flag_values=values)
    flags.DEFINE_bool("metadata", False, "Print its signatures instead.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Texts a request.", lower_bound=1, flag_values=values)
    flags.DEFINE_float(
        "timeout", 30.0, "Seconds for a request with its retries.", flag_values=values
    )
    flags.DEFINE_integer(
        "retries",
        3,
        "Tries after the first one, where the server is not reachable or too busy.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "tls",
        False,
        "gRPC over TLS, with the usual root certificates; --tls_root implies it.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "tls_root", None, "PEM file of the root certificates to trust.", flag_values=values
    )
    flags.DEFINE_string(
        "tls_certificate", None, "PEM file of the client's own certificate.", flag_values=values
    )
    flags.DEFINE_string("tls_key", None, "PEM file of the key to it.", flag_values=values)


def _run(values, texts):
    if values.status + values.metadata + bool(values.input_file) + bool(texts) > 1:
        raise UserError("give one of texts, --input_file, --status and --metadata")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # What fails is told in one line.
    from electra_tf.serving.client import Client

    with Client(
        values.server,
        values.model,
        version=values.version,
        version_label=values.label,
        timeout=values.timeout,
        retries=values.retries,
        credentials=_credentials(values),
    ) as client:
        if values.status:
            _print_status(client.status(), values.json)
        elif values.metadata:
            _print_metadata(client.metadata(), values.json)
        else:
            _predict(client, _lines(values.input_file, texts), values)


def _credentials(values):
    from electra_tf.serving.server import Credentials

    files = (values.tls_root, values.tls_certificate, values.tls_key)
    return Credentials(*files) if values.tls or any(files) else None


def _lines(input_file, texts):
    """Yields pairs of a place, for messages, and a text."""
    if texts:
        yield from ((f"argument {number}", text) for number, text in enumerate(texts, 1))
        return
    if not input_file and sys.stdin.isatty():
        raise UserError("no texts; give them as arguments, in --input_file or on standard input")
    name = input_file or "standard input"
    try:
        given = contextlib.nullcontext(sys.stdin)
        with open(input_file, encoding="utf-8") if input_file else given as stream:
            for number, line in enumerate(stream, 1):
                yield f"{name}:{number}", line.rstrip("\r\n")
    except OSError as error:
        raise UserError(f"{name}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8") from None


def _predict(client, lines, values):
    shown = []
    while batch := list(itertools.islice(lines, values.batch_size)):
        names = client.text_inputs()
        results = client.predict([_item(place, line, names) for place, line in batch])
        if values.json:
            for result in results:
                _print_json(result)
        else:
            shown += zip((line for _, line in batch), results)
    if shown:
        _print_table(*_table(shown))


def _item(place, line, names):
    """What `Client.predict` takes, of a line."""
    if len(names) == 1:
        return line
    first, *rest = line.split("\t")
    if names[1] == "choices":
        return first, rest
    if len(rest) != 1:
        raise UserError(f"{place}: {len(rest)} tabs; one is to separate {' and '.join(names)}")
    return first, *rest


def _table(shown):
    """Title of each column, and rows of str, of texts and their results."""
    headers, rows_of = _TABLES[type(shown[0][1]).__name__]
    rows = []
    for line, result in shown:
        text = line.replace("\t", " | ")
        if len(text) > _LONGEST_CELL:
            text = text[: _LONGEST_CELL - 1] + "…"
        for cells in rows_of(result) or [[""] * len(headers)]:
            rows.append([text, *(f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells)])
            text = ""
    return ["text", *headers], rows


def _best_answer(result):
    return [(result.answer, result.score, result.start, result.end)] if result.answer else []


def _tokens(result):
    return [
        (number, token.token, token.score)
        for number, mask in enumerate(result.masks, 1)
        for token in mask
    ]


# By the kind of result: columns, and what stands there, a row or several for a text.
_TABLES = {
    "Classification": (("label", "score"), lambda r: [(r.label, r.score)]),
    "MultiLabel": (("label", "score"), lambda r: [(label, r.scores[label]) for label in r.labels]),
    "MultipleChoice": (
        ("label", "choice", "score"),
        lambda r: [(r.label, r.choice, r.score)],
    ),
    "Regression": (("value",), lambda r: [(r.value,)]),
    "Tagging": (
        ("word", "label", "score", "start", "end"),
        lambda r: [dataclasses.astuple(word) for word in r.words],
    ),
    "Answers": (("answer", "score", "start", "end"), _best_answer),
    "FilledMasks": (("mask", "token", "score"), _tokens),
    "ReplacedTokens": (
        ("piece", "start", "end", "replaced_probability"),
        lambda r: [dataclasses.astuple(piece) for piece in r.pieces],
    ),
    "GeneratedText": (("generated_probability",), lambda r: [(r.generated_probability,)]),
}


def _print_status(versions, as_json):
    if as_json:
        for version in versions:
            _print_json(version)
        return
    rows = [(str(one.version), one.state, one.error) for one in versions]
    _print_table(("version", "state", "error"), rows)


def _print_metadata(metadata, as_json):
    if as_json:
        _print_json(metadata)
        return
    rows = [
        (name, side, tensor, info.dtype, _shape(info.shape))
        for name, signature in metadata.signatures.items()
        for side, infos in (("input", signature.inputs), ("output", signature.outputs))
        for tensor, info in infos.items()
    ]
    title = f"version {metadata.version}"
    _print_table(("signature", "", "name", "dtype", "shape"), rows, title)


def _shape(shape):
    sizes = ["…"] if shape is None else ["?" if size is None else str(size) for size in shape]
    return f"[{', '.join(sizes)}]"


def _print_json(result):
    print(json.dumps(dataclasses.asdict(result), ensure_ascii=False), flush=True)


def _print_table(headers, rows, title=None):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, title=title)
    for row in rows:
        table.add_row(*map(Text, row))  # As `Text`: "[MASK]" is no markup.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv, takes_arguments=True)


if __name__ == "__main__":
    sys.exit(main())
