"""Every configuration composes into typed objects, and every axis crosses with every method."""

import itertools
import re
from functools import cache

import pytest

from quantbench.__main__ import main
from quantbench.config import GROUPS, RunConfig, check_command_line, conf_dir, preset_choices
from quantbench.errors import InputError
from quantbench.label import Label
from quantbench.methods.range import AbsMean, AWQClip, MinMax
from quantbench.methods.rounding import GPTQ, RTN, KeepFullPrecision
from quantbench.methods.transform import AWQ, Hadamard, NoTransform, SmoothQuant
from tests.formats.options import OPTIONS, natural_numbers


def as_overrides(choices: dict) -> list[str]:
    return [f"{key}={'null' if value is None else value}" for key, value in choices.items()]


NEEDED = {("model", "local"): ["model.path=x"], ("model", "hub"): ["model.name=x/y"]}
NEEDED |= {(group, "local"): [f"{group}.corpus=x.txt"] for group in ("calibration", "evaluation")}
NEEDED |= {("rounding", option): ["method=q4_k"] for option in ("kquants", "kquants_imatrix")}
NEEDED |= {("format", option): as_overrides(natural_numbers(option)) for option in OPTIONS}
NEEDED |= {("range", "absmean_centered"): ["format=binary", "bits=1"]}
NEEDED |= {("range", option): ["format=lut"] for option in ("kmeans", "kmeans_hessian", "kmeans_uniform")}
NEEDED["format", "lut"] = [*NEEDED["format", "lut"], "range=kmeans"]
NEEDED["transform", "spinquant"] = ["activation=int4_token"]
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))]


@cache
def compose(*overrides) -> RunConfig:
    return check_command_line(list(overrides), multirun=False)[0]


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=[f"{g}={c}" for g, c in CHOICES])
def test_every_choice_composes_and_instantiates(group, choice):
    config = compose(f"{group}={choice}", *NEEDED.get((group, choice), []))
    assert isinstance(config, RunConfig)


@pytest.mark.parametrize(
    ("experiment", "calibration", "setting"),
    [
        ("gptq_opt", ("c4", 128, 2048), (4, None, 0, "facebook/opt-125m")),
        ("gptq_llama1", ("c4", 128, 2048), (4, None, 0, "huggyllama/llama-7b")),
        ("awq_llama2", ("pileval", 128, 512), (4, 128, 42, "meta-llama/Llama-2-7b-hf")),
        ("omniquant_llama2", ("wikitext2", 128, 2048), (3, 128, 2, "meta-llama/Llama-2-7b-hf")),
        ("omniquant_llama2_w2", ("wikitext2", 128, 2048), (2, 64, 2, "meta-llama/Llama-2-7b-hf")),
        ("smoothquant_llama2", ("pileval", 128, 512), (8, None, 42, "meta-llama/Llama-2-7b-hf")),
        ("quarot_llama2", ("wikitext2", 128, 2048), (4, None, 0, "meta-llama/Llama-2-7b-hf")),
    ],
)
def test_an_experiment_is_the_papers_setting_and_can_be_moved_to_another_model(experiment, calibration, setting):
    config = compose(f"experiment={experiment}")
    data, text = config.calibration, config.evaluation
    assert (data.corpus, data.num_samples, data.seqlen) == calibration
    assert (text.corpus, text.protocol, text.max_windows) == ("wikitext2", "gptq-2048", None)
    assert (config.bits, config.group_size, config.seed, config.model.name) == setting
    moved = compose(f"experiment={experiment}", "model=local", "model.path=x", "bits=3", "method=rtn")
    assert (moved.model.path, moved.bits, type(moved.rounding)) == ("x", 3, RTN)
    assert (moved.calibration, moved.seed) == (data, config.seed)


