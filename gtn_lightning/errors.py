"""The error that a user's own input causes, and what other errors say in one line."""


class RecipeError(ValueError):
    """A value given by the user cannot work.

    The message is one line that names the key or the file, says what was expected and what to do. The command line
    prints it without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the beginning of what an error says, or its type's name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__
