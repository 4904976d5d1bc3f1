"""The one exception that users see: a sentence that says what is wrong and what to do."""


class UnmingleError(ValueError):
    """Raised for anything a user can mend: a bad file, an unknown model, an impossible option.

    Its text is one sentence; the command line prints it and exits with code 2.
    """
