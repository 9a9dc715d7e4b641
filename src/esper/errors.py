"""The errors Esper raises, by what the caller can do about them."""


class EsperError(Exception):
    """A fault that Esper can explain: its message has what was expected, what it got, and where."""


class RuleError(EsperError):
    """The caller broke a rule of the interface: fix the calling code."""


class UnknownRunError(RuleError):
    """No run has the id that was asked for, or an id that begins or ends with it."""


class AmbiguousRunError(RuleError):
    """Several runs have ids that begin or end with what was asked for."""


class DataError(EsperError):
    """Bytes or values are not what they must be: damaged, malformed, unknown or out of range."""


class LogError(EsperError):
    """The log cannot be written, opened or trusted; what it acknowledged before stays readable."""


class SettingsError(EsperError):
    """A setting is unknown, malformed or impossible: fix the settings and start again."""


class LimitError(RuleError):
    """A query came to a limit of time, memory or size: ask for less, or raise the limit."""
