"""What the subcommands share: the application they belong to, exit statuses, and how errors are told."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from flows import output
from flows.engine import EngineError
from flows.settings import SettingsError
from storage.errors import StoreError
from tasks.core.errors import AuditError

app = typer.Typer(
    name="normaudit",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NO_ANSWER, WRONG_USAGE = 1, 2
INTERRUPTED, READER_GONE = 130, 141  # what a shell reports of a program that SIGINT or SIGPIPE has ended

StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="The store; default: $NORMAUDIT_STORE, ./store, or the demo's."),
]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can mend into one line on stderr and exit status 2, and what a Hub did wrong into status 1."""
    try:
        yield
    except BrokenPipeError as error:
        output.let_go_of_stdout()
        raise typer.Exit(READER_GONE) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
    except AuditError as error:
        output.complain([f"{output.one_line(error)}; `normaudit demo` needs no network"])
        _forget(error)
        raise typer.Exit(NO_ANSWER) from error
    except (SettingsError, StoreError, EngineError, output.UsageError, OSError) as error:
        lines = str(error).splitlines() if isinstance(error, SettingsError) else []  # one for each wrong setting
        output.complain(lines or [output.one_line(error)])
        _forget(error)
        raise typer.Exit(WRONG_USAGE) from error


def _forget(error: BaseException | None) -> None:
    """Let go of what an error's frames hold: DuckDB complains at a process's end of each connection that is left."""
    seen: list[BaseException] = []  # an error that is raised again while it is handled is its own context
    while error is not None and error not in seen:
        traceback.clear_frames(error.__traceback__)
        seen.append(error)
        error = error.__cause__ or error.__context__
