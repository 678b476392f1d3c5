"""Log-likelihood of continuations: shared beginnings once, batches filled by tokens, logits only where they count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quantbench.evaluation.precision import as_loaded
from quantbench.evaluation.prefix_trees import PrefixTree, Tokens, batches, grow_trees
from quantbench.evaluation.scoring import Readout, agrees, model_device, pieces, readout_of, vocabulary_of
from quantbench.progress import track

_TREE_TOKENS = 2048
_PROBE_TOKENS = 16


class Request(NamedTuple):
    """Token ids: what is given [n >= 1], and what is scored after it [m >= 1]."""

    context: list[int]
    continuation: list[int]


class Score(NamedTuple):
    """Summed log-likelihood [nats] of a continuation, and whether greedy decoding gives it."""

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True)
class Layout:
    """Requests as prefix trees in batches, ready for any model of the same shape; read-only.

    inputs: per request, the tokens that are read (the last one predicts nothing); targets: the tokens that are scored.
    """

    inputs: list[Tokens]
    targets: list[Tokens]
    batches: list[list[PrefixTree]]


def lay_out(
    requests: Sequence[Request], *, max_length: int, hidden: int, row_count: int = 1, share: bool = True
) -> Layout:
    """Cut each request to its last ``max_length`` + 1 tokens, as lm-eval does, and batch what is left.

    hidden: the model's width; row_count: a forward pass takes this many times 2048 tokens, padding included; share:
    whether requests share what they begin with.

    Raises:
        ValueError: a request without context or continuation, or whose continuation exceeds ``max_length``.
    """
    inputs, targets = [], []
    for context, continuation in requests:
        if not context or not 0 < len(continuation) <= max_length:
            raise ValueError(
                f"a request of {len(context)} context and {len(continuation)} continuation tokens; allowed: at least "
                f"one of each and a continuation of at most {max_length}"
            )
        inputs.append(np.array((context + continuation)[-(max_length + 1) : -1], dtype=np.int32))
        targets.append(np.array(continuation, dtype=np.int32))
    # A token costs about 24 hidden^2 operations per layer in matrix products, an attention weight 4 hidden.
    trees = grow_trees(inputs, max_tokens=_TREE_TOKENS, pair_cost=1 / (6 * hidden), share=share)
    return Layout(inputs, targets, list(batches(trees, max_tokens=row_count * _TREE_TOKENS)))


def score(model: Any, layout: Layout, *, stage: str = "tasks") -> list[Score]:
    """Score every request of ``layout``, in its order; softmax in fp32, sums in fp64."""
    if not layout.inputs:
        return []
    model.eval()
    readout = readout_of(model, torch.from_numpy(layout.inputs[0]).long())
    scores: list[Score | None] = [None] * len(layout.inputs)
    with torch.inference_mode():
        for batch in track(layout.batches, stage=stage, unit="batch", total=len(layout.batches)):
            states = _states(model, readout, batch)
            for index, found in _score_batch(readout, states, batch, layout.targets, vocabulary_of(model)):
                scores[index] = found
    assert None not in scores
    return [found for found in scores if found is not None]


def can_share(model: Any) -> bool:
    """Whether ``model`` gives the same predictions for sequences laid out as a tree as for each alone: tried out."""
    prefix, ends = list(range(1, 1 + _PROBE_TOKENS)), ([3, 1, 2], [5, 4], [6])
    sequences = [np.array([*prefix, *end], dtype=np.int32) % vocabulary_of(model) for end in ends]
    (tree,) = grow_trees(sequences, max_tokens=_TREE_TOKENS, pair_cost=0.0)
    model.eval()
    with torch.inference_mode(), as_loaded(model_device(model), products="highest"):
        try:
            found = _states(model, Readout(None), [tree])[0]
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False  # no such argument, or a mask of a shape that it does not take
        for index, sequence in enumerate(sequences):
            ids = torch.from_numpy(sequence).long()[None].to(model_device(model))
            expected = model(input_ids=ids, use_cache=False).logits[0]
            if not agrees(found[torch.from_numpy(tree.paths[index])], expected, model.dtype):
                return False
    return True


def _states(model: Any, readout: Readout, batch: Sequence[PrefixTree]) -> torch.Tensor:
    """Final states [B, L, hidden] of the nodes of a batch (the model's logits where the readout is not a head)."""
    device, length = model_device(model), len(batch[0])
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    for row, tree in enumerate(batch):
        ids[row, : len(tree)] = torch.tensor(tree.tokens)
    options: dict[str, Any] = {}
    if batch[0].branches:
        positions = torch.zeros_like(ids)
        for row, tree in enumerate(batch):
            positions[row, : len(tree)] = torch.tensor(tree.positions)
        options = {"position_ids": positions.to(device), "attention_mask": _masks(model, batch, positions)}
    # Without branches causal attention is right, and padding comes after everything that is read.
    if readout.head is None:
        logits: torch.Tensor = model(input_ids=ids.to(device), use_cache=False, **options).logits
        return logits
    states: torch.Tensor = model.base_model(input_ids=ids.to(device), use_cache=False, **options).last_hidden_state
    return states.to(model.dtype)


def _masks(model: Any, batch: Sequence[PrefixTree], positions: torch.Tensor) -> Any:
    """What each node attends to, as transformers' models take it: 0 or the lowest number [B, 1, L, L], and one such
    mask per kind of layer where a model mixes them."""
    config, length = model.config.get_text_config(), positions.shape[1]
    seen = torch.eye(length, dtype=torch.bool).repeat(len(batch), 1, 1)  # padding sees itself: no empty softmax
    for row, tree in enumerate(batch):
        seen[row, : len(tree), : len(tree)] = tree.ancestors()
    window = getattr(config, "sliding_window", None)
    # Distance counts in the node's own sequence: its neighbours in the tree may belong to others.
    near = seen if window is None else seen & (positions[:, :, None] - positions[:, None, :] < window)

    def additive(allowed: torch.Tensor) -> torch.Tensor:
        lowest = torch.finfo(model.dtype).min
        mask = torch.zeros(allowed.shape, dtype=model.dtype).masked_fill_(~allowed, lowest)
        return mask[:, None].to(model_device(model))

    kinds = {"full_attention": seen, "sliding_attention": near}
    used = set(getattr(config, "layer_types", None) or ())
    if used and used <= set(kinds):
        return {kind: additive(allowed) for kind, allowed in kinds.items()}
    return additive(near)


def _score_batch(
    readout: Readout,
    states: torch.Tensor,
    batch: Sequence[PrefixTree],
    targets: Sequence[Tokens],
    vocabulary: int,
) -> list[tuple[int, Score]]:
    """(index, score) of every sequence of a batch from its states [B, L, hidden].

    A node predicts as many tokens as sequences branch there; its logits are computed once.
    """
    indices = [index for tree in batch for index in tree.paths]
    nodes = [
        row * states.shape[1] + path[-len(targets[index]) :]
        for row, tree in enumerate(batch)
        for index, path in tree.paths.items()
    ]
    lengths = [len(targets[index]) for index in indices]
    wanted, source = np.unique(np.concatenate(nodes), return_inverse=True)
    following = np.concatenate([targets[index] for index in indices]).astype(np.int64)
    chosen = states.flatten(0, 1)[torch.from_numpy(wanted).to(states.device)]
    likelihood, greedy = _predictions(readout, chosen, source, following, vocabulary)
    starts = np.cumsum([0, *lengths[:-1]])
    sums, alike = np.add.reduceat(likelihood, starts), np.logical_and.reduceat(greedy, starts)
    return [(index, Score(float(a), bool(b))) for index, a, b in zip(indices, sums, alike, strict=True)]


def _predictions(
    readout: Readout, states: torch.Tensor, source: NDArray[np.int64], targets: NDArray[np.int64], vocabulary: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-likelihood [P] of each target and whether it is the likeliest token; ``source`` [P]: the row of its state."""
    likelihood, greedy = np.empty(len(targets)), np.empty(len(targets), dtype=np.bool_)
    for piece in pieces(len(states), vocabulary):
        mine = np.flatnonzero((source >= piece.start) & (source < piece.stop))
        rows, tokens = torch.from_numpy(source[mine] - piece.start), torch.from_numpy(targets[mine])
        logits = readout.logits(states[piece])
        likeliest = logits.max(-1).indices  # faster than argmax on a CPU
        rows, tokens = rows.to(logits.device), tokens.to(logits.device)
        likelihood[mine] = logits.log_softmax(-1)[rows, tokens].double().cpu().numpy()
        greedy[mine] = (likeliest[rows] == tokens).cpu().numpy()
    return likelihood, greedy
