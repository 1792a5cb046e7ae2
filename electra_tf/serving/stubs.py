"""The official stubs of TensorFlow Serving, without the rest of TensorFlow's Python code.

They import protocol buffers of the package `tensorflow`, whose own `__init__` takes seconds and
hundreds of megabytes. While they are imported, an empty module with that package's path stands in for
it; a later `import tensorflow` finds everything as usual.
"""

import contextlib
import importlib.util
import sys
import types

from electra_tf.errors import UserError


@contextlib.contextmanager
def _empty_tensorflow():
    if "tensorflow" in sys.modules:
        yield
        return
    stand_in = types.ModuleType("tensorflow")
    stand_in.__path__ = list(importlib.util.find_spec("tensorflow").submodule_search_locations)
    sys.modules["tensorflow"] = stand_in
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


if importlib.util.find_spec("tensorflow_serving") is None:
    raise UserError("tensorflow-serving-api is not installed: pip install 'electra_tf[serving]'")

with _empty_tensorflow():
    from tensorflow.core.example.example_pb2 import Example
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.framework.types_pb2 import DataType
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
    from tensorflow_serving.apis.get_model_metadata_pb2 import (
        GetModelMetadataRequest,
        SignatureDefMap,
    )
    from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
    from tensorflow_serving.apis.model_pb2 import ModelSpec
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest

__all__ = [
    "ClassificationRequest",
    "DataType",
    "Example",
    "GetModelMetadataRequest",
    "GetModelStatusRequest",
    "ModelServiceStub",
    "ModelSpec",
    "PredictRequest",
    "PredictionServiceStub",
    "RegressionRequest",
    "SignatureDefMap",
    "TensorProto",
]
