"""A node's answer when it is asked who it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.app import ConfigRecord, Message, RecordDict

from strategies.errors import Reason, Refused
from strategies.fleet.link import LinkSample
from strategies.wire import domains
from strategies.wire.claim import ADDRESS, SIGNATURE
from strategies.wire.domains import Domain, numbers
from strategies.wire.link import link_sample
from strategies.wire.order import SESSION
from strategies.wire.reply import EXAMPLES

INVITATION: Final = "invitation"  # ConfigRecord of the question: SESSION
HELLO: Final = "hello"  # MetricRecord: PARTITION, EXAMPLES
ENROLMENT: Final = "enrolment"  # ConfigRecord, optional: SIGNATURE, which proves the address in DEVICE
PARTITION: Final = "partition-id"
DEVICE: Final = "device"  # ConfigRecord: what the node runs on: device name, memory, driver, address
IDENTITY: Final = "identity"  # ConfigRecord: what must be the same at server and node, text by name

DOMAINS: Final[Mapping[str, Domain]] = {
    PARTITION: Domain(0, 2**31 - 1, "shares", whole=True),
    EXAMPLES: Domain(0, 2**40, "examples", whole=True),
}

UNFIT: Final = "unfit"  # ConfigRecord instead of HELLO: PARTITION, CAUSE, REMEDY of a node that cannot take part
CAUSE: Final = "cause"
REMEDY: Final = "remedy"
LONGEST_EXCUSE: Final = 1000  # characters of a node's reason why it cannot take part


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a node says it is: its share of the data, what it runs on, its link, and its task's identity.

    ``signature`` is by the key of ``address``; empty if it signed nothing.
    """

    partition: int
    examples: int
    device: Mapping[str, Any] = field(default_factory=dict)
    link: LinkSample = LinkSample()
    identity: Mapping[str, str] = field(default_factory=dict)
    signature: bytes = b""

    @property
    def name(self) -> str:
        """The node's name, from its share of the data, which outlives Flower's node ids."""
        return f"node-{self.partition}"

    @property
    def address(self) -> str:
        """The address it says it signs with; empty if it names none."""
        said = self.device.get(ADDRESS)
        return said if isinstance(said, str) else ""

    @classmethod
    def read(cls, answer: Message) -> Hello:
        """The hello in an answer.

        Raises
        ------
        Refused
            If it lacks a required value or holds an impossible one; with the node's own reason if it gives one.
        """
        if not answer.has_content():
            raise Refused(Reason.ERROR_REPLY, (answer.error.reason or "it failed")[:LONGEST_EXCUSE])
        content = answer.content
        said = numbers(content, HELLO)
        if not said.keys() >= {PARTITION, EXAMPLES}:
            unfit = content.config_records.get(UNFIT)
            texts = [unfit.get(key) for key in (CAUSE, REMEDY)] if unfit else []
            excuse = "; ".join(text for text in texts if isinstance(text, str) and text)[:LONGEST_EXCUSE]
            raise Refused(Reason.MALFORMED, excuse or "it does not say which share is its own")
        domains.check_domains(said, DOMAINS)
        device, identity, enrolment = (content.config_records.get(name) for name in (DEVICE, IDENTITY, ENROLMENT))
        signature = enrolment.get(SIGNATURE) if enrolment is not None else None
        return cls(
            partition=int(said[PARTITION]),
            examples=int(said[EXAMPLES]),
            device=domains.device(device) if device is not None else {},
            link=link_sample(content),
            identity=domains.identity(identity) if identity is not None else {},
            signature=signature if isinstance(signature, bytes) else b"",
        )


def invitation(session: bytes) -> RecordDict:
    """The question who a node is, from the run of this session id."""
    return RecordDict({INVITATION: ConfigRecord({SESSION: session})})


def invited_to(content: RecordDict) -> bytes:
    """The session id that an invitation names; empty if it names none."""
    found = content.config_records.get(INVITATION)
    session = found.get(SESSION) if found is not None else None
    return session if isinstance(session, bytes) else b""


def name_of(answer: Message, node_id: int) -> str:
    """The name of a node that cannot take part: by its share of the data if it says which, else by Flower's id."""
    if answer.has_content():
        content = answer.content
        for record in (content.config_records.get(UNFIT), content.metric_records.get(HELLO)):
            if record is not None and isinstance(partition := record.get(PARTITION), int):
                return f"node-{partition}"
    return f"node {node_id}"
