"""The synthetic model that decodes: scaled down, every format, with and without a compiler."""

import json
import subprocess
import sys

import pytest
import torch

from quantbench.bench import decode, main
from quantbench.errors import InputError, QuantizationError
from quantbench.models.linear import InputQuantLinear
from quantbench.models.packed import PackedLinear
from quantbench.models.w8a8 import W8A8Linear

QUICK = ["decode", "--device", "cpu", "--shape", "tiny", "--prompt", "4", "--tokens", "2", "--repeats", "1"]


def test_every_contender_gets_its_bytes_and_speeds(tmp_path, capsys):
    path = tmp_path / "out" / "decode.json"
    formats = ["w3", "w4", "w8a8"]
    assert main([*QUICK, "--formats", *formats, "--batches", "1", "3", "--gptq", "-o", str(path)]) == 0
    stored = json.loads(path.read_text())
    assert list(stored["bytes"]) == ["dense", *formats]
    assert stored["bytes"]["w3"] < stored["bytes"]["w4"] < stored["bytes"]["w8a8"] < stored["bytes"]["dense"]
    speeds = {(found["batch"], found["contender"]): found for found in stored["speeds"]}
    assert list(speeds) == [(batch, name) for batch in (1, 3) for name in ("dense", *formats)]
    assert all(found["prefill"] > 0 and found["decode"] > 0 for found in speeds.values())
    assert stored["gptq_seconds"] > 0
    printed = capsys.readouterr().out
    assert "batch   1 dense" in printed
    assert "(1.00 x dense)" in printed


@pytest.mark.parametrize(("name", "kind"), [("w2", PackedLinear), ("w8a8", W8A8Linear), ("fp8", W8A8Linear)])
@torch.inference_mode()
def test_what_decodes_is_packed_and_writes_what_the_quantized_model_would(name, kind):
    model = decode._model("tiny", 16, torch.device("cpu"), torch.float32)
    structure = decode.find_structure(model)
    linears = dict(decode._quantized(model, structure, *decode.FORMATS[name], name))
    assert linears.keys() == set(structure.linears)
    assert all(isinstance(layer, kind) for layer in linears.values())
    for full_name, layer in linears.items():
        linear = model.get_submodule(full_name)
        linear.weight.copy_(layer.quantized.dequantize())
        if layer.inputs is not None:
            decode._install(model, decode._Contender({full_name: InputQuantLinear(linear, layer.inputs)}))
    ids = torch.randint(512, (2, 8), generator=torch.Generator().manual_seed(0))
    expected = model(ids).logits
    decode._install(model, decode._Contender(linears))
    # sums that are rounded otherwise move an input's code across a border now and then
    assert (model(ids).logits - expected).square().mean() < 1e-4 * expected.square().mean()


def test_writing_is_compiled_whole(capsys):
    assert main([*QUICK, "--formats", "w8a8", "--batches", "1", "--compile", "aot_eager"]) == 0
    assert "w8a8" in capsys.readouterr().out


def test_weights_that_are_not_those_of_the_codes_get_no_speed(monkeypatch):
    monkeypatch.setattr(PackedLinear, "decoded", lambda layer: torch.zeros(layer.out_features, layer.in_features))
    with pytest.raises(QuantizationError, match="are not those that its codes stand for"):
        main([*QUICK, "--formats", "w4", "--batches", "1"])


def test_it_runs_where_torch_and_transformers_are_all_there_is():
    missing = ("hydra", "omegaconf", "wandb", "datasets", "lm_eval", "pyarrow", "pandas", "triton", "matplotlib")
    script = f"""
import sys, runpy
sys.modules.update(dict.fromkeys({missing}))
sys.argv = ["decode", {", ".join(map(repr, QUICK[1:]))}, "--formats", "w4", "--batches", "1"]
runpy.run_module("quantbench.bench.decode", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "batch   1 w4" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "8b"], "--shape 8b: allowed on a GPU alone"),
        (["--batches", "0"], "--batches: allowed are positive integers"),
        (["--tokens", "0"], "--tokens 0: allowed is a positive integer"),
        (["--formats", "w5"], "invalid choice"),
    ],
)
def test_wrong_input_is_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        main(["decode", "--device", "cpu", *arguments])
    assert message in str(error.value)
