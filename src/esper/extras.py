"""Libraries that a part of Esper needs, and the extra of the distribution that installs them."""

from importlib.util import find_spec

from esper.errors import SettingsError


def require_installed(what: str, extra: str, *libraries: str) -> None:
    """Raises SettingsError where `what` lacks one of `libraries`, saying how they are installed."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{what} needs {', '.join(missing)}: pip install 'esper-training[{extra}]'")
