"""Small pure functions on values and texts."""


def shown(text: str, longest: int = 80) -> str:
    """Text out of a file as it can be printed: no control characters, one line, not endless."""
    plain = text if text.isprintable() else ascii(text)[1:-1]
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."
