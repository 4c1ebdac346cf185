import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from remix_study.errors import RunPreempted
from remix_study.study.trial_errors import Loss, TrialErrors, import_remedy, loss_of

# As Ray 2.60 wrote it for a worker without Optuna, without colours and most lines of the traceback.
NOT_IMPORTED = """Failure # 1 (occurred at 2026-11-29_11-50-00)
The actor died because of an error raised in its creation task, ray::ResourceTrainable.__init__() (pid=24895, \
ip=10.0.0.7, actor_id=84cb, repr=<ray.tune.trainable.util.FunctionActorManager.TemporaryActor>)
RuntimeError: The actor with name ResourceTrainable failed to import on the worker. This may be because needed library \
dependencies are not installed in the worker environment:

ray::ResourceTrainable.__init__() (pid=24895, ip=10.0.0.7, actor_id=84cb)
  File "/checkout/remix_study/study/pruning.py", line 15, in <module>
    import optuna
{}
"""
KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: ResourceTrainable
The actor is dead because its worker process has died. Worker exit detail: Some common causes include: (1) the process \
was killed by the OOM killer due to high memory usage, (2) ray stop --force was called
"""
NOT_CREATED = """The actor died because of an error raised in its creation task, ray::ResourceTrainable.__init__()
PermissionError: [Errno 13] Permission denied: '/ray'
"""


def raised(error: Exception) -> Exception:
    """Return the error that Ray raises for an exception in a task."""
    made: Any = RayTaskError
    found: Exception = made("step", f"a traceback\n{type(error).__name__}: {error}", error)
    return found


TAKEN = ActorDiedError()
TAKEN._preempted = True


@pytest.mark.parametrize(
    ("error", "text", "expected"),
    [
        (raised(RunPreempted("preempted at epoch 4")), "", Loss("preempted", "preempted at epoch 4")),
        (TAKEN, KILLED, Loss("preempted", "preempted with its node")),
        (ActorDiedError(), KILLED, Loss("lost worker", "killed")),
        (None, "", Loss("lost worker", "killed")),
        (None, "1 worker(s) were killed due to the node running low on memory. Workers: 1",
         Loss("out of memory", "Ray ended it because its node ran low on memory")),
        (raised(ValueError("preempted")), "in a\nValueError: preempted", Loss("lost worker", "ValueError: preempted")),
        (None, NOT_CREATED, Loss("lost worker", "PermissionError: [Errno 13] Permission denied: '/ray'")),
    ],
)  # fmt: skip
def test_the_reason_of_a_lost_process_is_found(error: Exception | None, text: str, expected: Loss) -> None:
    assert loss_of(error, text) == expected


@pytest.mark.parametrize(
    ("raised", "named", "remedy"),
    [
        ("ModuleNotFoundError: No module named 'optuna'", "", "Install the package's dependencies"),
        ("ModuleNotFoundError: No module named 'remix_study'", "", "Start with `remix-study submit`"),
        ("ImportError: libav.so.61: cannot open\n  shared object file.",
         "ImportError: libav.so.61: cannot open shared object file", "Install the package's dependencies"),
        ("SyntaxError: invalid syntax", "", "Install the package's dependencies"),
    ],
)  # fmt: skip
def test_a_process_that_cannot_import_the_code_names_node_error_and_remedy(
    raised: str, named: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "error.txt").write_text(NOT_IMPORTED.format(raised))
    (tmp_path / "error.pkl").write_bytes(pickle.dumps(ActorDiedError()))
    # Tune's own `get_error` reads the file where Tune uploads it later.
    trial = SimpleNamespace(
        trial_id="one",
        get_error=lambda: None,
        error_file=str(tmp_path / "error.txt"),
        pickled_error_file=str(tmp_path / "error.pkl"),
    )
    errors = TrialErrors()
    errors.on_trial_error(None, trial)
    reason = f"node 10.0.0.7 cannot import the code of the study: {named or raised}"
    assert errors.losses == {"one": Loss("import error", reason)}
    assert import_remedy(reason).startswith(remedy)
