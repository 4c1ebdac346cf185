"""Costs of metric spools: appending to one, and polling many"""

import json
import shutil
from pathlib import Path

from benchmarks.overheads.counting import cpu_seconds
from benchmarks.overheads.studies import EPOCHS
from remix_study.tracking.spool import Spool
from remix_study.tracking.syncer import Syncer


def spools(folder: Path, count: int) -> dict[str, float]:
    """Measure the cost per spool of polling `count` of them, and of appending one line.

    Returns:
        look_s: per spool, a poll by the sender's thread. is_open_s: per spool, the check by a driver that starts.
        append_s: per line.
    """
    runs = folder / "spools"
    line = {"metrics": [[f"metric/{n}", 0.123456789] for n in range(40)], "step": 1, "time": 1}
    names = [runs / str(number) for number in range(count)]
    text = (json.dumps({"start": {}, "key": "k"}) + "\n" + (json.dumps(line) + "\n") * EPOCHS
            + json.dumps({"status": "FINISHED", "time": 1}) + "\n")  # fmt: skip
    for name in names:
        (name / "tracking").mkdir(parents=True)
        (name / "tracking" / "spool.jsonl").write_text(text)
        (name / "tracking" / "spool.offset").write_text(str(len(text)))
    syncer = Syncer("sqlite://")
    for name in names:
        syncer.watch(name)
    syncer._round()  # not measured: the first round reads what has arrived
    poll_s = cpu_seconds(syncer._round, 5) / count
    is_open_s = cpu_seconds(lambda: [Spool(name / "tracking").is_open for name in names]) / count
    shutil.rmtree(runs)
    spool = Spool(folder / "one")
    return {"look_s": poll_s, "is_open_s": is_open_s, "append_s": cpu_seconds(lambda: spool.append(line), 30)}
