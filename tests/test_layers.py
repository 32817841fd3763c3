"""Imports go one way. A module may import from lines above its own and from nothing else of these packages.

Every import counts, wherever in the file it stands. A new module fails here until it has been given its place.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONVERT = """
    convert
    errors
    allocation ggml_types hub quantize quantized recipe sizes templates window
    hparams rounding shard
    checkpoint imatrix low_rank overrides rows sensitivity tensor_names
    adapter_config inventory target vocab
    spm_vocab
    metadata
    gguf_header provenance source
    gguf_model hf_model lora plan
    inputs layout report requantize
    choice journal rename
    writer
    blocks
    pipeline progress verify
    cli
    __main__
"""
# A line `name.*` holds a package and all below it, which may import each other, but not in a circle.
RUNTIME = """
    _native._commandr
    _native
    errors
    callbacks cancelling context_shift demo devices gguf_file log mixes printable
    quantize state_file stops token_buffer token_kinds usage
    demo.embedded drafting hparams imatrix recipe sentence_pieces
    drafting.drafter prefix_slots reading.content token_constraint
    prefix_store reading.chunks reading.folders reading.pdf_file reading.text_file
    reading.markdown_file
    reading.html_file
    reading.documents
    reading
    workers
    params plan
    drafting.adaptive drafting.chain drafting.lookup memory plan.host plan.shapes sampling
    plan.hollow plan.needs
    plan.fitting
    model plan.places
    plan.layout
    plan.placement
    plan.settling
    eval_items generation session_handle verification
    session tokenizer
    plan.speed
    constraint drafting.draft_model drafting.replay embedding imatrix_collection prefix_cache
    generation_steps
    quality
    quality.chunks quality.log_probs quality.tensor_rows
    quality.base_file quality.evaluate quality.kl quality.tensor_error
    quality.scores
    quality.sensitivity
    quality.sensitivity_file
    stream
    generate
    chat
    chat.documents chat.instructions chat.json_schema chat.marks chat.prompt chat.tag_grammar chat.visible
    chat.actions chat.functions chat.json_grammar chat.tags chat.templates
    chat.grammars chat.messages chat.reply chat.tools
    chat.command_a chat.events chat.rounds chat.section_grammar chat.toolbox
    chat.multi_step chat.parsing chat.reply_builder chat.tokens
    chat.parsing.*
    chat.citations chat.filter
    chat.request
    call_options
    chat.rendering
    reply_reader
    reply_stream
    chat_engine
    command_r
    chat.tool_run
    chat.conversation
    commandr_gguf
    demo.*
    server.*
    cli.*
    __main__
"""
# These run without a model: they reach none of MODEL, through whatever they import.
CHAT = {
    *("actions", "citations", "command_a", "documents", "events", "filter", "functions", "grammars", "instructions"),
    *("json_grammar", "json_schema", "marks", "messages", "multi_step", "parsing.marked", "parsing.plain"),
    *(
        "parsing.search",
        "parsing.sections",
        "parsing.stopped",
        "section_grammar",
        "prompt",
        "rendering",
        "reply",
        "reply_builder",
        "request",
        "rounds",
    ),
    *("tag_grammar", "tags", "templates", "tokens", "toolbox", "tools", "visible"),
}
MODEL = {
    *(
        "embedding",
        "eval_items",
        "generate",
        "generation",
        "generation_steps",
        "imatrix_collection",
        "model",
        "sampling",
        "session",
        "session_handle",
        "stream",
    ),
    "verification",
}
# The only way from one package into the other.
ACROSS = {
    *(("convert.quantize", f"commandr_gguf.{name}") for name in ("devices", "errors", "quantize")),
    *(("convert.imatrix", f"commandr_gguf.{name}") for name in ("errors", "imatrix")),
    ("convert.recipe", "commandr_gguf.recipe"),
}


def name_of(path: Path, root: Path) -> str:
    """A file's module name; a package's __init__.py is the package."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, str]:
    """Every module of both packages -> its source."""
    return {
        name_of(path, ROOT): path.read_text(encoding="utf-8")
        for package in ("commandr_gguf", "convert")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(name: str, source: str, known: set[str]) -> Iterator[str]:
    """The modules of `known` that a module imports, lazily or not, by statement or by importlib."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide where they lead"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found = [str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)]
        else:
            continue
        for target in found:
            module = target if target in known else target.rpartition(".")[0]
            if module in known and module != name:
                yield module


MODULES = modules()
GRAPH = {name: set(imports(name, source, set(MODULES))) for name, source in MODULES.items()}


def place_of(module: str) -> int | None:
    """The line of CONVERT or RUNTIME that a module stands on, counted in each from the top; None when on no line."""
    package, _, rest = module.partition(".")
    for number, line in enumerate((CONVERT if package == "convert" else RUNTIME).split("\n")):
        for entry in line.split():
            if entry.endswith(".*"):
                if f"{rest}.".startswith(entry[:-1]):
                    return number
            elif entry == (rest or package):
                return number
    return None


def violations(graph: dict[str, set[str]]) -> list[str]:
    """Each import that goes up, sideways or into the other package, as a sentence."""
    found = []
    for module, targets in graph.items():
        for target in targets:
            packages = module.partition(".")[0], target.partition(".")[0]
            if packages[0] != packages[1]:
                allowed = (module, target) in ACROSS
            else:
                here, there = place_of(module), place_of(target)
                top = module.split(".")[1:2]
                inside = here == there and top == target.split(".")[1:2] and top in (["cli"], ["demo"], ["server"])
                allowed = here is not None and there is not None and (there < here or inside)
            if not allowed:
                found.append(f"{module} imports {target}")
    return found


def reachable(module: str) -> set[str]:
    """All that a module imports, directly or through others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for target in GRAPH[waiting.pop()] - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def test_every_module_has_a_place() -> None:
    assert [module for module in MODULES if place_of(module) is None] == []


def test_imports_go_one_way() -> None:
    assert violations(GRAPH) == []


def test_imports_have_no_circle() -> None:
    list(graphlib.TopologicalSorter(GRAPH).static_order())


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.partition("commandr_gguf.chat.")[2] in CHAT))
def test_chat_runs_without_a_model(module: str) -> None:
    assert reachable(module) & {f"commandr_gguf.{name}" for name in MODEL} == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("commandr_gguf.model", "from commandr_gguf.session import Session"),
        ("commandr_gguf.errors", "def f():\n    import commandr_gguf.model"),
        ("commandr_gguf.session", "from commandr_gguf import tokenizer"),
        ("commandr_gguf.command_r", "from commandr_gguf.demo import showcase"),
        ("commandr_gguf.demo.embedded", "from commandr_gguf.command_r import CommandR"),
        ("commandr_gguf.cli", "import importlib\nimportlib.import_module('convert.cli')"),
        ("convert.recipe", "from commandr_gguf.quantize import row_size"),
        ("convert.quantize", "from commandr_gguf.model import Model"),
        ("convert.new", "from convert.errors import ConvertError"),
    ],
)
def test_wrong_imports_are_seen(module: str, source: str) -> None:
    known = {*MODULES, module}
    assert violations({module: set(imports(module, source, known))}) != []
