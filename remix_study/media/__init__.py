"""Media files decoded to arrays, once before training

    source        where the files of a corpus are: a folder or a URL
    container     durations, frame times and tracks of a file, without decoding it
    decoders      video frames and audio waveforms, by three backends that agree (PyAV, torchcodec, decord)
    video, audio  which frames and seconds are kept, at what size and sample rate
    spectrogram   spectrograms and filter banks (torchaudio)
    checks        tests that a decoded clip is complete
    build         decodes a corpus on all cores into a clip store, and can resume
    store         read-only memory maps of a clip store, shared by all trials

Only `build` decodes. decord is imported only in its worker processes; a training process opens a `ClipStore`.
"""
