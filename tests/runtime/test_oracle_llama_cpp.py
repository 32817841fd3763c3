"""Files that we write run in llama.cpp, files that its converter writes run here, and both give the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import data
import measure
import models
import oracles
import shapes
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.model import Model
from commandr_gguf.session import Session

pytestmark = pytest.mark.oracle

# llama.cpp takes a Command-R file of fewer than 64 layers for one without q/k norms and refuses the shape r_plus.
SHAPES = ("v01", "gqa", "cohere2")
FILE_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K_M", "Q6_K", "IQ4_XS", "Q3_K_M", "Q2_K")
N_GREEDY = 24
# Both programs round activations to 8 bits for such files, in kernels that add up in different orders.
MAX_KL = 2e-4


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


def assert_same_in_both(file: Path, tokens: npt.NDArray[np.int32], folder: Path, max_kl: float = MAX_KL) -> None:
    theirs = oracles.llama_cpp(file, tokens, folder, n_greedy=N_GREEDY)
    logits, greedy = ours(file, tokens)
    assert measure.kl_divergence(logits, theirs["logits"]) < max_kl
    assert greedy == theirs["greedy"].tolist()


@pytest.mark.parametrize("file_type", FILE_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_our_file_in_llama_cpp(shape: str, file_type: str, tmp_path: Path) -> None:
    assert_same_in_both(models.gguf(shape, file_type), models.golden(shape)["tokens_a"], tmp_path)


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
    assert_same_in_both(theirs, tokens, tmp_path)
    logits, greedy = ours(theirs, tokens)
    logits_of_our_file, greedy_of_our_file = ours(our_file, tokens)
    assert greedy == greedy_of_our_file
    assert np.abs(logits - logits_of_our_file).max() < 1e-5 * logits.std()


def test_keys_of_llama_cpps_converter(converted: tuple[Path, Path]) -> None:
    with GGUFFile(converted[0]) as theirs, GGUFFile(converted[1]) as ours_:
        architecture = theirs["general.architecture"]
        # What the checkpoint is called is guessed differently, and the true context length is ours alone for cohere2.
        other = {f"{architecture}.context_length"} | {key for key in theirs if key.startswith("general.")}
        for key in theirs.keys() - other:
            assert key in ours_
            assert ours_[key] == pytest.approx(theirs[key]) if isinstance(theirs[key], float) else True
            if not isinstance(theirs[key], float):
                assert ours_[key] == theirs[key], key
        for key in ("general.architecture", "general.file_type", "general.quantization_version"):
            assert ours_[key] == theirs[key]
        assert {(t.name, t.type, tuple(t.shape)) for t in ours_.tensors()} == {
            (t.name, t.type, tuple(t.shape)) for t in theirs.tensors()
        }
