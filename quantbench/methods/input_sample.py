"""A few of the tokens that one site reads, and the extremes of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantbench.methods.stats import finite_tokens


@dataclass
class InputSample:
    """Every ``stride``-th token of what a site reads, and the smallest and largest value of each channel over all.

    ends: [2, in], None before the first token; parts: of the sample, [n, in] each; tokens with NaN or Inf are left out.
    """

    stride: int = 1
    ends: Tensor | None = None
    parts: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, inputs: Tensor) -> None:
        """Look at ``inputs`` [..., in]."""
        x = finite_tokens(inputs)
        if not len(x):
            return
        ends = torch.stack([x.amin(0), x.amax(0)])
        self.ends = ends if self.ends is None else _joined([self.ends, ends])
        self.parts.append(x[-self.count % self.stride :: self.stride].clone())
        self.count += len(x)

    @property
    def tokens(self) -> Tensor:
        """The sample [n, in]."""
        return torch.cat(self.parts)

    @classmethod
    def merged(cls, samples: "Sequence[InputSample]") -> "InputSample | None":
        """That of several sites that share a tensor; None where no token reached any."""
        reached = [sample for sample in samples if sample.ends is not None]
        if not reached:
            return None
        ends = _joined([sample.ends for sample in reached if sample.ends is not None])
        parts = [part for sample in reached for part in sample.parts]
        return cls(reached[0].stride, ends, parts, sum(sample.count for sample in reached))


def _joined(ends: Sequence[Tensor]) -> Tensor:
    lows, highs = zip(*ends, strict=True)
    return torch.stack([torch.stack(lows).amin(0), torch.stack(highs).amax(0)])
