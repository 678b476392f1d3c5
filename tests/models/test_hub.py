"""The Hub without a network: a cache as the Hub client lays it out, and the client's own exceptions."""

import importlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from quantbench.errors import InputError
from quantbench.models.identity import ModelIdentity, hub_snapshot
from quantbench.models.load import HubModel, identify, load
from tests.models import tiny

# The HTTP library that this version of the Hub client is built on.
http = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "some-org/tiny"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def cached_model(hub_cache: Path) -> Any:
    repository = hub_cache / f"models--{NAME.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    model = tiny.build("llama")
    model.save_pretrained(snapshot)
    tiny.tokenizer().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return model


@torch.no_grad()
def test_an_offline_cache_gives_commit_and_model(cached_model: Any) -> None:
    assert identify(HubModel(name=NAME)) == ModelIdentity(NAME, COMMIT)
    loaded = load(HubModel(name=NAME), "auto")
    assert loaded.identity.revision == COMMIT
    torch.testing.assert_close(loaded.model(tiny.token_ids()).logits, cached_model(tiny.token_ids()).logits)


def test_offline_without_a_copy_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"no access to the Hub for model.name=some-org/tiny") as caught:
        identify(HubModel(name=NAME))
    for advice in ("model=embedded", "model.path=DIR_OR_GGUF", "hf download some-org/tiny", "HF_HOME"):
        assert advice in str(caught.value)


def response(status: int) -> Any:
    return http.Response(status, request=http.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("x", response=response(404)), "no such repository on the Hub"),
        (errors.GatedRepoError("x", response=response(403)), r"gated: accept its licence at https://huggingface.co/"),
        (errors.RevisionNotFoundError("x", response=response(404)), r"model.revision=v9: some-org/tiny has no such"),
        (errors.HfHubHTTPError("x", response=response(503)), "no access to the Hub"),
        (http.ConnectError("x"), "no access to the Hub"),
    ],
)
def test_each_refusal_of_the_hub_gets_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(InputError, match=message) as caught:
        identify(HubModel(name=NAME, revision="v9"))
    assert "\n" not in str(caught.value)


def test_a_malformed_name_is_no_repository() -> None:
    with pytest.raises(InputError, match="no such repository"):
        identify(HubModel(name="a/b/c"))


def test_a_broken_connection_falls_back_to_the_cache(cached_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise http.ConnectError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    assert load(HubModel(name=NAME), "auto").identity.revision == COMMIT


@pytest.mark.parametrize(
    ("files", "code", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.py"], False, (True, False, False)),
        (["model-00001-of-00002.safetensors", "pytorch_model.bin"], False, (True, False, False)),
        (["pytorch_model.bin", "flax_model.msgpack"], False, (False, True, False)),
        (["model.safetensors", "model.py"], True, (True, False, True)),
    ],
)
def test_pickles_and_code_are_downloaded_only_when_needed(
    files: list[str], code: bool, expected: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append(k) or "somewhere")
    assert hub_snapshot(ModelIdentity(NAME, COMMIT), code=code) == Path("somewhere")
    patterns = asked[0]["allow_patterns"]
    found = tuple(any(p.endswith(end) for p in patterns) for end in (".safetensors", ".bin", ".py"))
    assert found == expected
    assert asked[0]["revision"] == COMMIT
