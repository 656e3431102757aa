"""benchmarks: plans and runs many pretrainings and transfers."""


class InputError(ValueError):
    """Something given by the user is wrong; the message is one clear line (the command exits with status 2)."""
