"""Give a Llama the outlier channels of a large model without changing its function.

Three pairs of places where a channel's scale can move: from the gain of a norm to the input columns of the linears
behind it, from the rows of up_proj to the columns of down_proj, and from the rows of v_proj to the columns of o_proj.
"""

from dataclasses import dataclass

import torch


@dataclass
class Outliers:
    """Channel scales exp(sigma * z), z standard normal; a ``fraction`` of the channels is ``factor`` times larger."""

    sigma: float = 0.2
    fraction: float = 0.01
    factor: float = 8.0
    seed: int = 0

    def scales(self, channels: int, generator: torch.Generator) -> torch.Tensor:
        """[channels] float64, all positive."""
        scales = torch.exp(self.sigma * torch.randn(channels, generator=generator, dtype=torch.float64))
        count = round(self.fraction * channels)
        scales[torch.randperm(channels, generator=generator)[:count]] *= self.factor
        return scales


@torch.no_grad()
def rescale(model: torch.nn.Module, outliers: Outliers) -> None:
    """Rescale every block of a Llama with as many key-value heads as heads, in place."""
    generator = torch.Generator().manual_seed(outliers.seed)
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        for norm, readers in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            scales = outliers.scales(norm.weight.numel(), generator)
            norm.weight.copy_(norm.weight.double() * scales)
            for reader in readers:
                reader.weight.copy_(reader.weight.double() / scales)
        for writer, reader in ((mlp.up_proj, mlp.down_proj), (attention.v_proj, attention.o_proj)):
            scales = outliers.scales(reader.in_features, generator)
            writer.weight.copy_(writer.weight.double() * scales[:, None])
            reader.weight.copy_(reader.weight.double() / scales)
