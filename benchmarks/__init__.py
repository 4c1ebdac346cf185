"""Benchmarks of training, preparation and studies: run `make bench` or `python -m benchmarks.run`

    epoch_vs_released     (a) a Remix epoch vs the semantics of the released code
    decisions             (b) scores, assignment and schedule vs a loop over samples, and their memory
    reading_vs_decoding   (c) reading batches from the clip store vs decoding the clips each time
    epoch_vs_joint        (d) a Remix epoch vs a joint epoch of the same samples
    two_workers_vs_one    (e) two worker processes vs one
    preparing             (f) decoding a corpus with two processes vs one and vs plain loops, and its memory
    methods               (g) training steps with an added method vs joint training with unimodal losses
    studies               time of a study between trials, in training, in `status` and `report`
    overheads             cost of one trial for the components that all trials share
    simulated_study       which component saturates first with 1,000 workers

`python -m benchmarks.evidence` measures no speed: it runs the studies whose tables docs/evidence.md shows.

Most results are ratios of two quantities that are measured in turns within one run, so that other work on the machine
affects both alike. Absolute times depend more on the machine than on this code; only `studies` and (f) report some.

    measure      measuring in turns, results, verdicts, the machine
    epochs       training for (a), (d), (e) and (g): ResNet-18 on clips of CREMA-D's shapes
    big_study    a study of ten thousand recorded trials
    simulation   discrete-event simulation for `simulated_study`
    run          command line and table
"""
