"""Media files become arrays here, once, before any training

    container    what a file says it holds, without decoding it
    decoders     frames and wave out of a file; two backends that agree (decord, PyAV)
    video/audio  which frames, which seconds, at what size and rate
    spectrogram  the audio that a model sees (torchaudio)
    checks       a clip that decodes is not yet a clip that is whole
    build        all of it over a corpus, on all cores, into a clip store; survives being killed
    store        the read-only memory maps that every trial shares

Only `build` decodes, and decord is imported in its worker processes only; a training process opens a `ClipStore`.
"""
