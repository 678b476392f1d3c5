"""A model in memory as lm-eval sees it: its tokenization and its rules, our scoring of continuations."""

import copy
from collections.abc import Hashable
from typing import Any

from lm_eval import utils
from lm_eval.models.huggingface import HFLM

from quantbench.evaluation.likelihood import Layout, Request, can_share, lay_out, score
from quantbench.progress import track


class SharedPrefixLM(HFLM):
    """lm-eval's HFLM, which scores log-likelihoods from prefix trees instead of one padded row per request.

    Gives what HFLM gives, request by request, up to rounding. layouts: keeps what was encoded and laid out, for models
    with the same tokenizer, width and context.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_size: int, layouts: dict[Hashable, Layout] | None = None
    ) -> None:
        # lm-eval gives the tokenizer a padding token; the caller's stays as it is.
        super().__init__(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        self._share = can_share(model)
        self._layouts = {} if layouts is None else layouts

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of each request; lm-eval's code encodes them, once."""
        layout = self._layouts.get(self._key([request.args for request in requests]))
        return list(super().loglikelihood(requests, disable_tqdm=True)) if layout is None else self._scored(layout)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, ...], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        layout = lay_out(
            [Request(context, continuation) for _, context, continuation in requests],
            max_length=self.max_length,
            hidden=self.model.config.get_text_config().hidden_size,
            row_count=self.batch_size,
            share=self._share,
        )
        self._layouts[self._key([texts for texts, _, _ in requests])] = layout
        return self._scored(layout)

    def _key(self, texts: list[tuple[str, ...]]) -> Hashable:
        return self._share, tuple(texts)

    def _scored(self, layout: Layout) -> list[tuple[float, bool]]:
        return [(found.log_likelihood, found.is_greedy) for found in score(self.model, layout)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts: lm-eval's windows, all of them laid out together."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            (text,) = request.args
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append(((text,), *utils.make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """lm-eval's own generation."""
        self.cache_hook = _Progress(len(requests))
        results = super().generate_until(requests, disable_tqdm=True)
        self.cache_hook.close()
        return list(results)


class _Progress:
    """Advances a progress bar where lm-eval reports a finished request."""

    def __init__(self, total: int) -> None:
        self._bar = track(range(total), stage="tasks", unit="request", total=total)

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        next(self._bar, None)

    def close(self) -> None:
        for _ in self._bar:
            pass
