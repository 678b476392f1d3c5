"""Inspections made up for tests: a model of twelve blocks whose numbers grow with the block."""

from quantbench.store.inspection import AFTER, BEFORE, INPUT, WEIGHT, InspectedRow, Inspection

KINDS = {
    "self_attn.q_proj": "self_attn.q_proj",
    "self_attn.k_proj": "self_attn.q_proj",
    "mlp.down_proj": "mlp.down_proj",
}
SUBJECT = {
    "run_id": "0123", "method": "awq", "variant": "", "choices": {"format": "int"}, "bits": 2, "group_size": 64,
    "activation_bits": 16, "statistics": "fp", "model": "toy", "model_revision": "sha256:0", "dtype": "float32",
    "config": {}, "calibration": "text", "calibration_hash": "0", "num_samples": 8, "seqlen": 256, "samples": 4,
    "transformed": True, "versions": {}, "git_commit": None, "git_dirty": None, "created": "", "notes": ["a note"],
}  # fmt: skip


def row(block, kind, what, stage, **values):
    name = f"model.layers.{block}.{kind}"
    site = f"model.layers.{block}.{KINDS.get(kind, kind)}"
    shape = {
        "rows": 32,
        "channels": 64,
        "absmax": 1.0,
        "rms": 0.1,
        "kurtosis": 3.0 + block,
        "channel_ratio": 2.0,
        "row_ratio": 5.5,
    }
    shape |= {"channels_over_6": 0, "channels_over_20": 0}
    return InspectedRow(block=block, name=name, kind=kind, site=site, what=what, stage=stage, **(shape | values))


def inspection(*, blocks=12, kinds=KINDS, kl=True, quantized=True, transformed=True):
    """Inputs of down_proj have outliers before the transform, none after; its KL is ten times that of the others."""
    rows = []
    for stage in (BEFORE, AFTER):
        for block in range(blocks):
            for kind in kinds:
                down = kind.endswith("down_proj")
                outlier = {
                    "outlier_channels": [7, 3],
                    "outlier_ratios": [30.0 + block, 8.0],
                    "channel_ratio": 30.0 + block,
                }
                outlier |= {"channels_over_6": 2, "channels_over_20": 1, "kurtosis": 1000.0 + block}
                if KINDS.get(kind, kind) == kind:
                    rows.append(row(block, kind, INPUT, stage, **(outlier if down and stage == BEFORE else {})))
                values = {}
                if stage == AFTER and quantized:
                    values = {"code_counts": [1, 2, 3, 2], "code_points": [0.0, 0.25, 0.75, 1.0], "codes_used": 4}
                    values |= {"code_histogram": [0.0] * 32 + [1 / 32] * 32 + [0.0] * 32, "code_entropy": 1.9}
                    values |= {"clipped": 0.01, "distance": 0.25, "nearest_error": 0.1, "moved": 0.0}
                    values |= {"weight_error": 0.1 + block / 100, "output_error": 0.05}
                    values |= {"kl": (1 + block) * (0.01 if down else 0.001), "fisher": 0.5} if kl else {}
                rows.append(row(block, kind, WEIGHT, stage, **values))
    subject = SUBJECT | {"transformed": transformed, "bits": 2 if quantized else None}
    return Inspection(subject, rows)
