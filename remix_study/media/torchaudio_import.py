"""Import torchaudio, or say which torchaudio fits the installed torch"""

from remix_study.errors import RemixStudyError

try:
    import torchaudio
except OSError as error:  # its compiled part was linked with another build of torch
    raise RemixStudyError(
        f"Cannot import torchaudio, because it was built for another build of torch ({error}). Reinstall it from the "
        "package index from which torch was installed."
    ) from error

__all__ = ["torchaudio"]
