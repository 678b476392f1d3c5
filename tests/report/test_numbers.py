import math

import pytest

from quantbench.report.numbers import decimals, fixed, rounded, size, text, total_seconds


@pytest.mark.parametrize(
    ("value", "low", "high", "stderr", "written"),
    [
        (12.34567, 11.8, 12.9, None, "12.35"),
        (12.34567, 12.3112, 12.3802, None, "12.346"),
        (5.0, 4.0, 104.0, None, "5"),
        (123456.0, 103456.0, 143456.0, None, "123000"),
        (0.615, None, None, 0.0344, "0.615"),
        (0.0123, None, None, None, "0.01230"),
        (12.34567, None, None, None, "12.35"),
        (1234.567, None, None, None, "1235"),
        (7.0, 7.0, 7.0, None, "7.000"),
        (3.5e7, 3.4e7, 3.6e7, None, "3.50e+07"),
        (-0.0001, -0.2, 0.2, None, "0.00"),
        (math.inf, None, None, None, "inf"),
        (math.nan, 1.0, 2.0, None, "nan"),
        (2.0, math.nan, math.inf, None, "2.000"),
    ],
)
def test_a_number_keeps_two_digits_of_its_uncertainty_or_four_of_its_own(value, low, high, stderr, written):
    assert rounded(value, low=low, high=high, stderr=stderr) == written


@pytest.mark.parametrize("half", [0.00123, 0.0456, 0.789, 1.5, 23.0])
def test_the_rounding_error_is_below_a_twentieth_of_the_half_width(half):
    value = 10.0 / 3
    places = decimals(value, low=value - half, high=value + half)
    assert abs(float(fixed(value, places)) - value) <= half / 20


def test_sizes_and_fields_are_written_as_people_read_them():
    assert [size(n) for n in (512, 1536, 3 * 2**30, 2**41)] == ["512 B", "1.5 KiB", "3.0 GiB", "2.0 TiB"]
    assert [text(v) for v in (None, True, 0.01, 64, "gptq")] == ["none", "true", "0.01", "64", "gptq"]


def test_what_a_run_shared_with_others_is_not_counted_twice():
    assert total_seconds('{"load": 1.5, "quantize": 4.0, "quantize_shared": 3.0}') == 5.5
