"""The errors of a config."""


class ConfigError(ValueError):
    """A config file, a key or a value is not valid. The message is one line.

    Commands end with exit status 2, as for an option that is not valid.
    """


class UnknownKeyError(ConfigError, KeyError):
    """A config has no such key."""

    def __str__(self) -> str:
        # KeyError's own would add quotes
        return str(self.args[0])
