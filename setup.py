"""Packaging of electra_tf. Everything a user installs is declared here."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (ROOT / "electra_tf" / "version.py").read_text(), re.M
).group(1)

SERVING = ["grpcio", "requests", "tensorflow-serving-api==2.20.*"]
# Later ones pin a kagglesdk that the kaggle of tf-models-official refuses.
KERAS_HUB = ["keras-hub>=0.25,<0.30"]

setup(
    name="electra_tf",
    version=VERSION,
    description="ELECTRA for TensorFlow and Keras 3: from raw text to a pre-trained encoder.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["electra_tf", "electra_tf.*"]),
    package_data={"electra_tf": ["*.npz", "*.txt", "tasks/builtin/*.yaml"]},
    python_requires=">=3.10,<3.14",
    # An unpinned tensorflow-hub or tf_keras moves TensorFlow to 2.21, which breaks
    # tensorflow-text; tensorflow-hub still imports pkg_resources (setuptools < 81).
    install_requires=[
        "tensorflow~=2.20.0",
        "tensorflow-text~=2.20.0; platform_system != 'Windows'",
        "tf-models-official~=2.20.0",
        "tf_keras~=2.20.0",
        "keras>=3.12,<3.16",
        "setuptools<81",
        "absl-py",
        "annotated-types",
        "flatbuffers",
        "importlib_resources",  # tensorflow-datasets 4.9 imports it without declaring it.
        "matplotlib",
        "numpy",
        "pillow",
        "psutil",
        "pydantic>=2",
        "pyyaml",
        "rich",
        "safetensors",
        "scikit-learn",
        "scipy",
        "seqeval",
        "tensorflow-datasets",
        "tensorflow-serving-api==2.20.*",  # The exporter writes requests of warm-up.
        "tokenizers>=0.20",
        "tqdm",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]~=2.20.0"],
        "keras_hub": KERAS_HUB,
        "notebook": ["ipykernel", "nbclient"],
        "openvino": ["openvino"],
        "serving": SERVING,
        "test": [
            *SERVING,
            *KERAS_HUB,
            "cryptography",
            "hypothesis",
            "ipykernel",
            "nbclient",
            "nbformat",
            "openvino",
            "pytest",
            "pytest-xdist>=3.8",
            "ruff",
        ],
        "benchmarks": ["transformers>=4.57,<5"],
    },
    entry_points={
        "console_scripts": [
            "electra-build-vocab=electra_tf.commands.build_vocab:main",
            "electra-build-pretraining-data=electra_tf.commands.build_pretraining_data:main",
            "electra-pretrain=electra_tf.commands.pretrain:main",
            "electra-finetune=electra_tf.commands.finetune:main",
            "electra-export=electra_tf.commands.export:main",
            "electra-extend-vocab=electra_tf.commands.extend_vocab:main",
            "electra-convert=electra_tf.commands.convert:main",
            "electra-generate=electra_tf.commands.generate:main",
            "electra-play=electra_tf.commands.play:main",
            "electra-verify-export=electra_tf.commands.verify_export:main",
            "electra-query=electra_tf.commands.query:main",
            "electra-plan=electra_tf.commands.plan:main",
            "electra-demo=electra_tf.commands.demo:main",
        ]
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
