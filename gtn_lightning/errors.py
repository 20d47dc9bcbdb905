"""The exception for invalid input of the user, and one-line messages of other exceptions."""


class RecipeError(ValueError):
    """A value of the user is invalid.

    The message is one line that names the key or the file, what was expected and what to do. The command line prints
    it without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the beginning of an error's message, or its type's name if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return an error's message as one line; for an `OSError`, with the file's name."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and not isinstance(error, RecipeError):
        name = error.filename or "a file of the run"
        return f"{name}: {error.strerror or message}: check that it can be read or written, or choose another path"
    return message
