"""Number formats of what is quantized while a model runs: inputs of linears, keys and values."""

from quantbench.formats import FP8, MXFP4, NVFP4, Codebook, Format, IntFormat

NUMBERS = ("int", "e4m3", "e5m2", "e2m1", "mxfp4", "nvfp4")


def number_format(
    number: str,
    bits: int,
    group_size: int | None,
    *,
    symmetric: bool,
    scale_dtype: str,
    zero_point_dtype: str = "int",
) -> Format:
    """The format whose rows are what is quantized together, such as a token.

    number: ``int`` (of 2 to 8 ``bits``; symmetric ones from -(2^(bits-1) - 1) on), ``e4m3``, ``e5m2`` (8 bits),
    ``e2m1``, ``mxfp4``, ``nvfp4`` (4 bits). group_size: neighbours in a row that share a scale; null: all, or the
    format's own.

    Raises:
        ValueError: names the field and what is allowed.
    """
    if number not in NUMBERS:
        raise ValueError(f"number={number}: allowed are {', '.join(NUMBERS)}")
    if number == "int":
        zero = zero_point_dtype
        return IntFormat(
            bits,
            group_size,
            symmetric=symmetric,
            narrow_range=symmetric,
            scale_dtype=scale_dtype,
            zero_point_dtype=zero,
        )
    if number == "e2m1":
        return Codebook(bits, group_size, code=number, scale_dtype=scale_dtype)
    if number == "mxfp4":
        return MXFP4(bits, group_size or 32)
    if number == "nvfp4":
        return NVFP4(bits, group_size or 16, row_scale=True)
    return FP8(bits, group_size, element=number, scale_dtype=scale_dtype)
