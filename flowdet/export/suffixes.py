"""The suffixes of exported files, by format. Commands read them before torch is loaded."""

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
