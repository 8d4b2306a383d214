"""What the forked processes of the tests do: they answer frames."""

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from rlcore.processes.child import read_frame, send_frame


def serve(sock: socket.socket, options: Mapping[str, Any]) -> None:
    while (frame := read_frame(sock)) is not None:
        if frame == b"exit":
            os._exit(7)
        if frame == b"hang":
            time.sleep(600)
        send_frame(sock, b"%d %s %s" % (os.getpid(), options["word"].encode(), frame))
