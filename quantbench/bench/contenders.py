"""Who runs against whom: our settings, and the library that does the same."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    name: unique, and the name of its folder; peer: the library, "" is this one; arguments: for its runner (ours:
    ``key=value``); samples: how many calibration windows it gets at most, None is all.
    """

    name: str
    peer: str
    arguments: tuple[str, ...]
    samples: int | None = None


@dataclass(frozen=True)
class Match:
    """Ours against one peer. target: how many times faster ours should be."""

    ours: Contender
    theirs: Contender
    target: float | None


_GPTQ = ("method=gptq_llmcompressor", "symmetric=false", "rounding.true_sequential=true")
_ACT_ORDER = ("method=gptq", "rounding.act_order=true", "rounding.true_sequential=true")
_AUTOROUND = ("method=autoround_light", "symmetric=false")


def matches(bits: tuple[int, ...]) -> list[Match]:
    """The comparisons at each width: same tokens, asymmetric groups of 64, every linear of the decoder blocks.

    AWQ sees 16 windows on both sides. AutoRound takes 50 or 20 steps a block.
    ``gptq`` is the library's setting;
    ``gptq_act_order`` fits each group when its first column is reached, which needs a group index; ``_64`` gets half of
    the windows, against all of them on the other side.
    """
    found = []
    for width in bits:
        found += [
            _match("gptq", _GPTQ, "llmcompressor", ("--method", "gptq"), width, target=4),
            _match("gptq_act_order", _ACT_ORDER, "llmcompressor", ("--method", "gptq"), width),
            _match("gptq_act_order_64", _ACT_ORDER, "llmcompressor", ("--method", "gptq"), width, ours_samples=64,
                   target=4),
            _match("awq", ("method=awq",), "llmcompressor", ("--method", "awq"), width, samples=16),
            _match("awq_linear", ("method=awq", "transform.objective=linear"), "llmcompressor", ("--method", "awq"),
                   width, samples=16, target=5),
            _match("hqq", ("method=hqq",), "hqq", (), width, target=3),
            _match("autoround", (*_AUTOROUND, "rounding.iterations=50"), "autoround", ("--iterations", "50"), width,
                   target=1),
            _match("autoround_20", (*_AUTOROUND, "rounding.iterations=20"), "autoround", ("--iterations", "20"), width,
                   target=1),
            _match("rtn", ("method=rtn",), "llmcompressor", ("--method", "rtn"), width),
        ]  # fmt: skip
    return found


def _match(
    name: str,
    ours: tuple[str, ...],
    peer: str,
    theirs: tuple[str, ...],
    bits: int,
    *,
    samples: int | None = None,
    ours_samples: int | None = None,
    target: float | None = None,
) -> Match:
    method = theirs[-1] if theirs else peer
    left = Contender(f"ours-{name}-w{bits}", "", (*ours, f"bits={bits}", "group_size=64"), ours_samples or samples)
    right = Contender(f"{peer}-{method}-w{bits}", peer, (*theirs, "--bits", str(bits), "--group", "64"), samples)
    return Match(left, right, target)
