"""Errors of llama.cpp's own quantizer on seeded tensors, through ggml_quantize_chunk; see README.md."""

import ctypes
import json
import sys
from importlib import metadata
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from problems import CASES, problem, relative_error

TYPES = ("Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K")
FLOATS = ctypes.POINTER(ctypes.c_float)


def library() -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    ggml = ctypes.CDLL(str(next(folder.glob("libggml-base.*"))))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        FLOATS,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return ggml


def quantized(ggml: ctypes.CDLL, name: str, weight: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[name]
    blocks = np.zeros(gguf.quant_shape_to_byte_shape(weight.shape, kind), np.uint8)
    rows, columns = weight.shape
    pointer = None if importance is None else importance.ctypes.data
    source = weight.ctypes.data_as(FLOATS)
    written = ggml.ggml_quantize_chunk(int(kind), source, blocks.ctypes.data, 0, rows, columns, pointer)
    assert written == blocks.nbytes
    return gguf.dequantize(blocks, kind)


def main(destination: Path) -> None:
    ggml, errors = library(), {}
    for name in TYPES:
        for case in CASES:
            weight, importance = problem(case)
            for imatrix in (False, True):
                value = quantized(ggml, name, weight, importance if imatrix else None)
                weighed = importance if imatrix else np.ones_like(importance)
                errors[f"{name} {case} {'imatrix' if imatrix else 'plain'}"] = relative_error(value, weight, weighed)
    versions = {name: metadata.version(name) for name in ("llama-cpp-python", "numpy")}
    destination.write_text(json.dumps({"versions": versions, "errors": errors}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
