"""Load an exported folder with what is installed here and write its logits on fixed tokens: load.py FOLDER OUT.pt."""

import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def load(folder: str) -> torch.nn.Module:
    """compressed-tensors dequantizes; GPTQ's and AWQ's layouts go through auto-round's own decoders."""
    method = AutoConfig.from_pretrained(folder).quantization_config["quant_method"]
    if method == "compressed-tensors":
        from transformers import CompressedTensorsConfig

        settings = CompressedTensorsConfig(dequantize=True)
    else:
        from transformers import AutoRoundConfig

        settings = AutoRoundConfig(backend="torch")
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float32).eval()


def main() -> None:
    """Write logits [1, 64, vocabulary], float32."""
    folder, out = sys.argv[1:]
    model = load(folder)
    ids = torch.randint(5, model.config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.save(model(input_ids=ids).logits.float(), out)


if __name__ == "__main__":
    main()
