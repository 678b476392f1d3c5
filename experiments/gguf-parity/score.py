"""Perplexity in llama.cpp of the windows of token ids on standard input; runs where llama-cpp-python is installed.

python score.py MODEL.gguf < windows.json
"""

import json
import sys

import numpy as np
from llama_cpp import Llama


def window_nll(model: Llama, ids: list[int]) -> float:
    """Mean negative log-likelihood of every token but the first, given all before it."""
    model.reset()
    model.eval(ids)
    logits = model.scores[: len(ids) - 1].astype(np.float64)
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return float((total - logits[np.arange(len(ids) - 1), ids[1:]]).mean())


def main() -> None:
    """Read {windows: [[id, ...], ...], text: str or null}; print the mean NLLs and llama.cpp's own ids of the text."""
    request = json.load(sys.stdin)
    length = len(request["windows"][0])
    # use_extra_bufts: repacked weights crashed this build while scoring k-quants
    options = {"logits_all": True, "verbose": False, "n_ctx": length, "n_batch": length, "use_extra_bufts": False}
    model = Llama(sys.argv[1], n_threads=1, n_threads_batch=1, **options)
    answer = {"nll": [window_nll(model, ids) for ids in request["windows"]]}
    if request["text"] is not None:
        answer["ids"] = model.tokenize(request["text"].encode(), add_bos=False, special=False)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
