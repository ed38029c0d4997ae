"""Packaging of flowdet. detectron2 is not on PyPI: `flowdet-install-detectron2` installs it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
# flowdet-export: torch writes ONNX files with onnx and onnxscript, onnxruntime runs them
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
# conversions of the results of flowdet.load
NOTEBOOK = ["pandas", "supervision"]


def read_version() -> str:
    """The version in flowdet/__init__.py, read as text: what flowdet needs is not installed yet."""
    source = ROOT / "flowdet" / "__init__.py"
    match = re.search(r'^__version__ = "([^"]+)"$', source.read_text(encoding="utf-8"), re.M)
    if match is None:
        raise SystemExit(f'{source} has no line like __version__ = "0.1.0": add one.')
    return match.group(1)


# detectors that benchmarks/bench.py compares with: DETR and RT-DETR
BENCH = ["transformers"]

COMMANDS = ("train", "demo", "export", "check-data", "report")

setup(
    name="flowdet",
    version=read_version(),
    description="Object detection and classification by block-local flow matching, on detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # the config files stay at the top of the checkout and are installed as flowdet/configs
    packages=[*find_packages(include=["flowdet", "flowdet.*"]), "flowdet.configs"],
    package_dir={"flowdet.configs": "configs"},
    package_data={
        "flowdet.configs": ["*.yaml", "**/*.yaml"],
        "flowdet.reporting.report": ["*.jinja"],
        "flowdet.visualization.explorer": ["*.jinja", "*.js"],
    },
    py_modules=["flowdet_install"],
    python_requires=">=3.10",
    # What only detectron2 needs is installed with it, except OpenCV, which it does not list.
    install_requires=[
        "torch>=2.10",  # in earlier versions torch.load(weights_only=True) can run code
        "torchvision",
        "numpy",
        "safetensors",  # weights as tensors alone, without pickle
        "scipy",
        "Pillow",
        "opencv-python-headless",
        "scikit-learn",  # the generated datasets consist of its handwritten digits
        "matplotlib",
        "jinja2",  # the HTML pages of flowdet-report and --explore; torch needs it too
        "tqdm",
    ],
    extras_require={
        "export": EXPORT,
        "notebook": NOTEBOOK,
        "bench": BENCH,
        "dev": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            # of pyproject.toml; the tests build a wheel without fetching it
            "setuptools>=77",
            "import-linter>=2.10",  # the layers in pyproject.toml
            "mkdocs-material",
            *EXPORT,
            *NOTEBOOK,
        ],
    },
    entry_points={
        "console_scripts": [
            "flowdet-install-detectron2 = flowdet_install:main",
            *[f"flowdet-{name} = flowdet.cli.{name.replace('-', '_')}:main" for name in COMMANDS],
        ]
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
