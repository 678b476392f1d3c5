"""``save=``: the run's model as a GGUF file or as a folder with its record, checked before any work is done."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from quantbench.config.schema import RunConfig
from quantbench.export import LAYOUTS, check_destination, check_model, export_folder
from quantbench.measurement import Measurement
from quantbench.methods.transform import Rotation
from quantbench.models.gguf_export import check_exportable, export_gguf
from quantbench.models.load import LoadedModel
from quantbench.models.structure import Structure
from quantbench.report.card import card
from quantbench.stages import Stages
from quantbench.store.record import as_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantbench.store.record import RunIdentity


def check_save(config: RunConfig) -> None:
    """Refuse a folder that cannot be written, before a model is loaded.

    Raises:
        InputError: see ``check_destination``.
    """
    if config.save is not None and config.saves_folder:
        check_destination(Path(config.save), overwrite=config.force)


def check_saved_model(config: RunConfig, model: nn.Module, structure: Structure) -> None:
    """Refuse a model that what was asked for cannot hold, before it is scored.

    Raises:
        InputError: names the part and what is allowed.
    """
    if config.save is None:
        return
    if not config.saves_folder:
        check_exportable(model, Path(config.save), overwrite=config.force)
        return
    names = [f"{block.name}.{linear}" for block in structure.blocks for linear in block.linears]
    formats = {name: config.format for name in names if config.allocation.quantizes(name)}
    check_model(
        model,
        LAYOUTS[config.save_layout],
        formats if config.rounding.quantizes else {},
        replaces_norms=isinstance(config.transform, Rotation),
        path=Path(config.save),
    )


def save(
    config: RunConfig,
    loaded: LoadedModel,
    measurements: "Sequence[Measurement]",
    identity: "Callable[[], RunIdentity]",
    stages: Stages,
) -> None:
    """Write the model as it now is, quantized, and say where; ``identity`` makes the record of the run.

    Raises:
        QuantizationError: the disk refuses; nothing is left half-written.
    """
    if config.save is None:
        return
    path, layout = Path(config.save), LAYOUTS[config.save_layout]
    with stages.stage("save"):
        if not config.saves_folder:
            written = export_gguf(loaded.model, loaded.tokenizer, path, name=loaded.identity.name)
        else:
            made = identity()
            mixed = len(config.allocation.formats(config.format)) > 1
            text = card(
                made,
                measurements,
                layout=layout.name if config.rounding.quantizes else "dense",
                needs=layout.loads_with if config.rounding.quantizes else "transformers",
                loading=layout.loading(path.name, mixed=mixed or not config.rounding.quantizes),
            )
            record = as_dict(made) | {"measurements": [_row(item) for item in measurements]}
            written = export_folder(loaded.model, loaded.tokenizer, path, layout, card=text, record=record)
    print(f"Saved {written}")


def _row(item: Measurement) -> dict[str, Any]:
    row = asdict(item)
    del row["samples"]
    return row
