"""Multiplication with a packed matrix in Triton.

One row is a sum of products (GEMV), up to 64 rows are products of tiles, both split along k so that enough programs
run; partial sums go to a workspace in fp32 and are added in a fixed order, without atomics. More rows are worth
decoding the matrix once for torch's own product.

Place i of every word along k meets x[i], x[i + each], ...: so x is laid out as [each, m, words] first.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantbench.kernels.compiled import Specialization
from quantbench.kernels.layout import PLANES, WORD, DeviceWeight
from quantbench.kernels.linear import MOST_ROWS

_PROGRAMS = 256  # to keep a GPU busy; a constant, so that sums are split alike everywhere
_MOST_SPLITS = 8
_GEMV_TILE, _GEMM_TILE, _DECODE_TILE = (16, 64), (16, 64), (4, 128)  # words along k, rows of W
_REDUCE = 256


@triton.jit
def _load_words(plane, word, n, rows, inside):
    return tl.load(plane + word[:, None].to(tl.int64) * rows + n[None, :], mask=inside, other=0)


@triton.jit
def _high_words(plane, word, n, rows, inside, WIDTH: tl.constexpr, EACH: tl.constexpr):
    """The words of the second plane that hold the high bits of ``word``'s codes, shifted to where they begin."""
    first = word * EACH
    words = _load_words(plane, first // (32 // WIDTH), n, rows, inside)
    return words >> ((first % (32 // WIDTH)) * WIDTH)[:, None]


@triton.jit
def _code(low, high, i: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr):
    """The codes at place i of each word, int32."""
    code = (low >> (i * LOW)) & ((1 << LOW) - 1)
    return code | (((high >> (i * HIGH)) & ((1 << HIGH) - 1)) << LOW) if HIGH > 0 else code


@triton.jit
def _parameters(scale, zero, constant, word, n, rows, group_size, inside, EACH: tl.constexpr, ZEROS: tl.constexpr):
    """Scale and zero-point of each word, fp32, and where they lie: a word never holds weights of two groups."""
    place = (word * EACH // group_size)[:, None].to(tl.int64) * rows + n[None, :]
    s = tl.load(scale + place, mask=inside, other=0.0).to(tl.float32)
    return s, tl.load(zero + place, mask=inside, other=0.0).to(tl.float32) if ZEROS else constant, place


@triton.jit
def _looked_up(table, code, place, inside, ENTRIES: tl.constexpr, OWN: tl.constexpr):
    """Entries of the table of all groups, or of each group's own."""
    entry = place * ENTRIES + code if OWN else code
    return tl.load(table + entry, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _value(code, s, z, MINIMUM: tl.constexpr):
    return code.to(tl.float32) * s - z if MINIMUM else (code.to(tl.float32) - z) * s


@triton.jit
def decode_kernel(
    result, low, high, scale, zero, constant, table, words, rows, columns, group_size,
    LOW: tl.constexpr, HIGH: tl.constexpr, ZEROS: tl.constexpr, TABLE: tl.constexpr,
    OWN: tl.constexpr, MINIMUM: tl.constexpr, ENTRIES: tl.constexpr,
    WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """W^T [k, n] of WORDS words along k and BLOCK rows of W."""
    EACH: tl.constexpr = 32 // LOW
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (word[:, None] < words) & (n[None, :] < rows)
    lows = _load_words(low, word, n, rows, inside)
    highs = _high_words(high, word, n, rows, inside, HIGH, EACH) if HIGH > 0 else lows
    s, z, place = _parameters(scale, zero, constant, word, n, rows, group_size, inside, EACH, ZEROS)
    for i in tl.static_range(EACH):
        code = _code(lows, highs, i, LOW, HIGH)
        value = _looked_up(table, code, place, inside, ENTRIES, OWN) * s if TABLE else _value(code, s, z, MINIMUM)
        k = word[:, None] * EACH + i
        tl.store(
            result + k.to(tl.int64) * rows + n[None, :], value.to(result.dtype.element_ty), mask=inside & (k < columns)
        )


@triton.jit
def gemv_kernel(
    partial, x, low, high, scale, zero, constant, table, words, rows, group_size,
    LOW: tl.constexpr, HIGH: tl.constexpr, ZEROS: tl.constexpr, TABLE: tl.constexpr,
    OWN: tl.constexpr, MINIMUM: tl.constexpr, ENTRIES: tl.constexpr,
    WORDS: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """partial [SPLITS, n] for one row x [EACH, words]: scale (sum of code x - zero sum of x), word by word."""
    EACH: tl.constexpr = 32 // LOW
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.program_id(1)
    total = tl.zeros((WORDS, BLOCK), tl.float32)
    for first in range(split * WORDS, words, SPLITS * WORDS):
        word = first + tl.arange(0, WORDS)
        inside = (word[:, None] < words) & (n[None, :] < rows)
        lows = _load_words(low, word, n, rows, inside)
        highs = _high_words(high, word, n, rows, inside, HIGH, EACH) if HIGH > 0 else lows
        s, z, place = _parameters(scale, zero, constant, word, n, rows, group_size, inside, EACH, ZEROS)
        products = tl.zeros((WORDS, BLOCK), tl.float32)
        sums = tl.zeros((WORDS,), tl.float32)
        for i in tl.static_range(EACH):
            xs = tl.load(x + i * words + word, mask=word < words, other=0.0).to(tl.float32)
            code = _code(lows, highs, i, LOW, HIGH)
            if TABLE:
                products += _looked_up(table, code, place, inside, ENTRIES, OWN) * xs[:, None]
            else:
                # 2^23 + code as bits: cheaper than the conversion of an integer
                exact = (code | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
                products += exact * xs[:, None]
                sums += xs
        if TABLE:
            total += s * products
        else:
            total += s * products - z * sums[:, None] if MINIMUM else s * (products - z * sums[:, None])
    tl.store(partial + split * rows + n, tl.sum(total, 0), mask=n < rows)


@triton.jit
def gemm_kernel(
    partial, x, low, high, scale, zero, constant, table, m_rows, words, rows, group_size,
    LOW: tl.constexpr, HIGH: tl.constexpr, ZEROS: tl.constexpr, TABLE: tl.constexpr,
    OWN: tl.constexpr, MINIMUM: tl.constexpr, ENTRIES: tl.constexpr,
    M: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """partial [SPLITS, m, n] for x [EACH, m, words]; weights are rounded to the dtype of x."""
    EACH: tl.constexpr = 32 // LOW
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.program_id(1)
    m = tl.program_id(2) * M + tl.arange(0, M)
    total = tl.zeros((M, BLOCK), tl.float32)
    for first in range(split * WORDS, words, SPLITS * WORDS):
        word = first + tl.arange(0, WORDS)
        inside = (word[:, None] < words) & (n[None, :] < rows)
        lows = _load_words(low, word, n, rows, inside)
        highs = _high_words(high, word, n, rows, inside, HIGH, EACH) if HIGH > 0 else lows
        s, z, place = _parameters(scale, zero, constant, word, n, rows, group_size, inside, EACH, ZEROS)
        taken = (m[:, None] < m_rows) & (word[None, :] < words)
        for i in tl.static_range(EACH):
            xs = tl.load(x + (i * m_rows + m[:, None]) * words + word[None, :], mask=taken, other=0.0)
            code = _code(lows, highs, i, LOW, HIGH)
            value = _looked_up(table, code, place, inside, ENTRIES, OWN) * s if TABLE else _value(code, s, z, MINIMUM)
            total = tl.dot(xs, value.to(xs.dtype), total, input_precision="ieee")
    where = (split * m_rows + m[:, None]).to(tl.int64) * rows + n[None, :]
    tl.store(partial + where, total, mask=(m[:, None] < m_rows) & (n[None, :] < rows))


@triton.jit
def reduce_kernel(result, partial, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """The sum over the splits, in their order."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(partial + split * count + place, mask=place < count, other=0.0)
    tl.store(result + place, total.to(result.dtype.element_ty), mask=place < count)


def packed_linear(x: Tensor, weight: DeviceWeight) -> Tensor:
    """x [m, k] times W^T [k, n]."""
    if len(x) > MOST_ROWS:
        return x @ dequantize(weight, x.dtype)
    arguments, constants = _operands(weight)
    m, (rows, columns) = len(x), weight.shape
    words = len(weight.planes[0])
    each = WORD // constants["LOW"]
    if columns % each:
        x = torch.nn.functional.pad(x, (0, words * each - columns))
    x = x.view(m, words, each).permute(2, 0, 1).contiguous()
    tile_words, block = _GEMV_TILE if m == 1 else _GEMM_TILE
    tile_m = max(16, triton.next_power_of_2(m))
    programs = triton.cdiv(rows, block)
    splits = max(1, min(_MOST_SPLITS, triton.cdiv(_PROGRAMS, programs), triton.cdiv(words, tile_words)))
    partial = torch.empty((splits, m, rows), dtype=torch.float32, device=x.device)
    constants |= {"WORDS": tile_words, "BLOCK": block, "SPLITS": splits, "enable_fp_fusion": True}
    if m == 1:
        gemv_kernel[(programs, splits)](partial, x, *arguments, words, rows, weight.group_size, **constants)
    else:
        gemm_kernel[(programs, splits, 1)](
            partial, x, *arguments, m, words, rows, weight.group_size, M=tile_m, num_warps=_warps(weight.minimum),
            **constants,
        )  # fmt: skip
    result = torch.empty((m, rows), dtype=x.dtype, device=x.device)
    reduce_kernel[(triton.cdiv(m * rows, _REDUCE),)](
        result, partial, m * rows, SPLITS=splits, BLOCK=_REDUCE, enable_fp_fusion=False
    )
    return result


def _warps(minimum: bool) -> int:
    """Of a product of tiles: minima come in fp32 beside the scales, and would spill with fewer."""
    return 8 if minimum else 4


def dequantize(weight: DeviceWeight, dtype: torch.dtype) -> Tensor:
    """W transposed, [k, n]."""
    arguments, constants = _operands(weight)
    (rows, columns), words = weight.shape, len(weight.planes[0])
    result = torch.empty((columns, rows), dtype=dtype, device=weight.scale.device)
    tile_words, block = _DECODE_TILE
    decode_kernel[(triton.cdiv(words, tile_words), triton.cdiv(rows, block))](
        result, *arguments, words, rows, columns, weight.group_size, WORDS=tile_words, BLOCK=block,
        enable_fp_fusion=False, **constants,
    )  # fmt: skip
    return result


def _operands(weight: DeviceWeight) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What every kernel gets of a matrix."""
    zeros, table, widths = isinstance(weight.zero, Tensor), weight.table, PLANES[weight.bits]
    arguments = (
        weight.planes[0],
        weight.planes[1] if len(widths) > 1 else None,
        weight.scale,
        weight.zero if zeros else None,
        0.0 if zeros else weight.zero,
        table,
    )
    constants = {"LOW": widths[0], "HIGH": sum(widths[1:]), "ZEROS": zeros, "TABLE": table is not None}
    return arguments, constants | {
        "OWN": weight.own_tables,
        "MINIMUM": weight.minimum,
        "ENTRIES": 2**weight.bits,
    }


def specializations() -> list[Specialization]:
    """Every kernel and every width, in float16 with zero-points, and for a table."""
    kinds = {"w2": "gemv gemm16", "w3": "decode gemv gemm64", "w4": "decode gemv gemm16 gemm64", "w8": "gemv gemm16"}
    kinds |= {"w4 table": "decode gemv gemm64", "w4 tables": "gemv gemm16", "w4 minimum": "gemv gemm16"}
    return [_specialization(label, kind) for label, names in kinds.items() for kind in names.split()]


def _specialization(label: str, kind: str) -> Specialization:
    bits, table = int(label[1]), "table" in label
    widths = PLANES[bits]
    known = {"low": "*i32", "high": "*i32", "scale": "*fp16", "zero": "*u8", "table": "*fp32", "constant": "fp32"}
    known |= dict.fromkeys(("words", "rows", "columns", "group_size", "m_rows"), "i32")
    known |= {"partial": "*fp32", "x": "*fp16", "result": "*fp16"}
    known |= {"scale": "*fp32", "zero": "*fp32"} if label.endswith("minimum") else {}
    absent = {"high": len(widths) == 1, "zero": table, "table": not table}
    words, block = {"decode": _DECODE_TILE, "gemv": _GEMV_TILE}.get(kind, _GEMM_TILE)
    constants: dict[str, Any] = {name: None for name, missing in absent.items() if missing}
    constants |= {"LOW": widths[0], "HIGH": sum(widths[1:]), "ZEROS": not table, "TABLE": table, "ENTRIES": 2**bits}
    constants |= {"OWN": label.endswith("tables"), "MINIMUM": label.endswith("minimum")}
    constants |= {"WORDS": words, "BLOCK": block, "SPLITS": 4, "M": int(kind[4:]) if kind.startswith("gemm") else 0}
    kernel = {"decode": decode_kernel, "gemv": gemv_kernel}.get(kind, gemm_kernel)
    return Specialization(
        f"linear {label} {kind}",
        kernel,
        {name: known[name] for name in kernel.arg_names if name in known and not absent.get(name)},
        {name: value for name, value in constants.items() if name in kernel.arg_names},
        warps=_warps(label.endswith("minimum")) if kernel is gemm_kernel else 4,
        aligned=("rows", "words", "group_size", "columns"),
    )
