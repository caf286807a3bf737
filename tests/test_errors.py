"""The exception tree is the one that its docstring draws."""

from __future__ import annotations

import re

import pytest

from emoclim_cli import errors
from emoclim_cli.errors import EmoclimError

CLASSES = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, EmoclimError)]


def test_the_tree_is_the_one_that_is_drawn() -> None:
    drawn: dict[str, tuple[str, int]] = {}
    parents = {0: "Exception"}
    exit_codes = {"Exception": 1}
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        if found := re.match(r"    ((?:[| ] {3})*)([|`]-- )?([A-Z]\w+)(?: +(?:exit code )?(\d)\b)?", line):
            indent, branch, name, code = found.groups()
            depth = len(indent) // 4 + bool(branch)
            exit_codes[name] = int(code or exit_codes[parents[depth]])
            drawn[name] = (parents[depth], exit_codes[name])
            parents[depth + 1] = name
    assert drawn == {c.__name__: (c.__mro__[1].__name__, c.exit_code) for c in CLASSES}


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_carries_a_message_and_a_hint(error: type[EmoclimError]) -> None:
    bare, hinted = error("it broke"), error("it broke", "mend it")
    assert (bare.message, bare.hint, str(bare)) == ("it broke", "", "it broke")
    assert (hinted.message, hinted.hint, str(hinted)) == ("it broke", "mend it", "it broke")
