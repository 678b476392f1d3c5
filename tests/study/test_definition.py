import pytest
import yaml

from quantbench.errors import InputError
from quantbench.study import definition

WHOLE = {
    "name": "small",
    "title": "A small study",
    "common": ["logger=none", "evaluation.tasks=[]"],
    "sweeps": [["method=rtn,gptq"], {"method": "rtn", "bits": [2, 3], "symmetric": True, "group_size": None}],
    "tables": [{"output": "ppl.md", "arguments": ["--rows", "method", "--cols", "bits"]}],
    "figures": [{"output": "front.pdf", "arguments": ["pareto"]}],
}

WRONG = {
    "unknown": ({"tabels": []}, "unknown entry tabels.*did you mean tables"),
    "no-sweeps": ({"sweeps": []}, "sweeps is empty"),
    "name": ({"name": "../up"}, r"name=\.\./up: allowed are"),
    "title": ({"title": 3}, "title=3"),
    "sweep-text": ({"sweeps": ["method=rtn"]}, r"sweeps\[0\] is not a list"),
    "no-value": ({"sweeps": [["method"]]}, "give key=value"),
    "results": ({"sweeps": [["results_dir=/etc"]]}, "results_dir is not for a study"),
    "force": ({"common": ["force=true"]}, "force is not for a study"),
    "launcher": ({"sweeps": [["hydra/launcher=slurm"]]}, "hydra/launcher is not for a study"),
    "launcher-added": ({"sweeps": [{"+hydra.launcher.setup": "rm"}]}, "is not for a study"),
    "mapping-value": ({"sweeps": [{"rounding": {"_target_": "os.system"}}]}, r"sweeps\[0\].rounding="),
    "empty-values": ({"sweeps": [{"bits": []}]}, r"sweeps\[0\].bits is an empty list"),
    "output-path": ({"tables": [{"output": "../x.md", "arguments": []}]}, r"output=\.\./x.md: allowed is a file name"),
    "output-hidden": ({"tables": [{"output": ".x", "arguments": []}]}, "allowed is a file name"),
    "output-twice": ({"figures": [{"output": "ppl.md", "arguments": ["pareto"]}]}, "output=ppl.md is given twice"),
    "output-argument": ({"tables": [{"output": "x.md", "arguments": ["--outp", "/etc/x"]}]}, "named by `output`"),
    "output-equals": ({"tables": [{"output": "x.md", "arguments": ["--out=/etc/x"]}]}, "named by `output`"),
    "output-joined": ({"tables": [{"output": "x.md", "arguments": ["-o/etc/x"]}]}, "named by `output`"),
    "no-arguments": ({"tables": [{"output": "x.md"}]}, "arguments is missing"),
}


def test_a_study_is_sweeps_with_what_they_share_and_renderings():
    study = definition.parse(WHOLE)
    assert study.sweeps == (
        ("logger=none", "evaluation.tasks=[]", "method=rtn,gptq"),
        ("logger=none", "evaluation.tasks=[]", "method=rtn", "bits=2,3", "symmetric=true", "group_size=null"),
    )
    assert study.tables[0].arguments == ("--rows", "method", "--cols", "bits")


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_study_is_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        definition.parse(WHOLE | change)


def test_yaml_that_makes_objects_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: !!python/object/apply:os.system ['touch made']\n")
    with pytest.raises(InputError, match=r"study\.yaml: could not determine a constructor"):
        definition.read(path)


@pytest.mark.parametrize("content", ["", "[1", "- a", "\udcff"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"study\.yaml"):
        definition.read(path)


def test_a_study_is_found_by_name_folder_and_file(tmp_path, monkeypatch):
    folder = tmp_path / "experiments" / "small"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(WHOLE, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    for given in ("small", "experiments/small", "experiments/small/study.yaml", str(folder)):
        assert definition.read(definition.find(given)) == definition.parse(WHOLE)
    with pytest.raises(InputError, match=r"smal: no such file, folder or study; there are .*small"):
        definition.find("smal")
