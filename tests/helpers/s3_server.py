"""An S3 server on this machine (moto), whose answers a test can spoil."""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Request = tuple[str, str]  # method, path with its query
BUCKET = "bucket"


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class S3Server:
    """`fault` is asked of each request: None to answer it; "500" instead, or "lost" after; "cut"; seconds to sleep."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.fault: Callable[[Request], str | float | None] = lambda request: None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        self.requests.append(request)
        fault = self.fault(request)
        if isinstance(fault, float):
            time.sleep(fault)
        if fault == "lost":  # done, and nobody hears of it
            list(self._app(environ, lambda *_: lambda data: None))
        if fault == "cut":
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]) // 2)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if fault == "500":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault in ("500", "lost"):
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return []
        return self._app(environ, start_response)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
