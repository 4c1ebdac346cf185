"""Opening URLs with fsspec, and error messages that explain why a URL cannot be used

Credentials come from where the service's own tools look for them (environment, profile, role). Messages never contain
them. Temporary errors, such as a dropped connection or a busy server, are retried by the packages themselves with
growing pauses (s3fs five times, botocore five times for each of them).
"""

import contextlib
import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from remix_study.errors import RemixStudyError, SourceError

_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
# Protocol -> extra of this project that installs its package.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
_CREDENTIALS = {  # by extra
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a machine's role",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or a machine's service account",
    "azure": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or a managed identity",
}
# Names under which services report a digest, or at least a version, of a file's content.
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "contentHash", "checksum", "LastModified", "mtime", "last_modified")
_NO_CREDENTIALS = re.compile("Credential|ClientAuthentication|TokenRetrieval|SSOToken")
_NO_ANSWER = re.compile("Connect|Timeout|ClientPayload|Disconnected")
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_url(where: str | Path) -> bool:
    """Whether `where` is the URL of a remote place; `file://` URLs are local paths."""
    return isinstance(where, str) and _URL.match(where) is not None and not where.lower().startswith("file://")


def path_of(where: str | Path) -> Path:
    """The local path of a folder or file, which may be given as a `file://` URL."""
    text = str(where)
    return Path(unquote(urlsplit(text).path)) if text.lower().startswith("file://") else Path(where)


def corpus_at(where: str | Path) -> str:
    """The absolute path or URL of a corpus, for processes with another working directory."""
    return str(where) if is_url(where) else str(path_of(where).resolve())


def shown(url: str) -> str:
    """A URL without user name, password and query."""
    return re.sub(r"://[^/@\s]*@", "://", re.sub(r"[?#]\S*", "", url))


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL for this process and thread, and the path in it without a trailing slash.

    Raises:
        SourceError: fsspec does not know the protocol, or its package is not installed.
    """
    import fsspec

    if set("?#") & set(url):
        raise SourceError(f"Cannot open {shown(url)}: the URL of a folder must not contain `?` or `#`.")
    protocol = url.partition("://")[0].lower()
    try:
        system, root = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        helps = f"pip install 'remix-study[{extra}]'" if extra else " ".join(str(error).split())
        raise SourceError(f"Cannot open {shown(url)}: it needs a package that is not installed: {helps}") from error
    except ValueError as error:
        known = ", ".join(sorted({"s3", "gs", "az", "https", "hf", "sftp"} - {protocol}))
        raise SourceError(
            f"Cannot open {shown(url)}: fsspec does not support the protocol {protocol!r}. Use another one ({known} "
            "...)."
        ) from error
    return system, str(root).rstrip("/")


@contextlib.contextmanager
def url_errors(url: str) -> Iterator[None]:
    """Explain errors of the service at `url`. Errors of the local disk and bugs pass unchanged.

    Raises:
        SourceError: the service does not answer, refuses access, or does not have the bucket or folder.
    """
    try:
        yield
    except RemixStudyError:
        raise
    except Exception as error:  # protocols have their own exceptions, without a common base class
        ours = type(error).__module__ == "builtins" and not isinstance(error, OSError | ValueError)
        here = isinstance(error, OSError) and (error.errno in _OF_THIS_DISK or _is_local_denial(error))
        if ours or here:
            raise
        raise SourceError(_explanation(shown(url), error)) from error


def _is_local_denial(error: OSError) -> bool:
    return isinstance(error, PermissionError) and error.filename is not None


def _explanation(url: str, error: Exception) -> str:
    kind, code = type(error).__name__, _code(error)
    how = _CREDENTIALS.get(_EXTRAS.get(url.partition("://")[0].lower(), ""))
    if _NO_CREDENTIALS.search(kind):
        return (
            f"Cannot access {url}: no credentials were found. Set them as for the service's own tools"
            f"{'' if how is None else f': {how}'}."
        )
    if isinstance(error, PermissionError):
        return f"Cannot access {url}: permission denied{code}. Check the credentials and their permissions."
    if isinstance(error, FileNotFoundError):
        return f"Cannot access {url}: no such bucket or folder{code}. Check the address."
    if isinstance(error, ConnectionError | TimeoutError) or _NO_ANSWER.search(kind):
        return f"Cannot reach {url}: no answer after several tries ({kind}). Check the network and the address."
    return f"Cannot use {url}: the service failed ({kind}{code}). Check the address and the service."


def no_bucket(error: FileNotFoundError) -> bool:
    """Whether the bucket is missing, rather than a file in it."""
    return "NoSuchBucket" in _code(error) or "bucket does not exist" in str(error)


def _code(error: BaseException) -> str:
    """The error code of the service; its messages may contain account names."""
    current: BaseException | None = error
    while current is not None:
        response = getattr(current, "response", None)
        if isinstance(response, Mapping) and (code := response.get("Error", {}).get("Code")):
            return f" ({code})"
        if (status := getattr(current, "status", None)) is not None:
            return f" ({status})"
        current = current.__cause__
    return ""


def tag_of(info: Mapping[str, Any]) -> str | None:
    """A value that changes with a file's content, such as its ETag; None if the service reports none."""
    for key in _TAGS:
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).removeprefix('W/').strip(chr(34))}"
    return None
