"""Training of whole models: the loop, its checkpoints, and what a quantized model looks like to it."""
