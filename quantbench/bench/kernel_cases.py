"""What ``bench kernels`` times: our kernels beside those that are on the machine, on the same weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear as dense_linear

from quantbench.bench.race import Call, buffers_past_cache
from quantbench.bench.textbook import textbook_gptq
from quantbench.formats import Codebook, IntFormat, QuantizedWeight
from quantbench.kernels import awq, hadamard, hqq, kmeans, linear, rtn
from quantbench.kernels.awq import reference as awq_reference
from quantbench.kernels.hqq import reference as hqq_reference
from quantbench.kernels.kmeans import reference as kmeans_reference
from quantbench.kernels.layout import DeviceWeight
from quantbench.kernels.rtn import reference as rtn_reference
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import GPTQ
from quantbench.methods.stats import SiteStats
from quantbench.models.packed import device_weight

GROUP = 128
_EQUAL, _FEW_CODES = 1e-5, 0.05  # relative error of equal results, and where weights on a code's edge may differ


@dataclass(frozen=True)
class Entry:
    """One contender: how to make its call for a set of buffers, and how far its result may be from the expected one.

    make: raises where the machine does not have what it takes; tolerance: relative error, root mean square; eager:
    timed with what the host does, because it looks at results or is about launches.
    """

    make: Callable[[int], Call]
    tolerance: float
    eager: bool = False


@dataclass(frozen=True)
class Case:
    """One comparison. nbytes: what has to cross the memory bus; flops: what has to be computed; copies: of buffers."""

    name: str
    expected: Callable[[], Tensor]
    entries: Mapping[str, Entry]
    nbytes: int
    flops: int = 0
    copies: int = 1
    unit: str = "bandwidth"


def cases(device: torch.device, size: int, rows: Sequence[int]) -> Iterator[Case]:
    """All comparisons on matrices of size x size; rows: of the inputs that linear layers get."""
    yield from _quantizing(device, size)
    for name in ("w2", "w3", "w4", "w8", "nf4"):
        yield from _linear(device, size, name, rows)


def weight_matrix(device: torch.device, size: int, seed: int) -> Tensor:
    """A random matrix of size x size, fp32."""
    return torch.randn(size, size, generator=torch.Generator(device).manual_seed(seed), device=device)


def _quantizing(device: torch.device, size: int) -> Iterator[Case]:
    copies = buffers_past_cache(4 * size * size, device)
    weights = [weight_matrix(device, size, seed) for seed in range(copies)]
    for bits in (3, 4, 8):
        yield _rtn(weights, bits)
    yield _hadamard(device, size)
    yield _hqq(weights)
    yield _awq(weights)
    yield _kmeans(weights)
    yield _gptq(device, size)


def beside_torch(weights: list[Tensor], ours: Entry, torch_loop: Entry) -> dict[str, Entry]:
    """On a processor our operation is the torch loop: there is nothing to compare."""
    return {"ours": ours, "torch": torch_loop} if weights[0].is_cuda else {"ours": ours}


def _rtn(weights: list[Tensor], bits: int) -> Case:
    format = IntFormat(bits=bits, group_size=GROUP)
    entries = beside_torch(
        weights,
        Entry(lambda i: lambda: rtn.quantize_packed(weights[i], format).planes[0], 0.0),
        Entry(lambda i: lambda: rtn_reference.quantize_packed(weights[i], format).planes[0], 0.0),
    )
    nbytes = weights[0].numel() * 4 + weights[0].numel() * bits // 8
    name = f"rtn and pack w{bits} g{GROUP}"
    expected = lambda: rtn_reference.quantize_packed(weights[0], format).planes[0]  # noqa: E731
    return Case(name, expected, entries, nbytes, copies=len(weights))


def _hadamard(device: torch.device, size: int) -> Case:
    block = 1 << (size.bit_length() - 1)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    nbytes = 2 * size * block * dtype.itemsize
    copies = buffers_past_cache(nbytes, device)
    inputs = [weight_matrix(device, size, seed)[:, :block].to(dtype).contiguous() for seed in range(copies)]
    matrix = hadamard.reference.transform(torch.eye(block, device=device), block)
    short = matrix.to(dtype)
    entries = {
        "ours": Entry(lambda i: lambda: hadamard.transform(inputs[i], block), 2e-3),
        "copy": Entry(lambda i: inputs[i].clone, torch.inf),
        "matrix product": Entry(lambda i: lambda: inputs[i] @ short, 2e-3),
    }
    return Case(f"hadamard {block}", lambda: inputs[0].float() @ matrix, entries, nbytes, copies=copies)


def _hqq(weights: list[Tensor]) -> Case:
    format = IntFormat(bits=4, group_size=64, zero_point_dtype="float16")
    groups = [weight.view(-1, 64) for weight in weights]
    scale, start, _ = format.params(*(edge.unsqueeze(1) for edge in groups[0].aminmax(dim=1)))
    solve = partial(hqq.moved_zero_point, max_code=15, lp_norm=0.7, beta=10.0, kappa=1.01, iterations=20)
    loop = partial(hqq_reference.moved_zero_point, max_code=15, lp_norm=0.7, beta=10.0, kappa=1.01, iterations=20)
    entries = beside_torch(
        weights,
        Entry(lambda i: lambda: solve(groups[i], scale, start), 1e-3),
        Entry(lambda i: lambda: loop(groups[i], scale, start), 0.0, eager=True),
    )
    nbytes = 4 * (groups[0].numel() + 3 * len(groups[0]))
    name = "hqq w4 g64, 20 iterations"
    return Case(name, lambda: loop(groups[0], scale, start), entries, nbytes, copies=len(weights))


def _awq(weights: list[Tensor]) -> Case:
    format = IntFormat(bits=4, group_size=GROUP)
    scale = torch.rand(weights[0].shape[1], generator=torch.Generator().manual_seed(0)).to(weights[0].device) + 0.5
    entries = beside_torch(
        weights,
        Entry(lambda i: lambda: awq.scaled_nearest(weights[i], scale, format), _EQUAL),
        Entry(lambda i: lambda: awq_reference.scaled_nearest(weights[i], scale, format), _EQUAL),
    )
    expected = lambda: awq_reference.scaled_nearest(weights[0], scale, format)  # noqa: E731
    return Case("awq, one scale of its grid", expected, entries, 8 * weights[0].numel(), copies=len(weights))


def _kmeans(weights: list[Tensor]) -> Case:
    """Lloyd's iterations alone, from clusters of equally many weights."""
    (n, size), count = weights[0].shape, 16
    rows = [weight.sort(1).values for weight in weights]
    sums = [torch.nn.functional.pad(torch.stack([torch.ones_like(v), v]).double().cumsum(2), (1, 0)) for v in rows]
    cuts = (torch.arange(count + 1, device=rows[0].device) * size // count).expand(n, -1).contiguous()
    entries = beside_torch(
        weights,
        Entry(lambda i: lambda: kmeans.lloyd(rows[i], sums[i], cuts, iterations=50), _EQUAL),
        Entry(lambda i: lambda: kmeans_reference.lloyd(rows[i], sums[i], cuts, 50), _EQUAL, eager=True),
    )
    expected = lambda: kmeans_reference.lloyd(rows[0], sums[0], cuts, 50)  # noqa: E731
    nbytes = rows[0].numel() * (4 + 2 * 8)
    return Case(f"k-means, {count} centers a row, 50 iterations", expected, entries, nbytes, copies=len(weights))


def _gptq(device: torch.device, size: int) -> Case:
    weight, inputs = weight_matrix(device, size, 0), weight_matrix(device, size, 1)
    strength = torch.exp(torch.randn(size, generator=torch.Generator().manual_seed(2))).to(device)
    stats = SiteStats.empty(size, device=device)
    stats.update(torch.cat([inputs, inputs.flip(0).roll(1, 1)]) * strength)
    grid = Grid(IntFormat(bits=4, group_size=GROUP), MinMax())

    def textbook() -> Tensor:
        return textbook_gptq(weight, stats.hessian, bits=4, group_size=GROUP).float()

    entries = {
        "ours": Entry(lambda i: lambda: GPTQ().round(weight, grid, stats).weight.codes.float(), _FEW_CODES, eager=True),
        "textbook loop": Entry(lambda i: textbook, _FEW_CODES, eager=True),
    }
    return Case(f"gptq w4 g{GROUP}, whole matrix", textbook, entries, 0, flops=3 * size**3, unit="compute")


def _linear(device: torch.device, size: int, name: str, rows: Sequence[int]) -> Iterator[Case]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    packed, quantized = zip(*_packed(device, size, name), strict=True)
    dense = [weight.dequantize().to(dtype) for weight in quantized]
    rounding, group = 4 * torch.finfo(dtype).eps, quantized[0].format.group_size
    for m in rows:
        x = torch.randn(m, size, generator=torch.Generator().manual_seed(m)).to(device, dtype)
        entries = {
            "ours": Entry(lambda i, x=x: lambda: linear.packed_linear(x, packed[i]), rounding),  # type: ignore[misc]
            f"dense {str(dtype).removeprefix('torch.')}": Entry(
                lambda i, x=x: lambda: dense_linear(x, dense[i]),  # type: ignore[misc]
                rounding,
            ),
            "decoded, then dense": Entry(
                lambda i, x=x: lambda: x @ linear.dequantize(packed[i], dtype),  # type: ignore[misc]
                rounding,
            ),
        }
        if device.type == "cpu":
            entries["dense bfloat16"] = Entry(lambda i, x=x: _in_bfloat16(dense[i], x), 0.02)  # type: ignore[misc]
        entries |= _rivals(name, quantized, x)
        yield Case(
            f"linear {name} g{group} {size}x{size}, {m} row{'s' * (m > 1)}",
            lambda x=x: x.float() @ quantized[0].dequantize().T,  # type: ignore[misc]
            entries,
            packed[0].nbytes + 2 * m * size * dtype.itemsize,
            flops=2 * m * size * size,
            copies=len(packed),
            unit="bandwidth" if m <= linear.MOST_ROWS else "compute",
        )


def _packed(device: torch.device, size: int, name: str) -> Iterator[tuple[DeviceWeight, QuantizedWeight]]:
    format = Codebook(group_size=64) if name == "nf4" else IntFormat(bits=int(name[1:]), group_size=GROUP)
    copies = buffers_past_cache(size * size * format.bits // 8, device)
    for seed in range(copies):
        quantized = Grid(format, MinMax()).nearest(weight_matrix(device, size, seed), None)
        yield device_weight(quantized)[0], quantized


def _in_bfloat16(weight: Tensor, x: Tensor) -> Call:
    weight = weight.bfloat16()
    return lambda: dense_linear(x.bfloat16(), weight)


def _rivals(name: str, quantized: Sequence[QuantizedWeight], x: Tensor) -> dict[str, Entry]:
    """Other implementations; most round scales to their own dtype, or weights and inputs to their own grid."""
    from quantbench.bench import rivals

    found = {}
    if name in ("w2", "w4", "w8"):
        found["gemlite"] = Entry(lambda i: rivals.gemlite(quantized[i], x), 0.02)
    if name in ("w4", "w8"):
        found["marlin"] = Entry(lambda i: rivals.marlin(quantized[i], x), 0.02)
    if name == "w4":
        found["torch int4pack"] = Entry(lambda i: rivals.int4pack(quantized[i], x), 0.02)
    elif name == "w8":
        found["torch int8pack"] = Entry(lambda i: rivals.int8pack(quantized[i], x), 0.02)
        found["torch int8 x int8"] = Entry(lambda i: rivals.int8_by_int8(quantized[i], x), 0.03)
        found["torch fp8 x fp8"] = Entry(lambda i: rivals.fp8_by_fp8(quantized[i], x), 0.06)
    elif name == "nf4":
        found["bitsandbytes"] = Entry(lambda i: rivals.bitsandbytes_nf4(quantized[i], x), 0.02)
    return found
