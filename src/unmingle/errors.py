"""The one exception that users see: a sentence that says what is wrong and what to do."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class UnmingleError(ValueError):
    """Raised for anything a user can mend: a bad file, an unknown model, an impossible option.

    Its text is one sentence; the command line prints it and exits with code 2. Line breaks and other control
    characters, which may come from names of files, are escaped.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(_CONTROL.sub(lambda found: repr(found[0])[1:-1], text))


def reason(error: OSError) -> str:
    """The system's reason, for an error text."""
    return (error.strerror or str(error)).lower()


def in_one_line(error: Exception) -> str:
    """The text of an unexpected error in one line; its type if it has no text."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
