from __future__ import annotations

import errno
from pathlib import Path

import pytest

from convert.rename import rename_all


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("n_steps", range(6))
def test_all_files_get_their_names_or_none_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool, n_steps: int
) -> None:
    pairs = [(tmp_path / f"{i}.part", tmp_path / f"{i}.gguf") for i in range(3)]
    for source, target in pairs:
        source.write_text(f"new {source.stem}")
        if older:
            target.write_text(f"old {source.stem}")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    replace, left = Path.replace, [n_steps]

    def fail_once(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == -1:
            raise OSError(errno.EIO, "no")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    if n_steps < (6 if older else 3):
        with pytest.raises(OSError, match="no"):
            rename_all(pairs)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    else:
        rename_all(pairs)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            f"{i}.gguf": f"new {i}" for i in range(3)
        }


def test_the_first_file_is_away_while_others_get_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(tmp_path / f"{i}.part", tmp_path / f"{i}.gguf") for i in range(3)]
    for pair in pairs:
        for path in pair:
            path.write_text("")
    replace = Path.replace
    seen: list[bool] = []

    def watch(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            seen.append(pairs[0][1].exists())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    rename_all(pairs)
    assert seen == [False, False, False]


def test_a_single_file_is_never_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "x.part", tmp_path / "x.gguf"
    source.write_text("new")
    target.write_text("old")
    replace = Path.replace
    calls: list[Path] = []

    def record(self: Path, to: Path) -> Path:
        calls.append(self)
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", record)
    rename_all([(source, target)])
    assert (calls, target.read_text()) == ([source], "new")
