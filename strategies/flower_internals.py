"""What is used of Flower's, its simulation included, though Flower does not export it, and what is replaced there.

The names are those of Flower 1.41.0, and no other file imports one from Flower. Those in ``IMPORTED`` are imported when
they are asked for, so that a process loads of Flower only what it uses. If another Flower lacks a name, that is an
error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from flwr.app import Message as FlowerMessage
    from flwr.app.message.arraychunk import ArrayChunk as ArrayChunk
    from flwr.app.message.message import make_message as make_message
    from flwr.cli.build import build_fab_from_files as build_fab_from_files
    from flwr.cli.flower_config import read_superlink_connection as read_superlink_connection
    from flwr.cli.supernode.register import try_load_public_key as try_load_public_key
    from flwr.cli.utils import flwr_cli_exc_handler as flwr_cli_exc_handler
    from flwr.cli.utils import init_http_client_from_connection as init_http_client_from_connection
    from flwr.common.constant import SUPERLINK_NODE_ID as SUPERLINK_NODE_ID
    from flwr.common.constant import SubStatus as SubStatus
    from flwr.common.serde import context_from_proto as context_from_proto
    from flwr.common.serde import context_to_proto as context_to_proto
    from flwr.common.serde import message_from_proto as message_from_proto
    from flwr.common.serde import message_to_proto as message_to_proto
    from flwr.proto.control_pb2 import ListNodesRequest as ListNodesRequest
    from flwr.proto.control_pb2 import UnregisterNodeRequest as UnregisterNodeRequest
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest as ConfirmMessageReceivedRequest
    from flwr.proto.message_pb2 import Context as Context
    from flwr.proto.message_pb2 import Message as Message
    from flwr.proto.runtime_pb2 import AcquireTaskRequest as AcquireTaskRequest
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest as PullAppMessagesRequest
    from flwr.proto.runtime_pb2 import PullTaskInputRequest as PullTaskInputRequest
    from flwr.proto.runtime_pb2 import PullTaskInputResponse as PullTaskInputResponse
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest as PushTaskOutputRequest
    from flwr.proto.runtime_pb2 import PushTaskOutputResponse as PushTaskOutputResponse
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest as SendTaskHeartbeatRequest
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatResponse as SendTaskHeartbeatResponse
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords as aggregate_arrayrecords
    from flwr.supercore.auth import load_superexec_auth_secret as load_superexec_auth_secret
    from flwr.supercore.cli.flower_superexec import _parse_args as _parse_args
    from flwr.supercore.cli.flower_superexec import flower_superexec as flower_superexec
    from flwr.supercore.constant import TaskType as TaskType
    from flwr.supercore.exit import ExitCode as ExitCode
    from flwr.supercore.exit import flwr_exit as flwr_exit
    from flwr.supercore.inflatable.inflatable_object import get_object_body as get_object_body
    from flwr.supercore.inflatable.inflatable_object import (
        get_object_head_values_from_object_content as get_object_head_values_from_object_content,
    )
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree as iterate_object_tree
    from flwr.supercore.inflatable.inflatable_protobuf_utils import (
        make_pull_object_fn_protobuf as make_pull_object_fn_protobuf,
    )
    from flwr.supercore.inflatable.inflatable_utils import ObjectPullError as ObjectPullError
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents as inflate_object_from_contents
    from flwr.supercore.inflatable.inflatable_utils import pull_objects as pull_objects
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor as RuntimeVersionHttpInterceptor
    from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor as SuperExecAuthHttpInterceptor
    from flwr.supercore.logger import mirror_output_to_queue as mirror_output_to_queue
    from flwr.supercore.logger import restore_output as restore_output
    from flwr.supercore.retry import make_simple_http_retry_invoker as make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient as RuntimeHttpClient
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor as SubprocessExecutor
    from flwr.supercore.superexec.executor.types import ExecutionSpec as ExecutionSpec
    from flwr.supercore.superexec.executor.types import LaunchResult as LaunchResult
    from flwr.supercore.task_identity import TaskIdentity as TaskIdentity
    from flwr.supercore.tls import validate_and_resolve_root_certificates as validate_and_resolve_root_certificates
    from flwr.superlink.cli.flower_superlink import flower_superlink as flower_superlink
    from flwr.superlink.grid.http_grid import HttpGrid as HttpGrid
    from flwr.superlink.runtime import run_serverapp as run_serverapp
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as _parse_args_run_supernode
    from flwr.supernode.cli.flower_supernode import flower_supernode as flower_supernode
    from flwr.supernode.runtime.run_clientapp import run_clientapp as run_clientapp
    from flwr.supernode.start_client_internal import _insert_message as _insert_message

READ_IN: Final = "1.41.0"
# Where each name lies that ``from strategies.flower_internals import`` gives.
IMPORTED: Final = {
    "ArrayChunk": "flwr.app.message.arraychunk",
    "make_message": "flwr.app.message.message",
    "build_fab_from_files": "flwr.cli.build",
    "read_superlink_connection": "flwr.cli.flower_config",
    "try_load_public_key": "flwr.cli.supernode.register",
    "flwr_cli_exc_handler": "flwr.cli.utils",
    "init_http_client_from_connection": "flwr.cli.utils",
    "SUPERLINK_NODE_ID": "flwr.common.constant",
    "SubStatus": "flwr.common.constant",
    "context_from_proto": "flwr.common.serde",
    "context_to_proto": "flwr.common.serde",
    "message_from_proto": "flwr.common.serde",
    "message_to_proto": "flwr.common.serde",
    "ListNodesRequest": "flwr.proto.control_pb2",
    "UnregisterNodeRequest": "flwr.proto.control_pb2",
    "ConfirmMessageReceivedRequest": "flwr.proto.message_pb2",
    "Context": "flwr.proto.message_pb2",
    "Message": "flwr.proto.message_pb2",
    "AcquireTaskRequest": "flwr.proto.runtime_pb2",
    "PullAppMessagesRequest": "flwr.proto.runtime_pb2",
    "PullTaskInputRequest": "flwr.proto.runtime_pb2",
    "PullTaskInputResponse": "flwr.proto.runtime_pb2",
    "PushTaskOutputRequest": "flwr.proto.runtime_pb2",
    "PushTaskOutputResponse": "flwr.proto.runtime_pb2",
    "SendTaskHeartbeatRequest": "flwr.proto.runtime_pb2",
    "SendTaskHeartbeatResponse": "flwr.proto.runtime_pb2",
    "aggregate_arrayrecords": "flwr.serverapp.strategy.strategy_utils",
    "load_superexec_auth_secret": "flwr.supercore.auth",
    "_parse_args": "flwr.supercore.cli.flower_superexec",
    "flower_superexec": "flwr.supercore.cli.flower_superexec",
    "TaskType": "flwr.supercore.constant",
    "ExitCode": "flwr.supercore.exit",
    "flwr_exit": "flwr.supercore.exit",
    "get_object_body": "flwr.supercore.inflatable.inflatable_object",
    "get_object_head_values_from_object_content": "flwr.supercore.inflatable.inflatable_object",
    "iterate_object_tree": "flwr.supercore.inflatable.inflatable_object",
    "make_pull_object_fn_protobuf": "flwr.supercore.inflatable.inflatable_protobuf_utils",
    "ObjectPullError": "flwr.supercore.inflatable.inflatable_utils",
    "inflate_object_from_contents": "flwr.supercore.inflatable.inflatable_utils",
    "pull_objects": "flwr.supercore.inflatable.inflatable_utils",
    "RuntimeVersionHttpInterceptor": "flwr.supercore.interceptors",
    "SuperExecAuthHttpInterceptor": "flwr.supercore.interceptors",
    "mirror_output_to_queue": "flwr.supercore.logger",
    "restore_output": "flwr.supercore.logger",
    "make_simple_http_retry_invoker": "flwr.supercore.retry",
    "RuntimeHttpClient": "flwr.supercore.runtime",
    "SubprocessExecutor": "flwr.supercore.superexec.executor.subprocess_executor",
    "ExecutionSpec": "flwr.supercore.superexec.executor.types",
    "LaunchResult": "flwr.supercore.superexec.executor.types",
    "TaskIdentity": "flwr.supercore.task_identity",
    "validate_and_resolve_root_certificates": "flwr.supercore.tls",
    "flower_superlink": "flwr.superlink.cli.flower_superlink",
    "HttpGrid": "flwr.superlink.grid.http_grid",
    "run_serverapp": "flwr.superlink.runtime",
    "_insert_message": "flwr.supernode.start_client_internal",
    "_parse_args_run_supernode": "flwr.supernode.cli.flower_supernode",
    "flower_supernode": "flwr.supernode.cli.flower_supernode",
    "run_clientapp": "flwr.supernode.runtime.run_clientapp",
}


class OtherFlower(ImportError):
    """The installed Flower lacks a name that the one read here has."""

    def __init__(self, name: str, place: str) -> None:
        from importlib import metadata  # not above: the command's start would wait for it

        super().__init__(f"Flower {metadata.version('flwr')} has no {name} in {place}, as {READ_IN} has")
        self.remedy = f"install flwr {READ_IN}"
        self.add_note(f"remedy: {self.remedy}")


class Place(NamedTuple):
    """A name in one of Flower's modules, or ``Class.method`` there."""

    module: str
    name: str

    def value(self) -> Any:
        """What is there; raises `OtherFlower` if nothing is."""
        names = self.name.split(".")
        found: Any = __import__(self.module, fromlist=names[:1])  # imports a submodule, too, as ``from`` does
        for name in names:
            if not hasattr(found, name):
                raise OtherFlower(self.name, self.module)
            found = getattr(found, name)
        return found


