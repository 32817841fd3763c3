"""Cohere Command-R models from GGUF files: chat, tools, grounded answers, text and embeddings on ggml.

    from commandr_gguf import CommandR

    with CommandR("command-r.gguf") as model:
        print(model.chat([{"role": "user", "content": "Hello"}]).text)

`CommandR.demo()` is a small model to try it with. `Model` and `Session` are the two native handles behind it; `errors`
draws the exception tree.
"""

from commandr_gguf.chat.actions import ToolCall, parse_actions
from commandr_gguf.chat.citations import Citation, GroundedAnswer, parse_grounded_answer
from commandr_gguf.chat.conversation import Conversation
from commandr_gguf.chat.events import (
    CitedDocuments,
    Event,
    Finish,
    PlainAnswer,
    Plan,
    RelevantDocuments,
    SearchQuery,
    Source,
    Text,
)
from commandr_gguf.chat.grammars import json_schema_grammar, lark_grammar, regex_grammar
from commandr_gguf.chat.messages import Message
from commandr_gguf.chat.prompt import ChatTemplate
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.tokens import Prompt
from commandr_gguf.chat.tool_run import ToolResult, ToolRun, ToolStep, ToolStream, run_tools
from commandr_gguf.command_r import CommandR
from commandr_gguf.devices import Device, MemoryUse, default_n_threads, devices, read_bandwidth
from commandr_gguf.errors import (
    ArgumentError,
    BackendError,
    CancelledError,
    ClosedError,
    CommandRError,
    ContextFullError,
    FileError,
    FormatError,
    OutOfMemoryError,
    UnsupportedError,
)
from commandr_gguf.generate import Generation, GenerationStream, Piece, Timings, Usage, generate
from commandr_gguf.gguf_file import GGUFFile, TensorInfo
from commandr_gguf.hparams import HParams
from commandr_gguf.log import enable_native_log
from commandr_gguf.memory import kv_cache_bytes
from commandr_gguf.model import Model
from commandr_gguf.quantize import dequantize_rows, quantize_rows
from commandr_gguf.reading import read_documents
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.sampling import Logprobs, Sampler, SamplingParams, allowed_mask, logprobs
from commandr_gguf.session import EvalItem, NextToken, Session
from commandr_gguf.tokenizer import Detokenizer, Tokenizer

__all__ = [
    "ArgumentError",
    "BackendError",
    "CancelledError",
    "ChatTemplate",
    "Citation",
    "CitedDocuments",
    "ClosedError",
    "CommandR",
    "CommandRError",
    "ContextFullError",
    "Conversation",
    "Detokenizer",
    "Device",
    "EvalItem",
    "Event",
    "FileError",
    "Finish",
    "FormatError",
    "GGUFFile",
    "Generation",
    "GenerationStream",
    "GroundedAnswer",
    "HParams",
    "Logprobs",
    "MemoryUse",
    "Message",
    "Model",
    "NextToken",
    "OutOfMemoryError",
    "Piece",
    "PlainAnswer",
    "Plan",
    "Prompt",
    "RelevantDocuments",
    "Reply",
    "ReplyStream",
    "Sampler",
    "SamplingParams",
    "SearchQuery",
    "Session",
    "Source",
    "TensorInfo",
    "Text",
    "Timings",
    "Tokenizer",
    "ToolCall",
    "ToolResult",
    "ToolRun",
    "ToolStep",
    "ToolStream",
    "UnsupportedError",
    "Usage",
    "allowed_mask",
    "default_n_threads",
    "dequantize_rows",
    "devices",
    "enable_native_log",
    "generate",
    "json_schema_grammar",
    "kv_cache_bytes",
    "lark_grammar",
    "logprobs",
    "parse_actions",
    "parse_grounded_answer",
    "quantize_rows",
    "read_bandwidth",
    "read_documents",
    "regex_grammar",
    "run_tools",
]
