"""Text without secrets: tokens by their shape, secret variables by their value, a person's home folder by its path."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any, TextIO

REMOVED = "[removed]"
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_SHAPES = (
    r"hf_[A-Za-z0-9_]{16,}",  # Hugging Face
    r"api_org_[A-Za-z0-9]{16,}",
    r"(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}",  # model providers
    r"gh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{16,}",  # GitLab
    r"xox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS
    r"AIza[A-Za-z0-9_-]{30,}",  # Google
    r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*",  # JSON Web Token
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
)
_SHAPE = re.compile("|".join(_SHAPES))
_HEADER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}")
_ASSIGNED = re.compile(
    r"(?i)((?:token|secret|password|passwd|api_?key|access_?key|authorization)[\"']?\s*[=:]\s*[\"']?)"
    r"(?!None\b|null\b|True\b|False\b|true\b|false\b)[^\s\"',;&{}\[\]]{8,}"
)
_URL = re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@:]+(?::[^\s/@]*)?@")
_LEAST_LENGTH = 6
"""A shorter value would be found in ordinary words."""


class Redactor:
    """Removes secrets from text and counts them.

    Args:
        environment: its secret variables' values are removed wherever they stand.
        known: further secrets, e.g. the token the Hub's client has stored.
        home: a home folder, written as ``~``.
    """

    def __init__(self, environment: Mapping[str, str], known: tuple[str, ...] = (), home: str | None = None) -> None:
        values = [value for name, value in environment.items() if _SECRET_NAME.search(name)]
        found = {value for value in (*values, *known) if len(value) >= _LEAST_LENGTH}
        self._values = sorted(found, key=len, reverse=True)
        self._home = home if home not in (None, "", "/") else None
        self.removed = 0

    def clean(self, text: str) -> str:
        """The text, each secret replaced."""
        for value in self._values:
            self.removed += text.count(value)
            text = text.replace(value, REMOVED)
        text = self._replace(_SHAPE, text, lambda match: REMOVED)
        for pattern in (_HEADER, _ASSIGNED):
            text = self._replace(pattern, text, lambda match: match[1] + REMOVED)
        text = self._replace(_URL, text, lambda match: f"{match[1]}{REMOVED}@")
        return text if self._home is None else text.replace(self._home, "~")

    def clean_all(self, content: Any) -> Any:
        """A JSON value, every text in it cleaned."""
        if isinstance(content, str):
            return self.clean(content)
        if isinstance(content, dict):
            return {name: self.clean_all(value) for name, value in content.items()}
        return [self.clean_all(each) for each in content] if isinstance(content, list) else content

    def _replace(self, pattern: re.Pattern[str], text: str, instead: Callable[[re.Match[str]], str]) -> str:
        text, count = pattern.subn(instead, text)
        self.removed += count
        return text


class CleanStream(io.TextIOBase):
    """A stream that passes text on line by line, each cleaned; what has no line end yet waits for it, or for a flush.

    What C code writes to the descriptor goes past it.
    """

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream = stream
        self._redactor = redactor
        self._waiting = ""

    def write(self, text: str) -> int:
        """Take text; as many characters as it has."""
        lines, end, self._waiting = (self._waiting + text).rpartition("\n")
        if end:
            self._stream.write(self._redactor.clean(lines + end))
        return len(text)

    def flush(self) -> None:
        """Pass on what waits."""
        waiting, self._waiting = self._waiting, ""
        self._stream.write(self._redactor.clean(waiting))
        self._stream.flush()

    def fileno(self) -> int:
        """The descriptor of the stream behind it."""
        return self._stream.fileno()
