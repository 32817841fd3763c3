from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

import data
import shapes
import tiny_tokenizer
from convert.checkpoint import read_json
from convert.errors import CheckpointError, ConvertError, UnsupportedError
from convert.templates import read_chat_templates
from convert.vocab import Vocab, read_vocab


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer.write_tokenizer(tmp_path)
    return tmp_path


def read(folder: Path, n_vocab: int = tiny_tokenizer.VOCAB_SIZE, **config: Any) -> Vocab:
    return read_vocab(folder, config, read_json(folder / "tokenizer_config.json"), n_vocab)


def edit(folder: Path, change: Callable[[Any], object], name: str = "tokenizer.json") -> None:
    content = read_json(folder / name)
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_tokens_types_and_merges(folder: Path) -> None:
    vocab = read(folder)
    n_text, n_turn = len(tiny_tokenizer.vocabulary()), len(tiny_tokenizer.TURN_TOKENS)
    assert len(vocab.tokens) == len(vocab.types) == tiny_tokenizer.VOCAB_SIZE
    assert vocab.tokens[:8] == list(tiny_tokenizer.SPECIAL_TOKENS)
    assert all(vocab.tokens[i] == token for token, i in tiny_tokenizer.vocabulary().items())
    # Turn markers are control tokens although the file does not call them special.
    expected = [TokenType.CONTROL] * 8 + [TokenType.NORMAL] * (n_text - 8) + [TokenType.CONTROL] * n_turn
    assert vocab.types == expected + [TokenType.UNUSED] * (tiny_tokenizer.VOCAB_SIZE - len(expected))
    assert vocab.tokens[len(expected) :] == [f"[PAD{i}]" for i in range(len(expected), tiny_tokenizer.VOCAB_SIZE)]
    assert vocab.merges == tiny_tokenizer.merges()
    assert vocab.special_ids == {
        "bos": 5,
        "eos": tiny_tokenizer.turn_token_id("<|END_OF_TURN_TOKEN|>"),
        "pad": 0,
    }
    assert (vocab.add_bos, vocab.add_eos) == (True, False)


