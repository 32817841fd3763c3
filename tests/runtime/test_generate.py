"""Generation: stop reasons, streams, counts and log-probabilities."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import models
import tiny_tokenizer
from commandr_gguf import ArgumentError, CommandR, ContextFullError, SamplingParams, generate
from commandr_gguf.plan.placement import N_PROMPTS

PROMPT = "The harbor"


@pytest.fixture(scope="module")
def model() -> Iterator[CommandR]:
    with CommandR(models.gguf("gqa"), n_ctx=512) as opened:
        yield opened


def forget(model: CommandR) -> None:
    """Let no prompt find its beginning in the session."""
    for seq_id in range(N_PROMPTS):
        model.session.seq_rm(seq_id)


@pytest.fixture(autouse=True)
def empty(model: CommandR) -> None:
    forget(model)


def only(model: CommandR, *tokens: int) -> dict[int, float]:
    """A bias that leaves only these tokens."""
    return dict.fromkeys(set(range(model.model.hparams.n_vocab)) - set(tokens), -np.inf)


def test_greedy_tokens_are_the_largest_logits(model: CommandR) -> None:
    result = model.generate(PROMPT, max_tokens=12, temperature=0)
    tokens = model.tokenize(PROMPT, add_special=True)
    expected = []
    for _ in range(12):
        expected.append(int(model.logits(tokens)[-1].argmax()))
        tokens.append(expected[-1])
    assert result.tokens == expected
    assert result.text == model.detokenize(expected, skip_special=True)
    assert result.finish_reason == "length"
    assert result.usage.prompt_tokens == len(tokens) - 12
    assert result.usage.completion_tokens == 12


def test_text_and_tokens_are_the_same_prompt(model: CommandR) -> None:
    tokens = model.tokenize(PROMPT, add_special=True)
    a, b, c = (model.generate(prompt, max_tokens=5, temperature=0) for prompt in (PROMPT, tokens, np.array(tokens)))
    assert a.tokens == b.tokens == c.tokens


def test_a_seed_repeats_a_reply(model: CommandR) -> None:
    runs = [model.generate(PROMPT, max_tokens=20, seed=seed).tokens for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", ["<|END_OF_TURN_TOKEN|>", "<EOS_TOKEN>", "<EOP_TOKEN>"])
def test_end_tokens_end_a_reply_and_are_not_part_of_it(model: CommandR, name: str) -> None:
    end = model.tokenizer.special_ids[name]
    result = model.generate(PROMPT, logit_bias=only(model, end))
    assert (result.text, result.tokens, result.finish_reason) == ("", [], "stop")
    assert result.usage.completion_tokens == 0


def test_pieces_add_up(model: CommandR) -> None:
    # How long drafts are depends on the clock, and so do the last bits; and a prompt's last token computed alone has
    # others than one of a batch.
    whole = model.generate(PROMPT, max_tokens=40, seed=3, top_logprobs=2, speculate=False)
    forget(model)
    stream = model.generate(PROMPT, max_tokens=40, seed=3, top_logprobs=2, speculate=False, stream=True)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == whole.text == stream.result.text
    assert [token for piece in pieces for token in piece.tokens] == whole.tokens
    assert [entry for piece in pieces for entry in piece.logprobs] == whole.logprobs
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "length"
    assert list(stream) == []


def test_characters_of_several_tokens_come_whole(model: CommandR) -> None:
    tokens = model.tokenize("🌎")
    assert len(tokens) == 3
    bias: dict[int, float] = only(model, *tokens)
    replies = model.generate(PROMPT, max_tokens=30, logit_bias=bias, seed=1, stream=True)
    texts = [piece.text for piece in replies]
    assert "".join(texts) == model.detokenize(replies.result.tokens)
    assert all(texts[:-1])


@pytest.mark.parametrize("length", [1, 2, 5])
def test_stop_strings_end_a_reply_before_them(model: CommandR, length: int) -> None:
    letters = [model.tokenize(letter)[0] for letter in "abc"]
    bias = only(model, *letters)
    free = model.generate(PROMPT, max_tokens=60, logit_bias=bias, seed=5).text
    stop = free[20 : 20 + length]
    result = model.generate(PROMPT, max_tokens=60, logit_bias=bias, seed=5, stop=["zzz", stop])
    assert result.text == free[: free.index(stop)]
    assert result.finish_reason == "stop"
    assert model.detokenize(result.tokens) == result.text + stop


def test_text_held_back_for_a_stop_string_comes_at_the_end(model: CommandR) -> None:
    a = model.tokenize("a")[0]
    result = model.generate(PROMPT, max_tokens=5, logit_bias=only(model, a), stop="aaaaaaaa")
    assert (result.text, result.finish_reason) == ("aaaaa", "length")


def test_logprobs(model: CommandR) -> None:
    tokens = model.tokenize(PROMPT, add_special=True)
    logits = model.logits(tokens)[-1].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    entry = model.generate(tokens, max_tokens=1, temperature=0, top_logprobs=5).logprobs[0]
    assert entry.token == expected.argmax()
    assert entry.logprob == pytest.approx(expected.max(), abs=1e-4)
    assert [token for token, _ in entry.top] == np.argsort(-expected)[:5].tolist()
    assert [p for _, p in entry.top] == pytest.approx(np.sort(expected)[::-1][:5], abs=1e-4)
    assert model.generate(tokens, max_tokens=1).logprobs == []


def test_no_tokens_at_all_only_fill_the_cache(model: CommandR) -> None:
    result = model.generate(PROMPT, max_tokens=0)
    assert (result.text, result.tokens, result.finish_reason) == ("", [], "length")
    again = model.generate(PROMPT + " is", max_tokens=1)
    assert again.usage.cached_tokens == result.usage.prompt_tokens
    assert again.timings.prefill_tokens == again.usage.prompt_tokens - again.usage.cached_tokens


def test_the_context_ends_a_reply(model: CommandR) -> None:
    with CommandR(models.gguf("gqa"), n_ctx=64) as small:
        a = small.tokenize("a")[0]
        result = small.generate(PROMPT, logit_bias=only(small, a))
        assert result.finish_reason == "length"
        assert result.usage.prompt_tokens + result.usage.completion_tokens == small.n_ctx + 1
        with pytest.raises(ContextFullError):
            small.generate("a b" * small.n_ctx)
        assert small.generate(PROMPT, max_tokens=1).usage.completion_tokens <= 1


def test_leaving_a_stream_leaves_the_session_usable(model: CommandR) -> None:
    expected = model.generate(PROMPT, max_tokens=10, temperature=0).tokens
    stream = model.generate(PROMPT, temperature=0, stream=True)
    for _ in stream:
        break
    stream.close()
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    with pytest.raises(StopIteration):
        next(stream)
    with model.generate(PROMPT, temperature=0, stream=True) as other:
        next(other)
    assert model.generate(PROMPT, max_tokens=10, temperature=0).tokens == expected


def test_a_cancelled_reply_says_so_and_the_next_one_runs(model: CommandR) -> None:
    a = model.tokenize("a")[0]
    stream = model.generate(PROMPT, logit_bias=only(model, a), stream=True)
    next(stream)
    thread = threading.Thread(target=model.cancel)
    thread.start()
    thread.join()
    assert stream.finish().finish_reason == "cancelled"
    assert stream.result.text.startswith("a")
    assert model.generate(PROMPT, max_tokens=1).finish_reason is not None


def test_nothing_is_computed_before_the_first_piece(model: CommandR) -> None:
    stream = model.generate(PROMPT, stream=True)
    assert model.session.seq_length() == 0
    stream.close()


def test_control_tokens_in_a_text_prompt_stay_text(model: CommandR) -> None:
    text = "a<|END_OF_TURN_TOKEN|>"
    model.generate(text, max_tokens=0)
    held = [5, *model.tokenize(text)]
    assert held in [model.session.seq_tokens(seq_id) for seq_id in range(N_PROMPTS)]
    assert tiny_tokenizer.turn_token_id("<|END_OF_TURN_TOKEN|>") not in held


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "the prompt is empty"), (["a"], "token ids: 'str'"), ([2**40], "token ids: ")]
)
def test_wrong_prompts(model: CommandR, prompt: list[int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        generate(model.session, model.tokenizer, prompt)


def test_wrong_arguments(model: CommandR) -> None:
    with pytest.raises(ArgumentError, match="max_tokens must be 0 or more"):
        model.generate(PROMPT, max_tokens=-1)
    with pytest.raises(ArgumentError, match="unknown argument 'temprature'"):
        model.generate(PROMPT, temprature=1)  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match="stop must be strings"):
        model.generate(PROMPT, stop=[""])
    with pytest.raises(ArgumentError, match="n_top must be 0 to 768"):
        model.generate(PROMPT, max_tokens=1, top_logprobs=769)


def test_the_function_and_the_method_do_the_same(model: CommandR) -> None:
    params = SamplingParams(temperature=0)
    result = generate(model.session, model.tokenizer, PROMPT, max_tokens=5, sampling=params)
    assert result.tokens == model.generate(PROMPT, max_tokens=5, temperature=0).tokens
