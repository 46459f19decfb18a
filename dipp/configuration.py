"""Pushed configurations: what a write to a configuration parameter does.

Theory of operation: the slot is checked as a whole. If it is bad, the parameter gets its last
accepted value back, so that what ground reads and what is stored is what runs, and `log_status`
says why; so it is with a slot that nobody signed, if the node trusts keys. A good one is warmed up,
so that the next batch does not wait for it. A vmem upload over the storage area takes the same way.
Source: dipp.md 5 and 12, faults 54..60.
"""

from __future__ import annotations

from collections.abc import Callable

from csp.param.table import Parameter, ParamTable
from dipp.config.definition import PARAM_SLOT_COUNT, PIPELINE_COUNT
from dipp.errors import ContentError, status_word
from dipp.params import Telemetry, params_name, pipeline_name
from dipp.runner.values import Chain
from dipp.signedslot import SlotGate
from dipp.slots import ModuleMissingError, Slots


def _ignore(pipeline: int) -> None:
    """Do nothing: for a node without a policy."""


class Configuration:
    """Ties the configuration parameters of a table to the slots."""

    def __init__(
        self,
        table: ParamTable,
        slots: Slots,
        *,
        telemetry: Telemetry,
        log_status: Callable[[int], None],
        warm: Callable[[Chain], None],
        retire: Callable[[int], None] = _ignore,
        gate: SlotGate | None = None,
        on_change: Callable[[int], object] = _ignore,
    ) -> None:
        """Load what is stored; whatever of it is bad is reported and not configured.

        `retire` ends the hosts of a pipeline that is not configured any more. `on_change` hears of
        every pipeline that a pushed value concerns.
        """
        self._table = table
        self._slots = slots
        self._telemetry = telemetry
        self._log_status = log_status
        self._warm = warm
        self._retire = retire
        self._gate = gate or SlotGate(0)
        self._on_change = on_change
        self._accepted: dict[str, bytes] = {}
        for number in range(1, PARAM_SLOT_COUNT + 1):
            self._adopt(params_name(number), number, self._load_params, self._on_params)
        for number in range(1, PIPELINE_COUNT + 1):
            self._adopt(pipeline_name(number), number, slots.restore_pipeline, self._on_pipeline)

    def _load_params(self, number: int, value: bytes) -> None:
        self._slots.set_params(number, value)

    def _adopt(
        self,
        name: str,
        number: int,
        load: Callable[[int, bytes], None],
        on_write: Callable[[int, Parameter], None],
    ) -> None:
        parameter = self._table[name]
        value = _value(parameter)
        self._accepted[name] = value
        try:
            load(number, self._gate.recall(parameter.id, value))
        except ContentError as error:
            self._telemetry.count("config_rejects")
            self._log_status(status_word(error.code))
        self._table.on_write(name, lambda written, _: on_write(number, written))

    def _on_params(self, number: int, parameter: Parameter) -> None:
        try:
            users = self._slots.set_params(number, self._admitted(parameter))
        except ContentError as error:
            self._reject(parameter, status_word(error.code))
            return
        self._accepted[parameter.name] = _value(parameter)
        for pipeline in users:
            self._on_change(pipeline)
            self.warm(pipeline)

    def _on_pipeline(self, number: int, parameter: Parameter) -> None:
        try:
            self._slots.set_pipeline(number, self._admitted(parameter))
        except ModuleMissingError as error:
            self._reject(parameter, status_word(error.code, number, error.module))
            return
        except ContentError as error:
            self._reject(parameter, status_word(error.code))
            return
        self._accepted[parameter.name] = _value(parameter)
        self._on_change(number)
        if number in self._slots.configured:
            self.warm(number)
        else:
            self._retire(number)

    def _admitted(self, parameter: Parameter) -> bytes:
        return self._gate.admit(parameter.id, _value(parameter))

    def _reject(self, parameter: Parameter, status: int) -> None:
        self._telemetry.count("config_rejects")
        self._log_status(status)
        parameter.set(self._accepted[parameter.name])

    def modules_changed(self, file_name: str) -> None:
        """Load every pipeline anew: a module or model was installed, rolled back or removed.

        A running batch ends on what it began with. Source: dipp.md 12 (the intended rule), D12.
        """
        del file_name  # a model may be used by any module, so all chains count as changed
        for pipeline in self._slots.configured:
            self._slots.forget(pipeline)
            self.warm(pipeline)

    def warm(self, pipeline: int) -> None:
        """Prepare the host of a pipeline, if its chain can be made."""
        try:
            self._warm(self._slots.chain(pipeline))
        except ContentError:
            # Not configured, or a module went missing: the next batch reports that.
            return


def _value(parameter: Parameter) -> bytes:
    value = parameter.get()
    return value if isinstance(value, bytes) else b""
