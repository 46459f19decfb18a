from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_UNSET: _ClassVar[Fallback]
    FALLBACK_PREVIOUS: _ClassVar[Fallback]
    FALLBACK_IDENTITY: _ClassVar[Fallback]
    FALLBACK_SKIP: _ClassVar[Fallback]
    FALLBACK_NONE: _ClassVar[Fallback]
FALLBACK_UNSET: Fallback
FALLBACK_PREVIOUS: Fallback
FALLBACK_IDENTITY: Fallback
FALLBACK_SKIP: Fallback
FALLBACK_NONE: Fallback

class ModuleDefinition(_message.Message):
    __slots__ = ("order", "name", "param_id", "fallback")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAM_ID_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    order: int
    name: str
    param_id: int
    fallback: Fallback
    def __init__(self, order: _Optional[int] = ..., name: _Optional[str] = ..., param_id: _Optional[int] = ..., fallback: _Optional[_Union[Fallback, str]] = ...) -> None: ...

class PipelineDefinition(_message.Message):
    __slots__ = ("modules",)
    MODULES_FIELD_NUMBER: _ClassVar[int]
    modules: _containers.RepeatedCompositeFieldContainer[ModuleDefinition]
    def __init__(self, modules: _Optional[_Iterable[_Union[ModuleDefinition, _Mapping]]] = ...) -> None: ...
