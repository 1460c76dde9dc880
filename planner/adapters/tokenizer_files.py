"""A model's tokenizer, without torch: its files in the model's folder, in the Hub's cache here, or from the Hub."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from vramplan.planner.adapters.hub import TIMEOUT_SECONDS, our_errors
from vramplan.planner.adapters.inside import leads_outside, outside_words
from vramplan.planner.errors import GatedModelError, OfflineError, VramplanError
from vramplan.planner.model_spec import ModelSpec

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MAX_FILE_BYTES = 64_000_000
"""Of the config and the template: far above any published one."""


class TokenizerFiles(NamedTuple):
    """What is needed to count tokens."""

    tokenizer: Path
    config: dict[str, Any]
    chat_template: str | None
    """A jinja template; None: the model has none."""

    @property
    def end(self) -> str | None:
        """The token that ends a row."""
        return self.token("eos_token")

    def token(self, name: str) -> str | None:
        """A special token by its name in the config."""
        token = self.config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        return token if isinstance(token, str) else None


def find_tokenizer(model: ModelSpec, *, online: bool = True) -> TokenizerFiles | str:
    """The tokenizer of a model, or why it is out of reach."""
    found = {}
    for name in (TOKENIZER, CONFIG, TEMPLATE):
        path = _file(model, name, online=online)
        if isinstance(path, str) and name == TOKENIZER:
            return path
        found[name] = None if isinstance(path, str) else path
    tokenizer, config_file, template_file = (found[name] for name in (TOKENIZER, CONFIG, TEMPLATE))
    assert tokenizer is not None
    try:
        config = json.loads(_text(config_file)) if config_file else {}
        template = _text(template_file) if template_file else _inline(config)
    except (OSError, ValueError, RecursionError) as error:
        return f"its tokenizer_config.json cannot be read ({type(error).__name__})"
    return TokenizerFiles(tokenizer, config if isinstance(config, dict) else {}, template)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_FILE_BYTES:,} bytes")
    return content.decode()


def _inline(config: Any) -> str | None:
    """The template inside tokenizer_config.json: one, or one of several named ones."""
    template = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _file(model: ModelSpec, name: str, *, online: bool) -> Path | str:
    if model.provenance.source == "folder":
        folder = Path(model.provenance.location)
        path = folder / name
        if not path.is_file():
            return f"there is no {name} in {folder}"
        return f"{name} {outside_words(path)}" if leads_outside(folder, path) else path
    return _from_hub(model, name, online=online)


def _from_hub(model: ModelSpec, name: str, *, online: bool) -> Path | str:
    """The cached file, or a download of it. Whether the Hub answers is asked first: a download would ask five times
    and wait half a minute for an answer that does not come."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache  # 0.2 s

    cached = try_to_load_from_cache(model.repo_id, name, revision=model.revision)
    if isinstance(cached, str):
        return Path(cached)
    if not online:
        return f"the tokenizer of {model.repo_id} is not on this machine"
    try:
        with our_errors(model.repo_id, model.revision):
            url = hf_hub_url(model.repo_id, name, revision=model.revision)
            get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS)
            return Path(hf_hub_download(model.repo_id, name, revision=model.revision))
    except GatedModelError:
        return f"{model.repo_id} is gated, and this machine has no access to its tokenizer"
    except (OfflineError, OSError, ValueError):
        return f"the tokenizer of {model.repo_id} is not on this machine, and the Hub is out of reach"
    except VramplanError:
        return f"the Hub did not give {name}"
