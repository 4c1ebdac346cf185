"""Credentials in URLs: written as `$NAME`, and read from the environment only where the URL is used

Configurations are copied to files, logs, tags and reports. Since they contain only names, no copy contains a password.
"""

import os
import re
from urllib.parse import quote, unquote

from remix_study.errors import ConfigError

_NAME = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
_URL = re.compile(r"^([a-z][\w+.-]*://)(?:([^/?#]*)@)?([^?#]*)(.*)$", re.IGNORECASE | re.DOTALL)
_SECRET_VALUE = re.compile(
    r"[?&;](?:\w*password|passwd|pwd|\w*token|secret|api_?key|x-amz-signature|signature|sig)=([^&;#]*)", re.IGNORECASE
)


def names_in(text: str) -> list[str]:
    """The environment variables that `text` names as `$NAME` or `${NAME}`, in order, each once."""
    return list(dict.fromkeys(found[1] or found[2] for found in _NAME.finditer(text)))


def resolve(url: str, where: str) -> str:
    """Replace every `$NAME` in `url` by its value in the environment, which may contain any character.

    Values in the user info and in the query are percent-encoded.

    Args:
        where: the setting that contains the URL, for the error message.

    Raises:
        ConfigError: a variable is not set.
    """
    missing = [name for name in names_in(url) if name not in os.environ]
    if missing:
        raise ConfigError(
            f"{where} needs {', '.join(missing)} in the environment, but it is not set. Set it and rerun the command."
        )
    parts = _URL.match(url)
    if parts is None:
        return _fill(url)
    scheme, user, place, options = parts.groups()
    known = "" if user is None else f"{_fill(user, escaped=True)}@"
    return f"{scheme}{known}{_fill(place)}{_fill(options, escaped=True)}"


def holds_password(url: str) -> bool:
    """Whether `url` contains a secret, rather than its `$NAME`. A user name of http alone counts: it may be a token."""
    parts = _URL.match(url)
    if parts is None:
        return False
    user, colon, password = (parts[2] or "").partition(":")
    secret = password if colon or not parts[1].lower().startswith("http") else user
    return any(_NAME.sub("", each) for each in (secret, *_SECRET_VALUE.findall(url)))


def redact(text: str, *, password_of: str = "") -> str:
    """Replace the credentials of every URL in `text` by ***: user info and query values that look like secrets.

    Args:
        password_of: a URL whose password is also replaced where it stands alone, as in the message of a library.
    """
    text = re.sub(r"(?P<scheme>[a-z][\w+.-]*://)[^/\s'\"]*@", r"\g<scheme>***@", text, flags=re.IGNORECASE)
    text = re.sub(r"(?i)((?:password|passwd|pwd|token|secret|signature|key)=)[^&\s'\"]+", r"\1***", text)
    # Not the user name: names such as "a" or "mlflow" would turn half of a message into stars.
    found = re.match(r"[a-z][\w+.-]*://[^/:@]*:([^/]*)@", password_of, flags=re.IGNORECASE)
    for password in sorted({found[1], unquote(found[1])} - {""}) if found else ():
        text = text.replace(password, "***")
    return text


def _fill(text: str, *, escaped: bool = False) -> str:
    def value(found: re.Match[str]) -> str:
        known = os.environ[found[1] or found[2]]
        return quote(known, safe="") if escaped else known

    return _NAME.sub(value, text)
