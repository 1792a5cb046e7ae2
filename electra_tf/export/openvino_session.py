"""Runs a SavedModel of ids by OpenVINO, a runtime that shares no code with TensorFlow.

python -m electra_tf.export.openvino_session MODEL_FOLDER REQUEST.npz RESULT.npz
"""

import sys

from electra_tf.export.c_session import read_arrays, write_arrays


def main(argv):
    """Reads the inputs of `serving_default` by their names, and writes the outputs."""
    import openvino

    folder, request, result = argv
    # By default it computes in half precision where the machine can.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(folder, "CPU", options)
    outputs = model(read_arrays(request))
    write_arrays(result, {output.get_any_name(): value for output, value in outputs.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
