"""The command line: `tinsmith RECIPE key=value ... [config=FILE]`.

Exit codes: 0 done; 1 failed; 2 a mistake of the user's (a setting, a file, a model), said in one message; 3 stopped for
money; 130 stopped by Ctrl-C. After the last two the same command goes on. TINSMITH_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from tinsmith.config import Resolved, options_of, resolve
from tinsmith.config.values import nearest, show
from tinsmith.domain import errors
from tinsmith.recipes import RECIPES, WITH_ENVIRONMENTS, Entry, load_recipe
from tinsmith.ui import Terminal, plain_stream

USER_ERRORS = (
    errors.ConfigError,
    errors.DataError,
    errors.DataNotFoundError,
    errors.RenderError,
    errors.ModelError,
    errors.ModelNotFoundError,
    errors.CapabilityError,
    errors.MissingExtraError,
    errors.RunLockedError,
    errors.RunPathError,
)
COMMANDS: dict[str, Entry] = {
    "conform": Entry("tinsmith.recipes.conform", "check a server of the Tinker protocol against its laws", "base_url"),
    "eval": Entry("tinsmith.recipes.evaluate", "a model's score on a benchmark, or beside another's", "benchmark"),
    "grade": Entry("tinsmith.recipes.grade", "compare answers to mathematics questions with the right ones", "file"),
    "render": Entry("tinsmith.recipes.render", "conversations as tokens and weights, to look at or to compare", "file"),
    "runs": Entry("tinsmith.recipes.runs", "the runs below a directory: state, steps, last numbers", "directory"),
    "show": Entry("tinsmith.recipes.show", "a run as one page: curves, config, every episode token by token", "run"),
    "serve": Entry("tinsmith.recipes.serve", "the embedded engine behind the Tinker protocol", "model"),
}
"""Jobs that are no recipes; their modules have the same `Config` and `run`."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line; gives the exit code."""
    for stream in (sys.stdout, sys.stderr):
        plain_stream(stream)
    try:
        code = _shell().main(None if args is None else list(args), prog_name="tinsmith", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as error:
        _say_error(error.format_message())
        return 2
    except errors.OutputClosedError:
        return 1  # whoever reads has seen enough
    except errors.TinsmithError as error:
        if os.environ.get("TINSMITH_DEBUG"):
            traceback.print_exc()
        _say_error(str(error))
        return _code(error)
    except OSError as error:
        if os.environ.get("TINSMITH_DEBUG") or error.errno is None:
            traceback.print_exc()
        _say_error(world_failure(error, None))
        return 1
    except Exception:  # noqa: BLE001 - the last place that can say anything
        traceback.print_exc()
        return 1


def _code(error: errors.TinsmithError) -> int:
    return 2 if isinstance(error, USER_ERRORS) else 3 if isinstance(error, errors.BudgetError) else 1


def _say_error(message: str) -> None:
    click.echo(f"{click.style('error:', fg='red')} {message}", err=True)


def run_job(name: str, entry: Entry, pairs: Sequence[str]) -> int:
    """`tinsmith RECIPE ...`: resolve, then do the job."""
    job = load_recipe(entry)
    config: Any = resolve(job.Config, pairs=_spoken(job.Config, entry, pairs)).config
    ui = Terminal()
    try:
        with ui:
            if name in RECIPES:
                ui.doing("loading")
            return job.run(config, ui) or 0
    except KeyboardInterrupt:
        click.echo(resume_hint(name, pairs, ui.directory), err=True)
        return 130
    except errors.OutputClosedError as error:
        if ui.directory is not None:
            click.echo(f"{error}; {resume_hint(name, pairs, ui.directory)}", err=True)
        return 1
    except OSError as error:
        if isinstance(error, errors.TinsmithError) or error.errno is None:
            raise
        raise errors.WorldError(world_failure(error, ui.directory)) from error


def world_failure(error: OSError, directory: Any) -> str:
    """A failure of this machine in one line: where, what, and the way out."""
    what = re.sub(r" \(os error \d+\)$", "", error.strerror or str(error))  # the tail that Rust adds
    where = error.filename or ("" if directory is None or str(directory) in what else directory)
    way = "; the same command goes on" if directory is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        way = f"; free some space{way.replace(';', ',', 1)}"
    return f"{where}: {what}{way}" if where else f"{what}{way}"


def _spoken(config: type, entry: Entry, words: Sequence[str]) -> list[str]:
    """The words of a command as pairs: `FILE`, `--flag` and `--key value` are taken too where a job has an argument."""
    if not entry.argument:
        return list(words)
    kinds = {row.name: row.type for row in options_of(config)}
    pairs: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key = "verbose" if word == "-v" else word.lstrip("-").replace("-", "_")
        bare = word == "-" or (not word.startswith("-") and "=" not in word)  # - is standard input
        if bare and not any(p.startswith(f"{entry.argument}=") for p in pairs):
            pairs.append(f"{entry.argument}={word}")
        elif word.startswith(("--", "-v")) and key in kinds:
            takes = kinds[key] != "true | false" or (rest and rest[0] in ("true", "false"))
            pairs.append(f"{key}={rest.pop(0) if takes and rest else 'true'}")
        else:
            pairs.append(word)
    return pairs


def run_program(config: type, run: Callable[[Any, Any], int | None], args: Sequence[str] | None = None) -> int:
    """The command line of a program of one's own: options of `config` as key=value, `--help`, errors in one message,
    live progress. Gives the exit code: `raise SystemExit(run_program(Config, run))`."""
    words = sys.argv[1:] if args is None else list(args)
    for stream in (sys.stdout, sys.stderr):
        plain_stream(stream)
    ui = Terminal()
    try:
        if {"-h", "--help"} & set(words):
            rows = [(row.name, row.type, row.shown_default(), row.meaning()) for row in options_of(config)]
            ui.grid(rows, ("option", "type", "default", "meaning"))
            return 0
        with ui:
            return run(resolve(config, pairs=words).config, ui) or 0
    except KeyboardInterrupt:
        return 130
    except errors.OutputClosedError:
        return 1
    except errors.TinsmithError as error:
        _say_error(str(error))
        return _code(error)
    except OSError as error:
        if error.errno is None:
            raise
        _say_error(world_failure(error, None))
        return 1


def check_job(name: str, entry: Entry, pairs: Sequence[str]) -> int:
    """`tinsmith check RECIPE ...`: print where each value came from and what the recipe would do."""
    job = load_recipe(entry)
    resolved: Resolved[Any] = resolve(job.Config, pairs=pairs)
    with Terminal() as ui:
        ui.grid([(f"{option}={value}", origin) for option, value, origin in resolved.rows()], ("option", "from"))
        for part in job.check(resolved.config):
            ui.note("")
            ui.show(part)
    return 0


def env_check_job(name: str, entry: Entry, pairs: Sequence[str]) -> int:
    """`tinsmith env check RECIPE ...`"""
    from tinsmith.recipes import env

    return _env_job(entry, pairs, env.CheckConfig, env.check)


def env_play_job(name: str, entry: Entry, pairs: Sequence[str]) -> int:
    """`tinsmith env play RECIPE ...`"""
    from tinsmith.recipes import env

    return _env_job(entry, pairs, env.PlayConfig, env.play_one)


def _env_job(entry: Entry, pairs: Sequence[str], own: type, action: Callable[..., int]) -> int:
    names = {row.name for row in options_of(own)}
    mine = [word for word in pairs if word.lstrip("-").partition("=")[0].replace("-", "_") in names]
    job: Any = load_recipe(entry)
    config = resolve(job.Config, pairs=[word for word in pairs if word not in mine]).config
    with Terminal() as ui:
        return action(job, config, resolve(own, pairs=mine).config, ui)


def resume_hint(name: str, pairs: Sequence[str], directory: Any) -> str:
    """What to say after Ctrl-C. The run directory is named where the command line left it to its default, and what
    would delete the run or refuse to go on with it is left out."""
    if directory is None:
        return "stopped"
    words = [word for word in pairs if not word.lstrip("-").replace("-", "_").startswith("if_exists=")]
    if not any(word.lstrip("-").replace("-", "_").startswith("log_path=") for word in words):
        words.append(f"log_path={show(str(directory))}")
    return f"stopped; what was finished is kept in {directory}. To go on from there:\n  " + shlex.join(
        ["tinsmith", name, *words]
    )


class _Job(click.Command):
    """A recipe or command by name; its module is imported when it is run or asked for help."""

    def __init__(self, name: str, entry: Entry, action: Callable[[str, Entry, Sequence[str]], int]) -> None:
        self.entry = entry

        def callback(pairs: Sequence[str]) -> int:
            try:
                return action(name, entry, pairs)
            except errors.ConfigError as error:
                raise errors.ConfigError(f"{error}\n`tinsmith {name} --help` lists every option") from error

        super().__init__(
            name,
            callback=callback,
            short_help=entry.summary,
            params=[click.Argument(["pairs"], nargs=-1, type=click.UNPROCESSED, shell_complete=self._complete)],
            context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
        )

    def get_help(self, ctx: click.Context) -> str:
        ui = Terminal()
        with ui.console.capture() as captured:
            argument = f"{self.entry.argument.upper()} " if self.entry.argument else ""
            ui.note(f"{ctx.command_path} {argument}key=value ... [config=FILE]\n\n{self.entry.summary}\n")
            rows = [
                (row.name, row.type, row.shown_default(), row.meaning())
                for row in options_of(load_recipe(self.entry).Config)
            ]
            ui.grid(rows, ("option", "type", "default", "meaning"))
            ui.note("\nconfig=FILE (TOML, JSON, YAML or a run directory) sets many at once; what comes later wins.")
            ui.note("A list is typed a,b,c.")
        return captured.get().rstrip("\n")

    def _complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        rows = options_of(load_recipe(self.entry).Config)
        return [CompletionItem(f"{row.name}=", help=row.bounds.help) for row in rows if row.name.startswith(incomplete)]


class _Catalog(click.Group):
    """Jobs by name (underscore and dash are one), made when they are asked for."""

    def __init__(self, name: str, jobs: Mapping[str, Entry], action: Any, **kwargs: Any) -> None:
        super().__init__(name, invoke_without_command=True, **kwargs)
        self.jobs = jobs
        self.action = action
        self.context_settings = {"help_option_names": ["-h", "--help"]}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.jobs, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("_", "-")
        if name in self.jobs:
            return _Job(name, self.jobs[name], self.action)
        return self.commands.get(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "help" and "help" not in self.jobs:
            args = [*args[1:2], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            meant = nearest(name.replace("_", "-"), self.list_commands(ctx))
            if "=" in name:
                raise click.UsageError(f"{name!r}: name a recipe first: {ctx.command_path} RECIPE {name}")
            guess = f"; did you mean {meant}?" if meant else f"; `{ctx.command_path}` lists what there is"
            raise click.UsageError(f"there is no recipe or command {name!r}{guess}")
        found, command, rest = super().resolve_command(ctx, args)
        return command.name if command else found, command, rest

    def get_help(self, ctx: click.Context) -> str:
        ui = Terminal()
        recipes = [(name, entry.summary) for name, entry in self.jobs.items() if name in RECIPES]
        others = [(name, entry.summary) for name, entry in self.jobs.items() if name not in RECIPES]
        others += [(name, command.short_help or "") for name, command in self.commands.items()]
        with ui.console.capture() as captured:
            what = "RECIPE" if self.jobs else "COMMAND RECIPE"
            ui.note(f"{ctx.command_path} {what} key=value ... [config=FILE]\n\n{self.help or ''}")
            for title, rows in (("recipes", recipes), ("commands", others)):
                if rows:
                    ui.note(f"\n{title}")
                    ui.grid([(f"  {name}", summary) for name, summary in rows])
            ui.note(f"\n`{ctx.command_path} {what} --help` lists the options of a recipe.")
        return captured.get().rstrip("\n")


def _shell() -> click.Group:
    check = _Catalog(
        "check",
        RECIPES,
        check_job,
        help="Resolve and validate the options of a recipe, show what it would do, and train nothing.",
        short_help="resolve and validate the options of a recipe, show what it would do; trains nothing",
        callback=_help_if_bare,
    )
    shell = _Catalog(
        "tinsmith",
        {**RECIPES, **COMMANDS},
        run_job,
        help="Post-train language models: recipes to run, and commands around them.",
        callback=_help_if_bare,
    )
    shell.add_command(check)
    shell.add_command(_env_group())
    shell.params.append(
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show it.")
    )
    return shell


def _env_group() -> click.Group:
    acting = {name: RECIPES[name] for name in WITH_ENVIRONMENTS}
    env = _Catalog(
        "env",
        {},
        run_job,
        help="The environments of a recipe, without a policy.",
        short_help="check or play the environments of a recipe",
        callback=_help_if_bare,
    )
    env.add_command(
        _Catalog(
            "check",
            acting,
            env_check_job,
            help="Try the environments of a recipe on reference answers and on garbage, without a policy. Beside the "
            "recipe's own options: problems=16, how many; deadline_s=60, for each call and episode.",
            short_help="try a recipe's environments on reference answers and on garbage",
            callback=_help_if_bare,
        )
    )
    env.add_command(
        _Catalog(
            "play",
            acting,
            env_play_job,
            help="Play an environment of a recipe in the place of the policy. Beside the recipe's own options: "
            "problem=0, which one.",
            short_help="play an environment of a recipe in the place of the policy",
            callback=_help_if_bare,
        )
    )
    return env


def _help_if_bare() -> None:
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import tinsmith

        click.echo(f"tinsmith {tinsmith.__version__}")
        ctx.exit()


if __name__ == "__main__":
    sys.exit(main())
