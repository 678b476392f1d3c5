"""GGUF files, dequantized: the weights the file stands for, as ordinary linears."""

from pathlib import Path
from typing import Any

from quantbench.models.load import check_complete, load_tokenizer, one_line


def load_gguf(path: Path, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer from a GGUF file, its weights dequantized to ``dtype`` (auto: the file's float type).

    Raises:
        InputError: the file is not GGUF, transformers does not know its architecture, or tensors or tokenizer are
            missing.
    """
    import transformers

    # Newer transformers keep the blocks packed, and fetch kernels for it, unless told to dequantize.
    packed = getattr(transformers, "GgufConfig", None)
    options = {"quantization_config": packed(dequantize=True)} if packed is not None else {}
    file = str(path.resolve())
    with one_line(f"cannot load {path.name} as a GGUF model"):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=file, dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    check_complete(path.name, info)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, load_tokenizer(path.parent, gguf_file=file)
