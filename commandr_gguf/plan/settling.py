"""What a caller left open, decided; and whether the whole fits, before any of it is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from commandr_gguf.errors import ArgumentError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.memory import DEFAULT_CONTEXT, default_n_ctx
from commandr_gguf.plan.fitting import check_fits, lacks
from commandr_gguf.plan.needs import measure
from commandr_gguf.plan.placement import CONTEXTS, Planner, n_prompts
from commandr_gguf.plan.places import present


def settle(
    path: str | os.PathLike[str], loading: Mapping[str, Any], session: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Complete arguments for `Model` and `Session`.

    Args:
        path: the model.
        loading: arguments of `Model`; n_gpu_layers may be "auto".
        session: arguments of `Session`; n_ctx and n_seq_max may be None.

    Raises:
        OutOfMemoryError: the model does not fit; with numbers, and what would fit.
        CommandRError: those of opening a file and of wrong arguments.
    """
    loading, session = dict(loading), dict(session)
    n_gpu_layers = loading.get("n_gpu_layers", 0)
    if isinstance(n_gpu_layers, str) and n_gpu_layers != "auto":
        raise ArgumentError(f"n_gpu_layers must be an integer or 'auto', not {n_gpu_layers!r}")
    with GGUFFile(path) as file:
        hparams = HParams.from_gguf(file)
        if session.get("n_seq_max") is None:
            session["n_seq_max"] = n_prompts(hparams)
        if n_gpu_layers == "auto":
            placed = place(file, loading, session)
            session["n_ctx"] = placed.pop("n_ctx", session.get("n_ctx"))
            loading |= placed
        least = min(DEFAULT_CONTEXT[0], hparams.n_ctx_train)  # a session that chooses goes no lower
        check_fits(file, loading, session if session.get("n_ctx") is not None else {**session, "n_ctx": least})
    return loading, session


def place(file: GGUFFile, loading: Mapping[str, Any], session: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments that put as much of a model as fits on the cards of this machine.

    Without n_ctx the default is taken, or a shorter one where only that fits. session: as for `settle`; None for the
    weights alone.

    Returns:
        n_gpu_layers, 0 without a card or when nothing fits; tensor_split where there are several cards and the caller
        has not chosen; n_ctx when it was open and is not to be the default.
    """
    places = present(loading.get("rpc"))
    if len(places) < 2:
        return {"n_gpu_layers": 0}
    given = session or {"n_ctx": 512, "n_seq_max": 1}
    planner = Planner(file, places, n_seq_max=given.get("n_seq_max"))
    types = (given.get("type_k", "f16"), given.get("type_v", "f16"))
    asked = given.get("n_ctx")
    default = default_n_ctx(planner.hparams, type_k=types[0], type_v=types[1])
    contexts = [default, *(n for n in CONTEXTS if n < default)] if asked is None else [asked]
    layout = planner.best([n or planner.hparams.n_ctx_train for n in contexts], [types], given.get("n_ubatch"))
    if layout is None:
        return {"n_gpu_layers": 0}
    found: dict[str, Any] = {"n_gpu_layers": layout.n_gpu_layers}
    split = layout.split(with_workers=bool(loading.get("rpc")))
    if split and not loading.get("tensor_split"):
        found["tensor_split"] = split
    if asked is None and layout.n_ctx != default:
        found["n_ctx"] = layout.n_ctx
    # The real devices have the last word: their buffers can be measured.
    free = {share.place.name: share.place.memory - share.growth for share in layout.shares}
    of_session = None if session is None else {**session, "n_ctx": layout.n_ctx, "n_seq_max": planner.n_seq_max}
    of_model = {name: value for name, value in found.items() if name != "n_ctx"}
    while found["n_gpu_layers"] and lacks(measure(file, {**loading, **of_model}, of_session), free):
        found["n_gpu_layers"] -= 1
        of_model["n_gpu_layers"] = found["n_gpu_layers"]
    return found
