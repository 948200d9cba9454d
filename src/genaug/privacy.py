"""What may leave this machine: no keys, no home, no absolute paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Stands where something was.
HIDDEN = "***"

_SECRET_NAME = re.compile(r"(^|[._-])(api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
#: Shorter values of such variables, as ``1``, are in every text.
_SHORTEST_SECRET = 8


def is_secret(name: str) -> bool:
    """Whether a key of a configuration, or an environment variable, is called like something to be kept.

    >>> is_secret("OPENAI_API_KEY"), is_secret("captioner.token"), is_secret("key_env"), is_secret("tokenizer")
    (True, True, False, False)
    """
    return _SECRET_NAME.search(name) is not None


def hide(text: str) -> str:
    """A text without values of secret environment variables and logins in addresses, and with ``~`` for the home.

    >>> hide("https://me:word@server/models")
    'https://***@server/models'
    """
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    text, home = _LOGIN.sub(f"{HIDDEN}@", text), str(Path.home())
    return re.sub(rf"{re.escape(home)}(?=$|[^\w.-])", "~", text) if len(home) > 1 else text


def hide_override(override: str) -> str:
    """An override of the command line as :func:`hide` leaves it, without the value of a secret key.

    >>> hide_override("server.api_key=abc"), hide_override("seed=1")
    ('server.api_key=***', 'seed=1')
    """
    name, equals, _ = override.partition("=")
    return f"{name}={HIDDEN}" if equals and is_secret(name) else hide(override)


def public(value: Any, name: str = "") -> Any:
    """A configuration to be shown to others: :func:`hide`, and of an absolute path its last part or that under here.

    >>> public({"root": "/data/sets/birds", "api_key": "abc", "key_env": "NAME", "seed": 0})
    {'root': '…/birds', 'api_key': '***', 'key_env': 'NAME', 'seed': 0}
    """
    if isinstance(value, Mapping):
        return {key: public(one, str(key)) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [public(one, name) for one in value]
    if value is not None and is_secret(name):
        return HIDDEN
    if not isinstance(value, str):
        return value
    scheme, found, path = value.rpartition(":///")  # file:///… and sqlite:///…
    if not Path(path).is_absolute():
        return hide(value)
    here = Path.cwd()
    short = Path(path).relative_to(here) if Path(path).is_relative_to(here) else Path("…", Path(path).name)
    return hide(f"{scheme}{found}{short}")
