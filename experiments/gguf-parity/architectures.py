"""Every exportable architecture, as a small random model: its logits in llama.cpp against transformers'.

python architectures.py --llama-python ENVIRONMENT/bin/python -o results/gguf-parity/architectures.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from quantbench.models.gguf_export import check_exportable, export_gguf

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "vocab_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}
LENGTH = 200
TOLERANCE = 2e-3  # float16 matrices on one side only


@torch.no_grad()
def random_model(model_type: str, options: dict) -> torch.nn.Module:
    """Weights of unit gain and uneven norms, so that a wrong order of rows or a forgotten bias shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SHAPE | options)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
        else:
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5 * 1.5)
    return model


@torch.no_grad()
def main() -> int:
    """Mean negative log-likelihood of random tokens on both sides; exits with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    found = {}
    for label, (model_type, options) in CASES.items():
        model = random_model(model_type, options)
        ids = torch.randint(0, SHAPE["vocab_size"], (1, LENGTH))
        expected = float(cross_entropy(model(ids).logits[0, :-1].double(), ids[0, 1:]))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.gguf"
            check_exportable(model, file, overwrite=False)
            export_gguf(model, None, file, name=label)
            command = [args.llama_python, str(Path(__file__).with_name("score.py")), str(file)]
            request = json.dumps({"windows": ids.tolist(), "text": None})
            done = subprocess.run(command, input=request, check=True, capture_output=True, text=True)
        actual = json.loads(done.stdout)["nll"][0]
        found[label] = {"transformers": expected, "llama.cpp": actual, "difference": actual - expected}
        print(label, found[label], flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(abs(row["difference"]) > TOLERANCE for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
