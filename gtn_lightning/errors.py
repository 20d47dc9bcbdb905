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


def one_line(error: BaseException) -> str:
    """Return an error's message as one line; that of a file names the file."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and not isinstance(error, RecipeError):
        name = error.filename or "a file of the run"
        return f"{name}: {error.strerror or message}; see that it can be read or written, or choose another path"
    return message
