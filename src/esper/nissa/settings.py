"""How Nissa serves: where, to whom, and how much."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from esper.errors import SettingsError

TOKEN_VARIABLE = "ESPER_NISSA_TOKEN"  # noqa: S105 - the name of a variable, not a secret.
SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class NissaSettings:
    """The table [nissa] of a settings file. The token itself is no setting: it is read from a file or the environment."""

    host: str = "127.0.0.1"
    """The address to listen at. Any but a loopback address asks for a token."""

    port: int = 9090
    """The port to listen at; Prometheus likes the same one."""

    token_file: Path | None = None
    """A file whose content is the bearer token; without it the environment variable ESPER_NISSA_TOKEN."""

    names: tuple[str, ...] = ()
    """Host names under which the service may be asked, besides localhost, the machine's own and every plain address."""

    collectors: tuple[str, ...] = ()
    """Collectors besides Esper's own, as module:attribute."""

    lag_limit_s: float = 10.0
    """Not ready when it is longer ago that everything on disk had been read."""

    body_limit_bytes: int = 1 << 20
    """The largest request body that is read."""

    tails: int = 64
    """Live tails at one time."""

    tail_records: int = 10_000
    """Records that a live tail may be behind before it goes on nearer to the end, and says so."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise SettingsError(f"setting nissa.port: expected 1 to 65535, got {self.port}")
        # Written so that NaN fails: every comparison with it is false.
        if not 0 < self.lag_limit_s < 86400:
            raise SettingsError(f"setting nissa.lag_limit_s: expected seconds above 0 and below a day, got {self.lag_limit_s}")
        for name in ("body_limit_bytes", "tails", "tail_records"):
            if getattr(self, name) < 1:
                raise SettingsError(f"setting nissa.{name}: expected at least 1, got {getattr(self, name)}")


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches. A name other than localhost is not taken for one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(token: str, where: str) -> str:
    """`token`, fit to be one. Raises SettingsError that names `where` it stands and never shows it."""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{where}: expected a token of at least {SHORTEST_TOKEN} printable ASCII characters without spaces")
    return token
