"""Token sequences laid out so that what they begin with in common is computed once, and batched by tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

_LEAST_FILLED = 0.75  # share of a batch's longest row that every row of it fills

Tokens = NDArray[np.int32]


@dataclass
class PrefixTree:
    """Sequences merged where they begin alike: one node per token, in the order in which tokens were added.

    tokens, positions [L]: of each node, the position in its own sequences; paths: the nodes of each sequence, by its
    index.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    paths: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    _branches: list[tuple[NDArray[np.int64], int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branches(self) -> bool:
        """Whether a token follows another than the one before it, so that causal attention would be wrong."""
        return any(len(prefix) != start for prefix, start in self._branches)

    def add(self, index: int, sequence: Tokens, prefix: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add a sequence [n] whose first tokens are those of the nodes ``prefix``; returns its own nodes [n]."""
        start, shared = len(self), len(prefix)
        new = sequence[shared:]
        if len(new):
            self.tokens += new.tolist()
            self.positions += range(shared, len(sequence))
            self._branches.append((prefix, start))
        self.paths[index] = np.concatenate([prefix, np.arange(start, len(self))])
        return self.paths[index]

    def ancestors(self) -> torch.Tensor:
        """Which nodes each node may attend to [L, L] bool: the tokens before it in its own sequences, and itself."""
        seen = torch.zeros(len(self), len(self), dtype=torch.bool)
        ends = [start for _, start in self._branches[1:]] + [len(self)]
        for (prefix, start), end in zip(self._branches, ends, strict=True):
            seen[start:end, torch.from_numpy(prefix)] = True
            seen[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        return seen


def grow_trees(
    sequences: Sequence[Tokens], *, max_tokens: int, pair_cost: float, share: bool = True
) -> list[PrefixTree]:
    """Lay out every sequence in one of as many trees as pay off.

    A sequence joins the tree before it where the tokens that it shares cost more than the attention that a longer tree
    wastes on unrelated nodes. pair_cost: of computing one attention weight, in units of one token's matrix products;
    max_tokens: of a tree, except of one with a single sequence; share: False gives each sequence a tree of its own.
    """
    # As big-endian bytes, sequences sort token by token: each finds the one that it shares most with just before it.
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].astype(">i4").tobytes())
    trees: list[PrefixTree] = []
    path, last = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
    for index in order:
        sequence = sequences[index]
        shared = _common(last, sequence) if share else 0
        if not trees or not _joins(len(trees[-1]), len(sequence), shared, max_tokens, pair_cost):
            trees.append(PrefixTree())
            shared = 0
        path, last = trees[-1].add(index, sequence, path[:shared]), sequence
    return trees


def _joins(length: int, tokens: int, shared: int, max_tokens: int, pair_cost: float) -> bool:
    together = length + tokens - shared
    if not shared or together > max_tokens:
        return False
    return shared > pair_cost * (together**2 - length**2 - tokens**2)


def _common(first: Tokens, second: Tokens) -> int:
    """How many tokens two sequences begin with in common."""
    shorter = min(len(first), len(second))
    different = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(different[0]) if len(different) else shorter


def batches(trees: Sequence[PrefixTree], *, max_tokens: int) -> Iterator[list[PrefixTree]]:
    """Trees of nearly equal length, the longest first, at most ``max_tokens`` with padding (or one tree).

    Trees that branch are kept apart from those that do not: only the former need an attention mask.
    """
    batch: list[PrefixTree] = []
    for tree in sorted(trees, key=lambda tree: (tree.branches, -len(tree))):
        longest = len(batch[0]) if batch else 0
        if batch and (
            (len(batch) + 1) * longest > max_tokens
            or len(tree) < _LEAST_FILLED * longest
            or tree.branches != batch[0].branches
        ):
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch
