"""``python -m quantbench bench decode``: a synthetic Llama, quantized, packed and decoding, beside itself in 16 bits.

Its weights are random: speeds and bytes do not depend on them. It needs torch and transformers alone (and Triton on a
GPU), so it also runs as ``python -m quantbench.bench.decode`` where the rest of the package's dependencies are missing.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantbench.arguments import ArgumentParser
from quantbench.bench.document import write_json
from quantbench.bench.kernels import machine
from quantbench.bench.stopwatch import seconds_of
from quantbench.errors import InputError
from quantbench.formats import FP8, Codebook, Format, IntFormat
from quantbench.methods.activation import DynamicQuantizer
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.stats import SiteStats
from quantbench.models.linear import linear_at
from quantbench.models.packed import check_packed_weights, quantized_linear, weight_bytes
from quantbench.models.structure import Structure, find_structure

_DESCRIPTION = """Bytes of the model, tokens a second of reading a prompt and of writing after it, in turns with the
model in 16 bits (medians); with --gptq, the seconds of solving every layer of the model for one more configuration of
GPTQ, when the statistics and their factors are known. Weights are random, with Llama's initialization."""
SHAPES = {  # of Llama-3-8B, and one for trying out
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 512},
}  # fmt: skip
_INT8 = IntFormat(bits=8, group_size=None, symmetric=True, narrow_range=True, scale_dtype="float32")
FORMATS: dict[str, tuple[Format, Format | None]] = {  # of weights, and of inputs where these are quantized too
    "w2": (IntFormat(bits=2, group_size=128), None),
    "w3": (IntFormat(bits=3, group_size=128), None),
    "w4": (IntFormat(bits=4, group_size=128), None),
    "w8": (IntFormat(bits=8, group_size=128), None),
    "nf4": (Codebook(group_size=64), None),
    "w8a8": (_INT8, _INT8),
    "fp8": (FP8(), FP8()),
}
_DENSE = "dense"
_TOKENS_OF_STATISTICS = 4096


@dataclass
class _Contender:
    """The linears that take the place of the model's, by name; nbytes: of the whole model with them."""

    linears: dict[str, nn.Module]
    nbytes: int = 0


