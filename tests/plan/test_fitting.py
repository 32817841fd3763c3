"""What does not fit is refused before it is loaded, with the numbers and with what would fit."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import embedded
import split_files
from commandr_gguf import CommandR, GGUFFile, MemoryUse, Model, OutOfMemoryError
from commandr_gguf.devices import Device
from commandr_gguf.errors import ArgumentError
from commandr_gguf.hparams import HParams
from commandr_gguf.plan import fitting, host
from commandr_gguf.plan.fitting import LEAST_CONTEXT, _smaller_sessions, check_fits, free_memory, lacks, nearest
from commandr_gguf.plan.hollow import write_hollow
from commandr_gguf.plan.needs import held, measure
from commandr_gguf.plan.shapes import SHAPES

MIB = 1 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """440 MiB of weights and 64 KiB of F16 cache per token."""
    file = tmp_path_factory.mktemp("fitting") / "model.gguf"
    shape = dataclasses.replace(SHAPES["aya-8b"], n_layer=16, n_embd=1024, n_ff=4096, n_vocab=64000, n_ctx_train=65536)
    write_hollow(file, shape, "Q8_0")
    return file


def needed(path: Path, session: dict[str, Any] | None = None, **loading: Any) -> int:
    with GGUFFile(path) as file:
        return held(measure(file, loading, session), "CPU")


def only(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(host, "available_memory", lambda: n_bytes)


def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr("commandr_gguf.model.lib", type("Lib", (), {"commandr_model_load": load}))


def test_a_context_that_is_too_long_is_refused_with_one_that_fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, needed(path, {"n_ctx": 8192, "n_seq_max": 4}) + 10 * MIB)
    nothing_is_loaded(monkeypatch)
    with pytest.raises(OutOfMemoryError) as caught:
        CommandR(path, n_ctx=65536)
    text = str(caught.value)
    assert text.startswith(f"{path} needs ")
    assert "GiB of memory on CPU (weights 0.43 GiB, kv 4.00 GiB, compute 0.1" in text
    assert text.endswith("GiB are free; this fits: n_ctx=16384, type_k='q8_0', type_v='q4_0'")
    assert caught.value.fitting == {"n_ctx": 16384, "type_k": "q8_0", "type_v": "q4_0"}


def test_what_is_said_to_fit_can_be_loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, needed(path, {"n_ctx": 4096, "n_seq_max": 4}))
    with pytest.raises(OutOfMemoryError) as caught:
        CommandR(path, n_ctx=32768, type_k="bf16")
    assert caught.value.fitting is not None
    arguments = {"n_ctx": 32768, "type_k": "bf16", "type_v": "f16", "n_seq_max": 4} | caught.value.fitting
    check_fits(GGUFFile(path), {}, arguments)


def test_what_fits_is_not_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exactly = needed(path, {"n_ctx": 2048})
    with GGUFFile(path) as file:
        only(monkeypatch, exactly)
        check_fits(file, {}, {"n_ctx": 2048})
        only(monkeypatch, exactly - 1)
        with pytest.raises(OutOfMemoryError):
            check_fits(file, {}, {"n_ctx": 2048})


def test_weights_alone_are_refused_by_the_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, 100 * MIB)
    with pytest.raises(OutOfMemoryError, match="this fits: repack=False$"):
        Model(path)


def test_the_files_of_a_split_model_count_together(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = split_files.split(path, tmp_path, 50)[0]
    only(monkeypatch, first.stat().st_size + MIB)
    with pytest.raises(OutOfMemoryError):
        Model(first)


def test_mapped_weights_may_be_more_than_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    only(monkeypatch, 100 * MIB)
    with caplog.at_level(logging.WARNING), Model(path, repack=False):
        pass
    assert "of weights are read from the file, and 0.10 GiB of memory are left for them" in caplog.text


def test_no_warning_where_mapped_weights_fit(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    only(monkeypatch, 1000 * MIB)
    with caplog.at_level(logging.WARNING), GGUFFile(path) as file:
        check_fits(file, {"repack": False}, {"n_ctx": 1024})
    assert caplog.text == ""


def test_the_cache_loses_precision_before_the_context_is_cut(path: Path) -> None:
    session = {"n_ctx": 8192, "n_seq_max": 4}
    with GGUFFile(path) as file:
        for type_k, type_v in (("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0")):
            smaller = {"type_k": type_k, "type_v": type_v}
            free = {"CPU": needed(path, session | smaller)}
            assert nearest(file, {}, session, free) == smaller
        free = {"CPU": needed(path, session | {"type_k": "q4_0", "type_v": "q4_0"}) - 1}
        changes = nearest(file, {}, session, free)
        assert changes is not None
        assert changes["n_ctx"] == 4096
        assert lacks(measure(file, {}, session | changes), free) == []


def test_what_is_asked_for_is_never_made_larger(path: Path) -> None:
    session = {"n_ctx": 8192, "n_seq_max": 4, "type_k": "q8_0", "type_v": "q4_0"}
    with GGUFFile(path) as file:
        free = {"CPU": needed(path, session) - 1}
        assert nearest(file, {}, session, free) == {"type_k": "q4_0", "type_v": "q4_0"}


def test_a_card_is_given_two_equal_types(path: Path) -> None:
    session = {"n_ctx": 8192, "n_seq_max": 4}
    with GGUFFile(path) as file:
        smaller = _smaller_sessions(file, session, equal_types=True)
        assert [change.get("type_v") for change in itertools.islice(smaller, 3)] == [None, "q8_0", "q4_0"]


def test_nothing_may_fit(path: Path) -> None:
    with GGUFFile(path) as file:
        assert nearest(file, {}, {"n_ctx": 8192}, {"CPU": 0}) is None
        least = nearest(file, {}, {"n_ctx": 1 << 20}, {"CPU": needed(path, {"n_ctx": LEAST_CONTEXT})})
        assert least is not None
        assert least["n_ctx"] >= LEAST_CONTEXT


def test_a_context_beyond_all_memory_is_refused_without_laying_it_out(path: Path) -> None:
    started = time.monotonic()
    with GGUFFile(path) as file, pytest.raises(OutOfMemoryError, match=r"kv [0-9]+\.[0-9]+ GiB") as refused:
        check_fits(file, {}, {"n_ctx": 2_000_000_000})
    assert time.monotonic() - started < 5
    fitting = refused.value.fitting
    assert fitting is not None
    with GGUFFile(path) as file:
        assert fitting["n_ctx"] <= HParams.from_gguf(file).n_ctx_train


def test_cards_are_looked_at_as_the_host_is() -> None:
    uses = [MemoryUse("CUDA0", "weights", 80), MemoryUse("CUDA0", "kv", 30), MemoryUse("CPU", "mapped", 10**6)]
    [lack] = lacks(uses, {"CUDA0": 100, "CPU": 0})
    assert (lack.device, lack.needed, lack.available) == ("CUDA0", 110, 100)
    assert lacks(uses, {"CUDA0": 110, "CPU": 0}) == []


def test_the_host_holds_what_its_igpu_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"CPU": ("cpu", 10**6), "Vulkan0": ("igpu", 60), "CUDA0": ("gpu", 100)}
    there = [Device(name, "", "", kind, free, free) for name, (kind, free) in kinds.items()]
    monkeypatch.setattr(fitting, "devices", lambda: there)
    monkeypatch.setattr(host, "available_memory", lambda: 80)
    free = free_memory()
    assert free == {"CPU": 80, "Vulkan0": 60, "CUDA0": 100}
    inside = MemoryUse("Vulkan0", "weights", 50)
    assert lacks([inside, MemoryUse("CPU", "compute", 30), MemoryUse("CUDA0", "weights", 90)], free) == []
    [lack] = lacks([inside, MemoryUse("CPU", "compute", 31)], free)
    assert (lack.device, lack.needed, lack.available) == ("CPU", 81, 80)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA as Linux has it")
def test_a_real_limit_is_met_before_it_kills(path: Path) -> None:
    code = f"""if True:
        import resource
        from commandr_gguf import CommandR, OutOfMemoryError
        from commandr_gguf.plan import host
        free = host.available_memory()
        used = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + {200 * MIB},) * 2)
        assert host.available_memory() <= {200 * MIB} < free
        try:
            CommandR({str(path)!r})
        except OutOfMemoryError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path} needs ")


def test_auto_is_the_cpu_where_there_is_no_card() -> None:
    with CommandR(embedded.path(), n_gpu_layers="auto", n_ctx=512) as model:
        assert {use.device for use in model.model.memory()} == {"CPU"}
    with pytest.raises(ArgumentError, match="n_gpu_layers must be an integer or 'auto', not 'all'"):
        CommandR(embedded.path(), n_gpu_layers="all")  # type: ignore[arg-type]
