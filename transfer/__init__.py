"""transfer: puts one backbone file through one detection protocol."""


class InputError(ValueError):
    """Something given by the user is wrong; the message is one clear line (the command exits with status 2)."""
