"""Secrets in what is about to be written, replaced by `***`: nothing in a chained log can be taken back.

A secret is known by the name before it (`--token X`, `API_KEY=X`, a quoted value after such a name), by its place in a URL, or by the shape
that its issuer gives it. One that has none of these is not known: leave the text out then (`record_argv=False`, `record_source=False`). In
doubt a value is masked. Pure, and without torch.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from pydantic import JsonValue

MASK = "***"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = _words("password passwd passphrase passcode pwd secret token credential authorization bearer auth cookie otp")
_SECRET_ENDS = (
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "secretkey",
    "accesskey",
    "accountkey",
    "privatekey",
    "accesstoken",
    "authtoken",
)
# `key` alone is a column, a sort order, a random generator's; so is `token` of a vocabulary.
_SECRET_KEYS = _words(
    "access account admin api app auth aws azure client comet deploy encryption gcp hmac license master neptune "
    "openai private secret service session shared signing ssh storage subscription wandb"
)
_TOKENS_OF_TEXT = _words(
    "bos by class cls end eos first image last mask max min n new next num pad per prefix prompt register sep "
    "special start stop suffix unk word"
)
_ASKING = _words("allow ask no prompt require skip without")
_NOTHING = frozenset({"", "0", "1", "true", "false", "none", "null", "yes", "no", MASK})

# Prefixes that issuers document, and the lengths that follow them. docs/training.md lists the issuers.
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:"
    r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}|gl(?:pat|ptt|dt|rt)-[A-Za-z0-9_-]{16,}"
    r"|hf_[A-Za-z0-9]{24,}|sk-[A-Za-z0-9_-]{20,}|[rsp]k_(?:live|test)_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|AIza[0-9A-Za-z_-]{30,}|ya29\.[0-9A-Za-z_-]{20,}|xox[abeprs]-[0-9A-Za-z-]{10,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{40,}"
    r"|dckr_pat_[A-Za-z0-9_-]{20,}|dop_v1_[0-9a-f]{40,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|AGE-SECRET-KEY-[0-9A-Z]{40,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*|\d{8,10}:AA[A-Za-z0-9_-]{30,}"
    r"|(?<=hooks\.slack\.com/services/)[A-Za-z0-9/_-]+|(?<=discord\.com/api/webhooks/)[A-Za-z0-9/_-]+"
    r")"
)
_SCHEME = re.compile(r"\b(Bearer|Basic|Token)(\s+)(?=\S{0,255}\d)[A-Za-z0-9._~+/=-]{8,}")
_USERINFO = re.compile(r"(?<=://)([^\s/?#@:'\"]{0,255})(:?)([^\s/?#'\"]{0,255}?)@(?=[^\s@/]{0,255}(?:[/\s'\"?#]|\Z))")
_LONG_USER = 16
_NAME = r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,99})"
_QUOTED = re.compile(
    _NAME + r"(?P<sep>[\"']?\]?(?:\s*:\s*[\w.\[\], |]{1,40}?)??\s*[=:]\s*[rbfuRBFU]{0,2})(?P<value>\"[^\"\n]*\"|'[^'\n]*')"
)
_PLAIN = re.compile(_NAME + r"(?P<sep>=)(?P<value>[^\s,;&\"'<>(){}\[\]]+)")
_HEADER = re.compile(_NAME + r"(?P<sep>:[ \t]*)(?P<value>(?=[^\s,]{0,255}\d)[^\s,\"'{}\[\]]{6,255})")
_LINE = re.compile(r"^(?P<head>[+ -]?[ \t]*(?:- )?)" + _NAME + r"(?P<sep>[ \t]*[:=][ \t]*)(?P<value>\S+)[ \t]*$", re.MULTILINE)
_OPTION = re.compile(r"-{1,2}[A-Za-z]")
_ASSIGNED = re.compile(r"(?P<name>[-+~]*[A-Za-z_][\w./-]*)=(?P<value>.+)", re.DOTALL)
_IN_QUERY = frozenset({"sig", "signature", "code"})


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """True where a value of this name is taken for a secret: `hf_token`, `apiKey`, `DB_PASSWORD`; not `pad_token`, `max_tokens`, `key`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[0] in _ASKING:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in ("key", "keys"):
        return before in _SECRET_KEYS
    if last == "token":
        return before not in _TOKENS_OF_TEXT
    return last in _SECRET_WORDS or (last != "tokens" and last.removesuffix("s") in _SECRET_WORDS) or last.endswith(_SECRET_ENDS)


def mask_arguments(arguments: Iterable[str]) -> tuple[str, ...]:
    """The command line with its secrets masked: the value after a secret option, and what `mask_text` knows in each argument."""
    return tuple(_masked_arguments(arguments))


def _masked_arguments(arguments: Iterable[str]) -> Iterator[str]:
    secret = several = False
    for argument in arguments:
        option = _OPTION.match(argument) is not None
        # A value may begin with a dash: what is neither a long option nor one letter is taken for one.
        if secret and (not option or (not argument.startswith("--") and len(argument) > 2)):
            yield argument if argument.lower() in _NOTHING else MASK
            secret = several
            continue
        secret = option and is_secret_name(argument)
        several = secret and argument.endswith("s")
        assigned = _ASSIGNED.fullmatch(argument)
        if assigned is not None and is_secret_name(assigned["name"]) and assigned["value"].lower() not in _NOTHING:
            yield f"{assigned['name']}={MASK}"
        else:
            yield mask_text(argument)


def mask_text(text: str, *, code: bool = False) -> str:
    """`text` with its secrets masked. In `code` a value counts only where it is quoted: anything else is a name for one."""
    text = _SHAPES.sub(MASK, text)
    text = _SCHEME.sub(rf"\1\2{MASK}", text)
    text = _USERINFO.sub(_without_password, text)
    text = _QUOTED.sub(_quoted, text)
    if code:
        return text
    return _LINE.sub(_assigned, _HEADER.sub(_assigned, _PLAIN.sub(_assigned, text)))


def mask_values(value: JsonValue, name: str = "") -> JsonValue:
    """`value` with its secrets masked: texts, and every text or number under a name that is a secret's."""
    if isinstance(value, Mapping):
        return {key: mask_values(inner, name if is_secret_name(name) else key) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [mask_values(inner, name) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if is_secret_name(name):
        return value if str(value).lower() in _NOTHING else MASK
    return mask_text(value) if isinstance(value, str) else value


def _without_password(found: re.Match[str]) -> str:
    user, colon, password = found.groups()
    if colon:
        return f"{user}:{MASK if password else ''}@"
    return f"{MASK if len(user) >= _LONG_USER else user}@"


def _quoted(found: re.Match[str]) -> str:
    quote, value = found["value"][0], found["value"][1:-1]
    if not is_secret_name(found["name"]) or value.lower() in _NOTHING:
        return found[0]
    return f"{found['name']}{found['sep']}{quote}{MASK}{quote}"


def _assigned(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if value.lower() in _NOTHING or not (is_secret_name(name) or (name.lower() in _IN_QUERY and len(value) >= _LONG_USER)):
        return found[0]
    return f"{found.groupdict().get('head', '')}{name}{found['sep']}{MASK}"
