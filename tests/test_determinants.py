from quantbench.config import check_command_line
from quantbench.determinants import determinants
from quantbench.label import Label
from quantbench.models.identity import ModelIdentity


def evaluated(*overrides: str) -> dict:
    (config,) = check_command_line(list(overrides), multirun=False)
    found = determinants(config, Label("rtn", "", {}), ModelIdentity("tiny", "sha256:0"), "cpu")
    return found["evaluation"]


def test_runs_that_were_stored_before_the_products_dtype_could_be_chosen_keep_their_id():
    assert "compute" not in evaluated()
    assert evaluated("evaluation.compute=bfloat16") == evaluated() | {"compute": "bfloat16"}
