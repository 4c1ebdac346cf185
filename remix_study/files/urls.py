"""URLs that fsspec knows: opening them, and one sentence about why they cannot be used

Credentials come from where the service's own tools look for them (environment, profile, role), and are in no message.
What is temporary, such as a dropped connection or a server that is too busy, is tried again several times by the
packages themselves, with growing pauses (s3fs: five times, botocore under it: five times).
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
# Protocol -> extra of this project that brings its package.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
_CREDENTIALS = {  # by extra
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a machine's role",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or a machine's service account",
    "azure": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or a managed identity",
}
# What services call the digest, or at least the version, of a content.
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "contentHash", "checksum", "LastModified", "mtime", "last_modified")
_NO_CREDENTIALS = re.compile("Credential|ClientAuthentication|TokenRetrieval|SSOToken")
_NO_ANSWER = re.compile("Connect|Timeout|ClientPayload|Disconnected")
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_url(where: str | Path) -> bool:
    """Whether it is the URL of another place; `file://` is one of this machine."""
    return isinstance(where, str) and _URL.match(where) is not None and not where.lower().startswith("file://")


def path_of(where: str | Path) -> Path:
    """A folder or file of this machine, also where it is given as `file://`."""
    text = str(where)
    return Path(unquote(urlsplit(text).path)) if text.lower().startswith("file://") else Path(where)


def corpus_at(where: str | Path) -> str:
    """Where a corpus is, for processes with another working directory: an absolute path; a URL as it is."""
    return str(where) if is_url(where) else str(path_of(where).resolve())


def shown(url: str) -> str:
    """A URL without name, password and signature."""
    return re.sub(r"://[^/@\s]*@", "://", re.sub(r"[?#]\S*", "", url))


def open_url(url: str) -> tuple[Any, str]:
    """An fsspec file system of this process and thread, and the path of `url` in it, without a slash at its end.

    Raises:
        SourceError: fsspec does not know the protocol, or its package is not installed.
    """
    import fsspec

    if set("?#") & set(url):
        raise SourceError(f"a URL must name a folder, without `?` or `#`, but is {shown(url)} and more.")
    protocol = url.partition("://")[0].lower()
    try:
        system, root = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        helps = f"pip install 'remix-study[{extra}]'" if extra else " ".join(str(error).split())
        raise SourceError(f"{shown(url)} needs a package that is not installed: {helps}") from error
    except ValueError as error:
        known = ", ".join(sorted({"s3", "gs", "az", "https", "hf", "sftp"} - {protocol}))
        raise SourceError(
            f"{shown(url)} must begin with a protocol that fsspec knows ({known} ...), but {protocol!r} cannot be "
            "used. Check the address."
        ) from error
    return system, str(root).rstrip("/")


@contextlib.contextmanager
def url_errors(url: str) -> Iterator[None]:
    """What goes wrong with a service, as one sentence; what goes wrong with this machine's disk passes.

    Raises:
        SourceError: it does not answer, does not let us in, or does not have the place.
    """
    try:
        yield
    except RemixStudyError:
        raise
    except Exception as error:  # every protocol has exceptions of its own, with no base in common
        ours = type(error).__module__ == "builtins" and not isinstance(error, OSError | ValueError)
        here = isinstance(error, OSError) and (error.errno in _OF_THIS_DISK or _is_local_denial(error))
        if ours or here:
            raise
        raise SourceError(_told(shown(url), error)) from error


def _is_local_denial(error: OSError) -> bool:
    return isinstance(error, PermissionError) and error.filename is not None


def _told(url: str, error: Exception) -> str:
    kind, code = type(error).__name__, _code(error)
    how = _CREDENTIALS.get(_EXTRAS.get(url.partition("://")[0].lower(), ""))
    if _NO_CREDENTIALS.search(kind):
        return (
            f"{url} needs credentials, but there are none. Give them as the service's own tools take them"
            f"{'' if how is None else f': {how}'}."
        )
    if isinstance(error, PermissionError):
        return f"{url} must let us in, but refuses{code}. Check the credentials, and what they may do."
    if isinstance(error, FileNotFoundError):
        return f"{url} must exist, but there is no such bucket or folder{code}. Check the address."
    if isinstance(error, ConnectionError | TimeoutError) or _NO_ANSWER.search(kind):
        return f"{url} must answer, but does not ({kind}), also when asked again. Check the network and the address."
    return f"{url} must be usable, but is not ({kind}{code}). Check the address and the service."


def no_bucket(error: FileNotFoundError) -> bool:
    """Whether not only a file is missing, but all of the place: in S3, a bucket that does not exist."""
    return "NoSuchBucket" in _code(error) or "bucket does not exist" in str(error)


def _code(error: BaseException) -> str:
    """A service's word for it; its sentences may hold names of accounts."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, Mapping) and (code := response.get("Error", {}).get("Code")):
            return f" ({code})"
        if (status := getattr(seen, "status", None)) is not None:
            return f" ({status})"
        seen = seen.__cause__
    return ""


def tag_of(info: Mapping[str, Any]) -> str | None:
    """What a service says of a file's content, such as its ETag; None where it says nothing."""
    for key in _TAGS:
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).removeprefix('W/').strip(chr(34))}"
    return None
