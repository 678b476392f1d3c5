"""The independent axes whose product is the space of methods, in the order they act."""

AXES = (
    "format",
    "range",
    "transform",
    "rounding",
    "allocation",
    "activation",
    "kv_cache",
    "training",
)
# Axes that are younger than many stored runs: at this choice they change no run's id, and a file without them means it.
YOUNG_AXES = {"kv_cache": "none", "training": "none"}
