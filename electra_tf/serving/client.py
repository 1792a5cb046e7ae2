"""Asks models that TensorFlow Serving runs, over gRPC or REST."""

import math
import random
import re
import time

from electra_tf.errors import UserError
from electra_tf.serving.errors import InvalidRequest, Unavailable, VersionNotFound
from electra_tf.serving.inputs import (
    array_of,
    as_lists,
    columns_of,
    example_of,
    feature_of,
    text_array,
)
from electra_tf.serving.results import Classification, Regression, results_of
from electra_tf.serving.server import Deadline, Target

_SERVING_DEFAULT = "serving_default"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # Seconds between tries of a call.

# Inputs of strings, in the order of a tuple's items.
_TEXT_INPUTS = (
    ("text",),
    ("text", "text_pair"),
    ("question", "context"),
    ("text", "choices"),
)


class Client:
    """A model on a server.

    ```python
    with Client("localhost:8500", model="sst2_text") as client:
        client.predict(["A fine film.", "Dull."])
        # [Classification(label="1", score=0.98, scores={"0": 0.02, "1": 0.98}), ...]
    ```

    Every method but `close` raises a `ServingError` that names the server, the model, what is the
    matter and what may help: `Unavailable`, `DeadlineExceeded`, `ModelNotFound`, `VersionNotFound`,
    `InvalidRequest`, `MessageTooLarge`.

    A call is tried again, up to `retries` times and within `timeout`, where the server cannot be
    reached or has too much to do (gRPC's UNAVAILABLE and RESOURCE_EXHAUSTED, HTTP's 503 and 429); after
    a pause of 0.1 seconds, which doubles up to 5, less a random part of up to a half.
    """

    def __init__(
        self,
        address,
        model,
        *,
        version=None,
        version_label=None,
        timeout=30.0,
        retries=3,
        credentials=None,
        max_message_bytes=64 * 2**20,
    ):
        """Connects when it is first asked.

        Args:
          address: `host:port` for gRPC, or `http://host:port`, `https://host:port` for REST.
          model: its name on the server.
          version: int; None for the newest one that is loaded.
          version_label: str, in place of `version`.
          timeout: seconds for a call with all its retries.
          retries: tries after the first one.
          credentials: `Credentials` for TLS; None for gRPC without, and for https with the usual roots.
          max_message_bytes: of a request and of an answer.

        Raises:
          UserError: values that do not fit, files of `credentials` that cannot be read, or
            tensorflow-serving-api is not installed.
        """
        if not model:
            raise UserError("the model has no name; give that by which the server knows it")
        if version is not None and version_label is not None:
            raise UserError("give a version or a version_label, not both")
        if not 0 < timeout < math.inf:
            raise UserError(f"timeout={timeout}: must be a number of seconds above 0")
        if retries < 0 or max_message_bytes < 1:
            raise UserError(
                f"retries={retries}, max_message_bytes={max_message_bytes}: at least 0, and at least 1"
            )
        self._target = Target(address, model, version, version_label)
        self._timeout, self._retries = timeout, retries
        self._text_names = None
        transport = _transport_class(address, credentials)
        self._transport = transport(self._target, credentials, max_message_bytes)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Closes the connection."""
        self._transport.close()

    def predict(self, inputs=None, /, **columns):
        """Results for texts, by a model that was exported for strings (`NAME_text`).

        ```python
        client.predict("A fine film.")
        client.predict([("Who wrote it?", "Jane Austen wrote Emma.")])
        client.predict(text=["One.", "Two."], text_pair=["One!", "Three."])
        ```

        Args:
          inputs: list of texts, or by the model of `(text, text_pair)`, `(question, context)` or
            `(text, choices)`, as `Predictor` takes them. Or a single one that is a str or a tuple.
          **columns: in place of `inputs`, lists by the names of the model's inputs; or a str each, of
            `choices` a list of str.

        Returns:
          list of results in the order of the inputs, of the class in `results` that fits the model; one
          result for a single input.

        Raises:
          ServingError: see the class.
          UserError: an input is no text or not as many as the model takes, or the model takes or gives
            something else.
        """
        deadline = Deadline(self._timeout)
        if columns:
            columns, is_single = as_lists(inputs, columns)
        else:
            is_single = isinstance(inputs, (str, tuple))
            items = [inputs] if is_single else list(inputs)
            columns = columns_of(items, self._ask_text_inputs(deadline)) if items else {}
        if not any(columns.values()):
            return []
        arrays = {name: text_array(name, column) for name, column in columns.items()}
        outputs = self._ask("predict", deadline, arrays, _SERVING_DEFAULT)
        results = results_of(outputs, columns)
        return results[0] if is_single else results

    def text_inputs(self):
        """Names of the strings the model takes, in the order in which `predict` takes a tuple's.

        Returns:
          tuple of str, such as `("text",)` or `("question", "context")`.

        Raises:
          ServingError: see the class.
          UserError: the model takes something else.
        """
        return self._ask_text_inputs(Deadline(self._timeout))

    def raw(self, inputs, signature=_SERVING_DEFAULT):
        """Outputs of any signature for its inputs.

        ```python
        ids = np.array([[2, 1037, 2986, 2143, 3]], np.int32)
        client.raw({"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": 0 * ids})
        ```

        Args:
          inputs: dict of arrays in the dtypes that `metadata` tells; strings as str or bytes.
          signature: its name.

        Returns:
          dict of arrays, those of strings with bytes (dtype object).

        Raises:
          ServingError: see the class.
          UserError: a dtype that cannot be sent.
        """
        arrays = {name: array_of(name, value) for name, value in inputs.items()}
        return self._ask("predict", Deadline(self._timeout), arrays, signature)

    def classify(self, inputs=None, /, **columns):
        """Scores of all labels, by the Classify call and the signature `classify`.

        ```python
        client.classify("A fine film.")
        client.classify([{"input_ids": [2, 1037, 2986, 2143, 3]}])
        client.classify(input_ids=[[2, 1037, 2986, 2143, 3], [2, 3]])
        ```

        Args:
          inputs: list of texts, of `(text, text_pair)`, or of dicts of a tf.Example's features: str, int
            or float, or lists of them. Or a single one that is a str, a tuple or a dict.
          **columns: in place of `inputs`, lists by the features' names, or a str each.

        Returns:
          list of `Classification` with the label of the highest score; one for a single input.

        Raises:
          ServingError: see the class.
          UserError: a feature that a tf.Example cannot have.
        """
        return self._ask_of_examples("classify", Classification.from_scores, inputs, columns)

    def regress(self, inputs=None, /, **columns):
        """Numbers, by the Regress call and the signature `regress`; `inputs` as in `classify`.

        Returns:
          list of `Regression`; one for a single input.

        Raises:
          ServingError: see the class.
          UserError: a feature that a tf.Example cannot have.
        """
        return self._ask_of_examples("regress", Regression, inputs, columns)

    def metadata(self):
        """What the model takes and gives: `Metadata`."""
        return self._ask("metadata", Deadline(self._timeout))

    def status(self):
        """All versions the server has, or had, of the model: list of `VersionStatus`."""
        return self._ask("status", Deadline(self._timeout))

    def _ask_of_examples(self, method, result_of, inputs, columns):
        if columns:
            columns, is_single = as_lists(inputs, columns)
            examples = [dict(zip(columns, row)) for row in zip(*columns.values())]
        else:
            is_single = isinstance(inputs, (str, tuple, dict))
            items = [inputs] if is_single else list(inputs)
            examples = [example_of(number, item) for number, item in enumerate(items)]
        examples = [
            {name: feature_of(number, name, value) for name, value in example.items()}
            for number, example in enumerate(examples)
        ]
        if not examples:
            return []
        answer = self._ask(method, Deadline(self._timeout), examples, method)
        results = [result_of(one) for one in answer]
        return results[0] if is_single else results

    def _ask_text_inputs(self, deadline):
        if self._text_names is None:
            signatures = self._ask("metadata", deadline).signatures
            signature = signatures.get(_SERVING_DEFAULT)
            names = set(signature.inputs) if signature else set()
            found = [order for order in _TEXT_INPUTS if set(order) == names]
            if not found:
                takes = ", ".join(sorted(names)) or f"nothing by {_SERVING_DEFAULT}"
                raise UserError(f"{self._target}: it takes {takes}, no texts; ask by Client.raw()")
            self._text_names = found[0]
        return self._text_names

    def _ask(self, method, deadline, *arguments):
        """Calls a method of the transport, again where it may help."""
        pause = _FIRST_PAUSE
        for tries_left in range(self._retries, -1, -1):
            try:
                return getattr(self._transport, method)(*arguments, deadline)
            except Unavailable:
                seconds = pause * random.uniform(0.5, 1)
                if not tries_left or not deadline.allows(seconds):
                    raise
                time.sleep(seconds)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except VersionNotFound as error:
                raise self._with_versions(error, deadline) from None
            except InvalidRequest:
                self._text_names = None  # Of another version, perhaps.
                raise

    def _with_versions(self, error, deadline):
        """An error that tells the versions there are, or that there is no such model."""
        versions = self._transport.status(deadline)  # Raises ModelNotFound.
        there = ", ".join(f"{one.version} {one.state}" for one in versions)
        return VersionNotFound(self._target, error.code, f"{error.details}; there are {there}")


def _transport_class(address, credentials):
    if re.match("(?i)https?://", address):
        if credentials is not None and address[4] == ":":
            raise UserError(f"{address}: there is no TLS by http://; write https://")
        from electra_tf.serving.rest_transport import RestTransport

        return RestTransport
    if ":" not in address:
        raise UserError(f"{address}: no port; write host:port for gRPC, http://host:port for REST")
    from electra_tf.serving.grpc_transport import GrpcTransport

    return GrpcTransport
