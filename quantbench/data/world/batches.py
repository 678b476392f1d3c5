"""Training text of the world as windows of token ids."""

from itertools import chain

import torch

from quantbench.data.world.generator import World
from quantbench.data.world.writer import END


def windows(world: World, ids: dict[str, int], split: str, start: int, *, rows: int, length: int) -> torch.Tensor:
    """[rows, length + 1] token ids of consecutive documents from number ``start``; ids: of every word."""
    needed = rows * (length + 1)
    stream: list[int] = []
    for document in world.documents(split, start=start):
        stream.extend(ids[word] for word in chain(document.words, [END]))
        if len(stream) >= needed:
            return torch.tensor(stream[:needed]).view(rows, length + 1)
    raise AssertionError("documents() never ends")
