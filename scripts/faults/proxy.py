"""A small TCP proxy in front of a server, which can be cut off: connections hang, as when a cable is pulled, or end."""

import socket
import threading
from contextlib import suppress


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on, until `cut`."""

    def __init__(self, target: str | tuple[str, int]) -> None:
        """`target` is a Unix socket's path, or a host and a port."""
        self._target = target
        self._open = threading.Event()
        self._open.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing through any more, in either direction; whoever connects anew hears nothing."""
        self._open.clear()

    def mend(self) -> None:
        """Let everything through again; what was cut off is closed."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs.clear()
        self._open.set()

    def redirect(self, target: str | tuple[str, int]) -> None:
        """Lead to another server from now on; what leads to the old one is closed."""
        self._target = target
        self.mend()

    def close(self) -> None:
        self._listener.close()
        self.mend()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.wait()
        kind = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
        server = socket.socket(kind)
        try:
            server.connect(self._target)
        except OSError:
            client.close()
            return
        self._pairs.append((client, server))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
