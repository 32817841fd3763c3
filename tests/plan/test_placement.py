"""Where layers go: cards first, the head behind the last layer, and contexts and cache types by the stated rules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from commandr_gguf.errors import ArgumentError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.plan.hollow import hollow_file
from commandr_gguf.plan.layout import Layout
from commandr_gguf.plan.placement import Planner
from commandr_gguf.plan.places import Place, described, parse_bytes, parse_rate
from commandr_gguf.plan.shapes import SHAPES

GIB = 1 << 30
HOST = described("cpu", 0, 64 * GIB, 50e9)


@pytest.fixture(scope="module")
def gqa() -> Iterator[GGUFFile]:
    """18.4 GiB of weights, 0.16 MiB of F16 cache per token."""
    with hollow_file(SHAPES["command-r-08-2024"], "Q4_K_M") as file:
        yield file


def card(gib: float, number: int = 0, read: float = 900e9) -> Place:
    return described("gpu", number, int(gib * GIB), read)


def best(file: GGUFFile, *cards: Place, n_ctx: list[int] | None = None, **options: object) -> Layout:
    found = Planner(file, [HOST, *cards]).best(n_ctx, **options)  # type: ignore[arg-type]
    assert found is not None
    for share in found.shares:
        assert share.total <= share.place.memory
    return found


def test_without_a_card_all_is_on_the_host(gqa: GGUFFile) -> None:
    found = best(gqa)
    assert (found.n_gpu_layers, found.n_ctx, found.type_k) == (0, 131072, "f16")
    assert found.arguments() == {"n_ctx": 131072}


def test_a_large_card_takes_all_layers_and_the_head(gqa: GGUFFile) -> None:
    found = best(gqa, card(80))
    assert found.n_gpu_layers == 41
    assert [share.n_layers for share in found.shares] == [0, 40]
    assert found.shares[0].head == found.shares[0].weights == found.shares[0].kv == 0
    assert found.n_ctx == 131072


def test_a_small_card_takes_the_last_layers_and_leaves_the_head(gqa: GGUFFile) -> None:
    found = best(gqa, card(10), n_ctx=[8192])
    host, gpu = found.shares
    assert host.n_layers + gpu.n_layers == 40
    assert 10 < gpu.n_layers < 25
    assert found.n_gpu_layers == gpu.n_layers
    assert (host.head > 0, gpu.head) == (True, 0)
    one_more = gpu.weights // gpu.n_layers + gpu.kv // gpu.n_layers
    assert gpu.total + one_more > gpu.place.memory


def test_more_memory_never_means_fewer_layers(gqa: GGUFFile) -> None:
    types = [("f16", "f16")]
    counts = [best(gqa, card(gib), n_ctx=[8192], types=types).n_gpu_layers for gib in (1, 4, 8, 12, 16, 20, 24)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == 41


def test_two_cards_share_by_a_split_that_the_library_reads_as_meant(gqa: GGUFFile) -> None:
    found = best(gqa, card(12), card(12, 1), n_ctx=[8192])
    counts = [share.n_layers for share in found.shares[1:]]
    assert sum(counts) == 40
    assert found.arguments()["tensor_split"] == counts
    assert found.shares[2].head > 0


def test_cards_that_are_needed_are_filled_alike_and_others_left_alone(gqa: GGUFFile) -> None:
    found = best(gqa, card(16), card(16, 1), n_ctx=[8192])
    first, second = (share.total for share in found.shares[1:])
    assert abs(first - second) < 2 * GIB
    unequal = best(gqa, card(24), card(8, 1), n_ctx=[32768], types=[("f16", "f16")])
    assert unequal.shares[1].total > 2 * unequal.shares[2].total > 0
    third = best(gqa, card(16), card(16, 1), card(16, 2, read=100e9), n_ctx=[8192])
    assert third.shares[3].n_layers == 0
    alone = best(gqa, card(32), card(32, 1), n_ctx=[8192])
    assert [share.n_layers for share in alone.shares] == [0, 40, 0]


def test_a_slower_card_is_filled_behind_a_faster_one(gqa: GGUFFile) -> None:
    for slow in (card(16, 1, read=100e9), replace(card(32, 1, read=50e9), is_inside=True)):
        first, second = (share.n_layers for share in best(gqa, card(16), slow, n_ctx=[8192]).shares[1:])
        assert first > 30
        assert 0 < second < 10


def test_the_cache_is_quantized_where_that_keeps_all_on_the_card(gqa: GGUFFile) -> None:
    found = best(gqa, card(24), n_ctx=[32768])
    assert (found.type_k, found.type_v, found.n_gpu_layers) == ("q8_0", "q8_0", 41)


def test_a_larger_card_means_no_shorter_context_until_all_fits_on_it_and_more_speed(gqa: GGUFFile) -> None:
    found = [best(gqa, card(gib)) for gib in range(6, 26)]
    partly = [layout for layout in found if not layout.is_on_cards]
    whole = [layout for layout in found if layout.is_on_cards]
    assert found == [*partly, *whole]
    assert min(layout.n_ctx for layout in partly) == 32768
    assert [layout.n_ctx for layout in whole] == sorted(layout.n_ctx for layout in whole)
    assert whole[0].n_ctx >= 4096
    decode = [layout.decode for layout in found]
    assert all(later > 0.9 * sooner for sooner, later in itertools.pairwise(decode))


def test_keys_in_q4_0_are_for_where_nothing_else_fits(gqa: GGUFFile) -> None:
    assert best(gqa, card(24), n_ctx=[131072]).type_k != "q4_0"
    tight = described("cpu", 0, 26 * GIB, 50e9)
    found = Planner(gqa, [tight], n_seq_max=1).best([131072])
    assert found is not None
    assert found.type_k == "q4_0"


def test_without_a_card_the_values_lose_precision_before_the_keys(gqa: GGUFFile) -> None:
    host = described("cpu", 0, int(20.2 * GIB), 50e9)
    found = Planner(gqa, [host], n_seq_max=1).best()
    assert found is not None
    assert (found.type_k, found.type_v) == ("q8_0", "q4_0")
    assert found.n_ctx >= 8192


def test_given_types_are_kept(gqa: GGUFFile) -> None:
    found = best(gqa, card(24), n_ctx=[32768], types=[("f16", "f16")])
    assert (found.type_k, found.type_v) == ("f16", "f16")
    assert found.n_gpu_layers < 41


def test_a_long_context_is_given_up_for_speed(gqa: GGUFFile) -> None:
    found = best(gqa, card(20.5))
    assert found.n_gpu_layers == 41
    assert found.n_ctx < 32768


def test_what_fits_nowhere_is_none(gqa: GGUFFile) -> None:
    planner = Planner(gqa, [described("cpu", 0, 16 * GIB, None)])
    assert planner.best() is None
    [share] = planner.smallest(4096, ("f16", "f16")).shares
    assert share.total > 18 * GIB


def test_speed_follows_from_the_bytes_that_are_read(gqa: GGUFFile) -> None:
    found = best(gqa, n_ctx=[8192])
    [share] = found.shares
    assert found.decode == pytest.approx(0.65 * 50e9 / (share.weights + share.head))
    assert found.decode_full == pytest.approx(0.65 * 50e9 / (share.weights + share.head + share.kv))
    faster = best(gqa, card(80), n_ctx=[8192])
    assert faster.decode == pytest.approx(found.decode * 900 / 50)


def test_a_worker_is_one_more_place_behind_a_link(gqa: GGUFFile) -> None:
    near = card(80)
    far = Place("worker:50052", "worker", near.memory, near.read, near.compute, near.read_source, link=125e6)
    assert best(gqa, far, n_ctx=[8192]).n_gpu_layers == 41
    assert best(gqa, far, n_ctx=[8192]).prefill < best(gqa, near, n_ctx=[8192]).prefill


def test_an_igpu_and_the_host_have_one_memory(gqa: GGUFFile) -> None:
    inside = replace(card(40), is_inside=True)
    assert best(gqa, inside, n_ctx=[8192]).n_gpu_layers == 41
    small = described("cpu", 0, 16 * GIB, None)
    assert Planner(gqa, [small, replace(inside, is_inside=False)]).best([8192]) is not None
    assert Planner(gqa, [small, inside]).best([8192]) is None


def test_windows_of_several_prompts_are_counted() -> None:
    with hollow_file(SHAPES["command-r7b"], "Q4_K_M") as file:
        one, four = (Planner(file, [HOST], n_seq_max=n).best([131072]) for n in (1, 4))
    assert one is not None
    assert four is not None
    assert four.shares[0].kv > one.shares[0].kv + GIB


def test_sizes_and_rates_as_people_write_them() -> None:
    assert parse_bytes("--vram", "24G") == parse_bytes("--vram", "24GiB") == 24 * GIB
    assert parse_bytes("--ram", "1.5t") == 1536 * GIB
    assert parse_rate("--bandwidth", "936GB/s") == parse_rate("--bandwidth", "0.936T") == 936e9
    for text in ("", "x", "-1G", "0", "24 apples"):
        with pytest.raises(ArgumentError, match="--vram must be a size such as 24G, not "):
            parse_bytes("--vram", text)
        with pytest.raises(ArgumentError, match="--bandwidth must be bytes per second such as 936G, not "):
            parse_rate("--bandwidth", text)


def worker(gib: float, number: int = 0, read: float = 50e9, link: float = 117e6) -> Place:
    return Place(f"RPC{number}", "worker", int(gib * GIB), read, 1e12, "given", link=link, latency=0.3e-3)


def test_a_model_that_fits_here_stays_here_unless_a_worker_is_faster(gqa: GGUFFile) -> None:
    slow = best(gqa, worker(64), n_ctx=[8192])
    assert not slow.uses_workers
    assert slow.arguments() == {"n_ctx": 8192}
    fast = best(gqa, worker(64, read=900e9), n_ctx=[8192])
    assert [share.n_layers for share in fast.shares] == [0, 40]
    far = best(gqa, worker(64, read=900e9, link=20e3), n_ctx=[8192])  # two vectors of 32 KiB take three seconds
    assert not far.uses_workers


def test_what_does_not_fit_here_goes_on_workers_and_no_more(gqa: GGUFFile) -> None:
    small = described("cpu", 0, 12 * GIB, 50e9)
    found = Planner(gqa, [small, worker(6), worker(16, 1)]).best([4096])
    assert found is not None
    host, first, second = found.shares
    assert found.fits
    assert host.n_layers + first.n_layers + second.n_layers == 40
    assert host.n_layers > 15
    assert 0 in (first.n_layers, second.n_layers)  # one link is shorter than two
    assert found.arguments()["tensor_split"] == [first.n_layers, second.n_layers]
    both = Planner(gqa, [small, worker(6), worker(6, 1)]).best([4096])
    assert both is not None
    assert min(share.n_layers for share in both.shares) > 0


def test_workers_that_are_not_used_are_not_in_the_split(gqa: GGUFFile) -> None:
    found = best(gqa, worker(64), card(12), card(12, 1), n_ctx=[8192])
    counts = [share.n_layers for share in found.shares]
    assert counts[1] == 0
    assert found.arguments()["tensor_split"] == counts[2:] == found.split(with_workers=False)
    assert found.split(with_workers=True) == counts[1:]
    alone = best(gqa, worker(64), card(80), n_ctx=[8192])
    assert alone.arguments() == {"n_ctx": 8192, "n_gpu_layers": 41}


def test_the_mask_of_a_long_context_goes_over_the_link_for_each_token(gqa: GGUFFile) -> None:
    far = worker(64, read=900e9, link=117e6)
    found = {n: best(gqa, far, n_ctx=[n], types=[("q8_0", "q8_0")]) for n in (8192, 131072)}
    longer = {n: 1 / layout.decode_full - 1 / layout.decode for n, layout in found.items()}
    kv = {n: layout.shares[1].kv / layout.shares[1].place.decode_read for n, layout in found.items()}
    for n in found:
        assert longer[n] == pytest.approx(kv[n] + 2 * n / 117e6)


def test_a_card_has_room_for_growing_and_for_copies_of_a_quantized_cache(gqa: GGUFFile) -> None:
    """Of 131072 tokens a layer's cache is 512 MiB in F16, and 272 MiB in Q8_0, of which CUDA makes F16 copies."""
    for types, growth in ((("f16", "f16"), 512), (("q8_0", "q8_0"), 272)):
        found = best(gqa, card(80), n_ctx=[131072], types=[types])
        assert found.shares[1].growth == growth << 20
    plain, quantized = (
        best(gqa, card(80), n_ctx=[131072], types=[(kind, kind)]).shares[1].compute for kind in ("f16", "q8_0")
    )
    assert quantized - plain == pytest.approx(512 << 20, rel=0.05)


def test_a_card_is_filled_before_a_worker(gqa: GGUFFile) -> None:
    small = described("cpu", 0, 4 * GIB, 50e9)
    found = Planner(gqa, [small, worker(16), card(16)]).best([4096])
    assert found is not None
    _, far, near = found.shares
    assert near.n_layers > 25
    assert 0 < far.n_layers < 15
