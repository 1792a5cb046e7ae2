"""What a server answers in place of a result."""

from electra_tf.errors import UserError

_LONGEST = 500  # Characters of a server's message; TensorFlow's may fill pages.


class ServingError(UserError):
    """A server did not give a result.

    Attributes:
      code: str, gRPC's name of what happened, such as "NOT_FOUND", over REST as well.
      details: str, what the server said.
    """

    problem = "the server failed"
    remedy = "the server's log may say more"

    def __init__(self, where, code, details):
        """Takes what was asked (a `server.Target`), the code, and what the server said."""
        details = " ".join(details.split())[:_LONGEST]
        super().__init__(f"{where}: {self.problem} ({code}: {details}); {self.remedy}")
        self.code, self.details = code, details


class ModelNotFound(ServingError):
    """The server has no model of this name, or none of its versions is loaded."""

    problem = "no such model"
    remedy = "check its name, and in the server's log whether it was loaded"


class VersionNotFound(ServingError):
    """The server has the model, but not this version, or no such label."""

    problem = "no such version"
    remedy = "ask for the versions there are by Client.status() or --status"


class InvalidRequest(ServingError):
    """The model does not take these inputs, or has no such signature."""

    problem = "the request does not fit the model"
    remedy = "see what it takes by Client.metadata() or --metadata"


class DeadlineExceeded(ServingError):
    """No result within the timeout."""

    problem = "no result in time"
    remedy = "raise the timeout, or send less at a time"


class Unavailable(ServingError):
    """Nothing listens there, or the server has too much to do; asked again, it may answer."""

    problem = "not reachable, or too busy"
    remedy = (
        "check the address and TLS (servers have gRPC at 8500, REST at 8501, if not told otherwise)"
    )


class BatchTooLarge(InvalidRequest):
    """A request has more rows than the server joins to a batch."""

    problem = "too many rows at once"
    remedy = "send fewer at a time (--batch_size), or export with a larger --max_batch_size"


class MessageTooLarge(ServingError):
    """A request or an answer is larger than one side takes."""

    problem = "a message is too large"
    remedy = "send less at a time, or raise max_message_bytes"


_BY_CODE = {
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "FAILED_PRECONDITION": InvalidRequest,
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": ModelNotFound,
    "OUT_OF_RANGE": InvalidRequest,
    "RESOURCE_EXHAUSTED": Unavailable,
    "UNAVAILABLE": Unavailable,
}


def error_of(target, code, details):
    """The `ServingError` for a code of gRPC.

    Args:
      target: `server.Target`.
      code: its name.
      details: what the server, or gRPC, said.
    """
    kind = _BY_CODE.get(code, ServingError)
    # Codes that mean several things.
    if "message larger than max" in details:
        kind = MessageTooLarge
    elif "larger than maximum input batch size" in details:
        kind = BatchTooLarge
    elif "Specific(" in details or "version label:" in details:
        kind = VersionNotFound
    return kind(target, code, details)
