"""Hadamard matrices: H with entries +-1 and H H^T = n I, built from finite fields (no tables)."""

from functools import cache, reduce
from itertools import product

import torch
from torch import Tensor


def hadamard_matrix(order: int) -> Tensor:
    """A Hadamard matrix [order, order] in float64: the Kronecker product of those of ``hadamard_factors``.

    Raises:
        ValueError: no construction known here gives this order.
    """
    factors = hadamard_factors(order)
    if factors is None:
        raise ValueError(f"no Hadamard matrix of order {order}: Sylvester's and Paley's constructions do not give one")
    return reduce(torch.kron, map(_core, factors), torch.ones(1, 1, dtype=torch.float64))


@cache
def hadamard_factors(order: int) -> tuple[int, ...] | None:
    """Orders of the matrices whose Kronecker product has ``order`` (Sylvester), the smallest first; None: unknown."""
    if order == 1:
        return ()
    for divisor in range(2, order + 1):
        if order % divisor == 0 and (divisor == 2 or _paley_field(divisor) is not None):
            rest = hadamard_factors(order // divisor)
            if rest is not None:
                return (divisor, *rest)
    return None


def _paley_field(order: int) -> int | None:
    """The size q of the field behind a Paley matrix: q = order - 1 (type I) or order / 2 - 1 (type II)."""
    if order % 4:
        return None
    for q, remainder in ((order - 1, 3), (order // 2 - 1, 1)):
        if q % 4 == remainder and _prime_power(q) is not None:
            return q
    return None


def _core(order: int) -> Tensor:
    """A Hadamard matrix that is no Kronecker product: order 2, or Paley's (J. Math. Phys. 12, 1933)."""
    two = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
    if order == 2:
        return two
    q = _paley_field(order)
    assert q is not None
    conference = torch.ones(q + 1, q + 1, dtype=torch.float64)
    conference[0, 0], conference[1:, 1:] = 0, _residues(q)
    identity = torch.eye(q + 1, dtype=torch.float64)
    if q % 4 == 3:
        conference[1:, 0] = -1  # skew: S S^T = q I, so (I + S)(I + S)^T = (q + 1) I
        return identity + conference
    # symmetric with S^2 = q I: each 0 becomes a 2 x 2 block that anticommutes with that of +-1
    return torch.kron(conference, two) + torch.kron(identity, torch.tensor([[1, -1], [-1, -1]], dtype=torch.float64))


def _residues(q: int) -> Tensor:
    """chi(a - b) [q, q] over the field of q elements: 1 for a non-zero square, -1 for a non-square, 0 on the diagonal.

    The even powers of a generator are the squares.
    """
    prime, degree = _prime_power(q) or (0, 0)
    powers = torch.tensor(_powers(prime, degree), dtype=torch.int64)
    place = prime ** torch.arange(degree)
    chi = torch.zeros(q, dtype=torch.float64)
    chi[powers @ place] = 1 - 2 * (torch.arange(q - 1) % 2).double()
    digits = torch.arange(q)[:, None] // place % prime
    difference = sum((digits[:, None, i] - digits[None, :, i]) % prime * int(place[i]) for i in range(degree))
    return chi[difference]


def _powers(prime: int, degree: int) -> list[tuple[int, ...]]:
    """All non-zero elements of the field as x^0, x^1, ...: coefficients, lowest first, of polynomials over Z/prime.

    Monic polynomials of this degree are tried as the modulus until x generates everything, which only a field allows.
    """
    one = (1,) + (0,) * (degree - 1)
    for modulus in product(range(prime), repeat=degree):
        powers, element = [one], _times_x(one, modulus, prime)
        while element != one and any(element) and len(powers) < prime**degree - 1:
            powers.append(element)
            element = _times_x(element, modulus, prime)
        if element == one and len(powers) == prime**degree - 1:
            return powers
    raise AssertionError(f"every finite field has a generator: {prime}^{degree}")


def _times_x(element: tuple[int, ...], modulus: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """x times ``element``, reduced by x^degree = -modulus."""
    shifted = (0, *element[:-1])
    return tuple((s - element[-1] * m) % prime for s, m in zip(shifted, modulus, strict=True))


def _prime_power(q: int) -> tuple[int, int] | None:
    """(p, k) with q = p^k and p prime, or None."""
    if q < 2:
        return None
    prime = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    degree, rest = 0, q
    while rest % prime == 0:
        degree, rest = degree + 1, rest // prime
    return (prime, degree) if rest == 1 else None
