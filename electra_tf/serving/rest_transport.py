"""TensorFlow Serving over REST.

Requests have the columnar format (`inputs`): the other one (`instances`) has no outputs without a batch
axis, and no batches of unequal outputs.
"""

import base64
import json
import urllib.parse

import numpy as np
import requests

from electra_tf.serving import server
from electra_tf.serving.errors import MessageTooLarge, error_of

_CHUNK_BYTES = 1 << 16

# gRPC's name of what HTTP calls by a number; a server maps several to 400 and to 500.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class RestTransport:
    """See `Client`, whose calls these are, once each; errors are those of `errors.error_of`."""

    def __init__(self, target, credentials, max_message_bytes):
        self._target, self._max_message_bytes = target, max_message_bytes
        self._session = requests.Session()
        # Given with each request: REQUESTS_CA_BUNDLE would go before the session's own.
        self._tls = {}
        if credentials is not None:
            self._tls["verify"] = credentials.root_certificate or True
            if credentials.certificate:
                self._tls["cert"] = (credentials.certificate, credentials.key)
        self._model_url = (
            f"{target.address.rstrip('/')}/v1/models/{urllib.parse.quote(target.model, safe='')}"
        )
        self._url = self._model_url
        if target.version is not None:
            self._url += f"/versions/{target.version}"
        if target.label is not None:
            self._url += f"/labels/{urllib.parse.quote(target.label, safe='')}"
        self._outputs = {}  # Of signatures, as they were last told.

    def close(self):
        self._session.close()

    def predict(self, inputs, signature, deadline):
        """Dict of arrays for a dict of arrays, those of strings of bytes."""
        body = {
            "signature_name": signature,
            "inputs": {name: _json_of(array.tolist()) for name, array in inputs.items()},
        }
        (outputs,) = self._ask(("outputs",), f"{self._url}:predict", deadline, body)
        values = self._named(outputs, signature)
        if values is None:  # The first time, or another version came meanwhile.
            signatures = self.metadata(deadline).signatures
            self._outputs = {name: one.outputs for name, one in signatures.items()}
            values = self._named(outputs, signature)
        if values is None:
            raise error_of(self._target, "UNAVAILABLE", "its version changed during the request")
        infos = self._outputs[signature]
        return {name: _array(value, infos[name].dtype) for name, value in values.items()}

    def _named(self, outputs, signature):
        """Outputs by name, which a single one came without; None where the signature has others."""
        infos = self._outputs.get(signature, ())
        is_single = not isinstance(outputs, dict) or set(outputs) == {"b64"}
        named = dict.fromkeys(infos, outputs) if is_single else outputs
        return named if set(named) == set(infos) and (len(infos) == 1) == is_single else None

    def classify(self, examples, signature, deadline):
        """List of dicts from label to score, for a list of dicts of features."""
        return [dict(row) for row in self._results(":classify", examples, signature, deadline)]

    def regress(self, examples, signature, deadline):
        """List of floats, for a list of dicts of features."""
        return self._results(":regress", examples, signature, deadline)

    def _results(self, method, examples, signature, deadline):
        body = {"signature_name": signature, "examples": _json_of(examples)}
        (results,) = self._ask(("results",), self._url + method, deadline, body)
        return results

    def metadata(self, deadline):
        """`server.Metadata`."""
        url = f"{self._url}/metadata"
        spec, metadata = self._ask(("model_spec", "metadata"), url, deadline)
        return server.metadata_of(spec, metadata["signature_def"])

    def status(self, deadline):
        """List of `server.VersionStatus`, of all versions."""
        (versions,) = self._ask(("model_version_status",), self._model_url, deadline)
        return server.statuses_of(versions)

    def _ask(self, keys, url, deadline, body=None):
        """Values of the JSON object that is answered to a POST of `body`, or to a GET."""
        content = None if body is None else json.dumps(body).encode()
        self._check_size(len(content or b""))
        try:
            code, text = self._exchange(url, deadline, content)
        except requests.exceptions.RequestException as error:
            is_late = isinstance(error, requests.exceptions.Timeout) or not deadline.allows(0)
            name = "DEADLINE_EXCEEDED" if is_late else "UNAVAILABLE"
            reason = getattr(error.args[0], "reason", error) if error.args else error
            raise error_of(self._target, name, str(reason)) from None
        answer = _parsed(text)
        if code != requests.codes.ok:
            details = f"HTTP {code}: {answer.get('error', text)}"
            if code == requests.codes.request_entity_too_large:
                raise MessageTooLarge(self._target, "RESOURCE_EXHAUSTED", details)
            raise error_of(self._target, _CODES.get(code, "UNKNOWN"), details)
        if not all(key in answer for key in keys):
            details = f"not what TensorFlow Serving answers: {text}"
            raise error_of(self._target, "UNKNOWN", details)
        return [answer[key] for key in keys]

    def _exchange(self, url, deadline, content):
        """The code and the text of an answer."""
        headers = {"Content-Type": "application/json"}
        with self._session.request(
            "GET" if content is None else "POST",
            url,
            data=content,
            headers=headers,
            timeout=deadline.remaining,
            stream=True,
            **self._tls,
        ) as response:
            parts, size = [], 0
            for part in response.iter_content(_CHUNK_BYTES):
                size += len(part)
                self._check_size(size)
                if not deadline.allows(0):  # `timeout` is that of each read.
                    raise requests.exceptions.ReadTimeout("the answer takes too long")
                parts.append(part)
            # Strings are as the model gives them: surrogates stand for what is not UTF-8 in them.
            return response.status_code, b"".join(parts).decode("utf-8", "surrogateescape")

    def _check_size(self, size):
        if size > self._max_message_bytes:
            details = f"more than {self._max_message_bytes} bytes"
            raise MessageTooLarge(self._target, "RESOURCE_EXHAUSTED", details)


def _parsed(text):
    """The JSON object in a text; {} where there is none, as in a proxy's page."""
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _json_of(value):
    """Nested lists and dicts with str for bytes, or base64 where they are not UTF-8."""
    if isinstance(value, list):
        return [_json_of(item) for item in value]
    if isinstance(value, dict):
        return {name: _json_of(item) for name, item in value.items()}
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _array(value, dtype):
    """An array of nested lists."""
    if dtype != "string":
        return np.array(value, dtype)
    texts = np.array(value, object)
    array = np.empty(texts.size, object)
    array[:] = [_bytes_of(text) for text in texts.ravel()]
    return array.reshape(texts.shape)


def _bytes_of(text):
    """Of a str, or of the base64 that outputs have whose name ends in `_bytes`."""
    if isinstance(text, dict):
        return base64.b64decode(text["b64"])
    return text.encode("utf-8", "surrogateescape")
