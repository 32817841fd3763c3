"""Workers: processes, mostly on other hosts, that lend their devices through ggml's RPC."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from commandr_gguf._native import ffi, lib
from commandr_gguf.devices import Device, device_of
from commandr_gguf.errors import ArgumentError, check, int32
from commandr_gguf.gguf_file import encode_path

DEFAULT_PORT = 50052
"""That of ggml's own RPC server."""


def worker_list(rpc: str | Sequence[str] | None) -> str:
    """Workers as "host:port,host:port"; "" for none. Raises ArgumentError where one has no port."""
    if rpc is None:
        return ""
    if isinstance(rpc, str):
        rpc = rpc.split(",")
    if not isinstance(rpc, Sequence) or not all(isinstance(worker, str) for worker in rpc):
        raise ArgumentError(f"rpc must be host:port or a list of such, not {rpc!r}")
    workers = []
    for worker in rpc:
        host, _, port = worker.strip().partition(":")
        if not host or not (port.isascii() and port.isdigit()):
            raise ArgumentError(f"a worker is given as host:port, not {worker!r}")
        if not 0 < int(port) < 65536:
            raise ArgumentError(f"{worker}: a port is 1 to 65535")
        workers.append(f"{host}:{int(port)}")  # without zeros in front: the library tells connections apart by them
    return ",".join(workers)


def worker_devices(rpc: str | Sequence[str]) -> list[Device]:
    """The devices of workers, which are asked for it.

    Raises:
        BackendError: one does not answer, or is of another version.
        UnsupportedError: this ggml is built without RPC.
    """
    endpoints = ffi.new("char[]", worker_list(rpc).encode())
    info = ffi.new("commandr_device_info *")
    found: list[Device] = []
    while True:
        status = lib.commandr_worker_get(endpoints, len(found), info)
        if found and status == lib.COMMANDR_ERROR_ARGUMENT:
            return found
        check(status)
        found.append(device_of(info))


def free_address(host: str, port: int) -> str:
    """The number of an address that can be listened on. Raises ArgumentError for any other."""
    worker_list(f"{host}:{port}")
    try:
        address = socket.gethostbyname(host)  # ggml listens on numbers only, of IPv4
    except OSError as error:
        raise ArgumentError(f"{host} is no address of this machine: {error.strerror or error}") from error
    try:
        socket.create_server((address, port)).close()
    except OSError as error:
        raise ArgumentError(f"{host}:{port} cannot be listened on: {os.strerror(error.errno or 0)}") from error
    return address


def serve_worker(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    n_threads: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Lend this machine's GPUs, or its CPU where there are none, to whoever connects; returns after a signal.

    ggml's RPC has no authentication: who reaches the port can read and write this process's memory.

    Args:
        host: the address to listen on.
        port: 1 to 65535.
        n_threads: of the CPU; 0 = the physical cores that this process may use.
        cache_dir: a folder in which large weights are kept, so that they are sent once only.

    Raises:
        ArgumentError: there is no such address, or another program listens there.
        BackendError: the worker ended.
        UnsupportedError: this ggml is built without RPC.
    """
    endpoint = worker_list(f"{free_address(host, port)}:{port}").encode()
    cache = ffi.NULL if cache_dir is None else ffi.new("char[]", encode_path(f"{os.fspath(cache_dir)}/"))
    check(lib.commandr_rpc_serve(endpoint, cache, int32("n_threads", n_threads)))
