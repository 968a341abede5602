"""The cause of a failure out of tracebacks, as Python, Ray and Flower pass them on."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.names import import_object
from strategies.failure import root_cause, told


def text_of(act: Callable[[], None]) -> str:
    try:
        act()
    except Exception:
        return traceback.format_exc()
    raise AssertionError("did not raise")


def wrapped(error: Exception) -> Callable[[], None]:
    def act() -> None:
        try:
            raise error
        except Exception as inner:
            try:
                raise RuntimeError("Simulation Runtime crashed.") from inner
            except RuntimeError:
                raise RuntimeError("Ending simulation.")  # noqa: B904 - a chain by context, as Flower makes them

    return act


def test_the_cause_of_a_failed_run_is_the_first_exception_of_the_last_chain() -> None:
    first, last = text_of(wrapped(OSError("early trouble"))), text_of(wrapped(ValueError("the reason")))
    log = f"INFO : starting\n{first}\nINFO : went on\n{last}\nINFO : bye"
    assert root_cause(log) == ("ValueError: the reason", "")
    assert root_cause(text_of(wrapped(KeyError()))) == ("KeyError", "")
    assert root_cause("INFO : all is well") is None
    assert root_cause("Traceback (most recent call last):\n  File") is None


def test_an_error_of_ours_keeps_its_remedy_across_processes() -> None:
    log = text_of(wrapped(TaskError("data set 'mnist' is not in /data", "set training.data_root")))
    assert root_cause(log) == ("data set 'mnist' is not in /data", "set training.data_root")


def test_the_outermost_error_of_ours_wins_over_what_caused_it() -> None:
    def act() -> None:
        try:
            import_object("no_such_module:Mine", "training.task")
        except TaskError as error:
            wrapped(error)()

    fault = (
        "training.task = 'no_such_module:Mine' cannot be imported: there is no module 'no_such_module' here",
        "run in the folder that holds it, install it, or put it on PYTHONPATH",
    )
    assert root_cause(text_of(act)) == fault
    logged = "".join(f"    {line}" for line in text_of(act).splitlines(keepends=True))  # as `flwr log` shows our logs
    assert root_cause(f"08:01:14  error: Simulation raised an exception\n{logged}08:01:14  error: bye") == fault
    actors = "".join(f"(ClientAppActor pid=77) {line}" for line in text_of(act).splitlines(keepends=True))
    assert root_cause(actors) == fault


# What Flower's simulation hands on of a ClientApp that raised in an actor, frames shortened.
FROM_AN_ACTOR = """<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::Actor.run()\x1b[39m (pid=1)
  File "names.py", line 33, in import_object
    found = importlib.import_module(module)
ModuleNotFoundError: No module named 'mine'

The above exception was the direct cause of the following exception:

\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=1, ip=192.0.2.2)
  File "names.py", line 36, in import_object
    raise TaskError(
hypergpu_fl.errors.TaskError: training.task = 'mine:T' cannot be imported: No module named 'mine'
remedy: install the module or put it on PYTHONPATH

The above exception was the direct cause of the following exception:

\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=1, ip=192.0.2.2)
  File "ray_actor.py", line 63, in run
    raise ClientAppException(str(ex)) from ex
flwr.clientapp.client_app.ClientAppException: an exception'>"""


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (
            FROM_AN_ACTOR,
            "training.task = 'mine:T' cannot be imported: No module named 'mine'; "
            "install the module or put it on PYTHONPATH",
        ),
        (
            "<class 'hypergpu_fl.errors.WorkerFailed'>:<'TaskError: no data\nremedy: copy them'>",
            "TaskError: no data; copy them",
        ),
        ("<class 'ValueError'>:<'bad'>", "ValueError: bad"),
        ("code 8", "code 8"),
        ("x" * 10**6, "x" * 500),
        ("(((" * 10**5, ("(((" * 200)[:500]),
    ],
)
def test_an_error_reply_is_told_by_what_went_wrong_on_the_node(reason: str, line: str) -> None:
    assert told(reason, 500) == line


def test_a_simulated_node_whose_process_died_is_told_without_rays_half_page() -> None:
    context = ActorDiedErrorContext(
        error_message="The actor is dead because its worker process has died. " * 9,
        actor_id=b"0" * 16,
        class_name="ClientAppActor",
    )
    error = ActorDiedError(context)
    reason = f"{type(error)}:<'{error}'>"  # as Flower hands it on
    assert told(reason, 500) == (
        "the node's process died: killed, as where memory runs out, or ended by the task's own code"
    )
