"""native/include/commandr.h is the contract between C and Python: short, plain C, complete and used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cffi_build

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "native" / "include" / "commandr.h"
MAX_LINES = 250

# Functions that the Python package does not call, each with the reason.
UNUSED: dict[str, str] = {}


def functions() -> list[str]:
    """The functions that the header declares, in its order."""
    declarations = cffi_build.declarations(HEADER.read_text(encoding="utf-8"))
    return [name for name in re.findall(r"\b(commandr_\w+)\(", declarations) if not name.endswith("_callback")]


def test_header_stays_short() -> None:
    assert len(HEADER.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_header_declares_functions_once() -> None:
    names = functions()
    assert len(names) > 40
    assert len(names) == len(set(names))


@pytest.mark.parametrize("language", ["c11", "c++17"])
def test_header_compiles(language: str) -> None:
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, "-x", language.rstrip("0123456789"), f"-std={language}", "-fsyntax-only", "-Wall", "-Wextra"]
    command += ["-Werror", "-pedantic-errors", "-I", str(HEADER.parent), str(ROOT / "tests/native/test_header.c")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_function_is_defined() -> None:
    """Loading with all symbols bound at once fails when a declared function has no definition."""
    code = "import os, sys; sys.setdlopenflags(os.RTLD_NOW); from commandr_gguf._native import lib; print(*dir(lib))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert set(functions()) <= set(result.stdout.split())


def test_every_function_is_used_from_python() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "commandr_gguf").rglob("*.py"))
    used = set(re.findall(r"\blib\.(commandr_\w+)", source))
    assert set(functions()) - used == set(UNUSED)


def test_unknown_directives_are_not_lost() -> None:
    """Only numeric macros and the C++ guard may stand in the header: cffi would not see anything else."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    directives = set(re.findall(r"^#\s*(?:define \w+|\w+).*", text, flags=re.MULTILINE))
    known = {"#ifndef COMMANDR_H", "#define COMMANDR_H", "#ifdef __cplusplus", "#endif"}
    known |= {"#include <stdbool.h>", "#include <stdint.h>"}
    numbers = {line for line in directives if re.fullmatch(r"#define COMMANDR_[A-Z_]+ \w+\s*", line)}
    assert directives - known == numbers
