"""The exported model of strings in TensorFlow's C API, as a server runs it, for benchmarks/serving.py."""

import numpy as np
from protocol import serve_requests

from electra_tf.export.c_session import CSession


def build(task):
    """As `protocol.serve_requests` wants it."""
    session = CSession(task["saved_model"], task["operations"])

    def predict(texts):
        texts = np.array([text.encode() for text in texts], object)
        [scores] = session.run({task["input"]: texts}, [task["output"]])
        return scores.tolist()

    for texts in task["warm_up"]:
        predict(texts)
    return predict


if __name__ == "__main__":
    serve_requests(build)
