"""For `make docs`: a docstring's line before an example ends with two colons, the page's with one."""

import re
from typing import Any

import griffe


class OneColon(griffe.Extension):
    """Replace two colons at the end of a docstring's line by one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"::$", ":", obj.docstring.value, flags=re.MULTILINE)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the docstring of a package itself."""
        self.on_object(obj=pkg)
