"""The error for mistakes that a user can fix, and messages that show no password."""

import re

# RFC 3986 ends the user information at the first /, ? or #; SQLAlchemy allows these in a password.
_USER = re.compile(r"(?<=://)(?:[^/?#\s]*|[^:/@\s]*:[^@\s]*)@")
_SECRET = re.compile(r"([?&][^=&\s]*(?:pass|pwd|secret|token|key|sig)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text with `***` in place of the user information and the secret query parameters of every address in it.

    >>> redacted("http://user:password@host/data does not answer")
    'http://***@host/data does not answer'
    """
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


class UserError(Exception):
    """A mistake that the user can fix. The message names what is wrong and ends with what to do; it is redacted.

    A stage prints the message without a traceback and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
