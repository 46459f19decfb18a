"""Find the power model of a spacecraft by name, so that this package needs to know none of them.

The launcher names a factory as `package.module:function`; it is called with the options of the
command line, a mapping of text to text, and returns a `PowerModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from dish.errors import MisuseError
from dish.power.figures import PowerModel


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Split `KEY=VALUE` words. Raises MisuseError for one without `=`."""
    for word in words:
        if "=" not in word:
            raise MisuseError(f"{word!r} is not KEY=VALUE")
    return dict(word.split("=", 1) for word in words)


def load_model(name: str, options: Mapping[str, str]) -> PowerModel:
    """Import and call a factory. Raises MisuseError if there is none of that name."""
    module_name, colon, attribute = name.partition(":")
    try:
        factory: Callable[[Mapping[str, str]], PowerModel] = getattr(
            import_module(module_name), attribute
        )
    except (ImportError, AttributeError, ValueError) as error:
        raise MisuseError(f"no power model {name!r}: {error}") from None
    if not colon:
        raise MisuseError(f"power model {name!r} is not MODULE:FACTORY")
    return factory(options)
