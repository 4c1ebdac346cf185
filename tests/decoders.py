"""The decoders that this machine can load: torchcodec needs FFmpeg's libraries, which no wheel brings"""

import functools

from remix_study.errors import StoreError
from remix_study.media.decoders import DECODERS, DecoderName, decoder_version


@functools.cache
def why_missing(name: DecoderName) -> str | None:
    """Return why a decoder cannot be used; None if it can."""
    try:
        decoder_version(name)
    except StoreError as error:
        return str(error)
    return None


def installed() -> list[DecoderName]:
    return [name for name in DECODERS if why_missing(name) is None]
