"""The evaluation's settings, checked before anything is loaded."""

import re
from dataclasses import dataclass, field

PROTOCOLS = ("gptq-2048", "gptq-4096", "lm-eval-word", "lm-eval-byte", "llamacpp-512", "hqq-1024-512")
EXECUTIONS = ("fake", "packed")
COMPUTE = ("model", "bfloat16")
_GPTQ = re.compile(r"gptq-([1-9]\d*)")


def gptq_length(protocol: str) -> int | None:
    """The window length N of ``gptq-N``; None for any other protocol."""
    match = _GPTQ.fullmatch(protocol)
    return int(match[1]) if match else None


@dataclass
class Evaluation:
    """What to measure.

    protocol: how perplexity is defined (``PROTOCOLS``, or ``gptq-N`` with windows of N tokens); corpus, split: the text
    scored, a name or a file; max_windows: only the first windows (lm-eval protocols: documents); batch_size: windows
    per forward pass, and for tasks that many times 2048 tokens; tasks: lm-eval task names; num_fewshot: examples in the
    prompt (None: the task's own); limit: items per task; include_path: a folder of lm-eval task yaml files; divergence:
    whether to compare every predicted distribution with full precision's; execution: how quantized weights are computed
    with: ``fake`` dequantizes them once, ``packed`` decodes their codes on the way to the multiplier; compute:
    ``model`` for the model's own dtype, ``bfloat16`` for products in bfloat16 (``precision.computing``).

    latency_batches: batch sizes at which the speed of reading latency_prompt tokens and of writing latency_tokens more
    is measured, beside full precision's (none: it is not).

    Raises:
        ValueError: a field out of its range.
    """

    protocol: str = "gptq-2048"
    corpus: str = "wikitext2"
    split: str = "test"
    max_windows: int | None = None
    batch_size: int = 1
    tasks: list[str] = field(default_factory=list)
    num_fewshot: int | None = None
    limit: int | None = None
    include_path: str | None = None
    divergence: bool = True
    execution: str = "fake"
    compute: str = "model"
    latency_batches: list[int] = field(default_factory=list)
    latency_prompt: int = 128
    latency_tokens: int = 32

    def __post_init__(self) -> None:
        length = gptq_length(self.protocol)
        if self.protocol not in PROTOCOLS and (length is None or length < 2):
            raise ValueError(
                f"evaluation.protocol={self.protocol!r}; allowed: {', '.join(PROTOCOLS)}, or gptq-N with windows of N "
                "tokens"
            )
        if self.execution not in EXECUTIONS:
            raise ValueError(f"evaluation.execution={self.execution!r}; allowed: {', '.join(EXECUTIONS)}")
        if self.compute not in COMPUTE:
            raise ValueError(f"evaluation.compute={self.compute!r}; allowed: {', '.join(COMPUTE)}")
        for name, low in (("max_windows", 1), ("batch_size", 1), ("num_fewshot", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"evaluation.{name}={value}; allowed: an integer of at least {low}")
        for name in ("latency_prompt", "latency_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name}={getattr(self, name)}; allowed: an integer of at least 1")
        if len(set(self.latency_batches)) < len(self.latency_batches) or any(size < 1 for size in self.latency_batches):
            raise ValueError(f"evaluation.latency_batches={self.latency_batches}; allowed: different integers from 1")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"evaluation.tasks={self.tasks}: a task is named twice")
