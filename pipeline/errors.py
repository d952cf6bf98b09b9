"""The error for mistakes that a user can fix."""


class UserError(Exception):
    """A mistake that the user can fix. The message names what is wrong and ends with what to do.

    A stage prints the message without a traceback and exits with `exit_code`.
    """

    exit_code = 1
