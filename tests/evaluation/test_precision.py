import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from quantbench.evaluation.evaluate import baseline, measure
from quantbench.evaluation.precision import as_loaded, computing
from quantbench.evaluation.scoring import readout_of
from tests.evaluation.test_evaluate import by_metric, prepared_text
from tests.evaluation.tiny import make_model

CPU = torch.device("cpu")


def test_bfloat16_products_leave_residuals_and_logits_in_fp32(tmp_path: Path) -> None:
    prepared, model = prepared_text(tmp_path, compute="bfloat16"), make_model()
    base = baseline(prepared, model, identity={}, cache_dir=tmp_path)
    ids = [window.ids for window in prepared.window_set.windows]
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            states = [model.model(row[None, :-1]).last_hidden_state[0] for row in ids]
        logs = [torch.log_softmax(model.lm_head(s).double(), -1) for s in states]
        exact = [model(row[None]).logits[0, :-1].double().log_softmax(-1) for row in ids]
    expected, full = (
        np.array([-log.gather(1, row[1:, None]).mean().item() for log, row in zip(all_logs, ids, strict=True)])
        for all_logs in (logs, exact)
    )
    assert {s.dtype for s in states} == {torch.float32}
    np.testing.assert_allclose(base.nll, expected, rtol=1e-5)
    assert not np.allclose(base.nll, full, rtol=1e-5)
    np.testing.assert_allclose(base.nll, full, rtol=0.02)
    found = by_metric(measure(prepared, base, model))
    assert found["perplexity"].value == pytest.approx(math.exp(expected.mean()), rel=1e-5)
    assert found["kl_divergence"].value == pytest.approx(0.0, abs=1e-6)


def test_fp32_and_bfloat16_products_do_not_share_a_baseline(tmp_path: Path) -> None:
    folders = {
        baseline(prepared_text(tmp_path, compute=compute), make_model(), identity={}, cache_dir=tmp_path).folder
        for compute in ("model", "bfloat16")
    }
    assert len(folders) == 2


def test_the_output_head_is_still_found_under_bfloat16_and_torchs_settings_come_back() -> None:
    before = torch.get_float32_matmul_precision()
    with computing("bfloat16", CPU):
        assert readout_of(make_model(), torch.arange(40)).head is not None
        with as_loaded(CPU, products="highest"):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert torch.get_float32_matmul_precision() == before
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_processor_that_gains_nothing_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantbench.evaluation.precision.has_amx", lambda: False)
    with caplog.at_level(logging.WARNING), computing("bfloat16", CPU):
        pass
    assert "no AMX" in caplog.text
