"""What the weights and activations of a model look like to a quantization method, linear by linear."""
