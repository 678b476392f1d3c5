"""Checks of what lies outside: the Hub and its cache, W&B, and our own cache."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from quantbench.doctor.finding import Finding
from quantbench.errors import InputError
from quantbench.paths import usable_cache_dir
from quantbench.report.numbers import size

_SECONDS = 3.0
_MOST_NAMES = 5


def hub() -> Iterator[Finding]:
    """Whether models and texts can be downloaded, and whether with a token."""
    from huggingface_hub import constants, get_token

    token = "with a token" if get_token() else "without a token: gated models need `hf auth login`"
    host = urlsplit(constants.ENDPOINT).hostname or "the Hub"
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", False, "offline, as HF_HUB_OFFLINE asks", "unset HF_HUB_OFFLINE")
    elif reachable(constants.ENDPOINT):
        yield Finding("hub", True, f"{host} answers, {token}")
    else:
        remedy = "use model=local or the embedded model, or download on another machine (HF_HOME) and copy"
        yield Finding("hub", False, f"{host} does not answer within {_SECONDS:g} s", remedy)


def reachable(address: str) -> bool:
    """Whether anything answers there, within seconds; looking up a name has no time limit of its own."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_SECONDS):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # it answered
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return bool(answers and answers[0])


def cached_models() -> Iterator[Finding]:
    """Models that load without a network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    remedy = "run once with a network: python -m quantbench model=smollm2-135m"
    try:
        repositories = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        repositories = []
    if not repositories:
        yield Finding("cached models", False, "none", remedy)
        return
    names = sorted(repo.repo_id for repo in repositories)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    total = size(sum(repo.size_on_disk for repo in repositories))
    yield Finding("cached models", True, f"{', '.join(names[:_MOST_NAMES])}{more} ({total})")


def wandb_login() -> Iterator[Finding]:
    """Whether runs go to W&B at once."""
    from quantbench.store.wandb_client import goes_online

    online, reason = goes_online("auto")
    if online:
        yield Finding("wandb", True, "logged in: runs go online")
        return
    asked = f"unset WANDB_MODE (it is {os.environ['WANDB_MODE']})" if reason == "as asked" else "wandb login"
    yield Finding("wandb", False, f"offline ({reason}): runs are written below results/wandb", asked)


def own_cache() -> Iterator[Finding]:
    """The folder of full precision's scores."""
    try:
        yield Finding("cache", True, str(usable_cache_dir()))
    except InputError as error:
        yield Finding("cache", False, str(error), "set QUANTBENCH_CACHE to a folder you can write", required=True)
