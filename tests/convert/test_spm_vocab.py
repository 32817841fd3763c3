"""Checkpoints whose tokenizer is a tokenizer.model: the keys of the file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import TokenType

import corpus
import oracles
import shapes
import spm_models
from commandr_gguf import CommandR, json_schema_grammar
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.tokenizer import Tokenizer
from convert.errors import CheckpointError, ConvertError
from convert.hf_model import read_hf_model
from convert.pipeline import write_plan
from convert.plan import make_plan
from convert.recipe import file_type
from convert.spm_vocab import read_sentencepiece_vocab

START, END, USER = spm_models.TURNS


@pytest.mark.parametrize(("kind", "name"), [("bpe", "llama"), ("unigram", "t5")])
def test_pieces_scores_types_and_ids_are_the_models(tmp_path: Path, kind: str, name: str) -> None:
    model = spm_models.train(kind, user_defined_symbols=("aber",))
    vocab, theirs = spm_models.vocab(tmp_path, model, n_fillers=2), spm_models.processor(model)
    n = theirs.vocab_size()
    assert vocab.model == name
    assert vocab.tokens == [*map(theirs.id_to_piece, range(n)), *spm_models.TURNS, f"[PAD{n + 3}]", f"[PAD{n + 4}]"]
    np.testing.assert_array_equal(
        vocab.scores, [*map(theirs.get_score, range(n)), -1000.0, -1000.0, -1000.0, -10000.0, -10000.0]
    )
    assert vocab.types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED]
    assert vocab.types[4:260] == [TokenType.BYTE] * 256
    assert vocab.types[260:] == [TokenType.NORMAL] * (n - 260) + [TokenType.CONTROL] * 3 + [TokenType.UNUSED] * 2
    assert vocab.special_ids == {"bos": 1, "eos": n + 1, "unk": 0}
    assert (vocab.add_bos, vocab.add_eos, vocab.add_space_prefix) == (True, False, True)
    assert (vocab.remove_extra_whitespaces, vocab.charsmap) == (False, b"")


def test_how_texts_are_normalized_is_kept(tmp_path: Path) -> None:
    options = {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True, "add_dummy_prefix": False}
    vocab = spm_models.vocab(tmp_path, spm_models.train("unigram", **options))
    assert (vocab.remove_extra_whitespaces, vocab.add_space_prefix) == (True, False)
    assert len(vocab.charsmap) > 100_000


def test_added_tokens_take_places_of_their_own_or_over_pieces(tmp_path: Path) -> None:
    model = spm_models.train("bpe")
    n = spm_models.processor(model).vocab_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"plain words": n + 3, "<|x|>": n + 4}))
    decoder = {
        "1": {"content": "<s>", "special": True},
        "300": {"content": "over", "special": False},
        str(n): {"content": USER, "special": True},
    }
    vocab = spm_models.vocab(tmp_path, model, n_fillers=2, added_tokens_decoder=decoder, eos_token="</s>")
    assert (vocab.tokens[1], vocab.types[1], vocab.scores[1]) == ("<s>", TokenType.CONTROL, 0.0)
    assert (vocab.tokens[300], vocab.types[300]) == ("over", TokenType.USER_DEFINED)
    assert (vocab.tokens[n], vocab.types[n]) == (USER, TokenType.CONTROL)
    assert vocab.types[n + 1 : n + 3] == [TokenType.UNUSED] * 2
    assert vocab.tokens[n + 3 :] == ["plain words", "<|x|>"]
    assert vocab.types[n + 3 :] == [TokenType.USER_DEFINED, TokenType.CONTROL]
    assert vocab.special_ids["eos"] == 2


def read(folder: Path, n_vocab: int, **tokenizer_config: Any) -> None:
    read_sentencepiece_vocab(folder, {}, tokenizer_config, n_vocab)


def test_what_is_damaged_or_does_not_fit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\x0a\xff nonsense")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is not a SentencePiece model"):
        read(tmp_path, 1000)
    path.write_bytes(spm_models.train("bpe"))
    n = spm_models.processor(path.read_bytes()).vocab_size()
    cases: list[tuple[int, dict[str, Any], str]] = [
        (n - 1, {}, f"has {n} pieces, but config.json says vocab_size {n - 1}"),
        (n, {"added_tokens_decoder": {str(n): {"content": "x"}}}, f"token 'x' has id {n}, but config.json says"),
        (n, {"added_tokens_decoder": {"x": {"content": "x"}}}, "added token 'x' is malformed"),
        (n, {"added_tokens_decoder": {"3": "x"}}, "added token 3 is malformed"),
        (n, {"added_tokens_decoder": {"3": {"content": "x", "rstrip": True}}}, "'x' has rstrip"),
    ]
    for n_vocab, config, sentence in cases:
        with pytest.raises(ConvertError, match=sentence):
            read(tmp_path, n_vocab, **config)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model_type": "char"}, "type 4; only unigram .1. and BPE .2. are known"),
        ({"treat_whitespace_as_suffix": True}, "spaces at the end of words"),
    ],
)
def test_other_kinds_of_models_are_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    kind = options.pop("model_type", "bpe")
    (tmp_path / "tokenizer.model").write_bytes(spm_models.train(kind, **options))
    with pytest.raises(ConvertError, match=sentence):
        read(tmp_path, 1000)


def convert(folder: Path, model: bytes) -> Path:
    """A whole checkpoint with this tokenizer.model, converted."""
    n_vocab = spm_models.processor(model).vocab_size() + 8
    shapes.write_checkpoint(folder / "in", "gqa", n_layers=1, vocab_size=n_vocab, bos_token_id=1, eos_token_id=2)
    (folder / "in" / "tokenizer.json").unlink()
    spm_models.vocab(folder / "in", model, n_fillers=5)
    out = folder / "out.gguf"
    write_plan(make_plan(read_hf_model(folder / "in"), file_type("Q8_0")), out)
    return out


@pytest.mark.parametrize("kind", spm_models.KINDS)
def test_a_checkpoint_without_tokenizer_json_is_converted(tmp_path: Path, kind: str) -> None:
    model = spm_models.train(kind)
    with GGUFFile(convert(tmp_path, model)) as file:
        assert file["tokenizer.ggml.pre"] == "default"
        assert "tokenizer.ggml.merges" not in file
        tokenizer = Tokenizer.from_gguf(file)
    text = corpus.LANGUAGES["English"]
    assert tokenizer.encode(text, add_special=True) == [1, *spm_models.processor(model).encode(text)]
    assert tokenizer.eos_id == tokenizer.special_ids[END]


def test_such_a_model_chats_and_follows_a_grammar(tmp_path: Path) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"city": {"const": "東京 Straße"}}, "required": ["city"]}
    schema["additionalProperties"] = False
    with CommandR(convert(tmp_path, spm_models.train("bpe")), n_ctx=256, n_threads=1) as model:
        reply = model.chat([{"role": "user", "content": "<s> user </s>"}], max_tokens=4, temperature=0)
        assert reply.usage.completion_tokens <= 4
        text = model.generate("JSON:", max_tokens=60, temperature=0, grammar=json_schema_grammar(schema)).text
    assert json.loads(text) == {"city": "東京 Straße"}


@pytest.mark.oracle
@pytest.mark.parametrize("kind", spm_models.KINDS)
def test_llama_cpp_splits_texts_of_ten_languages_the_same(tmp_path: Path, kind: str) -> None:
    # Its unigram tokenizer has no byte fallback: the vocabulary then holds every character.
    coverage = {} if kind == "bpe" else {"character_coverage": 1.0}
    file = convert(tmp_path, spm_models.train(kind, **coverage))
    (tmp_path / "texts.json").write_text(json.dumps(list(corpus.LANGUAGES.values())))
    oracles.run(oracles.WORKERS / "llama_cpp_tokens_worker.py", file, tmp_path / "texts.json", tmp_path / "ids.json")
    tokenizer = Tokenizer.from_gguf(file)
    theirs = json.loads((tmp_path / "ids.json").read_text())
    for (language, text), ids in zip(corpus.LANGUAGES.items(), theirs, strict=True):
        assert tokenizer.encode(text) == ids, language
