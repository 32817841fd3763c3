"""What is measured from a header is what loading allocates."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import models
from commandr_gguf import GGUFFile, HParams, MemoryUse, Model, Session, UnsupportedError, devices
from commandr_gguf.errors import ArgumentError
from commandr_gguf.plan.hollow import hollow_file, write_hollow
from commandr_gguf.plan.needs import MAPPED, held, measure, parts
from commandr_gguf.plan.shapes import SHAPES, find_shape

README = Path(__file__).parents[2] / "README.md"
GIB = 1 << 30
HAS_GPU = any(device.type in ("gpu", "igpu") for device in devices())

SESSIONS: list[dict[str, Any]] = [
    {"n_ctx": 512},
    {"n_ctx": 700, "n_ubatch": 33, "type_k": "q8_0", "type_v": "q4_0"},
    {"n_ctx": 4096, "n_ubatch": 64, "n_seq_max": 4, "type_k": "bf16", "type_v": "f32"},
    {"n_ctx": 3000, "n_ubatch": 1024, "n_outputs": 200, "n_seq_max": 2, "flash_attn": False},
]
LOADINGS: list[dict[str, Any]] = [{}, {"repack": False}, {"repack": False, "use_mmap": False}]


def by_place(uses: Iterable[MemoryUse]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for use in uses:
        total[use.device, use.what.removesuffix("-reserved")] += use.size  # what a cache may grow to
    return total


def check(path: Path, loading: dict[str, Any], session: dict[str, Any]) -> None:
    with GGUFFile(path) as file:
        predicted = by_place(measure(file, loading, session))
    with Model(path, **loading) as model, Session(model, **session) as opened:
        allocated = by_place(model.memory() + opened.memory())
    assert predicted.keys() == allocated.keys()
    for place, size in allocated.items():
        assert predicted[place] == pytest.approx(size, rel=0.03, abs=1024), place


def small(hparams: HParams) -> HParams:
    """A sixteenth as wide, with two periods of layers."""
    width: dict[str, Any] = {"n_embd": hparams.n_embd // 16, "n_ff": hparams.n_ff // 16, "n_vocab": 4000}
    heads: dict[str, Any] = {
        "n_head": hparams.n_head // 4,
        "n_head_kv": hparams.n_head_kv // 4,
        "head_dim": 32,
        "n_rot": 32,
    }
    return dataclasses.replace(hparams, n_layer=8, n_swa=min(hparams.n_swa, 100), **width, **heads)


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("loading", LOADINGS)
@pytest.mark.parametrize("shape", models.SHAPES)
def test_shapes_of_the_tests(shape: str, loading: dict[str, Any], session: dict[str, Any]) -> None:
    for file_type in ("F32", "Q4_K_M"):
        check(models.gguf(shape, file_type), loading, session)


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_made_small(name: str, session: dict[str, Any], tmp_path: Path) -> None:
    for file_type in ("Q8_0", "Q4_K_M", "IQ3_XXS"):
        path = tmp_path / f"{file_type}.gguf"
        write_hollow(path, small(SHAPES[name]), file_type)
        for loading in LOADINGS:
            check(path, loading, session)


@pytest.mark.parametrize(("name", "n_layer"), [("aya-8b", 2), ("command-r7b", 4)])
def test_8b_shapes_cut_to_a_few_layers(name: str, n_layer: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_hollow(path, dataclasses.replace(SHAPES[name], n_layer=n_layer), "Q4_K_M")
    check(path, {}, {"n_ctx": 16384})
    check(path, {"repack": False}, {"n_ctx": 8192, "type_k": "q8_0", "type_v": "q8_0", "n_ubatch": 256})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_holds_what_was_measured(tmp_path: Path) -> None:
    """As the system counts it, with the whole context in use: nothing large is left out of what is measured.

    A small vocabulary, since the rows for 64 outputs are allocated and only one is used.
    """
    path = tmp_path / "model.gguf"
    narrow = dataclasses.replace(SHAPES["aya-8b"], n_layer=24, n_embd=1024, n_head=8, n_ff=4096, n_vocab=8000)
    write_hollow(path, narrow, "Q4_K_M")
    code = f"""if True:
        from commandr_gguf import Model, Session
        def anonymous():
            return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) * 1024
        before = anonymous()
        with Model({str(path)!r}) as model, Session(model, n_ctx=1024) as session:
            session.eval([5] * 1023)
            session.eval([5] * 1024)
            print(anonymous() - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with GGUFFile(path) as file:
        predicted = held(measure(file, {}, {"n_ctx": 1024}), "CPU")
    assert predicted == pytest.approx(int(done.stdout), rel=0.05)


def test_measuring_takes_no_memory_to_speak_of() -> None:
    """160 GiB of cache, and weights that no machine of ours holds."""
    with hollow_file(SHAPES["command-r-v01"], "F32") as file:
        uses = by_place(measure(file, {}, {"n_ctx": 131072}))
    assert uses["CPU", "kv"] == 160 * GIB
    assert 130 * GIB < sum(uses[place] for place in uses if place[1] in MAPPED) < 131 * GIB


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("session", [{}, {"n_seq_max": 3, "n_ubatch": 64, "type_k": "q8_0", "type_v": "q4_0"}])
def test_parts_add_up(name: str, session: dict[str, Any]) -> None:
    hparams = SHAPES[name]
    with hollow_file(hparams, "Q4_K_M") as file:
        uses = by_place(measure(file, {}, {"n_ctx": 20000, **session}))
        found = parts(file, hparams, n_ctx=20000, **session)
    assert sum(found.kv(layer) for layer in range(hparams.n_layer)) == pytest.approx(uses["CPU", "kv"], rel=0.001)
    weights = sum(size for (_, what), size in uses.items() if what not in ("kv", "compute", "output"))
    assert found.head + sum(found.layers) == weights


def test_sizes_of_the_published_models_are_those_of_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    names = ("command-r7b", "command-r-08-2024", "command-r-v01", "command-r-plus")
    rows = re.findall(
        r"^\| `(\w+)`.*?\| [\d.]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE
    )
    assert len(rows) == 12
    for file_type, *sizes in rows:
        for name, size in zip(names, sizes, strict=True):
            with hollow_file(SHAPES[name], file_type) as file:
                assert sum(tensor.size for tensor in file.tensors) / GIB == pytest.approx(float(size), abs=0.06)


@pytest.mark.skipif(HAS_GPU, reason="needs a machine without a GPU")
def test_what_loading_refuses_is_refused() -> None:
    with hollow_file(small(SHAPES["aya-8b"]), "Q8_0") as file:
        with pytest.raises(ArgumentError, match="n_threads"):
            measure(file, {"n_threads": -1})
        with pytest.raises(ArgumentError, match="n_ubatch is 0"):
            measure(file, {}, {"n_ubatch": 0})
        with pytest.raises(UnsupportedError, match="type_v Q8_0 needs flash attention"):
            measure(file, {}, {"type_v": "q8_0", "flash_attn": False})


def test_unknown_names_are_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="there is no shape 'llama': choose one of command-r-v01, "):
        find_shape("llama")
    with pytest.raises(ArgumentError, match="there is no file type 'Q9': choose one of F32, "):
        write_hollow(tmp_path / "x.gguf", SHAPES["aya-8b"], "Q9")
