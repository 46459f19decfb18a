from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DTPMetadataItem(_message.Message):
    __slots__ = ("index", "size", "obid")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OBID_FIELD_NUMBER: _ClassVar[int]
    index: int
    size: int
    obid: int
    def __init__(self, index: _Optional[int] = ..., size: _Optional[int] = ..., obid: _Optional[int] = ...) -> None: ...

class DTPMetadata(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DTPMetadataItem]
    def __init__(self, items: _Optional[_Iterable[_Union[DTPMetadataItem, _Mapping]]] = ...) -> None: ...

class UploadMetadataItem(_message.Message):
    __slots__ = ("file_location", "dtp_server_address", "payload_id", "checksum")
    FILE_LOCATION_FIELD_NUMBER: _ClassVar[int]
    DTP_SERVER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    file_location: str
    dtp_server_address: int
    payload_id: int
    checksum: int
    def __init__(self, file_location: _Optional[str] = ..., dtp_server_address: _Optional[int] = ..., payload_id: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class UploadMetadata(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[UploadMetadataItem]
    def __init__(self, items: _Optional[_Iterable[_Union[UploadMetadataItem, _Mapping]]] = ...) -> None: ...
