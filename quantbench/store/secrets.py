"""Keeping what the environment holds in confidence out of everything that is written."""

import json
import os
import re

# Names under which people keep credentials (HF_TOKEN, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, PGPASSWORD ...).
_NAMED = re.compile(
    r"TOKEN(?!S|I)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|(^|_)(KEY|AUTH|PAT)$",
    re.IGNORECASE,
)
_SHORTEST = 8  # shorter values (1, true, none) are settings, and part of ordinary text


def redacted(text: str) -> str:
    """The text with the value of every environment variable that is named like a credential replaced by its name."""
    secrets = {value: name for name, value in os.environ.items() if _NAMED.search(name) and len(value) >= _SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        for form in (value, json.dumps(value)[1:-1]):  # as it is, and as JSON writes it
            text = text.replace(form, f"<{secrets[value]}>")
    return text
