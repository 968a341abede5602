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
from strategies.flower_internals import (
    ACTOR_FETCH,
    IMPORTED,
    READ_IN,
    SERVERAPP_BEAT,
    SERVERAPP_PULL,
    SERVERAPP_PUSH,
    OtherFlower,
    Place,
    replace,
)

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
# What Flower lets anybody set, and what our own Grids have.
PUBLICLY_SET = {"run_id", "node_id", "task_id", "state", "content", "ttl", "terms"}
# Parameters of what is called, "" for what is no function; as in Flower READ_IN.
USED = {
    "flwr.app.message.arraychunk.ArrayChunk": "",
    "flwr.app.message.message.make_message": "metadata, content, error",
    "flwr.cli.build.build_fab_from_files": "files",
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
    "flwr.supernode.start_client_internal._insert_message": "msg, state, store",
    "flwr.supernode.runtime.run_clientapp.run_clientapp": "runtime_api_address, token, insecure, certificates, parent_pid, runtime_dependency_install",  # noqa: E501
}

REPLACED = [place for place in vars(flower_internals).values() if isinstance(place, Place)]
METHODS = {
    SERVERAPP_PULL: "self, request",
    SERVERAPP_PUSH: "self, request",
    SERVERAPP_BEAT: "self, request",
    ACTOR_FETCH: "self, future",
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


@pytest.mark.parametrize("place", [place for place in REPLACED if "." not in place.name])
def test_a_replaced_name_is_one_that_its_module_looks_up(place: Place) -> None:
    source = inspect.getsource(import_module(place.module))
    names = [node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and node.id == place.name]
    assert names and hasattr(import_module(place.module), place.name)


def test_every_replaced_method_is_looked_at() -> None:
    assert {place for place in REPLACED if "." in place.name} == METHODS.keys()


@pytest.mark.parametrize("place", METHODS)
def test_a_replaced_method_takes_what_it_took_and_is_the_class_own(place: Place) -> None:
    """Read from the source: a test before this one may have replaced it in this process."""
    owner, _, name = place.name.partition(".")
    (made,) = ast.parse(inspect.getsource(Place(place.module, owner).value())).body
    assert isinstance(made, ast.ClassDef)
    (found,) = [node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert ", ".join(argument.arg for argument in found.args.args) == METHODS[place]


def test_the_pool_of_actors_is_the_one_that_was_read() -> None:
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

    tree = ast.parse(inspect.getsource(BasicActorPool))
    methods = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    called = {
        node.attr for node in ast.walk(methods[ACTOR_FETCH.name.partition(".")[2]]) if isinstance(node, ast.Attribute)
    }
    assert "add_actor_back_to_pool" in called  # after the answer, so that a dead actor's caller must put one back
    taken = {node.attr for node in ast.walk(methods["add_actor_back_to_pool"]) if isinstance(node, ast.Attribute)}
    assert {"_future_to_actor", "pool"} <= taken
    made = {node.attr for node in ast.walk(methods["add_actors_to_pool"]) if isinstance(node, ast.Attribute)}
    assert "create_actor_fn" in made


MEANWHILE = """
import sys, threading, time
from importlib.abc import MetaPathFinder
from strategies.flower_internals import renew_dead_actors

class InTheMidst(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "ray._raylet":
            server_app.start()
            begun.wait(2)
        if name == "ray.exceptions" and threading.current_thread() is server_app:
            begun.set()
            time.sleep(1)  # the main thread wants it by then

begun = threading.Event()
failures = []
threading.excepthook = failures.append
server_app = threading.Thread(target=renew_dead_actors)
sys.meta_path.insert(0, InTheMidst())
import ray
server_app.join()
sys.exit(str(failures) if failures else 0)
"""


def test_the_pool_is_changed_while_another_thread_imports_ray() -> None:
    done = subprocess.run([sys.executable, "-c", MEANWHILE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def foreign(tree: ast.Module) -> set[str]:
    """Names of a file that stand for what is Flower's or Ray's: imported, annotated so, or another name of such."""
    names = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if re.match(r"(flwr|ray)(\.|$)", str(getattr(node, "module", None) or alias.name))
        or (getattr(node, "module", None) == flower_internals.__name__ and alias.name in IMPORTED)
    } | {"ModuleType"}
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        if isinstance(node, ast.arg) and touches(node.annotation, names):
            names.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and (touches(node.annotation, names) or root(node.value) in names):
            names.add(ast.unparse(node.target))
        elif isinstance(node, ast.Assign) and root(node.value) in names:
            names |= {ast.unparse(target) for target in node.targets}
    return names


def touches(node: ast.AST | None, names: set[str]) -> bool:
    return node is not None and any(
        ast.unparse(part) in names for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)
    )


def root(node: ast.AST | None) -> str:
    """What a value is made of: ``a`` of ``a.b(c).d`` and of ``getattr(a, "b")``."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        if isinstance(node, ast.Call):
            node = node.args[0] if ast.unparse(node.func) == "getattr" else node.func
        else:
            node = node.value
    return "" if node is None else ast.unparse(node)


def patches(tree: ast.Module) -> list[str]:
    """Where a file sets or deletes attributes of what is Flower's or Ray's, in any way."""
    names = foreign(tree)

    def attributes(node: ast.AST) -> bool:
        """Whether this is ``vars(it)`` or ``it.__dict__``."""
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and node.args:
            return touches(node.args[0], names)
        return isinstance(node, ast.Attribute) and node.attr == "__dict__" and touches(node.value, names)

    def is_patch(node: ast.AST) -> bool:
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()):
                return touches(node.value, names) and node.attr not in PUBLICLY_SET
            case ast.Subscript(ctx=ast.Store() | ast.Del()):
                return attributes(node.value)
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[of, *_]):
                return touches(of, names)
            case ast.Call(func=ast.Attribute(attr="update" | "setdefault" | "pop")):
                return attributes(node.func.value)
        return False

    return [ast.unparse(node) for node in ast.walk(tree) if is_patch(node)]


def test_what_is_replaced_or_patched_in_flower_is_so_in_one_file_alone() -> None:
    """No other file puts a value into one of Flower's or Ray's modules, classes or objects."""
    for file, tree in trees():
        assert not patches(tree), f"{file} patches {patches(tree)}"


@pytest.mark.parametrize(
    "code",
    [
        "from flwr.app import Message\nMessage.has_error = None",
        "from flwr.app import Message\nshort = Message\nshort.has_error = None",
        "from flwr.app import Message\nsetattr(Message, 'has_error', None)",
        "from flwr.app import Message\ndef give(message: Message):\n    message.metadata.__dict__['_message_id'] = '1'",
        "from flwr.serverapp import Grid\ndef join(grid: Grid):\n    link: Any = grid\n    link._client.send = None",
        "from flwr.serverapp import Grid\ndef join(grid: Grid):\n    link = getattr(grid, '_it')\n    link.send = None",
        "from strategies.flower_internals import RuntimeHttpClient as Client\nvars(Client)['PullTaskInput'] = None",
        "from types import ModuleType\ndef join(loop: ModuleType):\n    vars(loop).update(sleep=None)",
    ],
)
def test_a_patch_is_seen_however_it_is_made(code: str) -> None:
    assert patches(ast.parse(code))


def test_a_name_that_is_not_there_is_not_replaced() -> None:
    with pytest.raises(OtherFlower, match="has no nothing in flwr.app") as refused:
        replace(Place("flwr.app", "nothing"), None)
    assert refused.value.remedy == f"install flwr {READ_IN}"


def test_a_name_that_flower_lacks_is_told_with_the_version_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMPORTED, "nothing", "flwr.app")
    with pytest.raises(OtherFlower, match="has no nothing in flwr.app"):
        exec("from strategies.flower_internals import nothing")
