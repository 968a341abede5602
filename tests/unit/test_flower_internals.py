"""What of Flower's is used that it does not export is there, as it was read, and stands in one file."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest

from strategies import flower_internals
from strategies.flower_internals import FETCH, IMPORTED, READ_IN, REPLACED, OtherFlower, Place, replace

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
    "flwr.supercore.auth.load_superexec_auth_secret": "secret_file",
    "flwr.supercore.cli.flower_superexec._parse_args": "",
    "flwr.supercore.cli.flower_superexec.flower_superexec": "",
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
    "flwr.superlink.cli.flower_superlink.flower_superlink": "",
    "flwr.superlink.grid.http_grid.HttpGrid": "",
    "flwr.superlink.runtime.run_serverapp": "runtime_api_address, log_queue, token, insecure, certificates, parent_pid, runtime_dependency_install",  # noqa: E501
    "flwr.supernode.cli.flower_supernode._parse_args_run_supernode": "",
    "flwr.supernode.cli.flower_supernode.flower_supernode": "",
    "flwr.supernode.start_client_internal": "",
    "flwr.supernode.runtime.run_clientapp.run_clientapp": "runtime_api_address, token, insecure, certificates, parent_pid, runtime_dependency_install",  # noqa: E501
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every file but the one that may know Flower's insides."""
    for package in ("hypergpu_fl", "strategies"):
        for file in (ROOT / package).rglob("*.py"):
            if file != Path(flower_internals.__file__):
                yield file, ast.parse(file.read_text())


def modules(tree: ast.Module) -> Iterator[str]:
    """What a file imports, and what it might import by a name in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "flwr")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"(flwr|ray)(\.\w+)+", str(node.value)):
            yield str(node.value)


def parameters(place: Place) -> str:
    found = place.value()
    return ", ".join(inspect.signature(found).parameters) if inspect.isfunction(found) else ""


def test_this_is_the_flower_that_was_read() -> None:
    assert metadata.version("flwr") == READ_IN


def test_what_is_imported_is_what_stands_here() -> None:
    assert {f"{module}.{name}" for name, module in IMPORTED.items()} == USED.keys()


@pytest.mark.parametrize("name", IMPORTED)
def test_a_private_name_takes_what_it_took(name: str) -> None:
    assert parameters(Place(IMPORTED[name], name)) == USED[f"{IMPORTED[name]}.{name}"]


def test_mypy_sees_the_names_that_are_imported() -> None:
    tree = ast.parse(Path(flower_internals.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = [(alias, node) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert {alias.asname: node.module for alias, node in seen if alias.asname == alias.name} == IMPORTED


def test_no_other_file_imports_what_flower_or_ray_do_not_export() -> None:
    for file, tree in trees():
        private = [name for name in modules(tree) if re.match(r"(flwr|ray)(\.|$)", name) and name not in EXPORTED]
        assert not private, f"{file} imports {private}"


def test_each_name_is_asked_for_by_some_file() -> None:
    asked = {
        alias.name
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == flower_internals.__name__
        for alias in node.names
    }
    assert IMPORTED.keys() <= asked


def test_nothing_of_flowers_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, strategies.flower_internals as names; assert 'flwr' not in sys.modules; names.TaskType; "
    code += "assert 'flwr.supercore.constant' in sys.modules and 'flwr.superlink' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("place", REPLACED)
def test_a_replaced_name_is_one_that_its_module_looks_up(place: Place) -> None:
    source = inspect.getsource(import_module(place.module))
    names = [node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and node.id == place.name]
    assert names and hasattr(import_module(place.module), place.name)


def test_the_pool_of_actors_is_the_one_that_was_read() -> None:
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

    tree = ast.parse(inspect.getsource(BasicActorPool))
    methods = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert [argument.arg for argument in methods[FETCH].args.args] == ["self", "future"]
    called = {node.attr for node in ast.walk(methods[FETCH]) if isinstance(node, ast.Attribute)}
    assert "add_actor_back_to_pool" in called  # after the answer, so that a dead actor's caller must put one back
    taken = {node.attr for node in ast.walk(methods["add_actor_back_to_pool"]) if isinstance(node, ast.Attribute)}
    assert {"_future_to_actor", "pool"} <= taken
    made = {node.attr for node in ast.walk(methods["add_actors_to_pool"]) if isinstance(node, ast.Attribute)}
    assert "create_actor_fn" in made


def test_what_is_replaced_or_patched_in_flower_is_so_in_one_file_alone() -> None:
    """No other file puts a value into one of Flower's or Ray's modules or classes."""
    for file, tree in trees():
        foreign = {
            (alias.asname or alias.name).partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if str(getattr(node, "module", None) or alias.name).partition(".")[0] in ("flwr", "ray")
            or (getattr(node, "module", None) == flower_internals.__name__ and alias.name in IMPORTED)
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
    with pytest.raises(OtherFlower, match="has no nothing in flwr.app") as refused:
        replace(Place("flwr.app", "nothing"), None)
    assert refused.value.remedy == f"install flwr {READ_IN}"


def test_a_name_that_flower_lacks_is_told_with_the_version_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMPORTED, "nothing", "flwr.app")
    with pytest.raises(OtherFlower, match="has no nothing in flwr.app"):
        exec("from strategies.flower_internals import nothing")
