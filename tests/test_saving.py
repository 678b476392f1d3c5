"""``save=DIR`` of a whole run on the embedded model: what is written is what was scored, and the card says how."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from quantbench.__main__ import main
from quantbench.data.corpora import load_documents
from quantbench.evaluation.protocols import make_windows
from quantbench.store.parquet import Store

SMALL = ["evaluation.max_windows=2", "evaluation.tasks=[]", "calibration.num_samples=4", "logger=none"]


def run(folder, *arguments) -> int:
    return main([*SMALL, f"results_dir={folder / 'out'}", f"save={folder / 'model'}", *arguments])


def the_run(folder):
    store = Store(folder / "out")
    (run_id,) = set(store.load().run_id)
    return store, run_id


@torch.no_grad()
def window_losses(model, tokenizer):
    """Mean NLL of the run's two windows as transformers alone computes them."""
    windows = make_windows("gptq-256", load_documents("world", "test"), tokenizer, max_context=10**6, max_windows=2)
    return [float(model(input_ids=w.ids[None], labels=w.ids[None]).loss) for w in windows.windows]


@pytest.mark.parametrize("method", ["awq", "hadamard_rtn"])  # folded norms; rotated weights and untied embeddings
def test_the_saved_model_scores_in_transformers_what_the_run_recorded(method, tmp_path):
    pytest.importorskip("compressed_tensors")
    assert run(tmp_path, f"method={method}") == 0
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    losses = window_losses(model.eval(), AutoTokenizer.from_pretrained(tmp_path / "model"))
    store, run_id = the_run(tmp_path)
    samples = store.samples(run_id)
    assert losses == pytest.approx(samples[samples.metric == "perplexity"].value.tolist(), rel=1e-5)


def test_the_card_and_the_record_say_what_the_store_does(tmp_path, capsys):
    assert run(tmp_path, "method=gptq", "group_size=64", "save_layout=gptq") == 0
    assert re.search(r"Saved .*model \(.* MiB\): 28 linears in the layout gptq", capsys.readouterr().out)
    store, run_id = the_run(tmp_path)
    frame = store.load().set_index("metric")
    record = json.loads((tmp_path / "model" / "quantbench.json").read_text())
    assert record["run_id"] == run_id
    assert {item["metric"]: item["value"] for item in record["measurements"]} == frame.value.to_dict()
    card = (tmp_path / "model" / "README.md").read_text()
    perplexity = frame.loc["perplexity"]
    row = next(line for line in card.splitlines() if line.startswith("| perplexity |"))
    shown = [float(number) for number in re.findall(r"\d+\.\d+|\d+", row.replace("world", ""))]
    expected = [perplexity.baseline, perplexity.value, perplexity.ci_low, perplexity.ci_high, perplexity["count"]]
    assert shown == pytest.approx(expected, rel=0.1)
    for part in ("gptq-256", f"{perplexity.bits_per_weight:.4f}", perplexity.calibration_hash[:16], run_id, "torch 2"):
        assert part in card
    assert "{" not in card


def test_full_precision_is_saved_as_an_ordinary_checkpoint(tmp_path):
    assert run(tmp_path, "method=fp16") == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    losses = window_losses(model, AutoTokenizer.from_pretrained(tmp_path / "model"))
    store, run_id = the_run(tmp_path)
    samples = store.samples(run_id)
    assert losses == pytest.approx(samples[samples.metric == "perplexity"].value.tolist(), rel=1e-5)
    assert "full precision" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=nf4"], "save_layout=compressed_tensors cannot hold format=Codebook; allowed are format=int"),
        (["method=spqr"], "save_layout=compressed_tensors has no place for weights kept in 16 bits"),
        (["method=gptq", "rounding.act_order=true"], "groups in activation order; allowed are rounding.static_groups"),
        (["bits=3", "save_layout=awq"], "save_layout=awq cannot hold bits=3; allowed are format=int with 4 bits"),
        (["save_layout=onnx"], "save_layout=onnx: allowed are compressed_tensors, gptq, awq"),
        (["group_size=100"], "group_size=100 does not divide"),
    ],
)
def test_what_cannot_be_saved_is_refused_in_one_line_before_any_work(arguments, message, tmp_path, capsys):
    assert run(tmp_path, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in error if line.startswith("error:")]) == 1
    assert message in error[-1]
    assert not (tmp_path / "model").exists()
    assert not list((tmp_path / "out").rglob("*.parquet"))
