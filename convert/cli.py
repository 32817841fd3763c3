"""The command line, ``python -m convert``: flags only."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from convert.choice import Target, plan_for_target, shapes_of
from convert.errors import ArgumentError, ConvertError, OutputError, VerifyError
from convert.imatrix import read_imatrix
from convert.inputs import read_input
from convert.overrides import override_types, read_recipe_file
from convert.pipeline import Written, check_output, write_plan
from convert.plan import Plan, make_plan
from convert.progress import show_progress, show_steps
from convert.recipe import FILE_TYPES, FileType, file_type, is_norm, needs_imatrix
from convert.report import describe_tensors, describe_totals
from convert.requantize import check_requantized
from convert.sensitivity import read_sensitivity
from convert.sizes import format_size, parse_size
from convert.source import SourceModel
from convert.verify import describe_errors, verify

_EXAMPLES = """\
examples:
  python -m convert ./c4ai-command-r-08-2024                      # writes c4ai-command-r-08-2024-Q4_K_M.gguf here
  python -m convert ./c4ai-command-r7b-12-2024 --type Q8_0 -o r7b.gguf
  python -m convert CohereLabs/c4ai-command-r7b-12-2024 --lora ./adapter --verify
  python -m convert model-BF16.gguf --type Q6_K                   # writes model-Q6_K.gguf
  python -m convert ./c4ai-command-r-plus --type IQ4_XS --dry-run # what would be written, tensor by tensor
  python -m convert CohereLabs/c4ai-command-r-08-2024 --target-size 20GB --split-max-size 5GB --verify
  python -m convert model-BF16.gguf --type IQ2_M --imatrix model.imatrix.gguf

exit status: 0 done; 1 the file could not be written, or --verify found it wrong; 2 the checkpoint or an argument is at
fault; 130 or 143 stopped by a signal. The file appears under its name only when it is whole.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