@pytest.mark.parametrize(
    ("method", "range_", "transform", "rounding", "stats"),
    [
        ("fp16", MinMax, None, KeepFullPrecision, "propagate"),
        ("rtn", MinMax, None, RTN, "propagate"),
        ("gptq", MinMax, None, GPTQ, "propagate"),
        ("awq", AWQClip, AWQ, RTN, "fp"),
        ("awq_gptq", MinMax, AWQ, GPTQ, "propagate"),
        ("smooth", MinMax, SmoothQuant, RTN, "fp"),
        ("hadamard_gptq", MinMax, Hadamard, GPTQ, "propagate"),
        ("hadamard_rtn", MinMax, Hadamard, RTN, "propagate"),
        ("nf4", MinMax, None, RTN, "propagate"),
        ("ternary", AbsMean, None, RTN, "propagate"),
    ],
)
def test_preset_selects_the_axes_of_its_paper(method, range_, transform, rounding, stats):
    config = compose(f"method={method}")
    assert type(config.range) is range_
    assert type(config.rounding) is rounding
    assert type(config.transform) is (transform or NoTransform)
    assert config.stats == stats


def test_gptq_has_the_settings_of_the_authors_code():
    assert compose("method=gptq").rounding == GPTQ(
        damp_percent=0.01, block_size=128, act_order=False, static_groups=False, true_sequential=False
    )


@pytest.mark.parametrize(("method", "rounding"), itertools.product(["rtn", "gptq", "awq", "awq_gptq"], ["rtn", "gptq"]))
def test_any_method_crosses_with_any_rounding(method, rounding):
    assert type(compose(f"method={method}", f"rounding={rounding}").rounding) is {"rtn": RTN, "gptq": GPTQ}[rounding]


def test_top_level_knobs_reach_the_format():
    format = compose("bits=3", "group_size=-1", "symmetric=true").format
    assert (format.bits, format.group_size, format.symmetric) == (3, None, True)


def test_the_runs_seed_is_the_rotations_unless_it_has_its_own():
    assert compose("method=hadamard_rtn", "seed=3").transform.seed == 3
    assert compose("transform=random_rotation", "seed=3", "transform.seed=5").transform.seed == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["transform=hadamard", "transform.online=true", "save=x"],
            "save=x: allowed only where all is in the weights",
        ),
        (["format=nf4", "bits=3"], "bits=3: nf4 stores 4 bits; allowed is 4"),
        (["method=fp8", "bits=4"], "bits=4: fp8 stores 8 bits; allowed is 8"),
        (["method=ternary", "bits=4"], "bits=4: ternary stores 1.6 bits, 2 unpacked; allowed is 2"),
        (["method=binary", "bits=2"], "bits=2: binary stores 1 bit; allowed is 1"),
        (["format=mxfp4"], "group_size=128: mxfp4 has blocks of 32; allowed is 32"),
        (["method=nvfp4", "group_size=32"], "group_size=32: nvfp4 has blocks of 16; allowed is 16"),
        (
            ["method=nvfp4", "format.per_tensor=true"],
            "format.per_tensor=True: nvfp4 has a scale for each block",
        ),
        (["method=af4", "group_size=-1"], "group_size=None: af4 is made for its block; allowed are 2 and more"),
        (["method=nf4", "range=absmean_centered"], "range.center=true: allowed only with format=binary"),
    ],
)
def test_a_number_that_a_format_fixes_is_named(overrides, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        compose(*overrides)


def test_models_other_than_the_embedded_one_get_the_papers_texts():
    config = compose("model=opt-125m")
    assert (config.calibration.corpus, config.evaluation.corpus) == ("c4", "wikitext2")


def test_texts_given_on_the_command_line_win_over_the_models():
    config = compose("model=opt-125m", "calibration=pileval", "evaluation=ptb")
    assert (config.calibration.corpus, config.evaluation.corpus) == ("pileval", "ptb")


def test_a_sweep_is_checked_as_a_whole_before_it_starts():
    configs = check_command_line(["method=rtn,gptq", "bits=2,3,4"], multirun=True)
    assert [(type(c.rounding), c.bits) for c in configs] == list(itertools.product([RTN, GPTQ], [2, 3, 4]))
    with pytest.raises(InputError, match="did you mean gptq"):
        check_command_line(["method=rtn,gptqq"], multirun=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "hydra.launcher.gpu=2",
            r"hydra.launcher.gpu: unknown key; allowed are .*\(did you mean hydra.launcher.gpus\?\)",
        ),
        (
            "hydra.launcher.gpus=two",
            r"hydra.launcher.gpus: Value 'two' of type 'str' could not be converted to Integer",
        ),
        ("hydra/launcher=slrum", r"hydra/launcher=slrum: unknown; allowed are .*slurm.*\(did you mean slurm\?\)"),
    ],
)
def test_a_wrong_setting_of_the_launcher_is_named(override, message):
    with pytest.raises(InputError, match=message):
        check_command_line(["hydra/launcher=joblib", override], multirun=True)


