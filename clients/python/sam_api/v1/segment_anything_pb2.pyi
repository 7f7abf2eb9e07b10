from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TensorType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENSOR_TYPE_UNSPECIFIED: _ClassVar[TensorType]
    TENSOR_TYPE_FLOAT16: _ClassVar[TensorType]
    TENSOR_TYPE_FLOAT32: _ClassVar[TensorType]

class PointLabel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POINT_LABEL_UNSPECIFIED: _ClassVar[PointLabel]
    POINT_LABEL_POSITIVE: _ClassVar[PointLabel]
    POINT_LABEL_NEGATIVE: _ClassVar[PointLabel]

class MaskEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_ENCODING_UNSPECIFIED: _ClassVar[MaskEncoding]
    MASK_ENCODING_RUN_LENGTHS: _ClassVar[MaskEncoding]
    MASK_ENCODING_COCO_RLE: _ClassVar[MaskEncoding]
    MASK_ENCODING_PACKED_BITS: _ClassVar[MaskEncoding]
    MASK_ENCODING_PNG: _ClassVar[MaskEncoding]
TENSOR_TYPE_UNSPECIFIED: TensorType
TENSOR_TYPE_FLOAT16: TensorType
TENSOR_TYPE_FLOAT32: TensorType
POINT_LABEL_UNSPECIFIED: PointLabel
POINT_LABEL_POSITIVE: PointLabel
POINT_LABEL_NEGATIVE: PointLabel
MASK_ENCODING_UNSPECIFIED: MaskEncoding
MASK_ENCODING_RUN_LENGTHS: MaskEncoding
MASK_ENCODING_COCO_RLE: MaskEncoding
MASK_ENCODING_PACKED_BITS: MaskEncoding
MASK_ENCODING_PNG: MaskEncoding

class EmbedRequest(_message.Message):
    __slots__ = ("image", "model", "return_embedding")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RETURN_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    return_embedding: bool
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., return_embedding: bool = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("image_id", "width", "height", "model", "cached", "timings", "embedding")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    width: int
    height: int
    model: str
    cached: bool
    timings: EmbedTimings
    embedding: Embedding
    def __init__(self, image_id: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., model: _Optional[str] = ..., cached: bool = ..., timings: _Optional[_Union[EmbedTimings, _Mapping]] = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ...) -> None: ...

class EmbedTimings(_message.Message):
    __slots__ = ("queue_ms", "image_decode_ms", "preprocess_ms", "encoder_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    image_decode_ms: float
    preprocess_ms: float
    encoder_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., image_decode_ms: _Optional[float] = ..., preprocess_ms: _Optional[float] = ..., encoder_ms: _Optional[float] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("model", "width", "height", "tensors")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    model: str
    width: int
    height: int
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, model: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "shape", "type", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    type: TensorType
    data: bytes
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., type: _Optional[_Union[TensorType, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("image_id", "image", "embedding", "model", "prompts", "multimask_output", "mask_encoding", "return_low_res_logits")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MULTIMASK_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MASK_ENCODING_FIELD_NUMBER: _ClassVar[int]
    RETURN_LOW_RES_LOGITS_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    image: bytes
    embedding: Embedding
    model: str
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    multimask_output: bool
    mask_encoding: MaskEncoding
    return_low_res_logits: bool
    def __init__(self, image_id: _Optional[str] = ..., image: _Optional[bytes] = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ..., model: _Optional[str] = ..., prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., multimask_output: bool = ..., mask_encoding: _Optional[_Union[MaskEncoding, str]] = ..., return_low_res_logits: bool = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("points", "box", "mask_input")
    POINTS_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MASK_INPUT_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[Point]
    box: Box
    mask_input: Tensor
    def __init__(self, points: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., mask_input: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y", "label")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    label: PointLabel
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., label: _Optional[_Union[PointLabel, str]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x_min", "y_min", "x_max", "y_max")
    X_MIN_FIELD_NUMBER: _ClassVar[int]
    Y_MIN_FIELD_NUMBER: _ClassVar[int]
    X_MAX_FIELD_NUMBER: _ClassVar[int]
    Y_MAX_FIELD_NUMBER: _ClassVar[int]
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    def __init__(self, x_min: _Optional[float] = ..., y_min: _Optional[float] = ..., x_max: _Optional[float] = ..., y_max: _Optional[float] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("prompt_index", "mask_index", "mask", "predicted_iou", "stability_score", "area_pixels", "box", "low_res_logits", "image_id", "timings")
    PROMPT_INDEX_FIELD_NUMBER: _ClassVar[int]
    MASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_IOU_FIELD_NUMBER: _ClassVar[int]
    STABILITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    AREA_PIXELS_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    LOW_RES_LOGITS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    prompt_index: int
    mask_index: int
    mask: Mask
    predicted_iou: float
    stability_score: float
    area_pixels: int
    box: Box
    low_res_logits: Tensor
    image_id: str
    timings: DecodeTimings
    def __init__(self, prompt_index: _Optional[int] = ..., mask_index: _Optional[int] = ..., mask: _Optional[_Union[Mask, _Mapping]] = ..., predicted_iou: _Optional[float] = ..., stability_score: _Optional[float] = ..., area_pixels: _Optional[int] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., low_res_logits: _Optional[_Union[Tensor, _Mapping]] = ..., image_id: _Optional[str] = ..., timings: _Optional[_Union[DecodeTimings, _Mapping]] = ...) -> None: ...

class DecodeTimings(_message.Message):
    __slots__ = ("queue_ms", "decoder_ms", "postprocess_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODER_MS_FIELD_NUMBER: _ClassVar[int]
    POSTPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    decoder_ms: float
    postprocess_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., decoder_ms: _Optional[float] = ..., postprocess_ms: _Optional[float] = ...) -> None: ...

class Mask(_message.Message):
    __slots__ = ("width", "height", "run_lengths", "coco_rle", "packed_bits", "png")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    RUN_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    COCO_RLE_FIELD_NUMBER: _ClassVar[int]
    PACKED_BITS_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    run_lengths: RunLengths
    coco_rle: bytes
    packed_bits: bytes
    png: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., run_lengths: _Optional[_Union[RunLengths, _Mapping]] = ..., coco_rle: _Optional[bytes] = ..., packed_bits: _Optional[bytes] = ..., png: _Optional[bytes] = ...) -> None: ...

class RunLengths(_message.Message):
    __slots__ = ("counts",)
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, counts: _Optional[_Iterable[int]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "default_model", "limits")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    default_model: str
    limits: Limits
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., default_model: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "title", "licence", "engine", "device", "precision", "input_size", "mask_size", "embedding_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIZE_FIELD_NUMBER: _ClassVar[int]
    MASK_SIZE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    licence: str
    engine: str
    device: str
    precision: str
    input_size: int
    mask_size: int
    embedding_bytes: int
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., licence: _Optional[str] = ..., engine: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., input_size: _Optional[int] = ..., mask_size: _Optional[int] = ..., embedding_bytes: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_image_pixels", "max_prompts", "max_points")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_image_pixels: int
    max_prompts: int
    max_points: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_prompts: _Optional[int] = ..., max_points: _Optional[int] = ...) -> None: ...
