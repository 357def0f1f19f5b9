"""The full stack on one machine: two MariaDB servers, NATS, the sandbox provider and each service its own process.

All it writes lies in one folder: ``paymesh.toml`` (made once, yours to edit), ``state.json`` (what runs), ``logs/`` and
the servers' data, which ``down`` keeps. Remove the folder, after ``down``, to begin anew.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec
from grpc_health.v1 import health_pb2

from meshctl.layout import HOST, MODES, SHARDS, Ports, configuration, write_configuration
from meshctl.processes import ProcessFailed, ProcessRecord, log_tail, start_process, wait_until
from meshctl.servers import MariaDbServer, NatsServer, Server
from meshctl.settings import SANDBOX, SERVICES, MeshSettings, load_mesh
from paykit.errors import ConfigurationError

MARIADB_SERVERS = ("mariadb-1", "mariadb-2")  # the first holds s0 of every service, the second s1
NATS = "nats"
APPLICATIONS = (SANDBOX, *SERVICES)

READY_TIMEOUT_S = 60
MIGRATE_TIMEOUT_S = 300
STOP_GRACE_S = 40  # more than the services' own drain_grace_s


class StackState(msgspec.Struct):
    """What ``state.json`` holds: the servers' ports, kept over restarts, and the processes started."""

    server_ports: dict[str, int]
    processes: dict[str, ProcessRecord] = {}


class Stack:
    """A stack in ``directory``. ``tied`` ends its processes with the thread that started them; ``preferred_ports``
    tries the usual ports first.

    Its methods block: in an event loop, call them in a thread that outlives the stack.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tied: bool = False,
        preferred_ports: bool = False,
        buffer_pool_mb: int = 256,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.directory = directory.resolve()
        self.config = self.directory / "paymesh.toml"
        self._state_file = self.directory / "state.json"
        self._tied = tied
        self._preferred_ports = preferred_ports
        self._buffer_pool_mb = buffer_pool_mb
        self._say = say
        self._state = self._read_state()

    @property
    def settings(self) -> MeshSettings:
        """As the processes have read them."""
        return load_mesh(self.config)

    def running(self) -> dict[str, ProcessRecord]:
        """The processes that live, by name."""
        return {name: record for name, record in self._state.processes.items() if record.process() is not None}

    def log(self, name: str) -> Path:
        """Where a service, or the provider, writes its log."""
        return self.directory / "logs" / f"{name}.log"

    def up(self) -> None:
        """Starts whatever does not run yet, and waits until all is ready. ProcessFailed says what does not start."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._start_servers()
        self._migrate()
        missing = [name for name in APPLICATIONS if name not in self.running()]
        for name in missing:
            self._launch(name)
        for name in missing:
            self.wait_ready(name)

    def down(self) -> list[str]:
        """Stops what ``up`` started and still runs, services first and servers last; the names of what it stopped."""
        running = self.running()
        groups = (SERVICES, (SANDBOX,), (*MARIADB_SERVERS, NATS))
        stopped: list[str] = []
        for group in groups:
            records = [running[name] for name in group if name in running]
            with ThreadPoolExecutor(max_workers=max(1, len(records))) as pool:
                for record, graceful in zip(records, pool.map(_stop, records), strict=True):
                    self._say(f"{record.name} {'stopped' if graceful else 'killed: it did not stop in time'}")
            stopped += [record.name for record in records]
        self._state.processes.clear()
        if self._state_file.exists():
            self._write_state()
        return stopped

    def start(self, name: str) -> None:
        """Starts one service, or the provider, and waits until it is ready."""
        self._launch(name)
        self.wait_ready(name)

    def stop(self, name: str) -> None:
        """Lets one service drain and end."""
        self._take(name).stop(STOP_GRACE_S)

    def kill(self, name: str) -> None:
        """Ends one process at once (kill -9), as a crash would."""
        self._take(name).kill()

    def restart(self, name: str) -> None:
        """Starts one service, or the provider, again, after ending it where it runs."""
        if name in self.running():
            self.kill(name)
        self.start(name)

    def wait_ready(self, name: str) -> None:
        """Waits until a process takes calls; ProcessFailed with the end of its log where it does not."""
        record, settings = self._state.processes[name], self.settings

        def ready() -> bool:
            if name == SANDBOX:
                assert settings.sandbox is not None
                return _listens(settings.sandbox.host, settings.sandbox.port)
            return is_serving(settings.service(name).listen)

        wait_until(ready, record, self.log(name), READY_TIMEOUT_S)
        self._say(f"{name} ready")

    def _start_servers(self) -> None:
        servers = [
            MariaDbServer(
                self.directory / name,
                self._state.server_ports.get(name, 0),
                buffer_pool_mb=self._buffer_pool_mb,
                tied=self._tied,
                name=name,
            )
            for name in MARIADB_SERVERS
        ]
        nats = NatsServer(self.directory / NATS, self._state.server_ports.get(NATS, 0), tied=self._tied, name=NATS)
        running = self.running()
        started: tuple[Server, ...] = (*servers, nats)
        for server in started:
            if server.name not in running:
                server.start()
                assert server.record is not None
                self._state.server_ports[server.name] = server.port
                self._remember(server.record)
                self._say(f"{server.name} ready on {HOST}:{server.port}")
        if not self.config.exists():
            self._configure(servers, nats)
        for server, shard in zip(servers, SHARDS, strict=True):
            for service in SERVICES:
                for mode in MODES:
                    server.create_database(_database(service, shard, mode))

    def _configure(self, servers: list[MariaDbServer], nats: NatsServer) -> None:
        by_shard = dict(zip(SHARDS, servers, strict=True))
        config = configuration(
            lambda service, shard, mode: by_shard[shard].url(_database(service, shard, mode)),
            {"kind": "nats", "url": nats.url},
            Ports.choose(preferred=self._preferred_ports),
            self.directory / "sandbox_book.sqlite",
        )
        write_configuration(self.config, config)

    def _migrate(self) -> None:
        log = self.log("migrate")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "meshctl", "migrate", "--config", str(self.config)]
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                timeout=MIGRATE_TIMEOUT_S,
            )
        if done.returncode != 0:
            raise ProcessFailed(f"the databases cannot be migrated:\n{log_tail(log)}")
        self._say("databases up to date")

    def _launch(self, name: str) -> None:
        if name not in APPLICATIONS:
            raise ConfigurationError(f"unknown service {name}: there are {', '.join(APPLICATIONS)}")
        if name in self.running():
            raise ConfigurationError(f"{name} runs already")
        command = [sys.executable, "-m", "meshctl", "serve", name, "--config", str(self.config)]
        self._remember(start_process(name, command, self.log(name), environment=_environment(), tied=self._tied))

    def _take(self, name: str) -> ProcessRecord:
        record = self.running().get(name)
        if record is None:
            raise ConfigurationError(f"{name} does not run")
        return record

    def _remember(self, record: ProcessRecord) -> None:
        # Written at once: whatever happens next, down finds what runs.
        self._state.processes[record.name] = record
        self._write_state()

    def _read_state(self) -> StackState:
        try:
            return msgspec.json.decode(self._state_file.read_bytes(), type=StackState)
        except FileNotFoundError:
            return StackState(server_ports={})
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"{self._state_file}: {error}") from None

    def _write_state(self) -> None:
        unfinished = self._state_file.with_suffix(".new")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(self._state)))
        unfinished.replace(self._state_file)


