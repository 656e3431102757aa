"""What the user, or the work, did not bear."""


class InputError(ValueError):
    """Something given by the user is wrong; the message is one clear line (the command exits with
    status 2)."""


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite, ...); the message says which and where."""
