import numpy as np
import pytest
import torch

from quantbench.evaluation import scoring
from quantbench.evaluation.divergence import compare
from quantbench.evaluation.scoring import Readout
from tests.evaluation.tiny import VOCABULARY, make_model


def test_divergence_equals_float64_over_full_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_LOGIT_ELEMENTS", 7 * VOCABULARY)
    full, other = make_model(seed=0), make_model(seed=1)
    ids = torch.randint(0, VOCABULARY, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = [model.model(ids[None]).last_hidden_state[0, :-1] for model in (other, full)]
        log_q, log_p = (model(ids[None]).logits[0, :-1].double().log_softmax(-1) for model in (other, full))
    expected_kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()

    found = compare(Readout(other.lm_head), states[0], Readout(full.lm_head), states[1], ids[1:], vocabulary=VOCABULARY)
    assert found.kl == pytest.approx(expected_kl, rel=1e-5)
    assert found.kl > 0.1
    assert found.nll == pytest.approx(-log_q.gather(1, ids[1:, None]).mean().item(), rel=1e-5)
    assert found.agreement == pytest.approx(np.mean((log_p.argmax(-1) == log_q.argmax(-1)).numpy()))


def test_a_model_does_not_diverge_from_itself() -> None:
    model = make_model()
    ids = torch.arange(40)
    with torch.no_grad():
        states = model.model(ids[None]).last_hidden_state[0, :-1]
    readout = Readout(model.lm_head)
    found = compare(readout, states, readout, states, ids[1:], vocabulary=VOCABULARY)
    assert (found.kl, found.agreement) == (0.0, 1.0)
