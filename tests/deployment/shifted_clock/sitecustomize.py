"""A machine whose clock can be set while it works. Python imports it at its start, where PYTHONPATH says so.

The file that ``CLOCK_FILE`` names holds by how many seconds the wall clock is off. The monotonic clock is not: it never
is. Certificates are checked by the C library's clock, which stays right.
"""

import datetime
import os
import time

FILE = os.environ.get("CLOCK_FILE", "")
right_time = time.time
right = datetime.datetime


def off_s():
    """By how many seconds the clock is ahead."""
    try:
        with open(FILE) as file:
            return float(file.read() or 0)
    except FileNotFoundError:
        return 0.0


class Either(type(right)):
    """Lets dates that others made be dates still."""

    def __instancecheck__(cls, instance):
        return isinstance(instance, right)


class Shifted(right, metaclass=Either):
    """The date as this machine has it."""

    @classmethod
    def now(cls, tz=None):
        return right.now(tz) + datetime.timedelta(seconds=off_s())

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.UTC).replace(tzinfo=None)


if FILE:
    time.time = lambda: right_time() + off_s()
    time.time_ns = lambda: int(time.time() * 1e9)
    datetime.datetime = Shifted