@contextlib.contextmanager
def running_stack(directory: Path, *, buffer_pool_mb: int = 64) -> Iterator[Stack]:
    """A stack for the time of the block, on free ports; it ends with this thread, however that ends."""
    stack = Stack(directory, tied=True, buffer_pool_mb=buffer_pool_mb)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def is_serving(address: str) -> bool:
    """Whether the gRPC server at ``address`` (host:port) reports that it serves."""
    host, _, port = address.rpartition(":")
    if not _listens(host, int(port)):
        return False
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def hints(stack: Stack) -> list[str]:
    """What to tell a person about a stack that is up: where things are, and how to call them."""
    settings = stack.settings
    trade_core = settings.service("trade_core").listen
    lines = [f"  {name:<16} {service.listen}" for name, service in settings.services().items()]
    if settings.sandbox is not None:
        lines.append(f"  {SANDBOX:<16} http://{settings.sandbox.host}:{settings.sandbox.port}")
    return [
        *lines,
        "",
        f"  settings         {stack.config}",
        f"  logs             {stack.directory / 'logs'}",
        "",
        f"  grpcurl -plaintext {trade_core} list",
        f"  buf curl --protocol grpc --http2-prior-knowledge --list-methods http://{trade_core}",
        f"  {sys.argv[0]} check --config {stack.config}",
    ]


def _stop(record: ProcessRecord) -> bool:
    return record.stop(STOP_GRACE_S)


def _database(service: str, shard: str, mode: str) -> str:
    return f"{service}_{shard}_{mode}"


def _environment() -> dict[str, str]:
    """This process's, without what only the tests understand, and with the code this process runs."""
    source = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PAYMESH_TEST_")}
    return kept | {"PYTHONPATH": f"{source}{os.pathsep}{path}" if path else source}


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
