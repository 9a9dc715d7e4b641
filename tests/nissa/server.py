"""A real server over a directory, on a port of its own in this process, and a client that says what came back."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from esper.nissa.service_settings import NissaSettings
from esper.oona.directory import Directory
from esper.processes.serve import Service


class Answer(NamedTuple):
    """An answer: status, headers by their names in small letters, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # Any: tests look into it.
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """Asks one server."""

    def __init__(self, port: int, service: Service) -> None:
        self.port = port
        self.service = service

    def ask(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Answer:
        """The answer to one request; header names are written with underscores."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """The answer to a GET."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """The answer to a POST of `body` as JSON."""
        return self.ask("POST", path, json.dumps(body), **{"content_type": "application/json", **headers})


@contextmanager
def serving(path: Path, settings: NissaSettings | None = None, token: str | None = None) -> Iterator[Client]:
    """A server over the directory at `path`, which has read everything there."""
    service = Service(Directory(path), settings or NissaSettings(), token)
    listener = socket.create_server(("127.0.0.1", 0))
    server = service.server(log_level="error", grace_s=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    service.reader.start()
    thread.start()
    try:
        client = Client(listener.getsockname()[1], service)
        while client.get("/readyz").status != 200:
            pass
        yield client
    finally:
        server.should_exit = True
        thread.join()
        service.close()
        listener.close()
