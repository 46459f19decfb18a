"""Show the parameter table of a node to an engine as cells."""

from __future__ import annotations

from collections.abc import Callable

from csp.param.table import Parameter, ParamTable
from dish.cells import Cell, CellTable


def cells_of(table: ParamTable, observed: Callable[[Parameter], bool] | None = None) -> CellTable:
    """Return a lookup by name. `observed` tells whose stores must go through the owner.

    The default asks the parameters themselves, which is right in the process that owns the table.
    """
    is_observed = observed if observed is not None else lambda parameter: parameter.needs_owner

    def find(name: str) -> Cell | None:
        if name not in table:
            return None
        parameter = table[name]
        return Cell(
            id=parameter.id,
            name=name,
            type=parameter.spec.type,
            count=parameter.count,
            view=parameter.view,
            base=parameter.base,
            read_only=parameter.is_readonly,
            observed=is_observed(parameter),
        )

    return find
