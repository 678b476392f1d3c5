import re

import pytest

from quantbench.evaluation.config import PROTOCOLS, Evaluation


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "gptq-512", "gptq-256"])
def test_known_protocols_are_accepted(protocol: str) -> None:
    assert Evaluation(protocol=protocol).protocol == protocol


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "gptq"}, "evaluation.protocol='gptq'; allowed: gptq-2048"),
        ({"protocol": "gptq-1"}, "evaluation.protocol='gptq-1'"),
        ({"batch_size": 0}, "evaluation.batch_size=0; allowed"),
        ({"limit": 0}, "evaluation.limit=0"),
        ({"num_fewshot": -1}, "evaluation.num_fewshot=-1"),
        ({"max_windows": 0}, "evaluation.max_windows=0"),
        ({"execution": "real"}, "evaluation.execution='real'; allowed: fake, packed"),
        ({"compute": "float16"}, "evaluation.compute='float16'; allowed: model, bfloat16"),
        ({"tasks": ["piqa", "piqa"]}, "named twice"),
    ],
)
def test_values_out_of_range_name_field_value_and_allowed(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Evaluation(**options)
