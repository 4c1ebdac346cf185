"""remix_study: Data Remixing for multimodal models, and the evidence that it worked"""

from typing import TYPE_CHECKING, Any

from remix_study.version import __version__ as __version__

if TYPE_CHECKING:
    from remix_study.api import Study as Study
    from remix_study.api import studies as studies


__all__ = ["Study", "__version__", "studies"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """`Study` and `studies`, imported when asked for: `import remix_study.remix` needs none of what they need."""
    if name in ("Study", "studies"):
        from remix_study import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
