"""Conversations as text: a tokenizer's chat template in jinja's sandbox, with what transformers gives it
(utils/chat_template_utils.py). jinja comes with the ``train`` extra."""

import importlib.util
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from vramplan.planner.adapters.tokenizer_files import TokenizerFiles

Render = Callable[[list[dict[str, str]], bool], str]
"""(messages, whether the answer is still to come) to text."""
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def can_render() -> bool:
    """Whether jinja is installed."""
    return importlib.util.find_spec("jinja2") is not None


def renderer(files: TokenizerFiles, template: str) -> Render:
    """A template as a function.

    Raises:
        jinja2.TemplateError: it is no template; calling it raises the same where a conversation does not suit it.
    """
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> str:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    compiled = environment.from_string(template)
    special = {name: files.token(name) for name in SPECIAL_TOKENS}
    special = {name: token for name, token in special.items() if token is not None}

    def render(messages: list[dict[str, str]], awaits_answer: bool) -> str:
        return compiled.render(
            messages=messages, add_generation_prompt=awaits_answer, tools=None, documents=None, **special
        )

    return render
