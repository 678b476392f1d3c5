"""What an error in a weight costs."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Curvature:
    """Second-order cost of changing the weights W [rows, in] of a site.

    hessian: mean x x^T of the inputs, fp32 [in, in], the same for all rows; fisher: mean squared gradient of the
    language-modelling loss for each weight [rows, in], None where no method asked for it.
    """

    hessian: Tensor
    fisher: Tensor | None = None

    @property
    def importance(self) -> Tensor:
        """Diagonal cost of a squared error, broadcastable to W: Fisher where known, otherwise mean x^2 [1, in]."""
        return self.hessian.diagonal()[None, :] if self.fisher is None else self.fisher

    def columns(self, index: "slice | Tensor") -> "Curvature":
        """That of some input channels, in the order given."""
        return Curvature(self.hessian[index][:, index], None if self.fisher is None else self.fisher[:, index])