class _Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a checkpoint; returns the exit status."""
    arguments = _parser().parse_args(argv)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup has SIGHUP ignored
            signal.signal(number, _stop)
    try:
        _run(arguments)
    except OutputError as error:
        _complain(error)
        return 1
    except ConvertError as error:
        _complain(error)
        return 2
    except BrokenPipeError:  # whoever reads the plan, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        kept = "what is done is kept for --resume" if arguments.resume else "nothing was written"
        sys.stderr.write(f"stopped before the file was whole: {kept}\n")
        return 128 + (stop.number if isinstance(stop, _Stopped) else signal.SIGINT)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    target = _target(arguments)
    recipe = file_type(arguments.type or "Q4_K_M")
    model = read_input(
        arguments.checkpoint,
        adapters=arguments.lora,
        context_length=arguments.context_length,
        quiet=arguments.quiet,
    )
    plan = _plan(arguments, model, recipe, target)
    notes = [*model.notes, *plan.notes, *check_requantized(plan, allowed=arguments.allow_requantize)]
    output = _output(arguments, f"{model.name}-{plan.file_type.name}.gguf")
    if arguments.dry_run:
        sys.stdout.writelines(f"{line}\n" for line in (*describe_tensors(plan), describe_totals(plan)))
        sys.stdout.flush()
        _say(notes, quiet=arguments.quiet)
        return
    if arguments.split_max_size is None:
        check_output(model, output, overwrite=arguments.force or arguments.resume)
    _say([*notes, describe_totals(plan)], quiet=arguments.quiet)
    with show_progress(plan.n_bytes, quiet=arguments.quiet) as progress:
        written = write_plan(
            plan,
            output,
            n_threads=arguments.threads,
            overwrite=arguments.force,
            resume=arguments.resume,
            allow_nonfinite=arguments.allow_nonfinite,
            split_max_bytes=arguments.split_max_size,
            progress=progress,
        )
    _say(_describe(plan, written, arguments.split_max_size), quiet=arguments.quiet)
    if arguments.verify:
        _verify(plan, written, n_threads=arguments.threads, quiet=arguments.quiet)


def _verify(plan: Plan, written: Written, *, n_threads: int, quiet: bool) -> None:
    with show_progress(plan.n_bytes, quiet=quiet) as progress:
        errors = verify(plan, written.paths, n_threads=n_threads, progress=progress)
    sys.stdout.writelines(f"{line}\n" for line in describe_errors(errors))
    sys.stdout.flush()
    wrong = [error.name for error in errors if not error.is_sound]
    if wrong:
        raise VerifyError(f"{written.paths[0]}: tensor {wrong[0]} differs from what it was made from")


def _target(arguments: argparse.Namespace) -> Target | None:
    if arguments.target_size is None and arguments.target_bpw is None:
        if arguments.sensitivity is not None:
            raise ArgumentError("--sensitivity is of use with --target-size or --target-bpw")
        return None
    if arguments.target_size is not None and arguments.target_bpw is not None:
        raise ArgumentError("give --target-size or --target-bpw, not both")
    if arguments.type is not None:
        raise ArgumentError("a target chooses the types itself: give no --type with it")
    return Target(arguments.target_size, arguments.target_bpw)


def _plan(arguments: argparse.Namespace, model: SourceModel, recipe: FileType, target: Target | None) -> Plan:
    imatrix = None if arguments.imatrix is None else read_imatrix(arguments.imatrix)
    lines = [] if arguments.recipe is None else read_recipe_file(arguments.recipe)
    own = override_types(lines, shapes_of(model))
    choices = {"recipe": "\n".join(map(str, lines))} if lines else {}
    if target is None:
        return make_plan(model, recipe, types=own, imatrix=imatrix, choices=choices)
    sensitivity = None if arguments.sensitivity is None else read_sensitivity(arguments.sensitivity)
    n_weights = sum(not is_norm(name, shape) and name not in own for name, shape in shapes_of(model).items())
    with show_steps("measuring what rounding loses", n_weights, quiet=arguments.quiet) as progress:
        return plan_for_target(
            model,
            target,
            fixed=own,
            imatrix=imatrix,
            sensitivity=sensitivity,
            split_max_bytes=arguments.split_max_size,
            n_threads=arguments.threads,
            progress=progress,
            choices=choices,
        )


def _output(arguments: argparse.Namespace, name: str) -> Path:
    if arguments.output == "":
        raise ArgumentError("the name of the output file is empty")
    output = Path(arguments.output or name)
    return output / name if output.is_dir() else output


def _describe(plan: Plan, written: Written, split_max_size: int | None) -> list[str]:
    types = {tensor.name: tensor.ggml_type for tensor in plan.tensors}
    return [
        *(
            f"{name} holds {n} values that are NaN or infinite; "
            + ("they are kept" if types[name] in {"F32", "F16", "BF16"} else "they became 0")
            for name, n in written.nonfinite.items()
        ),
        *(f"wrote {path}" for path in written.paths),
        *(
            f"{path} is larger than {format_size(split_max_size)}: its first tensor alone is"
            for path in written.paths
            if split_max_size is not None and path.stat().st_size > split_max_size
        ),
    ]


def _say(lines: Sequence[str], *, quiet: bool) -> None:
    if not quiet:
        sys.stderr.writelines(f"{line}\n" for line in lines)


def _complain(error: ConvertError) -> None:
    sys.stderr.write(f"error: {error}\n")


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m convert",
        description="Convert a checkpoint of Cohere Command-R to a GGUF file, quantized on the way.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        help="folder with config.json, a tokenizer and *.safetensors; a GGUF file, the first of a split one; or a "
        "repository to download, ORGANIZATION/NAME or ORGANIZATION/NAME@REVISION",
    )
    add("-o", "--output", help="file to write, or a folder for it; default: NAME-TYPE.gguf right here")
    types = ", ".join(name + "*" * needs_imatrix(recipe.base, name) for name, recipe in FILE_TYPES.items())
    add("-t", "--type", metavar="TYPE", help=f"{types} (* needs --imatrix); default: Q4_K_M")
    add("-q", "--quiet", action="store_true", help="print no notes and no progress")
    add = parser.add_argument_group("what is converted").add_argument
    add("--lora", action="append", default=[], metavar="ADAPTER", help="PEFT LoRA adapter to merge; may be repeated")
    add("--context-length", type=int, metavar="N", help="positions the model was trained for, if the config is wrong")
    add("--allow-nonfinite", action="store_true", help="accept NaN and infinities; they become 0 in quantized tensors")
    add("--allow-requantize", action="store_true", help="round tensors of a quantized GGUF input once more")
    add = parser.add_argument_group("the choice of types").add_argument
    add("--imatrix", type=Path, metavar="FILE", help="importance matrix: weighs the errors of rounding")
    add("--recipe", type=Path, metavar="FILE", help="lines of REGEX=TYPE for tensors; others are as --type has them")
    add("--target-size", type=_size, metavar="SIZE", help="choose the types that lose least in a file such as 20GB")
    add("--target-bpw", type=float, metavar="BITS", help="the same for so many bits per weight")
    add("--sensitivity", type=Path, metavar="FILE", help="of commandr sensitivity, for a target: how tensors count")
    add("--dry-run", action="store_true", help="print every tensor with its type and size, and write nothing")
    add = parser.add_argument_group("the writing").add_argument
    add("-f", "--force", action="store_true", help="replace an existing output file, or an unfinished one")
    add("--resume", action="store_true", help="go on where a stopped conversion was, and keep what is done if stopped")
    add("--split-max-size", type=_size, metavar="SIZE", help="several files of at most this size, such as 5GB")
    add("--threads", type=_thread_count, default=0, metavar="N", help="default: all physical cores")
    add(
        "--verify", action="store_true", help="read the result again, print each tensor's error; exit 1 if one is wrong"
    )
    return parser


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _thread_count(text: str) -> int:
    try:
        n = int(text)
    except ValueError:
        n = -1
    if not 0 <= n <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads")
    return n
