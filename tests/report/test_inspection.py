"""What an inspection says at the terminal."""

import io

from quantbench.report.inspection import show
from tests.store.inspections import inspection


def shown(made, *, top=3, encoding="utf-8"):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    show(made, top=top, file=file)
    file.flush()
    return raw.getvalue().decode(encoding)


def line(text, start):
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_a_line_for_each_kind_has_medians_before_and_after_and_the_sum_of_kl():
    text = shown(inspection())
    assert "awq | int 2 bit, group 64 | toy | float32" in text
    assert line(text, "mlp.down_proj x 12") == [
        "mlp.down_proj", "x", "12", "8.5", "→", "8.5", "1006", "→", "8.5", "35.5", "→", "2", "1.9", "1", "%", "0.155",
        "0.05", "0.78",
    ]  # fmt: skip
    assert line(text, "self_attn.k_proj x 12")[6:9] == ["8.5", "→", "8.5"], (
        "those of the site that it shares with q_proj"
    )


def test_the_linears_that_cost_most_come_first():
    text = shown(inspection(), top=2)
    listed = text.partition("linears that cost most")[2]
    first, second = (
        next(i for i, text in enumerate(listed.splitlines()) if f"{b}.mlp.down_proj" in text) for b in (11, 10)
    )
    assert first < second
    assert " 9.mlp.down_proj" not in listed.partition("calibration")[0]
    assert "the 36 linears, each quantized alone, sum to 0.936 nats on 4 samples; 5 of them are half of it" in text
    assert "linears that cost most" not in shown(inspection(), top=0)


def test_outlier_channels_are_told_before_and_after_the_transform():
    text = shown(inspection())
    assert "outliers after   no channel of any input exceeds 6 times the median channel" in text
    assert text.count("outliers before  input of") == 3
    text = shown(inspection(transformed=False))
    said = "input of 11.mlp.down_proj: channel 7 is 41 x the median, 2 of 64 channels over 6 x, 1 over 20 x; "
    assert said + "the largest token is 5.5 x the median" in text
    assert "→" not in text


def test_without_kl_the_error_of_outputs_orders_and_without_quantization_nothing_is_listed():
    assert "linears that cost most" in shown(inspection(kl=False))
    text = shown(inspection(quantized=False, kl=False))
    assert "awq | full precision | toy | float32" in text
    assert "linears that cost most" not in text


def test_a_terminal_without_the_characters_gets_others():
    text = shown(inspection(), encoding="ascii")
    assert "8.5 > 8.5" in text
    assert "?" not in text
