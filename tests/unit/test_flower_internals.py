"""What of Flower's is used that it does not export is there, as it was read."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest

from hypergpu_fl.errors import UsageError
from hypergpu_fl.flower_internals import FETCH, READ_IN, REPLACED, Place, replace

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
PUBLICLY_SET = {"TaskIdentity"}  # its setters are Flower's own
# Parameters of what is called, "" for what is no function; as in Flower READ_IN.
USED = {
    "flwr.app.message.arraychunk.ArrayChunk": "",
    "flwr.app.message.message.make_message": "metadata, content, error",
    "flwr.cli.build.build_fab_from_disk": "app",
    "flwr.cli.flower_config.read_superlink_connection": "connection_name",
    "flwr.cli.supernode.register.try_load_public_key": "public_key_path",
    "flwr.cli.utils.flwr_cli_exc_handler": "custom_handler",
    "flwr.cli.utils.init_http_client_from_connection": "connection, auth_plugin",
    "flwr.common.constant.SUPERLINK_NODE_ID": "",
    "flwr.common.constant.SubStatus": "",
    "flwr.common.serde.context_from_proto": "context_proto",
    "flwr.common.serde.context_to_proto": "context",
    "flwr.common.serde.message_from_proto": "message_proto",
    "flwr.common.serde.message_to_proto": "message",
    "flwr.proto.control_pb2.ListNodesRequest": "",
    "flwr.proto.control_pb2.UnregisterNodeRequest": "",
    "flwr.proto.message_pb2.ConfirmMessageReceivedRequest": "",
    "flwr.proto.message_pb2.Context": "",
    "flwr.proto.message_pb2.Message": "",
    "flwr.proto.runtime_pb2.AcquireTaskRequest": "",
    "flwr.proto.runtime_pb2.PullAppMessagesRequest": "",
    "flwr.proto.runtime_pb2.PullTaskInputRequest": "",
    "flwr.proto.runtime_pb2.PullTaskInputResponse": "",
    "flwr.proto.runtime_pb2.PushTaskOutputRequest": "",
    "flwr.proto.runtime_pb2.PushTaskOutputResponse": "",
    "flwr.proto.runtime_pb2.SendTaskHeartbeatRequest": "",
    "flwr.proto.runtime_pb2.SendTaskHeartbeatResponse": "",
    "flwr.serverapp.strategy.strategy_utils.aggregate_arrayrecords": "records, weighting_metric_name",
    "flwr.simulation.ray_transport.ray_actor.BasicActorPool": "",
    "flwr.supercore.auth.load_superexec_auth_secret": "secret_file",
    "flwr.supercore.constant.TaskType": "",
    "flwr.supercore.exit.ExitCode": "",
    "flwr.supercore.exit.flwr_exit": "code, message, event_type, event_details, emit_telemetry",
    "flwr.supercore.inflatable.inflatable_object.get_object_body": "object_content, cls",
    "flwr.supercore.inflatable.inflatable_object.get_object_head_values_from_object_content": "object_content",
    "flwr.supercore.inflatable.inflatable_object.iterate_object_tree": "tree",
    "flwr.supercore.inflatable.inflatable_protobuf_utils.make_pull_object_fn_protobuf": "pull_object_protobuf, node, run_id",  # noqa: E501
    "flwr.supercore.inflatable.inflatable_utils.ObjectPullError": "",
    "flwr.supercore.inflatable.inflatable_utils.inflate_object_from_contents": "object_id, object_contents, keep_object_contents, objects",  # noqa: E501
    "flwr.supercore.inflatable.inflatable_utils.pull_objects": "object_ids, pull_object_fn, max_concurrent_pulls, max_time, max_tries_per_object, initial_backoff, backoff_cap",  # noqa: E501
    "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor": "",
    "flwr.supercore.interceptors.SuperExecAuthHttpInterceptor": "",
    "flwr.supercore.logger.mirror_output_to_queue": "log_queue",
    "flwr.supercore.logger.restore_output": "",
    "flwr.supercore.retry.make_simple_http_retry_invoker": "",
    "flwr.supercore.runtime.RuntimeHttpClient": "",
    "flwr.supercore.superexec.executor.subprocess_executor.SubprocessExecutor": "",
    "flwr.supercore.superexec.executor.types.ExecutionSpec": "",
    "flwr.supercore.superexec.executor.types.LaunchResult": "",
    "flwr.supercore.task_identity.TaskIdentity": "",
    "flwr.supercore.tls.validate_and_resolve_root_certificates": "root_cert_path, insecure",
    "flwr.superlink.grid.http_grid.HttpGrid": "",
    "flwr.superlink.runtime.run_serverapp": "runtime_api_address, log_queue, token, insecure, certificates, parent_pid, runtime_dependency_install",  # noqa: E501
    "flwr.supernode.start_client_internal": "",
    "flwr.supernode.runtime.run_clientapp.run_clientapp": "runtime_api_address, token, insecure, certificates, parent_pid, runtime_dependency_install",  # noqa: E501
}


def imported() -> Iterator[tuple[str, str]]:
    for package in ("hypergpu_fl", "strategies"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr."):
                    yield from ((str(node.module), alias.name) for alias in node.names if node.module not in EXPORTED)


def parameters(module: str, name: str) -> str:
    found = getattr(import_module(module), name, None) or import_module(f"{module}.{name}")
    return ", ".join(inspect.signature(found).parameters) if inspect.isfunction(found) else ""


def test_this_is_the_flower_that_was_read() -> None:
    assert metadata.version("flwr") == READ_IN


def test_what_is_imported_is_what_stands_here() -> None:
    assert {".".join(each) for each in imported()} == USED.keys()


@pytest.mark.parametrize("path", USED)
def test_a_private_name_takes_what_it_took(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert parameters(module, name) == USED[path]


@pytest.mark.parametrize("place", REPLACED)
def test_a_replaced_name_is_one_that_its_module_looks_up(place: Place) -> None:
    source = inspect.getsource(import_module(place.module))
    names = [node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and node.id == place.name]
    assert names and hasattr(import_module(place.module), place.name)


def test_the_pool_of_actors_is_the_one_that_was_read() -> None:
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

    tree = ast.parse(inspect.getsource(BasicActorPool))
    methods = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert list(inspect.signature(getattr(BasicActorPool, FETCH)).parameters) == ["self", "future"]
    called = {node.attr for node in ast.walk(methods[FETCH]) if isinstance(node, ast.Attribute)}
    assert "add_actor_back_to_pool" in called  # after the answer, so that a dead actor's caller must put one back
    taken = {node.attr for node in ast.walk(methods["add_actor_back_to_pool"]) if isinstance(node, ast.Attribute)}
    assert {"_future_to_actor", "pool"} <= taken
    made = {node.attr for node in ast.walk(methods["add_actors_to_pool"]) if isinstance(node, ast.Attribute)}
    assert "create_actor_fn" in made


def test_what_is_replaced_or_patched_in_flower_is_so_in_one_file_alone() -> None:
    """No other file puts a value into one of Flower's or Ray's modules or classes."""
    for package in ("hypergpu_fl", "strategies"):
        for file in (ROOT / package).rglob("*.py"):
            if file.name == "flower_internals.py":
                continue
            tree = ast.parse(file.read_text())
            foreign = {
                (alias.asname or alias.name).partition(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
                if str(getattr(node, "module", None) or alias.name).partition(".")[0] in ("flwr", "ray")
            }
            put = [
                target
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
                if target.value.id in foreign - PUBLICLY_SET
            ]
            assert not put, f"{file} patches {ast.unparse(put[0])}"


def test_a_name_that_is_not_there_is_not_replaced() -> None:
    with pytest.raises(UsageError, match="has no nothing in flwr.app"):
        replace(Place("flwr.app", "nothing"), None)
