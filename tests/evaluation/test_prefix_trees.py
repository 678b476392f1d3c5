import random

import numpy as np
import pytest
import torch

from quantbench.evaluation.prefix_trees import batches, grow_trees

CHEAP = 0.0  # attention that costs nothing: whatever is shared pays off


def sequences(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int32) for row in rows]


def random_sequences(seed: int, count: int) -> list[np.ndarray]:
    generator = random.Random(seed)
    openings = [[generator.randrange(300) for _ in range(generator.randint(0, 12))] for _ in range(4)]
    return sequences(
        *(
            generator.choice(openings) + [generator.randrange(3) for _ in range(generator.randint(1, 6))]
            for _ in range(count)
        )
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("pair_cost", "share"), [(CHEAP, True), (1 / 40, True), (CHEAP, False)])
def test_every_sequence_can_be_read_along_its_path_and_sees_nothing_else(
    seed: int, pair_cost: float, share: bool
) -> None:
    rows = random_sequences(seed, 40)
    trees = grow_trees(rows, max_tokens=64, pair_cost=pair_cost, share=share)
    assert sorted(index for tree in trees for index in tree.paths) == list(range(40))
    for tree in trees:
        seen = tree.ancestors()
        for index, path in tree.paths.items():
            assert np.array(tree.tokens)[path].tolist() == rows[index].tolist()
            assert np.array(tree.positions)[path].tolist() == list(range(len(path)))
            for place, node in enumerate(path):
                assert torch.nonzero(seen[node])[:, 0].tolist() == sorted(path[: place + 1].tolist())


def test_tokens_in_common_are_laid_out_once() -> None:
    (tree,) = grow_trees(sequences([7, 8, 9, 1], [7, 8, 9, 2, 3], [7, 8, 5]), max_tokens=100, pair_cost=CHEAP)
    assert len(tree) == 7
    assert tree.branches


def test_a_sequence_that_continues_another_needs_no_mask() -> None:
    (tree,) = grow_trees(sequences([7, 8], [7, 8, 9], [7, 8]), max_tokens=100, pair_cost=CHEAP)
    assert (len(tree), tree.branches) == (3, False)
    assert torch.equal(tree.ancestors(), torch.ones(3, 3, dtype=torch.bool).tril())


def test_two_items_that_share_one_token_stay_apart_where_attention_costs_more() -> None:
    first, second = [1, *range(10, 60)], [1, *range(100, 150)]
    assert len(grow_trees(sequences(first, second), max_tokens=1000, pair_cost=CHEAP)) == 1
    assert len(grow_trees(sequences(first, second), max_tokens=1000, pair_cost=1 / 3456)) == 2


def test_token_numbers_beyond_one_byte_sort_by_their_value_not_by_their_bytes() -> None:
    rows = sequences([256, 1], [1, 2], [256, 3], [1, 4])
    assert [len(tree) for tree in grow_trees(rows, max_tokens=100, pair_cost=CHEAP)] == [3, 3]


def test_batches_hold_their_tokens_and_little_padding() -> None:
    generator = random.Random(0)
    rows = sequences(*([index, *range(generator.randint(1, 200))] for index in range(300)))
    trees = grow_trees(rows, max_tokens=256, pair_cost=CHEAP)
    found = list(batches(trees, max_tokens=512))
    assert sum(len(batch) for batch in found) == 300
    assert all(len(batch) * len(batch[0]) <= 512 for batch in found)
    padded = sum(len(batch) * len(batch[0]) for batch in found)
    assert padded < 1.05 * sum(len(tree) for tree in trees)


def test_a_sequence_longer_than_a_batch_has_one_of_its_own() -> None:
    rows = sequences(list(range(50)), [3], [4, 5])
    found = list(batches(grow_trees(rows, max_tokens=16, pair_cost=CHEAP), max_tokens=16))
    assert [[len(tree) for tree in batch] for batch in found] == [[50], [2], [1]]
