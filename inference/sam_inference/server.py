"""The gRPC server: service, health, reflection, limits, and an orderly stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from sam_inference.config import Config
from sam_inference.registry import Registry
from sam_inference.service import SegmentAnythingServicer

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["SegmentAnythingService"].full_name

# How long running calls may take to finish when the worker stops.
_STOP_GRACE_S = 10.0

# Clients may ping this often to keep a connection through middleboxes.
_MIN_PING_INTERVAL_MS = 10_000


async def serve(registry: Registry, config: Config, stop: asyncio.Event) -> None:
    """Answer requests until `stop` is set, then finish the running ones.

    The port is opened and health answered before the default model is loaded; NOT_SERVING and
    UNAVAILABLE are said until then. The model's files must be there: no port is open while they
    are fetched. A stop does not wait for a model that is being loaded.

    Raises:
        OSError: the address cannot be listened on.
        EngineError: the default model cannot be loaded.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            # A second worker on the same port is a mistake, not a load balancer.
            ("grpc.so_reuseport", 0),
        ]
    )
    servicer = SegmentAnythingServicer(registry, config)
    pb_grpc.add_SegmentAnythingServiceServicer_to_server(servicer, server)
    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    reflection.enable_server_reflection(
        (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )

    async def set_health(status: int) -> None:
        for service in (health.OVERALL_HEALTH, SERVICE):
            await healths.set(service, status)

    await set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
    port = _listen(server, config.listen)
    await server.start()
    log.info("listening target=%s", _bound_target(config.listen, port))
    try:
        loading = asyncio.create_task(registry.load_default())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await loading
            servicer.ready = True
            await set_health(health_pb2.HealthCheckResponse.SERVING)
            log.info("ready model=%s", registry.default)
            await stopping
        log.info("stopping")
    finally:
        servicer.ready = False
        await healths.enter_graceful_shutdown()
        await server.stop(_STOP_GRACE_S)
        servicer.close()
        registry.close()


def _listen(server: grpc.aio.Server, target: str) -> int:
    """Have the server listen; return its port.

    Raises:
        OSError: it cannot, for example since another program listens there.
    """
    if target.startswith("unix:"):
        # gRPC takes a socket's path from whoever listens there, since dead servers leave theirs.
        _check_nobody_listens(target)
    try:
        return server.add_insecure_port(target)
    except RuntimeError as error:
        raise OSError(
            f"cannot listen on {target}: the line of gRPC above says why; it is to be an address "
            "of this machine that no other program listens on"
        ) from error


def _check_nobody_listens(target: str) -> None:
    path = unquote(target.removeprefix("unix:"))  # as gRPC reads it
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one whose program is stopped would not answer
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise OSError(f"cannot listen on {target}: {error}") from error
    raise OSError(f"cannot listen on {target}: another program does")


def _bound_target(listen: str, port: int) -> str:
    """Return `listen` with the port that the system chose for port 0."""
    if listen.startswith("unix:"):
        return listen
    return f"{listen.rpartition(':')[0]}:{port}"


def when_stdin_closes(call: Callable[[], object]) -> None:
    """Call `call`, from another thread, when standard input reaches its end.

    A parent that holds the other end of the pipe need not get to stop its child: when it
    dies, however suddenly, the pipe closes.
    """

    def wait() -> None:
        # Not through sys.stdin: its lock, held by this thread, would abort a process that ends.
        while os.read(0, 4096):
            pass
        call()

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()
