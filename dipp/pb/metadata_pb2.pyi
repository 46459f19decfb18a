from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MetadataItem(_message.Message):
    __slots__ = ("key", "bool_value", "int_value", "float_value", "string_value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    bool_value: bool
    int_value: int
    float_value: float
    string_value: str
    def __init__(self, key: _Optional[str] = ..., bool_value: bool = ..., int_value: _Optional[int] = ..., float_value: _Optional[float] = ..., string_value: _Optional[str] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("size", "height", "width", "channels", "timestamp", "bits_pixel", "obid", "camera", "items", "padding")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    BITS_PIXEL_FIELD_NUMBER: _ClassVar[int]
    OBID_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    size: int
    height: int
    width: int
    channels: int
    timestamp: int
    bits_pixel: int
    obid: int
    camera: str
    items: _containers.RepeatedCompositeFieldContainer[MetadataItem]
    padding: bytes
    def __init__(self, size: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ..., timestamp: _Optional[int] = ..., bits_pixel: _Optional[int] = ..., obid: _Optional[int] = ..., camera: _Optional[str] = ..., items: _Optional[_Iterable[_Union[MetadataItem, _Mapping]]] = ..., padding: _Optional[bytes] = ...) -> None: ...