if not TYPE_CHECKING:  # else mypy would find any name here

    def __getattr__(name: str) -> Any:
        if name not in IMPORTED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return Place(IMPORTED[name], name).value()


# A SuperNode's loop uses it only to sleep between two polls for a message.
SUPERNODE_TIME: Final = Place("flwr.supernode.start_client_internal", "time")
# The steps of that loop: takes over signals, fetches a message, and waits for its reply and sends it.
SUPERNODE_SIGNALS: Final = Place("flwr.supernode.start_client_internal", "register_signal_handlers")
SUPERNODE_PULL: Final = Place("flwr.supernode.start_client_internal", "_pull_and_store_message")
SUPERNODE_PUSH: Final = Place("flwr.supernode.start_client_internal", "_push_messages")
# Loads the secret that a SuperExec must know; ours comes from `hypergpu_fl.superexec_secret`.
SUPERNODE_SECRET: Final = Place("flwr.supernode.cli.flower_supernode", "load_superexec_auth_secret")
SUPERLINK_SECRET: Final = Place("flwr.superlink.cli.flower_superlink", "load_superexec_auth_secret")
SUPEREXEC_SECRET: Final = Place("flwr.supercore.cli.flower_superexec", "load_superexec_auth_secret")
# Starts a ServerApp.
SUPEREXEC_EXECUTOR: Final = Place("flwr.supercore.superexec.run_superexec", "get_executor")
# Make what decides whether a connection is tried again: a SuperNode's, a SuperExec's and a ServerApp's.
SUPERNODE_RETRY: Final = Place("flwr.supernode.fleet_http_connection", "make_simple_http_retry_invoker")
SUPEREXEC_RETRY: Final = Place("flwr.supercore.superexec.run_superexec", "make_simple_http_retry_invoker")
SERVERAPP_RETRY: Final = Place("flwr.superlink.grid.http_grid", "make_simple_http_retry_invoker")
# Signs a SuperNode's requests with the time.
SUPERNODE_SIGNER: Final = Place("flwr.supernode.fleet_http_connection", "NodeAuthHttpInterceptor")
# What a ServerApp says to its SuperLink: asks for the run, tells how it ended, and that it lives.
SERVERAPP_PULL: Final = Place("flwr.supercore.runtime", "RuntimeHttpClient.PullTaskInput")
SERVERAPP_PUSH: Final = Place("flwr.supercore.runtime", "RuntimeHttpClient.PushTaskOutput")
SERVERAPP_BEAT: Final = Place("flwr.supercore.runtime", "RuntimeHttpClient.SendTaskHeartbeat")
# Heartbeats that a task may miss. This module has no other patience; the one with nodes is in another module.
TASK_PATIENCE: Final = Place("flwr.supercore.corestate.sql_corestate", "HEARTBEAT_PATIENCE")
# Seconds that a ServerApp has to report how it ended.
EXIT_TIMEOUT: Final = Place("flwr.supercore.exit.exit", "FORCE_EXIT_TIMEOUT_SECONDS")
# The simulation's pool of Ray actors: waits for a node's answer, and puts its actor back.
ACTOR_FETCH: Final = Place(
    "flwr.simulation.ray_transport.ray_actor", "BasicActorPool.fetch_result_and_return_actor_to_pool"
)


