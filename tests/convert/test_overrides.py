"""Own choices of types from a file of regular expressions."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.errors import ArgumentError
from convert.overrides import override_types, read_recipe_file

SHAPES = {
    "token_embd.weight": (768, 256),
    **{f"blk.{i}.attn_norm.weight": (256,) for i in range(12)},
    **{f"blk.{i}.attn_q_norm.weight": (4, 64) for i in range(12)},
    **{f"blk.{i}.attn_v.weight": (128, 256) for i in range(12)},
    **{f"blk.{i}.ffn_down.weight": (256, 288) for i in range(12)},
    "output_norm.weight": (256,),
}


def types(folder: Path, *lines: str) -> dict[str, str]:
    path = folder / "recipe.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return override_types(read_recipe_file(path), SHAPES)


def test_expressions_match_anywhere_unless_they_are_anchored(tmp_path: Path) -> None:
    chosen = types(tmp_path, r"blk\.1.*attn_v=Q6_K", r"^token_embd\.weight$=q8_0")
    assert chosen == {
        "token_embd.weight": "Q8_0",
        **{f"blk.{i}.attn_v.weight": "Q6_K" for i in (1, 10, 11)},
    }


def test_the_first_line_that_matches_wins(tmp_path: Path) -> None:
    chosen = types(tmp_path, r"blk\.0\.attn_v=Q6_K", "attn_v = Q4_K", "token_embd=F16")
    assert chosen["blk.0.attn_v.weight"] == "Q6_K"
    assert {chosen[f"blk.{i}.attn_v.weight"] for i in range(1, 12)} == {"Q4_K"}
    assert chosen["token_embd.weight"] == "F16"


def test_comments_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    assert types(tmp_path, "# mine", "", "  token_embd=Q4_0  # the head, too") == {"token_embd.weight": "Q4_0"}


def test_an_expression_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert types(tmp_path, "token(?=_embd)=Q4_0") == {"token_embd.weight": "Q4_0"}


def test_norms_stay_f32_beside_weights_that_a_line_matches(tmp_path: Path) -> None:
    chosen = types(tmp_path, ".=Q8_0", r"_norm\.weight=F32")
    assert {name for name in SHAPES if "_norm" not in name} == chosen.keys()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attn_v", r"line 2: 'attn_v' is not of the form REGEX=TYPE"),
        ("=Q4_K", r"line 2: '=Q4_K' is not of the form"),
        ("attn_v=", r"line 2: 'attn_v=' is not of the form"),
        ("attn_v=Q4_K_M", r"line 2: Q4_K_M is no type of a tensor: choose one of F32, F16, BF16, Q8_0"),
        ("attn_v(=Q4_K", r"line 2: attn_v\( is not a regular expression: missing \)"),
        ("attn_w=Q4_K", r"line 2: attn_w matches no tensor of this model"),
        ("token_embd=Q4_K", r"line 2: lines above choose for all that token_embd matches"),
        ("attn_norm=Q8_0", r"line 2: attn_norm matches only norms, which stay F32"),
        ("ffn_down=Q4_K", r"line 2: blk.0.ffn_down.weight cannot be Q4_K: its rows of 288 are no whole blocks of 256"),
    ],
)
def test_a_line_at_fault_is_named(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"recipe.txt, {message}"):
        types(tmp_path, "token_embd=Q8_0", line)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*recipe.txt: No such file"),
        (b"# nothing\n\n", "recipe.txt has no line of the form REGEX=TYPE"),
        (b"attn_v=Q4_K\n\xff", "recipe.txt is not a text file"),
    ],
)
def test_a_file_at_fault_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArgumentError, match=message):
        read_recipe_file(path)
