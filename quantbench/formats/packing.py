"""Packing: b-bit codes laid end to end, least significant bit first, or five ternary codes a byte; rows are padded."""

import torch
from torch import Tensor

_CHUNK = 8  # eight codes of b bits fill exactly b bytes
_WORD = 4  # bytes of an int32
TRITS = 5  # 3^5 = 243 fits a byte


def packed_bytes(columns: int, bits: int) -> int:
    """Bytes of one packed row of ``columns`` codes."""
    return -(-columns * bits // 8)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` [rows, columns] (integers below 2^bits) into uint8 [rows, ceil(columns * bits / 8)].

    Raises:
        ValueError: bits outside 1..8, or a code that does not fit.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}: allowed are 1 to 8")
    if codes.numel() and (int(codes.max()) >= 2**bits or int(codes.min()) < 0):
        raise ValueError(f"codes outside 0..{2**bits - 1} do not fit {bits} bits")
    rows, columns = codes.shape
    padded = torch.nn.functional.pad(codes.to(torch.int64), (0, -columns % _CHUNK)).view(rows, -1, _CHUNK)
    shifts = torch.arange(_CHUNK, device=codes.device) * bits
    words = (padded << shifts).sum(-1)  # at most 64 bits; the sign bit of int64 is just another bit here
    byte_shifts = torch.arange(bits, device=codes.device) * 8
    packed = ((words[..., None] >> byte_shifts) & 0xFF).to(torch.uint8).view(rows, -1)
    return packed[:, : packed_bytes(columns, bits)].contiguous()


def unpack_bits(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Inverse of :func:`pack_bits`: uint8 codes [rows, columns]."""
    rows = packed.shape[0]
    padded = torch.nn.functional.pad(packed, (0, -packed.shape[1] % bits)).view(rows, -1, bits).to(torch.int64)
    byte_shifts = torch.arange(bits, device=packed.device) * 8
    words = (padded << byte_shifts).sum(-1)
    shifts = torch.arange(_CHUNK, device=packed.device) * bits
    codes = ((words[..., None] >> shifts) & (2**bits - 1)).to(torch.uint8).view(rows, -1)
    return codes[:, :columns].contiguous()


def pack_words(codes: Tensor, bits: int) -> Tensor:
    """:func:`pack_bits` in int32 words, [rows, ceil(columns * bits / 32)]: a code may begin in one and end in the next.

    Raises:
        ValueError: bits outside 1..8, or a code that does not fit.
    """
    packed = pack_bits(codes, bits)
    padded = torch.nn.functional.pad(packed, (0, -packed.shape[1] % _WORD)).view(-1, _WORD).to(torch.int32)
    return (
        (padded << torch.arange(0, 32, 8, dtype=torch.int32, device=codes.device))
        .sum(-1, dtype=torch.int32)
        .view(len(packed), -1)
    )


def trit_bytes(columns: int) -> int:
    """Bytes of one packed row of ``columns`` ternary codes."""
    return -(-columns // TRITS)


def pack_trits(codes: Tensor) -> Tensor:
    """Pack ``codes`` [rows, columns] of 0, 1 and 2 into uint8 [rows, ceil(columns / 5)], the first the lowest digit.

    Raises:
        ValueError: a code above 2.
    """
    if codes.numel() and int(codes.max()) > 2:
        raise ValueError("codes above 2 are not ternary")
    padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, -codes.shape[1] % TRITS)).view(len(codes), -1, TRITS)
    powers = 3 ** torch.arange(TRITS, device=codes.device, dtype=torch.uint8)
    return (padded * powers).sum(-1, dtype=torch.uint8)


def unpack_trits(packed: Tensor, columns: int) -> Tensor:
    """Inverse of :func:`pack_trits`: uint8 codes [rows, columns]."""
    powers = 3 ** torch.arange(TRITS, device=packed.device, dtype=torch.uint8)
    return (packed[..., None] // powers % 3).view(len(packed), -1)[:, :columns].contiguous()
