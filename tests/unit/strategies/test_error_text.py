"""One line of an error, out of what Flower makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.error_text import LONGEST, error_line

SIMULATED = """<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\
\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=1, actor_id=766e)
                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/venv/flwr/clientapp/client_app.py", line 161, in __call__
    return self._registered_funcs[full_name](message, context)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
{raised}

The above exception was the direct cause of the following exception:

\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=1, actor_id=766e)
  File "/venv/flwr/simulation/ray_transport/ray_actor.py", line 65, in run
    raise ClientAppException(str(ex)) from ex
flwr.clientapp.client_app.ClientAppException: 
Exception ClientAppException occurred. Message: {message}'>"""

NOT_FINITE = """    raise unfit()
hypergpu_fl.codec.errors.NotFinite: values to encode hold NaN
remedy: lower the learning rate"""

CHAINED = """    number = int(text)
ValueError: invalid literal for int()

During handling of the above exception, another exception occurred:

    raise KeyError("label") from None
KeyError: 'label'"""


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (
            SIMULATED.format(raised=NOT_FINITE, message="values to encode hold NaN"),
            "NotFinite: values to encode hold NaN; lower the learning rate",
        ),
        (SIMULATED.format(raised=CHAINED, message="'label'"), "KeyError: 'label'"),
        (SIMULATED.format(raised="KeyboardInterrupt", message=""), "KeyboardInterrupt"),
        (
            "<class 'flwr.clientapp.client_app.ClientAppException'>:<'\nException ClientAppException occurred. "
            "Message: CUDA out of memory\n(of 8 GB)'>",
            "CUDA out of memory (of 8 GB)",
        ),
        ("<class 'RuntimeError'>:<'no such file'>", "RuntimeError: no such file"),
        ("no reply within 60 s", "no reply within 60 s"),
        ("ValueError: boom", "ValueError: boom"),
        ("", ""),
    ],
)
def test_an_error_is_told_by_what_raised_it(reason: str, line: str) -> None:
    assert error_line(reason) == line


@given(st.text(max_size=400))
def test_whatever_a_node_says_becomes_one_short_line(text: str) -> None:
    line = error_line(text * 60)
    assert len(line) <= LONGEST and "\n" not in line and "\x1b[" not in line
