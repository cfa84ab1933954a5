"""The one exception that means: what was given cannot be used, and here is what would be."""


class InputError(ValueError):
    """Bad input, said in one sentence that names what was wrong and what would be right.

    The command line prints that sentence without a traceback and exits with status 2.
    """
