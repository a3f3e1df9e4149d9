"""Two backends as they are installed from the package index: how each is started, fed and asked.

Rules: each has an environment of its own, made once, and a directory of its own, made anew. What it is asked goes
through its own interface; nothing is read behind its back.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_MAX_S = 300.0
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Seen:
    """One span, as the backend shows it.

    Attributes:
        trace: Its trace.
        name: Its name.
        kind: What the backend takes it for, in the backend's own word.
        session: The conversation the backend puts it into.
        tokens: Input and output tokens that the backend counts for it.
        attributes: Those that were sent, as far as the backend shows them.
        status: In the backend's own word.
    """

    trace: str
    name: str
    kind: str
    session: str | None
    tokens: tuple[int, int] | None
    attributes: dict[str, Any]
    status: str


class Backend:
    """A server of one kind."""

    package: str
    tool = "TOOL"
    agent = "AGENT"
    model: str

    def __init__(self, home: Path, directory: Path) -> None:
        self.home = home / self.package
        self.directory = directory
        self.port, self.grpc_port = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def install(self) -> str:
        """Make its environment, if that is not there; returns the version."""
        if not (self.home / "bin" / "python").exists():
            print(f"installing {self.package} into {self.home}; this takes minutes", flush=True)
            venv.create(self.home, with_pip=True)
            subprocess.run([self.home / "bin" / "pip", "install", "-q", self.package], check=True)
        code = f"from importlib.metadata import version; print(version({self.package!r}))"
        return subprocess.run(
            [self.home / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and stop it in the end."""
        with (self.directory / "log").open("w") as log:
            command, settings = self.command()
            server = subprocess.Popen(
                command,
                cwd=self.directory,
                env=os.environ | {"PATH": f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}"} | settings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait(server)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, 9)

    def command(self) -> tuple[list[str], dict[str, str]]:
        """What starts it, and with which settings."""
        raise NotImplementedError

    def protocols(self) -> dict[str, dict[str, str]]:
        """Ways to send to it: the settings of an exporter for each."""
        raise NotImplementedError

    def spans(self) -> list[Seen]:
        """What it shows."""
        raise NotImplementedError

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + START_MAX_S
        while time.monotonic() < deadline_s:
            if server.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            time.sleep(0.5)
        raise RuntimeError(f"{self.package} did not start:\n{(self.directory / 'log').read_text()[-2000:]}")


class Phoenix(Backend):
    """Arize Phoenix."""

    package = "arize-phoenix"
    model = "LLM"

    def command(self) -> tuple[list[str], dict[str, str]]:
        """It takes all from its environment."""
        return [str(self.home / "bin" / "phoenix"), "serve"], {
            "PHOENIX_WORKING_DIR": str(self.directory),
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(self.port),
            "PHOENIX_GRPC_PORT": str(self.grpc_port),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }

    def protocols(self) -> dict[str, dict[str, str]]:
        """Both."""
        return {
            "http/protobuf": {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url},
            "grpc": {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.grpc_port}"},
        }

    def spans(self) -> list[Seen]:
        """Of its default project."""
        return [
            Seen(
                trace=span["context"]["trace_id"],
                name=span["name"],
                kind=span["span_kind"],
                session=span["attributes"].get("session.id"),
                tokens=_tokens(
                    span["attributes"].get("llm.token_count.prompt"),
                    span["attributes"].get("llm.token_count.completion"),
                ),
                attributes=span["attributes"],
                status=span["status_code"],
            )
            for span in self._get("/v1/projects/default/spans?limit=1000")["data"]
        ]

    def sessions(self) -> dict[str, int]:
        """Session → number of its traces."""
        found = self._get("/v1/projects/default/sessions")["data"]
        return {session["session_id"]: len(session["traces"]) for session in found}

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return json.load(reply)


class Mlflow(Backend):
    """MLflow."""

    package = "mlflow"
    model = "CHAT_MODEL"

    def command(self) -> tuple[list[str], dict[str, str]]:
        """One worker, on a database of its own."""
        return [
            *(str(self.home / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.directory}/m.db", "--workers", "1"),
            *("--artifacts-destination", str(self.directory / "artifacts")),
        ], {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def protocols(self) -> dict[str, dict[str, str]]:
        """HTTP alone; its default experiment has the id 0."""
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=0"}
        return {"http/protobuf": settings}

    def spans(self) -> list[Seen]:
        """Of its default experiment."""
        command = [self.home / "bin" / "python", HERE / "ask_mlflow.py", self.url, "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-2000:])
        return [
            Seen(
                trace=span["trace"],
                name=span["name"],
                kind=span["kind"],
                session=span["session"],
                tokens=_tokens(*span["tokens_of_trace"]),
                attributes=span["attributes"],
                status=span["status"],
            )
            for span in json.loads(done.stdout)
        ]


BACKENDS: dict[str, type[Backend]] = {"phoenix": Phoenix, "mlflow": Mlflow}


def _tokens(given: Any, taken: Any) -> tuple[int, int] | None:
    return None if given is None else (int(given), int(taken))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
