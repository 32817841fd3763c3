"""Files that we write run in llama.cpp, files that its converter writes run here, and both give the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import bounds
import data
import embedded
import measure
import models
import oracles
import shapes
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.model import Model
from commandr_gguf.session import Session
from commandr_gguf.tokenizer import Tokenizer

pytestmark = pytest.mark.oracle

# llama.cpp takes a Command-R file of fewer than 64 layers for one without q/k norms and refuses the shape r_plus.
SHAPES = ("v01", "gqa", "cohere2")
N_GREEDY = 24


def ours(
    file: Path, tokens: npt.NDArray[np.int32], n_greedy: int = N_GREEDY
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Logits for all tokens, and the greedy continuation, with a cache in F16 as llama.cpp has it."""
    with Model(file) as model, Session(model, n_ctx=len(tokens) + n_greedy, n_threads=1) as session:
        session.eval(tokens, n_outputs=len(tokens))
        logits = session.logits()
        greedy: list[int] = []
        row = logits[-1]
        for _ in range(n_greedy):
            greedy.append(int(row.argmax()))
            session.eval([*tokens.tolist(), *greedy])
            row = session.logits()[0]
    return logits, greedy


def assert_same_in_both(file: Path, tokens: npt.NDArray[np.int32], folder: Path, max_kl: float) -> None:
    """The same logits within the noise of both programs' rounding, and the same greedy tokens up to a draw."""
    theirs = oracles.llama_cpp(file, tokens, folder, n_greedy=N_GREEDY)
    logits, greedy = ours(file, tokens)
    assert measure.kl_divergence(logits, theirs["logits"]) < max_kl
    assert_same_greedy(greedy, theirs["greedy"].tolist(), theirs["lead"], logits - theirs["logits"])


def assert_same_greedy(
    ours_: list[int], theirs: list[int], lead: npt.NDArray[np.float32], difference: npt.NDArray[np.float32]
) -> None:
    """Where the tokens part, the best two logits were closer than the difference that rounding makes."""
    for i, (a, b) in enumerate(zip(ours_, theirs, strict=True)):
        if a != b:
            assert lead[i] < 4 * np.sqrt(2) * difference.std(), f"token {i}: {a} here, {b} there"
            return


def max_kl(shape: str, file_type: str) -> float:
    """Both programs round: after the first activation or key that they round apart, their noises are two."""
    cache_only = "F16"  # what is left to round in an F32 file
    return 2 * bounds.from_own_weights(shape, cache_only if file_type == "F32" else file_type)


@pytest.mark.parametrize("file_type", ["F32", *bounds.FILE_TYPES])
@pytest.mark.parametrize("shape", SHAPES)
def test_our_file_in_llama_cpp(shape: str, file_type: str, tmp_path: Path) -> None:
    tokens = models.golden(shape)["tokens_a"]
    assert_same_in_both(models.gguf(shape, file_type), tokens, tmp_path, max_kl(shape, file_type))


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0"])
def test_the_divergence_from_f32_is_not_above_llama_cpps(file_type: str, tmp_path: Path) -> None:
    """Of the same file of a trained model, on text; paired by token, up to three standard errors of the difference."""
    text = (oracles.ROOT / "README.md").read_text(encoding="utf-8")
    tokens = np.array(Tokenizer.from_gguf(embedded.path("F32")).encode(text, add_special=True)[:2000], np.int32)
    exact = ours(embedded.path("F32"), tokens, n_greedy=0)[0]
    our_kl = measure.kl_divergences(ours(embedded.path(file_type), tokens, n_greedy=0)[0], exact)
    their_kl = measure.kl_divergences(oracles.llama_cpp(embedded.path(file_type), tokens, tmp_path)["logits"], exact)
    difference = our_kl - their_kl
    print(f"{file_type}: {our_kl.mean():.3e} here, {their_kl.mean():.3e} there, ", end="")
    print(f"difference {difference.mean():.1e} +- {difference.std() / np.sqrt(len(difference)):.1e}")
    assert difference.mean() < 3 * difference.std() / np.sqrt(len(difference))
    assert difference.std() < their_kl.std()  # else the error of the mean would hide anything


@pytest.mark.parametrize("shape", SHAPES)
def test_our_f32_file_in_llama_cpp_against_transformers(shape: str, tmp_path: Path) -> None:
    golden = models.golden(shape)
    theirs = oracles.llama_cpp(models.gguf(shape), golden["tokens_a"], tmp_path, type_kv=0)["logits"]
    measure.assert_same(theirs[golden["positions_a"]], golden["logits_a"])


@pytest.fixture(scope="module", params=SHAPES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with the real tokenizer, as a BF16 file of llama.cpp's converter and as one of ours."""
    folder = tmp_path_factory.mktemp("converted")
    checkpoint = shapes.write_checkpoint(
        folder / request.param,
        request.param,
        tokenizer=data.real_tokenizer_dir(),
        vocab_size=data.REAL_VOCAB_SIZE,
        eos_token_id=data.REAL_EOS_TOKEN_ID,
    )
    theirs = folder / "theirs.gguf"
    converter = data.llama_cpp_converter()
    oracles.run(converter, checkpoint, "--outfile", theirs, "--outtype", "bf16", transformers_4=True)
    return theirs, models.convert(checkpoint, folder / "ours.gguf", "BF16")


def test_file_of_llama_cpps_converter(converted: tuple[Path, Path], tmp_path: Path) -> None:
    theirs, our_file = converted
    tokens = models.golden("gqa")["tokens_b"]
    assert_same_in_both(theirs, tokens, tmp_path, max_kl("cohere2", "BF16"))
    logits, greedy = ours(theirs, tokens)
    logits_of_our_file, greedy_of_our_file = ours(our_file, tokens)
    assert greedy == greedy_of_our_file
    assert np.abs(logits - logits_of_our_file).max() < 1e-5 * logits.std()


def test_keys_of_llama_cpps_converter(converted: tuple[Path, Path]) -> None:
    with GGUFFile(converted[0]) as theirs, GGUFFile(converted[1]) as written:
        expected = {key: theirs[key] for key in theirs if not key.startswith("general.")}
        # It takes these three from the post-processor of tokenizer.json, not from the configs, and does not know that
        # Command R7B's context is longer than max_position_embeddings.
        for key in ("eos_token_id", "eot_token_id", "add_eos_token"):
            expected.pop(f"tokenizer.ggml.{key}", None)
        expected.pop("cohere2.context_length", None)
        names = "tokenizer.chat_templates"
        assert sorted(written.typed_list(names, str)) == sorted(theirs.typed_list(names, str))
        del expected[names]
        for key in ("general.architecture", "general.file_type", "general.quantization_version"):
            expected[key] = theirs[key]
        assert {key: written[key] for key in expected} == expected
        assert written["tokenizer.ggml.eos_token_id"] == data.REAL_EOS_TOKEN_ID

        described = [{(t.name, t.type, t.shape) for t in file.tensors} for file in (theirs, written)]
        assert described[0] == described[1]
