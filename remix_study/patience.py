"""Waiting times: for databases, buckets, tracking servers, clusters and machines

The defaults suit busy clusters and slow networks. The environment variable `REMIX_STUDY_PATIENCE` replaces some of
them, such as `lease_beat_s=1 lease_silence_s=5`. It is meant for tests, and is read when this module is imported.
"""

import os
from dataclasses import dataclass, fields


@dataclass
class Patience:
    """Waiting times in seconds.

    Args:
        storage_restart_s: a driver waits this long for a study's database that is being restarted. Its runs go on.
        lease_period_s: between two uploads of a study in a remote workspace.
        lease_beat_s: between two renewals of the lease on a study in a remote workspace.
        lease_silence_s: a driver whose lease is not renewed for this long is gone.
        lease_fresh_s: `status` reports a study as running while its lease is younger. Clocks of machines differ.
        tracking_period_s: between two checks for data to send to the tracking server.
        tracking_longest_pause_s: longest time between two tries to send it.
        tracking_close_s: for sending the remaining data when a study ends.
        tracker_first_pause_s: a single run's first pause after its tracking server did not accept data.
        tracker_longest_pause_s: its longest pause.
        clock_s: between two writes of the hours that a study has used.
        study_progress_s: between two reports of a study's progress to the tracking server.
        start_barrier_s: the first runs of a study wait this long for each other.
        cluster_size_s: between two checks whether machines have joined the cluster.
        node_answer_s: for the first answer of a node, which imports Ray, perhaps from a slow disk.
        decoder_start_s: for the start of a decoding process, which imports torch, perhaps from a slow disk.
        preemption_poll_s: between two checks whether Ray drains the node of a run.
        port_forward_s: for a forwarded dashboard. Ray's ssh tries for two minutes.
        reconnect_pause_s: first pause before `submit` reconnects to a job; later pauses are multiples of it.
    """

    storage_restart_s: float = 600.0
    lease_period_s: float = 5.0
    lease_beat_s: float = 10.0
    lease_silence_s: float = 30.0
    lease_fresh_s: float = 90.0
    tracking_period_s: float = 1.0
    tracking_longest_pause_s: float = 30.0
    tracking_close_s: float = 20.0
    tracker_first_pause_s: float = 10.0
    tracker_longest_pause_s: float = 60.0
    clock_s: float = 30.0
    study_progress_s: float = 2.0
    start_barrier_s: float = 60.0
    cluster_size_s: float = 5.0
    node_answer_s: float = 180.0
    decoder_start_s: float = 300.0
    preemption_poll_s: float = 2.0
    port_forward_s: float = 150.0
    reconnect_pause_s: float = 2.0


def parse(text: str) -> Patience:
    """Return the defaults with the replacements in `text`, such as `lease_beat_s=1 lease_silence_s=5`.

    Raises:
        ValueError: a name is unknown, or a value is not a positive number.
    """
    names = {field.name for field in fields(Patience)}
    values: dict[str, float] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in names:
            raise ValueError(f"REMIX_STUDY_PATIENCE must name some of {', '.join(sorted(names))}, but has {name!r}.")
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = 0.0
        if not values[name] > 0:
            raise ValueError(f"{name} in REMIX_STUDY_PATIENCE must be a positive number of seconds, but is {value!r}.")
    return Patience(**values)


PATIENCE = parse(os.environ.get("REMIX_STUDY_PATIENCE", ""))
