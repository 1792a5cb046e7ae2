"""A client for TensorFlow Serving; it imports none of TensorFlow's Python code."""

from electra_tf.serving.client import Client
from electra_tf.serving.errors import (
    BatchTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    MessageTooLarge,
    ModelNotFound,
    ServingError,
    Unavailable,
    VersionNotFound,
)
from electra_tf.serving.results import (
    Answer,
    Answers,
    Classification,
    FilledMasks,
    GeneratedText,
    MultiLabel,
    MultipleChoice,
    Piece,
    Regression,
    ReplacedTokens,
    TaggedWord,
    Tagging,
    Token,
)
from electra_tf.serving.server import Credentials, Metadata, Signature, TensorInfo, VersionStatus

__all__ = [
    "Answer",
    "Answers",
    "BatchTooLarge",
    "Classification",
    "Client",
    "Credentials",
    "DeadlineExceeded",
    "FilledMasks",
    "GeneratedText",
    "InvalidRequest",
    "MessageTooLarge",
    "Metadata",
    "ModelNotFound",
    "MultiLabel",
    "MultipleChoice",
    "Piece",
    "Regression",
    "ReplacedTokens",
    "ServingError",
    "Signature",
    "TaggedWord",
    "Tagging",
    "TensorInfo",
    "Token",
    "Unavailable",
    "VersionNotFound",
    "VersionStatus",
]
