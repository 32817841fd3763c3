"""Models spread over workers: other processes, that are reached through ggml's RPC."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import bounds
import loud
import measure
import models
from commandr_gguf.devices import devices
from commandr_gguf.errors import ArgumentError, BackendError, OutOfMemoryError, UnsupportedError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.model import Model
from commandr_gguf.plan.needs import measure as measure_needs
from commandr_gguf.session import Session
from commandr_gguf.workers import serve_worker, worker_devices, worker_list
from elsewhere import LIMIT, check_logits
from reference import Reference

SECONDS = 60.0


def has_rpc() -> bool:
    """Whether the installed ggml is built with RPC: the prebuilt one is not."""
    import libggml

    return any((Path(libggml.__file__).parent / "lib").glob("*ggml-rpc*"))


pytestmark = pytest.mark.skipif(not has_rpc(), reason="this ggml is built without RPC")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(endpoint: str) -> bool:
    host, _, port = endpoint.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def worker(endpoint: str | None = None, *, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`commandr rpc-serve`; gives where it is and its process."""
    endpoint = endpoint or f"127.0.0.1:{free_port()}"
    host, _, port = endpoint.partition(":")
    command = [*prefix, sys.executable, "-m", "commandr_gguf", "rpc-serve", "--host", host, "--port", port, "-t", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + SECONDS
        while not answers(endpoint):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, f"no worker at {endpoint}"
            time.sleep(0.05)
        yield endpoint, process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def workers() -> Iterator[list[str]]:
    with worker() as (first, _), worker() as (second, _):
        yield [first, second]


@pytest.mark.parametrize("file_type", ["F32", "BF16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("shape", models.SHAPES)
def test_logits_of_two_workers_are_those_of_one_machine(shape: str, file_type: str, workers: list[str]) -> None:
    check_logits(shape, file_type, ("RPC0", "RPC1"), n_gpu_layers=-1, rpc=workers)


def test_some_layers_stay_here_with_our_own_products(workers: list[str]) -> None:
    tokens = models.golden("gqa")["tokens_a"]
    path = models.gguf("gqa", "Q8_0")
    with Model(path) as model, Session(model, n_ctx=256) as session:
        session.eval(tokens, n_outputs=len(tokens))
        expected = session.logits().copy()
    with Model(path, n_gpu_layers=2, rpc=workers[0]) as model, Session(model, n_ctx=256) as session:
        assert {use.what for use in model.memory() if use.device == "CPU"} >= {"packed"}
        session.eval(tokens, n_outputs=len(tokens))
        assert measure.kl_divergence(session.logits(), expected) < 2 * bounds.from_own_weights("gqa", "Q8_0")


def test_layers_are_shared_out_as_tensor_split_says(workers: list[str]) -> None:
    with Model(models.gguf("gqa"), n_gpu_layers=4, rpc=workers, tensor_split=[3, 1]) as model:
        sizes = {use.device: use.size for use in model.memory() if use.device.startswith("RPC")}
    first, second = (sizes[name] for name in sorted(sizes))
    assert first == pytest.approx(3 * second, rel=0.01)


def test_sessions_in_several_threads_take_turns(workers: list[str]) -> None:
    tokens = [int(token) for token in models.golden("gqa")["tokens_a"]]
    path = models.gguf("gqa")
    with Model(path, n_gpu_layers=-1, rpc=workers) as model:
        sessions = [Session(model, n_ctx=256) for _ in range(3)]

        def evaluate(session: Session) -> list[npt.NDArray[np.float32]]:
            found = []
            for n in range(len(tokens) - 20, len(tokens)):
                session.eval(tokens[: n + 1])
                found.append(session.logits()[-1].copy())
            return found

        expected = evaluate(sessions[0])
        sessions[0].seq_rm(0)
        with ThreadPoolExecutor() as threads:
            for found in threads.map(evaluate, sessions):
                np.testing.assert_array_equal(found, expected)
        for session in sessions:
            session.close()


def test_a_worker_that_dies_ends_the_evaluation_and_the_model_can_be_loaded_again(workers: list[str]) -> None:
    tokens = list(models.golden("gqa")["tokens_a"])
    path = models.gguf("gqa")
    with worker() as (doomed, process):
        rpc = [workers[0], doomed]
        with Model(path, n_gpu_layers=-1, rpc=rpc) as model, Session(model, n_ctx=256) as session:
            session.eval(tokens[:-1])
            process.kill()
            process.wait()
            with pytest.raises(BackendError, match=f"a worker was lost: {doomed}; .* load it again"):
                session.eval(tokens)
            with pytest.raises(BackendError, match="a worker was lost"):
                session.eval(tokens)
            with pytest.raises(BackendError, match="a worker was lost"):
                Session(model, n_ctx=256)
        with pytest.raises(BackendError, match=f"no worker answers at {doomed}"):
            Model(path, n_gpu_layers=-1, rpc=rpc)
    with worker(doomed), Model(path, n_gpu_layers=-1, rpc=rpc) as model, Session(model, n_ctx=256) as session:
        session.eval(tokens)
        logits = session.logits().copy()
    with Model(path) as model, Session(model, n_ctx=256) as session:
        session.eval(tokens)
        assert measure.kl_divergence(logits, session.logits()) < LIMIT


def test_plan_measures_workers_and_says_whether_spreading_pays(workers: list[str]) -> None:
    command = [sys.executable, "-m", "commandr_gguf", "plan", str(models.gguf("gqa")), "--hosts", ",".join(workers)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    found = {device["device"]: device for device in report["devices"] if device["kind"] == "worker"}
    assert sorted(found) == ["RPC0", "RPC1"]
    for device in found.values():
        assert device["read_source"] == device["compute_source"] == "measured"
        assert device["read_bytes_per_second"] > 1e8
        assert device["link_bytes_per_second"] > 1e6
        assert 0 < device["latency_seconds"] < 1
    ways = report["spreading"]
    assert ways["pays"] == ("--rpc" in report["command"])
    assert ways["alone_tokens_per_second"] > 0
    assert ways["spread_tokens_per_second"] > 0
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Spreading" in shown
    assert "there and back" in shown


def test_generate_writes_the_same_with_a_worker(workers: list[str]) -> None:
    path = str(models.gguf("gqa"))
    command = [sys.executable, "-m", "commandr_gguf", "generate", path, "a b c", "--max-tokens", "6"]
    command += ["--temperature", "0", "--ctx", "256"]
    plain = subprocess.run(command, capture_output=True, check=True)
    for more in ([], ["--gpu-layers", "-1"]):
        spread = subprocess.run([*command, "--rpc", workers[0], *more], capture_output=True, check=True)
        assert (spread.stdout, spread.stderr) == (plain.stdout, b"")


def test_a_state_that_is_being_saved_when_its_worker_dies_leaves_nothing(workers: list[str], tmp_path: Path) -> None:
    tokens = list(models.golden("gqa")["tokens_a"])
    with worker() as (doomed, process):
        rpc = [workers[0], doomed]
        with Model(models.gguf("gqa"), n_gpu_layers=-1, rpc=rpc) as model, Session(model, n_ctx=256) as session:
            session.eval(tokens)
            process.kill()
            process.wait()
            with pytest.raises(BackendError, match="a worker was lost"):
                session.save_state(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_is_being_loaded_when_its_worker_dies_is_an_error(workers: list[str], tmp_path: Path) -> None:
    tokens = np.random.default_rng(1).integers(10, 500, 1500)
    path = models.gguf("gqa")
    with worker() as (doomed, process):
        rpc = [workers[0], doomed]
        with Model(path, n_gpu_layers=-1, rpc=rpc) as model:
            with Session(model, n_ctx=2048) as session:
                session.eval(tokens, n_outputs=0, logits=False)
                session.save_state(tmp_path / "state")
            with Session(model, n_ctx=2048) as session:
                process.kill()
                process.wait()
                with pytest.raises(BackendError, match="a worker was lost"):
                    session.load_state(tmp_path / "state")


def test_long_sums_of_large_values_are_right_on_a_workers_cpu(workers: list[str], tmp_path: Path) -> None:
    """ggml's attention on a CPU sums the values of an F16 cache in half precision, and these overflow it."""
    checkpoint, file = loud.write(tmp_path)
    expected = Reference(checkpoint).logits(loud.TOKENS)[-3:]
    with Model(file, n_gpu_layers=-1, rpc=workers) as model, Session(model, n_ctx=1024) as session:
        session.eval(loud.TOKENS[:-1], n_outputs=2)
        rows = [session.logits().copy()]
        session.eval(loud.TOKENS)
        logits = np.concatenate([*rows, session.logits()])
    assert measure.kl_divergence(logits, expected) < 1e-4


def test_two_types_of_the_cache_are_refused_on_workers(workers: list[str]) -> None:
    """CUDA has no flash attention for them, and a worker does not say so but ends."""
    with Model(models.gguf("gqa"), n_gpu_layers=-1, rpc=workers) as model:
        with pytest.raises(UnsupportedError, match="type_v Q4_0 needs flash attention"):
            Session(model, n_ctx=256, type_k="q8_0", type_v="q4_0")
        Session(model, n_ctx=256, type_k="q8_0", type_v="q8_0").close()


def test_a_worker_that_was_restarted_between_two_uses_is_connected_to_anew(workers: list[str]) -> None:
    path = models.gguf("gqa")
    with worker() as (endpoint, process):
        rpc = [workers[0], endpoint]
        model = Model(path, n_gpu_layers=-1, rpc=rpc)
        process.kill()
        process.wait()
        with worker(endpoint):
            with GGUFFile(path) as file, pytest.raises(BackendError, match="a worker was lost"):
                measure_needs(file, {"n_gpu_layers": -1, "rpc": rpc}, {"n_ctx": 256})
            model.close()
            with Model(path, n_gpu_layers=-1, rpc=rpc) as again, Session(again, n_ctx=256) as session:
                session.eval([1, 2, 3])
            assert len(worker_devices(rpc)) == 2


def test_a_worker_in_use_is_asked_and_used_by_further_models(workers: list[str]) -> None:
    path = models.gguf("gqa")
    started = time.monotonic()
    with Model(path, n_gpu_layers=-1, rpc=workers) as one, Model(path, n_gpu_layers=-1, rpc=workers) as two:
        for _ in range(4):
            assert len(worker_devices(workers)) == 2
        with Session(one, n_ctx=256) as first, Session(two, n_ctx=256) as second:
            first.eval([1, 2, 3])
            second.eval([1, 2, 3])
            np.testing.assert_array_equal(first.logits(), second.logits())
    assert time.monotonic() - started < 20


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_cache_that_cannot_grow_on_a_worker_leaves_the_session_as_it_was(workers: list[str]) -> None:
    rng = np.random.default_rng(5)
    tokens = [int(token) for token in rng.integers(10, 500, 24000)]
    path = models.gguf("gqa")
    with Model(path) as model, Session(model, n_ctx=32768) as session:
        session.eval(tokens[:100])
        expected = session.logits().copy()
    with worker() as (small, process):
        rpc = [workers[0], small]
        with Model(path, n_gpu_layers=-1, rpc=rpc) as model, Session(model, n_ctx=32768, n_threads=1) as session:
            session.eval(tokens[:100])
            taken = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(process.pid, resource.RLIMIT_AS, (taken + (1 << 20), resource.RLIM_INFINITY))
            with pytest.raises(OutOfMemoryError, match=r"for the KV cache of \d+ cells cannot be allocated on RPC"):
                session.eval(tokens)
            session.eval(tokens[:100])
            assert session.n_reused() == 99
            assert measure.kl_divergence(session.logits(), expected) < LIMIT
            resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            session.eval(tokens[:2000], n_outputs=0, logits=False)
            session.seq_rm(0, 100)
            session.eval(tokens[:100])
            assert measure.kl_divergence(session.logits(), expected) < LIMIT


def test_a_worker_lends_its_cpu_with_the_memory_that_is_free(workers: list[str]) -> None:
    found = worker_devices(workers)
    assert [device.description for device in found] == workers
    [here] = [device for device in devices() if device.type == "cpu"]
    for device in found:
        assert device.memory_total == here.memory_total
        assert device.memory_free == pytest.approx(here.memory_free, rel=0.3)
        assert device.memory_free < device.memory_total


def test_what_is_no_worker_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="given as host:port, not 'somewhere'"):
        worker_list("somewhere")
    with pytest.raises(ArgumentError, match="given as host:port, not 'a:x'"):
        worker_list(["b:1", "a:x"])
    with pytest.raises(ArgumentError, match="a:65536: a port is 1 to 65535"):
        worker_list("a:65536")
    assert worker_list(" b:050052, a:1") == "b:50052,a:1"
    port = free_port()
    with pytest.raises(BackendError, match=f"no worker answers at 127.0.0.1:{port}"):
        worker_devices(f"127.0.0.1:{port}")
    with pytest.raises(BackendError, match="nowhere.invalid:1: there is no host of that name"):
        worker_devices("nowhere.invalid:1")
    for number in range(2, 22):  # any number of them
        with pytest.raises(BackendError, match=f"no worker answers at nowhere.invalid:{number}"):
            worker_devices(f"nowhere.invalid:{number}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"127.0.0.1:{port} cannot be listened on: Address already in use"):
            serve_worker(port=port)
        with pytest.raises(BackendError, match=f"answers at 127.0.0.1:{port}: it serves another program, and one at"):
            worker_devices(f"127.0.0.1:{port}")


def test_something_else_that_listens_there_is_no_worker() -> None:
    code = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "while True: c = s.accept()[0]; c.close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with pytest.raises(BackendError, match=f"127.0.0.1:{port} is no worker"):
            worker_devices(f"127.0.0.1:{port}")
        other.kill()


def test_a_worker_that_serves_another_program_is_named_and_not_waited_for() -> None:
    with worker() as (endpoint, _):
        hold = "import sys; from commandr_gguf.model import Model\n"
        hold += "with Model(sys.argv[1], n_gpu_layers=-1, rpc=sys.argv[2]): print(flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", hold, str(models.gguf("gqa")), endpoint]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdin is not None
            assert other.stdout.readline()
            started = time.monotonic()
            with pytest.raises(BackendError, match=f"answers at {endpoint}: it serves another program"):
                Model(models.gguf("gqa"), n_gpu_layers=-1, rpc=endpoint)
            assert time.monotonic() - started < 20
            other.stdin.close()
            other.wait()
        with Model(models.gguf("gqa"), n_gpu_layers=-1, rpc=endpoint) as model, Session(model, n_ctx=256) as session:
            session.eval([1, 2, 3])


def test_signals_do_not_break_the_connection_to_a_worker(workers: list[str]) -> None:
    tokens = [int(token) for token in models.golden("gqa")["tokens_a"]]
    seen = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: seen.append(number))
    try:
        with Model(models.gguf("gqa"), n_gpu_layers=-1, rpc=workers) as model, Session(model, n_ctx=256) as session:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for _ in range(30):
                session.seq_rm(0)
                session.eval(tokens)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 10


@contextmanager
def stuck_program(*, in_thread: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A program that evaluates on a worker, in its main thread or beside it; the worker has just been stopped."""
    code = f"""if True:
        import signal, sys, threading
        from commandr_gguf.model import Model
        from commandr_gguf.session import Session

        def evaluate():
            with Model(sys.argv[1], n_gpu_layers=-1, rpc=sys.argv[2]) as model, Session(model, n_ctx=256) as session:
                print("ready", flush=True)
                while True:
                    session.seq_rm(0)
                    session.eval([5, 100, 200])

        if {in_thread}:
            signal.signal(signal.SIGINT, lambda *_: None)  # as a server, which ends in its own time
            thread = threading.Thread(target=evaluate)
            thread.start()
            while thread.is_alive():
                thread.join(0.1)
        else:
            evaluate()
    """
    with worker() as (endpoint, process):
        command = [sys.executable, "-c", code, str(models.gguf("gqa")), endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGSTOP)
            time.sleep(1)
            try:
                yield program
            finally:
                program.kill()
                process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("in_thread", [False, True])
def test_the_second_ctrl_c_leaves_a_worker_that_stands_still(in_thread: bool) -> None:
    with stuck_program(in_thread=in_thread) as program:
        program.send_signal(signal.SIGINT)
        time.sleep(1)
        assert program.poll() is None  # the first one waits for the end of the evaluation
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=20)
        assert ("a worker was lost" if in_thread else "KeyboardInterrupt") in said


def test_an_evaluation_without_outputs_ends_when_its_worker_has_computed_it() -> None:
    tokens = [int(token) for token in models.golden("gqa")["tokens_a"]]
    with (
        worker() as (endpoint, process),
        Model(models.gguf("gqa"), n_gpu_layers=-1, rpc=endpoint) as model,
        Session(model, n_ctx=256) as session,
        ThreadPoolExecutor(1) as threads,
    ):
        for _ in range(2):  # of the same shape: nothing is asked of the worker before it computes
            session.seq_rm(0)
            session.eval(tokens, n_outputs=0, logits=False)
        session.seq_rm(0)
        process.send_signal(signal.SIGSTOP)
        running = threads.submit(session.eval, tokens, n_outputs=0, logits=False)
        time.sleep(1)
        is_done = running.done()
        process.send_signal(signal.SIGCONT)
        running.result(timeout=SECONDS)
        assert not is_done


def test_sigterm_ends_a_program_whose_worker_stands_still() -> None:
    with stuck_program() as program:
        program.terminate()
        program.communicate(timeout=20)
        assert program.returncode == -signal.SIGTERM


def test_a_worker_is_asked_anew_while_a_model_that_lost_it_is_open() -> None:
    path = models.gguf("gqa")
    with (
        worker() as (endpoint, process),
        Model(path, n_gpu_layers=-1, rpc=endpoint) as lost,
        Session(lost, n_ctx=256) as session,
    ):
        process.kill()
        process.wait()
        with pytest.raises(BackendError, match="a worker was lost"):
            session.eval([1, 2, 3])
        with worker(endpoint) as (_, second):
            second.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(BackendError, match=f"no worker answers at {endpoint}: it serves another program"):
                Model(path, n_gpu_layers=-1, rpc=endpoint)
            assert time.monotonic() - started < 20
            second.send_signal(signal.SIGCONT)


def test_a_model_that_finds_its_worker_restarted_leaves_the_new_connection_of_another_alone() -> None:
    path = models.gguf("gqa")
    with worker() as (endpoint, process):
        first, other = (Model(path, n_gpu_layers=-1, rpc=endpoint) for _ in range(2))
        sessions = [Session(model, n_ctx=256) for model in (first, other)]
        process.kill()
        process.wait()
        with worker(endpoint):
            with pytest.raises(BackendError, match="a worker was lost"):
                sessions[0].eval([1, 2, 3])
            with Model(path, n_gpu_layers=-1, rpc=endpoint) as again, Session(again, n_ctx=256) as session:
                session.eval([1, 2, 3])
                with pytest.raises(BackendError, match="a worker was lost"):
                    sessions[1].eval([1, 2, 3])
                session.eval([1, 2, 3, 4])
                assert np.isfinite(session.logits()).all()
            for old in sessions:
                old.close()
        first.close()
        other.close()


def test_beyond_loopback_it_warns_of_the_missing_authentication() -> None:
    command = [sys.executable, "-m", "commandr_gguf", "rpc-serve", "--host", "0.0.0.0", "--port", str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "no authentication" in process.stderr.readline()
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == -15


# ---- hosts of their own


def has_ip() -> bool:
    return any(Path(folder, "ip").exists() for folder in ("/usr/sbin", "/sbin"))


def ip(*arguments: str) -> None:
    if subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces cannot be made here")


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network of its own, with nothing but itself in it."""
    name = f"commandr-{name}-{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def host(name: str, here: str, subnet: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """One with a cable to the namespace `here`; gives what runs a command in it, and its address."""
    with namespace(name) as there:
        cable = f"to-{name}"
        ip("-n", here, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", there)
        ip("-n", here, "addr", "add", f"{subnet}.1/24", "dev", cable)
        ip("-n", here, "link", "set", cable, "up")
        ip("-n", there, "addr", "add", f"{subnet}.2/24", "dev", "eth0")
        ip("-n", there, "link", "set", "eth0", "up")
        yield ("ip", "netns", "exec", there), f"{subnet}.2"


@contextmanager
def entered(name: str) -> Iterator[None]:
    """This thread, and what it starts, in a namespace: a browser that other tests use would notice a new cable here."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as back, Path(f"/run/netns/{name}").open() as there:
        assert libc.setns(there.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(back.fileno(), 0) == 0, os.strerror(ctypes.get_errno())


def answer(session: Session, tokens: list[int], n: int) -> None:
    """Continues with the most likely tokens; begins anew where the context ends."""
    for _ in range(n):
        tokens = tokens[:3] if len(tokens) == session.n_ctx else tokens
        session.eval(tokens)
        tokens.append(int(session.logits()[-1].argmax()))


@pytest.mark.skipif(not has_ip(), reason="there is no `ip`")
def test_two_hosts_answer_together_and_one_that_is_killed_in_the_middle_ends_the_answer() -> None:
    path = models.gguf("v01", "Q8_0")
    with (
        namespace("desk") as desk,
        host("first", desk, "10.0.0") as (in_first, first),
        host("second", desk, "10.0.1") as (in_second, second),
        entered(desk),
    ):
        rpc = [f"{first}:50052", f"{second}:50052"]
        with (
            worker(rpc[0], prefix=in_first),
            worker(rpc[1], prefix=in_second) as (_, doomed),
            Model(path, n_gpu_layers=-1, rpc=rpc) as model,
            Session(model, n_ctx=256) as session,
        ):
            answer(session, [1, 2, 3], 8)
            timer = threading.Timer(0.1, doomed.kill)
            timer.start()
            with pytest.raises(BackendError, match=f"a worker was lost: {rpc[1]}"):
                answer(session, [1, 2, 3], 100_000)
            timer.join()


@pytest.mark.skipif(not has_ip(), reason="there is no `ip`")
def test_a_host_whose_cable_is_pulled_in_the_middle_ends_the_answer() -> None:
    with (
        namespace("room") as desk,
        host("third", desk, "10.0.2") as (inside, address),
        entered(desk),
    ):
        endpoint = f"{address}:50052"
        with (
            worker(endpoint, prefix=inside),
            Model(models.gguf("v01", "Q8_0"), n_gpu_layers=-1, rpc=endpoint) as model,
            Session(model, n_ctx=256) as session,
        ):
            answer(session, [1, 2, 3], 8)
            ip("-n", desk, "link", "set", "to-third", "down")
            started = time.monotonic()
            with pytest.raises(BackendError, match=f"a worker was lost: {endpoint}"):
                answer(session, [1, 2, 3], 100_000)
            assert time.monotonic() - started < SECONDS
