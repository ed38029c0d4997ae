"""Errors of the user in options and configs."""


class UsageError(ValueError):
    """An option or argument is not valid, or does not fit the model. The message is one line.

    Commands end with exit status 2, as argparse does.
    """


class ConfigError(UsageError):
    """A config file, a key or a value is not valid."""


class ImportsError(ConfigError, ImportError):
    """`IMPORTS` names a module that does not exist."""


class UnknownKeyError(ConfigError, KeyError):
    """A config has no such key."""

    def __str__(self) -> str:
        # KeyError's own would add quotes
        return str(self.args[0])
