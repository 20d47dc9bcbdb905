"""The error that a user's own input causes."""


class RecipeError(ValueError):
    """A value given by the user cannot work.

    The message is one line that names the key or the file, says what was expected and what to do. The command line
    prints it without a traceback and exits with code 2.
    """
