#!/usr/bin/env bash
# Makes the environments that benchmarks/pretrain_throughput.py runs the others in:
#
#   bash benchmarks/make_envs.sh [FOLDER]        # default: .bench-envs in the repository
#
# Each is pinned, and one that is finished with the same pins is left as it is. About 5 GB.
# PYTHON: interpreter to make them with (default: that of .venv, else python3).
# TORCH:  requirement or wheel file of PyTorch (default: torch==2.13.0). Where pip would take a
#         build with CUDA, give PIP_EXTRA_INDEX_URL the index of CPU builds and TORCH=torch==2.13.0+cpu.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/.bench-envs}
own_python=$root/.venv/bin/python
[ -x "$own_python" ] || own_python=python3
python=${PYTHON:-$own_python}

# make NAME REQUIREMENT...
make() {
    local env=$folder/$1
    shift
    if [ "$(cat "$env/installed" 2>/dev/null)" = "$*" ]; then
        echo "$env is there"
        return
    fi
    rm -rf "$env"
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet "$@"
    echo "$*" >"$env/installed" # Last: only a finished environment has it.
    echo "$env is made"
}

# 4.57 is the last release of transformers with TensorFlow.
make transformers-tf transformers==4.57.6 tensorflow==2.20.0 tf_keras==2.20.1 'setuptools<81'
make transformers-torch transformers==5.23.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 \
    "${TORCH:-torch==2.13.0}"

# The package itself depends on tf-models-official.
if "$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("official"))'; then
    echo "tf-models-official is in $python's environment"
else
    make tf-models-official tf-models-official==2.20.0 tensorflow==2.20.0 tensorflow-text==2.20.1 \
        tf_keras==2.20.1 importlib_resources 'setuptools<81'
fi