def test_added_token_of_a_user(folder: Path) -> None:
    i = tiny_tokenizer.VOCAB_SIZE - 1
    token = {"id": i, "content": "my_token", "special": False, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    edit(folder, lambda t: t["added_tokens"].append(token | flags))
    vocab = read(folder)
    assert (vocab.tokens[i], vocab.types[i]) == ("my_token", TokenType.USER_DEFINED)


def test_merges_as_pairs(folder: Path) -> None:
    expected = read(folder).merges
    edit(folder, lambda t: t["model"].update(merges=[merge.split(" ") for merge in t["model"]["merges"]]))
    assert read(folder).merges == expected


def test_config_of_transformers_5(folder: Path) -> None:
    """It has no add_bos_token, and the file's own template would append end tokens."""
    before = read(folder)
    edit(folder, lambda c: [c.pop(key) for key in ("add_bos_token", "add_eos_token")], "tokenizer_config.json")
    assert read(folder) == before


def test_special_ids_from_the_config(folder: Path) -> None:
    edit(folder, lambda c: [c.pop(key) for key in ("bos_token", "eos_token", "pad_token")], "tokenizer_config.json")
    assert read(folder, bos_token_id=5, eos_token_id=[6, 7]).special_ids == {"bos": 5, "eos": 6}
    with pytest.raises(CheckpointError, match="names the eos token"):
        read(folder, bos_token_id=5)
    with pytest.raises(CheckpointError, match="eos_token_id is 99999"):
        read(folder, bos_token_id=5, eos_token_id=99999)


def test_special_token_as_an_object(folder: Path) -> None:
    edit(folder, lambda c: c.update(bos_token={"content": "<EOP_TOKEN>"}), "tokenizer_config.json")
    assert read(folder).special_ids["bos"] == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(normalizer=None), r"normalizer is \[\], Command-R has \[\"NFC\"\]"),
        (lambda t: t.update(normalizer={"type": "NFKC"}), "normalizer is"),
        (
            lambda t: t.update(
                normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
            ),
            "Lowercase",
        ),
        (lambda t: t.update(pre_tokenizer=t["pre_tokenizer"]["pretokenizers"][1]), "pre_tokenizer is"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"].reverse(), "pre_tokenizer is"),
        (
            lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False),
            "individual_digits is false",
        ),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "add_prefix_space is true"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(use_regex=False), "use_regex is false"),
        (lambda t: t.update(decoder={"type": "WordPiece"}), "decoder is"),
        (lambda t: t["model"].update(type="Unigram"), "model is"),
        (lambda t: t["model"].update(byte_fallback=True), "byte_fallback is true"),
        (lambda t: t["model"].update(ignore_merges=True), "ignore_merges is true"),
        (lambda t: t["model"].update(dropout=0.1), "dropout is 0.1"),
        (lambda t: t["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda t: t["added_tokens"][0].update(lstrip=True), "'<PAD>' has lstrip"),
    ],
)
def test_other_tokenizers_are_refused(folder: Path, change: Callable[[Any], object], message: str) -> None:
    edit(folder, change)
    with pytest.raises(UnsupportedError, match=message) as caught:
        read(folder)
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"].update(vocab=[]), "lacks its vocab"),
        (lambda t: t["model"].pop("merges"), "lacks its vocab or its merges"),
        (lambda t: t["model"]["merges"].append("zz qq"), "not a valid tokenizer"),
        (lambda t: t["added_tokens"].append({"id": 700}), "not a valid tokenizer"),
        (lambda t: t["model"]["vocab"].update(doubled=8), "tokens .* have the same id 8"),
    ],
)
def test_damaged_tokenizers(folder: Path, change: Callable[[Any], object], message: str) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def test_more_tokens_than_the_embedding_has_rows(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="vocab_size 700"):
        read(folder, 700)


def test_missing_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        read(folder)


def test_templates_in_the_config_and_in_files(tmp_path: Path) -> None:
    found = []
    for transformers in (4, 5):
        folder = shapes.write_checkpoint(tmp_path / str(transformers), "gqa", n_layers=1, transformers=transformers)
        found.append(read_chat_templates(folder, read_json(folder / "tokenizer_config.json")))
    assert found[0] == found[1] == tiny_tokenizer.CHAT_TEMPLATES
    assert list(found[0]) == ["default", "tool_use", "rag"]


def test_template_as_one_text_and_without_any(tmp_path: Path) -> None:
    assert read_chat_templates(tmp_path, {"chat_template": "{{ x }}"}) == {"default": "{{ x }}"}
    assert read_chat_templates(tmp_path, {}) == {}


def test_file_wins_over_the_config(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("new")
    assert read_chat_templates(tmp_path, {"chat_template": "old"}) == {"default": "new"}


@pytest.mark.parametrize("value", ["\ud800", 5, [{"name": "rag"}], [{"template": "x"}], ["x"]])
def test_malformed_templates(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConvertError, match="chat.template"):
        read_chat_templates(tmp_path, {"chat_template": value})


@pytest.mark.data
def test_real_tokenizer() -> None:
    folder = data.real_tokenizer_dir()
    config = read_json(folder / "tokenizer_config.json")
    vocab = read_vocab(folder, {}, config, data.REAL_VOCAB_SIZE)
    assert vocab.special_ids == {"bos": 5, "eos": 255001, "pad": 0}
    assert len(vocab.merges) == 253333
    assert vocab.tokens[255001] == "<|END_OF_TURN_TOKEN|>"
    assert vocab.types.count(TokenType.CONTROL) == 8 + 29
    assert vocab.types.count(TokenType.UNUSED) == data.REAL_VOCAB_SIZE - 255029
    assert list(read_chat_templates(folder, config)) == ["default", "tool_use", "rag"]
