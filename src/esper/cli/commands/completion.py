"""`esper completion`: scripts that complete commands, options, choices, files and runs in bash, zsh and fish.

They are made from the parser, and run nothing of Python's when a key is pressed: runs are the names in the log's directory, by the six
characters that people type, or whole where more is typed.
"""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from esper.cli.arguments import Subcommands
from esper.cli.output import Output
from esper.history.resume import BUILT_IN_TASKS

_FILES, _FOLDERS = ("FILE",), ("DIR", "LOG")
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{6}([0-9a-f]{6})"

_BASH = """\
_esper() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" at="" words="" options="" one i
    local log="${{ESPER_LOG:-{log}}}"
    for ((i = 1; i < COMP_CWORD; i++)); do
        one="${{COMP_WORDS[i]}}"
        if [[ "$one" == --log ]]; then log="${{COMP_WORDS[i+1]}}"; fi
        case "$at/$one" in
            {paths}) at="$at/$one" ;;
        esac
    done
    case "$at $before" in
{values}
    esac
    case "$at" in
{words}
    esac
    if [[ "$word" == -* ]]; then words="$options"; fi
    if [[ "$words" == *RUN* ]]; then
        one='\\1'
        if [[ ${{#word}} -gt 6 ]]; then one='&'; fi
        words="${{words/RUN/}} latest $(ls -1 "$log" 2>/dev/null | sed -nE "s/^{uuid}\\$/$one/p" | tr '\\n' ' ')"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ "$words" == *FILES* ]]; then COMPREPLY=($(compgen -W "${{words/FILES/}}" -- "$word") $(compgen -f -- "$word")); fi
}}
complete -F _esper esper
"""
_FISH = """\
function __esper_at
    set -l at
    for one in (commandline -opc)[2..]
        switch "$at/$one"
            case {paths}
                set at "$at/$one"
        end
    end
    test "$at" = "$argv[1]"
end
function __esper_runs
    set -l log {log}
    set -q ESPER_LOG; and set log $ESPER_LOG
    set -l typed (commandline -opc)
    set -l place (contains -i -- --log $typed); and set log $typed[(math $place + 1)]
    set -l as '\\1'
    test (string length -- (commandline -ct)) -gt 6; and set as '&'
    echo latest
    ls -1 $log 2>/dev/null | sed -nE "s/^{uuid}\\$/$as/p"
end
complete -c esper -f
"""


def add(commands: Subcommands) -> None:
    """Adds the command."""
    parser = commands.add_parser("completion", help="the script that completes commands, options and runs in a shell")
    parser.add_argument(
        "shell", choices=tuple(_SCRIPTS), help='bash and zsh: eval "$(esper completion bash)"; fish: esper completion fish | source'
    )
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace, out: Output) -> int:
    from esper.cli.parsing import build_parser, parsers_of

    parsers = {"".join(f"/{word}" for word in words): parser for words, parser in parsers_of(build_parser())}
    out.raw(_SCRIPTS[arguments.shell](parsers).rstrip("\n"))
    return 0


_Parsers = Mapping[str, argparse.ArgumentParser]


def _bash(parsers: _Parsers) -> str:
    values, words = [], []
    for path, parser in parsers.items():
        options = " ".join(option for action in parser._actions for option in action.option_strings if option.startswith("--"))
        words.append(f'        "{path}") words="{" ".join(_words(parser))}" options="{options}" ;;')
        for action in _options(parser):
            pattern = "|".join(f'"{path} {option}"' for option in action.option_strings)
            values.append(f"        {pattern}) {_bash_value(action)} ;;")
    return _BASH.format(log="runs", uuid=_UUID, paths="|".join(filter(None, parsers)), values="\n".join(values), words="\n".join(words))


def _bash_value(action: argparse.Action) -> str:
    if action.choices is not None:
        return f'words="{" ".join(map(str, action.choices))}"; COMPREPLY=($(compgen -W "$words" -- "$word")); return'
    kind = "-f" if action.metavar in _FILES else "-d" if action.metavar in _FOLDERS else ""
    return f'COMPREPLY=($(compgen {kind} -- "$word")); return' if kind else "COMPREPLY=(); return"


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Words that may follow: commands and choices; RUN and FILES, which the script puts others for."""
    for action in (action for action in parser._actions if not action.option_strings):
        if action.choices is not None:
            yield from map(str, action.choices)
        else:
            yield from {"TASK": (*BUILT_IN_TASKS, "FILES"), "RUN": ("RUN",), "DIR": ("FILES",)}.get(str(action.metavar), ())


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options that take a value."""
    return (action for action in parser._actions if action.option_strings and action.nargs != 0)


def _zsh(parsers: _Parsers) -> str:
    return f"autoload -Uz compinit bashcompinit\n(( $+functions[compdef] )) || compinit -u\nbashcompinit\n{_bash(parsers)}"


def _fish(parsers: _Parsers) -> str:
    lines = [_FISH.format(log="runs", uuid=_UUID, paths=" ".join(filter(None, parsers)))]
    for path, parser in parsers.items():
        lines += (f"complete -c esper -n '__esper_at \"{path}\"' {words}" for action in parser._actions for words in _fish_words(action))
    return "\n".join(lines)


def _fish_words(action: argparse.Action) -> Iterator[str]:
    """The conditions' rests: one for each command, choice or option of `action`."""
    if action.option_strings:
        names = " ".join(f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}" for option in action.option_strings)
        choices = f"-x -a {shlex.quote(' '.join(map(str, action.choices)))}" if action.choices is not None else "-x"
        value = "" if action.nargs == 0 else "-r -F" if action.metavar in (*_FILES, *_FOLDERS) else choices
        yield f"{names} {value} -d {_quoted(action.help)}".replace("  ", " ")
    elif isinstance(action, argparse._SubParsersAction):
        yield from (f"-a {choice.dest} -d {_quoted(choice.help)}" for choice in action._choices_actions)
    elif action.choices is not None:
        yield f"-a {shlex.quote(' '.join(map(str, action.choices)))}"
    elif action.metavar == "RUN":
        yield "-a '(__esper_runs)'"
    elif action.metavar == "TASK":
        yield f"-F -a {shlex.quote(' '.join(BUILT_IN_TASKS))}"
    elif action.metavar == "DIR":
        yield "-F"


def _quoted(text: str | None) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", " ".join((text or "").split())) + "'"


_SCRIPTS: Mapping[str, Callable[[_Parsers], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
