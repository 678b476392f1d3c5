"""llm-compressor on given token ids: writes the dequantized fp32 model as a HF directory and prints JSON with seconds.

    python llmcompressor_run.py MODEL_DIR IDS OUT_DIR [--method gptq] [--bits 4] [--group 64]

IDS: a .npy file of token ids [samples, seqlen]. Needs llmcompressor 0.14.0.1 in an environment of its own.
"""

import argparse
import json
import resource
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def recipe(method: str, bits: int, group: int) -> list:
    """Asymmetric groups on every linear of the decoder blocks; everything else at the library's defaults."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    weights = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": group}
    scheme = {"config_groups": {"all": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
    if method == "gptq":
        return [GPTQModifier(**scheme)]
    return ([AWQModifier()] if method == "awq" else []) + [QuantizationModifier(**scheme)]


def dequantize_(model: torch.nn.Module) -> None:
    """Weights on their grids: GPTQ leaves them there already, round-to-nearest does it at inference."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None and scheme.weights is not None:
            weight, scale, zero_point = module.weight.data, module.weight_scale, module.weight_zero_point
            module.weight.data = fake_quantize(weight, scale, zero_point, scheme.weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_dir")
    parser.add_argument("ids")
    parser.add_argument("out_dir")
    parser.add_argument("--method", choices=("gptq", "awq", "rtn"), default="gptq")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--layers", type=int, help="keep only the first decoder blocks (to time a part)")
    args = parser.parse_args()
    start, start_cpu = time.perf_counter(), time.process_time()
    import datasets
    import llmcompressor

    if not torch.cuda.is_available():
        torch.Tensor.pin_memory = lambda self: self  # its AWQ pins tensors, which needs an accelerator
    ids = np.load(args.ids)
    options = {} if args.layers is None else {"num_hidden_layers": args.layers}
    model = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=torch.float32, **options)
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir)
    loaded = time.perf_counter()
    rows = {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()}
    llmcompressor.oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=None if args.method == "rtn" else datasets.Dataset.from_dict(rows),
        recipe=recipe(args.method, args.bits, args.group),
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
        shuffle_calibration_samples=False,
    )
    end, end_cpu = time.perf_counter(), time.process_time()
    dequantize_(model)
    clean = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=torch.float32, **options)
    clean.load_state_dict({name: model.state_dict()[name] for name in clean.state_dict()})
    clean.save_pretrained(args.out_dir)
    tokenizer.save_pretrained(args.out_dir)
    print(
        json.dumps(
            {
                "library": f"llmcompressor {llmcompressor.__version__}",
                "seconds": end - start,
                "quantize_seconds": end - loaded,
                "cpu_seconds": end_cpu - start_cpu,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
