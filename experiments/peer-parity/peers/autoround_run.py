"""auto-round on given token ids: writes the dequantized fp32 model as a HF directory and prints JSON with seconds.

    python autoround_run.py MODEL_DIR IDS OUT_DIR [--bits 4] [--group 64] [--iterations 50] [--lr 5e-3]

IDS: a .pt or .npy file of token ids [samples, seqlen]. Needs auto-round 0.16.1 in an environment of its own.
"""

import argparse
import json
import resource
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_dir")
    parser.add_argument("ids")
    parser.add_argument("out_dir")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--layers", type=int, help="keep only the first decoder blocks (to time a part)")
    args = parser.parse_args()
    start = time.perf_counter()
    import auto_round

    ids = torch.load(args.ids) if args.ids.endswith(".pt") else torch.from_numpy(np.load(args.ids))
    options = {} if args.layers is None else {"num_hidden_layers": args.layers}
    model = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=torch.float32, **options)
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir)
    loaded, loaded_cpu = time.perf_counter(), time.process_time()
    rounder = auto_round.AutoRound(
        model,
        tokenizer,
        bits=args.bits,
        group_size=args.group,
        sym=args.symmetric,
        iters=args.iterations,
        lr=args.lr,
        batch_size=8,
        seqlen=ids.shape[1],
        nsamples=len(ids),
        dataset=[{"input_ids": row[None].long(), "attention_mask": torch.ones_like(row[None]).long()} for row in ids],
        device_map="cpu",
    )
    quantized, _ = rounder.quantize()
    end, end_cpu = time.perf_counter(), time.process_time()
    quantized.float().save_pretrained(args.out_dir)
    tokenizer.save_pretrained(args.out_dir)
    print(
        json.dumps(
            {
                "library": f"auto-round {auto_round.__version__}",
                "seconds": end - start,
                "quantize_seconds": end - loaded,
                "quantize_cpu_seconds": end_cpu - loaded_cpu,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
