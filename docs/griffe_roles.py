"""Shows reStructuredText roles in docstrings (``:class:`Stft```) as Markdown code (`Stft`) on the docs site."""

import re

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|meth|attr|data|mod):`~?([^`]+)`")


class Roles(Extension):
    """Rewrites the docstring of every object."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