def replace(place: Place, value: Any) -> None:
    """Put ``value`` in a place, for this process.

    Raises
    ------
    OtherFlower
        If this Flower has no such name there.
    """
    owner, _, name = place.name.rpartition(".")
    holder = Place(place.module, owner).value() if owner else import_module(place.module)
    if name not in vars(holder):
        raise OtherFlower(place.name, place.module)
    setattr(holder, name, value)


def set_message_id(message: FlowerMessage, message_id: str) -> None:
    """Give a message its id, in the way of Flower's own Grid: there is no other."""
    message.metadata.__dict__["_message_id"] = message_id


@contextmanager
def trying_once(client: RuntimeHttpClient) -> Iterator[None]:
    """Let requests of ``client`` raise when they fail; otherwise Flower answers a refusal with a signal."""
    invoker, client._retry_invoker = client._retry_invoker, None
    try:
        yield
    finally:
        client._retry_invoker = invoker


def try_for(client: RuntimeHttpClient, seconds: float) -> None:
    """Let ``client`` try its requests again for ``seconds``, however many tries that takes."""
    if (invoker := client._retry_invoker) is not None:
        invoker.max_tries, invoker.max_time = None, seconds


def renew_dead_actors() -> None:
    """Let a new Ray actor take the place of one that died with the node whose message it answered.

    Flower puts a dead actor back among the others, where it would refuse whichever nodes' messages come next. This
    process is the one that Flower runs both the ServerApp and the simulation in.

    Raises
    ------
    OtherFlower
        If this Flower's pool of actors is another one.
    """
    # The package before its module, as Flower's own thread does at this moment: the other way round each thread holds a
    # lock that the other one needs, and Python then hands out half of a module.
    from ray import exceptions

    fetch = ACTOR_FETCH.value()

    def fetch_or_renew(pool: Any, future: Any) -> Any:
        try:
            return fetch(pool, future)
        except exceptions.RayActorError:
            pool._future_to_actor[future] = pool.create_actor_fn()  # the caller puts that one back
            raise

    replace(ACTOR_FETCH, fetch_or_renew)