@torch.inference_mode()
def main(argv: Sequence[str]) -> int:
    """Build, quantize, check, measure in turns, print and write the JSON."""
    args = _arguments(argv)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    model = _model(args.shape, args.prompt + args.tokens, device, dtype)
    structure = find_structure(model)
    contenders = {_DENSE: _Contender({name: linear_at(model, name) for name in structure.linears})}
    for name in args.formats:
        contenders[name] = _Contender(dict(_quantized(model, structure, *FORMATS[name], name)))
    for name, contender in contenders.items():
        _install(model, contender)
        contender.nbytes = weight_bytes(model)
        sys.stdout.write(f"{name:8} {contender.nbytes / 2**30:8.3f} GiB\n")
    results = _race(model, contenders, args)
    settings = {name: getattr(args, name) for name in ("shape", "dtype", "prompt", "tokens", "repeats", "compile")}
    found = {"machine": machine(device), "date": date.today().isoformat()} | settings
    found |= {"bytes": {name: contender.nbytes for name, contender in contenders.items()}, "speeds": results}
    if args.gptq:
        _install(model, contenders[_DENSE])
        found["gptq_seconds"] = _gptq_seconds(model, structure, device)
        sys.stdout.write(f"GPTQ, one more configuration of every layer: {found['gptq_seconds']:.2f} s\n")
    if args.output is not None:
        write_json(args.output, found)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="quantbench bench decode", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=found)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="8b", help="(%(default)s)")
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=["w4", "w8a8"], help="(w4 w8a8)")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="(%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--prompt", type=int, default=512, help="tokens read (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens written (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns that count (%(default)s)")
    backends = ("none", "inductor", "aot_eager")
    compiles = "backend of torch.compile for writing; inductor replays CUDA graphs (%(default)s)"
    parser.add_argument("--compile", choices=backends, default="none", help=compiles)
    parser.add_argument("--gptq", action="store_true", help="time GPTQ on every layer, too")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.device == "cuda" and found == "cpu":
        raise InputError("--device cuda: torch finds no GPU here; allowed is cpu")
    for name in ("prompt", "tokens", "repeats"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: allowed is a positive integer")
    if any(batch < 1 for batch in args.batches):
        raise InputError("--batches: allowed are positive integers")
    if args.shape == "8b" and args.device == "cpu":
        raise InputError("--shape 8b: allowed on a GPU alone; --shape tiny runs on a processor")
    return args


def _model(shape: str, context: int, device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama with random weights, made where it stays."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=context, tie_word_embeddings=False, dtype=dtype)
    with torch.device(device):
        return LlamaForCausalLM(config).to(dtype).eval()


def _quantized(
    model: nn.Module, structure: Structure, weights: Format, inputs: Format | None, label: str
) -> Iterator[tuple[str, nn.Module]]:
    """The linears of all blocks, rounded to nearest and packed; what they multiply with is checked."""
    quantizer = None if inputs is None else DynamicQuantizer(inputs)
    for name in structure.linears:
        linear = linear_at(model, name)
        weight = Grid(weights, MinMax()).nearest(linear.weight.float(), None)
        layer: Any = quantized_linear(weight, linear, execution="packed", name=f"{label} {name}", inputs=quantizer)
        check_packed_weights(layer)
        layer.quantized = weight.to("cpu")
        yield name, layer


def _install(model: nn.Module, contender: _Contender) -> None:
    for name, module in contender.linears.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)


def _race(model: Any, contenders: dict[str, _Contender], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Speeds of every contender at every batch size, in turns; the first turn does not count."""
    results = []
    for batch in args.batches:
        steps = {name: _step(model, args.compile) for name in contenders}
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for turn in range(1 + args.repeats):
            for name, contender in contenders.items():
                _install(model, contender)
                taken = _generate(model, steps[name], batch, args)
                samples[name] += [taken] if turn else []
        for name, runs in samples.items():
            reading, writing = (statistics.median(seconds) for seconds in zip(*runs, strict=True))
            speeds = {"prefill": batch * args.prompt / reading, "decode": batch * args.tokens / writing}
            results.append({"contender": name, "batch": batch, **speeds})
            dense = results[-1 - list(contenders).index(name)]
            ratios = [speeds[key] / dense[key] for key in speeds]
            sys.stdout.write(
                f"batch {batch:3} {name:8} reads {speeds['prefill']:10.0f} tokens/s ({ratios[0]:.2f} x dense), "
                f"writes {speeds['decode']:9.1f} tokens/s ({ratios[1]:.2f} x dense)\n"
            )
            sys.stdout.flush()
    return results


def _step(model: Any, backend: str) -> Callable[..., Tensor]:
    """One token after what the cache holds -> the next one [batch, 1]."""

    def step(token: Tensor, position: Tensor, cache: Any) -> Tensor:
        output = model(input_ids=token, position_ids=position, past_key_values=cache, use_cache=True)
        return output.logits[:, -1:].argmax(-1)

    if backend == "none":
        return step
    mode = "reduce-overhead" if backend == "inductor" else None
    return torch.compile(step, backend=backend, mode=mode, fullgraph=True)


def _generate(model: Any, step: Callable[..., Tensor], batch: int, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of reading a prompt and of writing tokens after it, with a cache of fixed size."""
    from transformers import StaticCache

    device = model.device
    ids = torch.randint(model.config.vocab_size, (batch, args.prompt), generator=torch.Generator().manual_seed(batch))
    ids, cache = ids.to(device), StaticCache(model.config, max_cache_len=args.prompt + args.tokens)
    token = ids[:, :1]

    def read() -> None:
        nonlocal token
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)
        _wait(device)

    def write() -> None:
        following = token
        for place in range(args.prompt, args.prompt + args.tokens):
            position = torch.full((batch, 1), place, device=device)
            following = step(following, position, cache).clone()  # a CUDA graph writes the next one to the same place
        _wait(device)

    _wait(device)
    return seconds_of(read), seconds_of(write)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _gptq_seconds(model: nn.Module, structure: Structure, device: torch.device) -> float:
    """Seconds of GPTQ's second configuration, of other bits, on all layers: those that share inputs are one matrix."""
    known: dict[int, SiteStats] = {}
    stacks = []
    for block in structure.blocks:
        for site in block.sites:
            linears = [linear_at(block.module, name) for name in site.linears]
            columns = linears[0].in_features
            if columns not in known:
                known[columns] = SiteStats.empty(columns, device=device)
                known[columns].update(torch.randn(_TOKENS_OF_STATISTICS, columns, device=device))
                known[columns].known = {}  # others look at the same statistics, so what is computed of them is kept
            stacks.append((linears, known[columns]))

    def solve(bits: int) -> None:
        grid = Grid(IntFormat(bits=bits, group_size=128), MinMax())
        for linears, stats in stacks:
            GPTQ().round(torch.cat([linear.weight.float() for linear in linears]), grid, stats)
        _wait(device)

    solve(4)
    return seconds_of(lambda: solve(3))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as wrong:
        sys.stderr.write(f"error: {wrong}\n")
        sys.exit(2)
