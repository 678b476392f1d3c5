"""The independent axes whose product is the space of methods, in the order they act."""

AXES = ("format", "range", "transform", "rounding", "allocation", "activation")
