"""hqq: writes the dequantized fp32 model as a HF directory and prints JSON with seconds.

    python hqq_run.py MODEL_DIR IDS OUT_DIR [--bits 4] [--group 64]

IDS is not read: HQQ needs no data. Needs hqq 0.2.8.post1 in an environment of its own.
"""

import argparse
import importlib.metadata
import json
import resource
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_dir")
    parser.add_argument("ids")
    parser.add_argument("out_dir")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    args = parser.parse_args()
    start, start_cpu = time.perf_counter(), time.process_time()
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    model = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir)
    loaded = time.perf_counter()
    config = BaseQuantizeConfig(nbits=args.bits, group_size=args.group, axis=1)
    quantized = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            quantized[name] = HQQLinear(
                module, config, compute_dtype=torch.float32, device="cpu", initialize=True, del_orig=False
            )
    end, end_cpu = time.perf_counter(), time.process_time()
    for name, layer in quantized.items():
        model.get_submodule(name).weight.data = layer.dequantize().float()
    model.save_pretrained(args.out_dir)
    tokenizer.save_pretrained(args.out_dir)
    print(
        json.dumps(
            {
                "library": f"hqq {importlib.metadata.version('hqq')}",
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
