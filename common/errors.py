"""Errors whose message is for the user: one clear line."""


class InputError(ValueError):
    """Something given by the user is wrong; the message is one clear line (the command exits with
    status 2), whatever names it holds: control characters are escaped."""

    def __init__(self, message: object = ""):
        super().__init__(_one_line(str(message)))


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite, ...); the message says which and where."""


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else ascii(letter)[1:-1]
        for letter in text
    )
