"""How interactive shells are started: the prompt that names the exporter, and completion of `j` and `jmp`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

# In the form of bash prompts, whose marks around them say that they take no room.
ANSI_GRAY = "\\[\\e[90m\\]"
ANSI_YELLOW = "\\[\\e[93m\\]"
ANSI_WHITE = "\\[\\e[97m\\]"
ANSI_RESET = "\\[\\e[0m\\]"
PROMPT_CWD = "\\W"

# Shells without start-up files would complete nothing. Each asks for the script at its first prompt, which costs the
# start of a program, so that neither a program nor a shell without `jmp` pays for it.
_BASH_COMPLETION = 'unset PROMPT_COMMAND; eval "$(jmp completion bash 2>/dev/null)"'
_FISH_COMPLETION = "jmp completion fish 2>/dev/null | source"
_ZSH_START = """\
PROMPT="$JMP_ZSH_PROMPT"
[ -n "$JMP_ZSH_OUTER" ] && ZDOTDIR=$JMP_ZSH_OUTER || unset ZDOTDIR
unset JMP_ZSH_PROMPT JMP_ZSH_OUTER
autoload -Uz compinit && compinit -D -u && eval "$(jmp completion zsh 2>/dev/null)"
"""


@contextmanager
def interactive_shell(
    shell: str, context: str, use_profiles: bool
) -> Generator[tuple[list[str], dict[str, str]], None, None]:
    """Yield how to start an interactive shell, and what it needs in its environment, which lasts for the body.

    Args:
        shell: path or command line of a shell.
        context: shown in the prompt.
        use_profiles: let it read the start-up files of the user, which bring their own completion, if any.
    """
    # Shells expand prompts, and the context is a name that the controller gave.
    name = re.sub(r"[^\w.@:+/-]", "?", context, flags=re.ASCII)
    arguments = shlex.split(shell) if not os.path.exists(shell) else [shell]
    kind = os.path.basename(arguments[0])
    if kind.endswith("bash"):
        prompt = f"{ANSI_GRAY}{PROMPT_CWD} {ANSI_YELLOW}⚡{ANSI_WHITE}{name} {ANSI_YELLOW}➤{ANSI_RESET} "
        if use_profiles:
            yield arguments, {"PS1": prompt}
        else:
            yield [*arguments, "--norc", "--noprofile"], {"PS1": prompt, "PROMPT_COMMAND": _BASH_COMPLETION}
    elif kind.endswith("zsh"):
        prompt = f"%F{{8}}%1~ %F{{yellow}}⚡%F{{white}}{name} %F{{yellow}}➤%f "
        if use_profiles:
            yield arguments, {"PS1": prompt}
        else:
            with _zsh_start() as folder:
                outer = os.environ.get("ZDOTDIR", "")
                yield (
                    [*arguments, "--no-globalrcs"],
                    {"ZDOTDIR": folder, "JMP_ZSH_PROMPT": prompt, "JMP_ZSH_OUTER": outer},
                )
    elif kind.endswith("fish"):
        function = (
            "function fish_prompt; "
            "set_color grey; printf '%s' (basename $PWD); "
            f"set_color yellow; printf ' ⚡'; set_color white; printf '%s' '{name}'; "
            "set_color yellow; printf ' ➤ '; set_color normal; end"
        )
        if use_profiles:
            yield [*arguments, "--init-command", function], {}
        else:
            yield [*arguments, "--no-config", "--init-command", f"{function}; {_FISH_COMPLETION}"], {}
    else:
        yield arguments, {"PS1": f"⚡{name} ➤ "}


@contextmanager
def _zsh_start() -> Generator[str, None, None]:
    """Yield a folder with a start-up file, which zsh reads in place of the user's."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="jumpstarter-zsh-") as folder:
        Path(folder, ".zshrc").write_text(_ZSH_START)
        yield folder
