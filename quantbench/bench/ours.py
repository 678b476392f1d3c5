"""Our side of an end-to-end comparison, in a process of its own like every other library's.

    python -m quantbench.bench.ours MODEL_DIR IDS OUT_DIR [key=value ...]

IDS: a .npy file of token ids [samples, seqlen]; key=value: what to do, as in a run. Writes the dequantized fp32 model
as a HF directory and prints one JSON line with seconds (loading included, writing not).
"""

import json
import resource
import sys
import time

import numpy as np
import torch
import transformers  # noqa: F401 (every side starts its clock with these loaded)


def main() -> None:
    """Load, quantize, write."""
    start, start_cpu = time.perf_counter(), time.process_time()
    import quantbench
    from quantbench.config import check_command_line
    from quantbench.models.load import LocalModel, load
    from quantbench.models.structure import find_structure
    from quantbench.models.walk import quantize

    model_dir, ids_file, out_dir, *overrides = sys.argv[1:]
    config = check_command_line([*overrides, "logger=none"], multirun=False)[0]
    loaded = load(LocalModel(path=model_dir), "float32")
    ready = time.perf_counter()
    variant, ids = config.variant(), None
    if variant.needs_calibration:
        ids = torch.from_numpy(np.load(ids_file))
    result = quantize(loaded.model, find_structure(loaded.model), [variant], ids, device=torch.device("cpu"))[0]
    end, end_cpu = time.perf_counter(), time.process_time()
    changed = {f"{name}.weight": weight.dequantize() for name, weight in result.weights.items()} | result.parameters
    for name, value in changed.items():
        loaded.model.get_parameter(name).data = value
    loaded.model.save_pretrained(out_dir)  # type: ignore[operator]
    loaded.tokenizer.save_pretrained(out_dir)
    numbers = {
        "library": f"quantbench {quantbench.__version__}",
        "seconds": end - start,
        "quantize_seconds": end - ready,
        "cpu_seconds": end_cpu - start_cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main()
