"""Where the command line begins, and what becomes of every mistake.

Exit codes: 0 done, 2 the user's mistake (one line on stderr), 3 a fit that diverged, 1 ours, 130 interrupted.
"""

from __future__ import annotations

import difflib
import errno
import itertools
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from zoo.cli.beginning import new
from zoo.cli.benching import bench
from zoo.cli.completing import installed
from zoo.cli.fitted import evaluate, forecast, sample
from zoo.cli.fitting import compare, explain, fit
from zoo.cli.listing import data, models
from zoo.cli.output import complain, tell, unread
from zoo.cli.predicting import predict
from zoo.cli.programs import USER_MODULE
from zoo.cli.reproducing import reproduce
from zoo.cli.selecting import select
from zoo.cli.several import launched, part
from zoo.cli.showing import show
from zoo.core.places import from_one
from zoo.errors import ELSEWHERE, LeftOut, RankLost, ZooError

__all__ = ["app", "main"]

app = typer.Typer(
    name="zoo",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Latent-variable models, each fitted by any estimator and compared on the same data and start.\n\n"
    "Example: zoo compare gaussian_mixture --data iris --seeds 5 --out runs/iris",
)


class _Once(TyperCommand):
    """A command that refuses an option given twice, where it takes one value (the last one would win unseen), and that
    does not leave without a word after Ctrl-C, as Typer's do."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(complain("interrupted before there was anything to save.", 130)) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            often = sum(each is param for each in order)
            flag = getattr(param, "is_flag", False) or getattr(param, "multiple", False)
            if often > 1 and param.param_type_name == "option" and not flag:
                raise ZooError(f"{param.opts[-1]} expected once, got it {often} times. Keep one.")
        return super().parse_args(ctx, args)


for command in (
    models,
    data,
    fit,
    compare,
    select,
    explain,
    show,
    predict,
    evaluate,
    sample,
    forecast,
    reproduce,
    bench,
    new,
):  # as the help lists them
    app.command(cls=_Once)(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; what it returns is the exit code."""
    debug = bool(os.environ.get("ZOO_DEBUG"))
    # OpenMP's idle threads spin for a long time by default, and on a busy machine every small operation then waits
    # for a time slice; this short spin costs nothing on a quiet one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    with warnings.catch_warnings(), from_one():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", LeftOut)
            warnings.showwarning = lambda message, *_: tell([str(message)])  # put back with the filters
        try:
            if launched() > 1 and arguments[0] != "fit" and not arguments[0].startswith("-"):
                raise ZooError(f"zoo {arguments[0]} expected one process, got {launched()}. Leave out torchrun.")
            code = typer.main.get_command(app).main(args=arguments, prog_name="zoo", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            return complain("interrupted before there was anything to save.", 130)
        except BrokenPipeError:  # `zoo models | head`
            unread()
            return 0
        except RankLost as error:
            return complain(str(error), 2)
        except ZooError as error:
            if debug:
                raise
            told = str(error).replace("zoo.load_data(..., drop_missing=True) or a frame's x.dropna()", "--drop-missing")
            return complain(told, 2)
        except Exception as error:
            if debug:
                raise
            return _explain(error, arguments)
        finally:
            part()
            if "--install-completion" in arguments:  # which ends by SystemExit
                installed()


def _explain(error: Exception, arguments: Sequence[str]) -> int:
    """One line for what is not a ZooError, and whose mistake it is."""
    message = getattr(error, "format_message", None)
    if callable(message):  # a usage error; its class lives in click or in typer, depending on the version
        return complain(_usage(error, str(message()), arguments), 2)
    name = type(error).__name__
    from zoo.core.worker import frames_of

    places = [(file, line) for module, file, line in frames_of(error) if str(module).startswith(USER_MODULE)]
    if places:
        file, line = places[-1]
        return complain(f"your program failed in {file}, line {line}: {name}: {error}. Run it by itself first.", 2)
    if isinstance(error, MemoryError):
        return complain("expected data and model to fit into memory, got too much. Take fewer rows or columns.", 2)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        where = "the disk" if error.filename is None else error.filename
        return complain(f"{where}: {error.strerror}. Check the path, its permissions and the room on its disk.", 2)
    return complain(f"internal error, {name}: {error}. Set ZOO_DEBUG=1 to see where.", 1)


#: What the system says of a disk that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
#: Commands that a person looks for under other names.
_MEANT = {
    "describe": "models", "list": "models", "train": "fit", "cluster": "fit", "tune": "select", "info": "show",
    "plot": "show", "report": "show", "score": "evaluate", "generate": "sample", "draw": "sample", "label": "predict",
}  # fmt: skip


def _usage(error: Exception, message: str, arguments: Sequence[str]) -> str:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", None) or "zoo"
    message = " ".join(message.split()).rstrip(".")
    if word := re.fullmatch(r"Invalid value for '(--?[\w-]+)'.*\b(integer|number|float)\b.*", message):
        option, kind = word[1], "a whole number" if word[2] == "integer" else "a number"
        said = [b for a, b in itertools.pairwise([*arguments, ""]) if a == option]
        said += [a.partition("=")[2] for a in arguments if a.startswith(f"{option}=")]
        return f"{option} expected {kind}, got {(said or ['another word'])[0]!r}. See '{path} --help'."
    if (asked := re.fullmatch(r"No such command '(\w+)'", message)) and asked[1] in _MEANT:
        message += f". Did you mean '{_MEANT[asked[1]]}'?"
    if (option := getattr(error, "option_name", None)) and message.startswith("No such option"):
        flags = [o for p in getattr(getattr(context, "command", None), "params", []) for o in p.opts]
        if "--set" in flags and not difflib.get_close_matches(option, flags, n=1, cutoff=0.75):
            name = option.lstrip("-").replace("-", "_")
            meant = ELSEWHERE.get(name, name)
            return f"No such option: {option}. Options of models and estimators follow --set: --set {meant}=..."
    if "ossible options" not in message and "id you mean" not in message:
        option = getattr(error, "option_name", None)
        known = [o for p in getattr(getattr(context, "command", None), "params", []) for o in p.opts]
        near = difflib.get_close_matches(str(option), known, n=1, cutoff=0.4) if option else []
        message += f". Did you mean {near[0]}?" if near else ""
    return f"{message.rstrip('.?') + ('?' if message.endswith('?') else '.')} See '{path} --help'."


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("latent-zoo")
        except PackageNotFoundError:
            from zoo import __version__ as number
        print(f"zoo {number}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options of `zoo` itself."""
