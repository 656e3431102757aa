"""Messages to users are one line, whatever names they contain."""

import pickle

from detco.common.errors import InputError
from detco.transfer.data.inspection import Unreadable


def test_control_characters_of_names_are_escaped():
    assert str(InputError("a\nb\tc: é 図 x")) == "a b c: é 図 x"
    assert str(InputError("\x1b[31m\0\udcff\u202e")) == r"\x1b[31m\x00\udcff\u202e"
    error = InputError("no\nsuch")
    assert str(pickle.loads(pickle.dumps(error))) == "no such"
    assert str(Unreadable("a\nb", "a\nb")) == "a b" and Unreadable("x", "a\nb").path == "a\nb"