def test_another_folder_of_configurations_is_found(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "# @package _global_\n# mine\ndefaults:\n  - override /rounding: gptq\nstats: fp\n"
    )
    config = check_command_line(["method=mine"], multirun=False, search_path=str(tmp_path))[0]
    assert (type(config.rounding), config.stats) == (GPTQ, "fp")


def test_every_listed_choice_says_what_it_is():
    for group, choice in CHOICES:
        lines = (conf_dir() / group / f"{choice}.yaml").read_text().splitlines()
        assert [line for line in lines[:2] if line.startswith("# ") and "@package" not in line], (group, choice)


PRESETS = preset_choices()
KNOBS = ("bits", "group_size", "symmetric", "stats")  # what a preset may set beside its choices


def label(method, *overrides, **axes):
    return Label.of(method, PRESETS[method] | axes, overrides, PRESETS)


def test_presets_read_from_their_files_select_what_hydra_composes():
    for method, choices in PRESETS.items():
        by_method = compose(f"method={method}")
        knobs = [f"{key}={getattr(by_method, key)}".replace("None", "null") for key in KNOBS]
        by_axes = compose(*knobs, *(f"{axis}={choice}" for axis, choice in choices.items()))
        assert all(getattr(by_axes, axis) == getattr(by_method, axis) for axis in choices), method


def test_a_preset_is_called_by_its_name():
    for method in PRESETS:
        assert (label(method, f"method={method}", "bits=3").method, label(method).variant) == (method, "")


def test_a_crossed_method_says_what_was_crossed():
    crossed = label("gptq", "rounding.damp_percent=0.1", "range=awq_clip", range="awq_clip")
    assert (crossed.method, crossed.variant) == ("gptq", "range=awq_clip, rounding.damp_percent=0.1")


def test_a_composition_has_one_name_however_it_was_asked_for():
    assert label("rtn", "rounding=gptq", rounding="gptq") == label("gptq")
    assert label("awq", range="minmax", rounding="gptq") == label("awq_gptq")


def test_true_sequential_needs_propagated_statistics():
    with pytest.raises(InputError, match="allowed only with stats=propagate"):
        compose("method=gptq", "rounding.true_sequential=true", "stats=fp")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], ["python -m quantbench method=awq bits=4", "group_size: 128", "num_samples"]),
        (["method=gptq", "bits=3", "--cfg", "job"], ["bits: 3", "damp_percent: 0.01"]),
    ],
    ids=["help", "cfg-job"],
)
def test_hydras_own_flags_answer_as_hydra_users_expect(arguments, expected, capfd):
    try:
        code = main(arguments)
    except SystemExit as leaving:  # Hydra leaves by itself after its help
        code = leaving.code
    assert not code
    printed = capfd.readouterr().out
    for part in expected:
        assert part in printed


def test_a_glob_is_expanded_over_the_presets():
    configs = check_command_line(["method=glob(gptq*)", "bits=3"], multirun=True)
    assert len(configs) >= 2
    assert all(isinstance(config.rounding, GPTQ) and config.bits == 3 for config in configs)


def test_runs_of_a_sweep_that_would_be_saved_to_one_place_are_refused_before_the_first():
    with pytest.raises(InputError, match=r"save=.*model: 2 runs of the sweep would be saved there.*model-\$\{bits\}"):
        check_command_line(["save=model", "bits=4,8"], multirun=True)
    configs = check_command_line(["save='model-${bits}'", "bits=4,8"], multirun=True)
    assert [config.save for config in configs] == ["model-4", "model-8"]
