"""The JSON file that a benchmark leaves behind."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Written beside and renamed, so that a benchmark that is killed leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(draft, path)
