"""Is it fast, and faster than what? `python -m benchmarks.run`, or `make bench`

    epoch_vs_released     (a) a Remix epoch against the released semantics
    decisions             (b) scores + assignment + schedule against a per-sample loop, and their memory
    reading_vs_decoding   (c) batches out of the clip store against decoding each time
    epoch_vs_joint        (d) a Remix epoch against a joint epoch of the same samples
    two_workers_vs_one    (e) two processes against one
    preparing             (f) decoding a corpus with two processes against one, against plain loops, and its memory

Every result is a ratio of two things measured in turns within one run: what else the machine does meets both. Absolute
times of a CPU say more about the machine than about this code, and are not reported.

    measure   turns, ratios, verdicts, the machine
    epochs    what (a), (d) and (e) train: ResNet-18 on clips of CREMA-D's shapes
    run       the table
"""
