"""GPTQ as it is written down, the rival that our column loop must beat: same math, rows contiguous, nothing lazy."""

import torch
from torch import Tensor


def textbook_gptq(weight: Tensor, hessian: Tensor, *, bits: int, group_size: int, damp_percent: float = 0.01) -> Tensor:
    """Codes [out, in] of W [out, in] on asymmetric min-max groups (Frantar et al., arXiv 2210.17323, alg. 1, B = 1).

    Cholesky, inverse, Cholesky; then column by column, each error at once to all columns that follow. Scales are
    rounded to float16, as ours are.
    """
    weight, columns, largest = weight.clone(), weight.shape[1], 2**bits - 1
    damped = hessian + damp_percent * hessian.diagonal().mean() * torch.eye(columns, device=weight.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.zeros(weight.shape, dtype=torch.uint8, device=weight.device)
    scale = zero = torch.zeros(len(weight), device=weight.device)
    for i in range(columns):
        if i % group_size == 0:
            group = weight[:, i : i + group_size]
            low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
            scale = ((high - low) / largest).half().float()
            zero = torch.round(-low / scale).clamp(0, largest)
        code = (torch.round(weight[:, i] / scale) + zero).clamp(0, largest)
        codes[:, i] = code.to(torch.uint8)
        error = (weight[:, i] - scale * (code - zero)) / factor[i, i]
        weight[:, i + 1 :] -= error[:, None] * factor[i, i + 1 :][None, :]
    return codes
