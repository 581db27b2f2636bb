"""The protobuf types of the wire, built from the table below in a descriptor pool of their own, so that they live in
one process with the classes that the tinker package generates of the same schema."""

from __future__ import annotations

from functools import cache
from typing import Any

from tinsmith.domain.errors import MissingExtraError

PACKAGE = "tinker_public"

ENUMS = {
    "StopReason": ("STOP_REASON_STOP", "STOP_REASON_LENGTH"),
    "DType": ("DTYPE_UNSPECIFIED", "DTYPE_FLOAT32", "DTYPE_INT64", "DTYPE_INT32", "DTYPE_BFLOAT16"),
}

MESSAGES = {
    "ForwardBackwardRequest": (
        "model_id=1 string; seq_id=2 int32; data=3 repeated Datum; loss_fn=4 string; "
        "loss_fn_config=5 map double; forward_only=6 bool; loss_fn_config_v2=7 map LossConfigValue"
    ),
    "LossConfigValue": "number=1 oneof double; text=2 oneof string",
    "Datum": (
        "model_input=1 repeated Chunk; loss_fn_inputs=2 map Tensor; model_input_spans=3 repeated ProvenanceSpan; "
        "loss_fn_input_spans=4 repeated ProvenanceSpan"
    ),
    "ProvenanceSpan": "",  # where tokens came from: taken and not read
    "Chunk": "encoded_text=1 oneof EncodedTextChunk; image=2 oneof ImageChunk; dmel=3 oneof DmelChunk",
    "EncodedTextChunk": "tokens=1 bytes",
    "ImageChunk": "data=1 bytes; format=2 string; expected_tokens=3 int32",
    "DmelChunk": "dmel=1 bytes",
    "Tensor": "dense=1 oneof bytes; sparse_csr=2 oneof SparseCsr; dtype=3 DType; shape=4 repeated int64",
    "SparseCsr": "values=1 bytes; crow_indices=2 bytes; col_indices=3 bytes",
    "ForwardBackwardOutput": (
        "loss_fn_output_type=1 string; loss_fn_outputs=2 repeated ArrayRecord; metrics=3 map double"
    ),
    "ArrayRecord": "type_tag=1 string; fields=2 map BatchedTensor; num_datums=3 int64",
    "BatchedTensor": "data=1 bytes; offsets=2 bytes; dtype=3 DType; trailing_shape=4 repeated int64",
    "SampleResponse": (
        "sequences=1 repeated SampledSequence; prompt_logprobs=2 bytes; topk_prompt_logprobs=3 TopkLogprobs; "
        "prompt_cache_hit_tokens=4 int32; target_prompt_logprobs=5 Tensor; prompt_alt_tokens=6 PromptAltTokens"
    ),
    "SampledSequence": (
        "stop_reason=1 StopReason; tokens=2 bytes; logprobs=3 bytes; topk_sampled_logprobs=4 TopkLogprobs"
    ),
    "TopkLogprobs": "token_ids=1 bytes; logprobs=2 bytes; k=3 uint32; length=4 uint32",
    "PromptAltTokens": "tokens=1 Tensor; logprobs=2 Tensor",
}
"""name=number [repeated | map (from string) | oneof] type. Facts of the public schema of the tinker package."""


class Types:
    """The message classes, by name."""

    def __init__(self, classes: dict[str, Any]) -> None:
        self.__dict__.update(classes)

    def __getattr__(self, name: str) -> Any:  # for type checkers; what exists is found without it
        raise AttributeError(name)


@cache
def types() -> Types:
    """Raises MissingExtraError without protobuf."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise MissingExtraError("protobuf", "serve") from None

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tinsmith/tinker_public.proto", package=PACKAGE, syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)

    def typed(field: Any, kind: str) -> None:
        if kind in ENUMS or kind in MESSAGES:
            field.type = field_type.TYPE_ENUM if kind in ENUMS else field_type.TYPE_MESSAGE
            field.type_name = f".{PACKAGE}.{kind}"
        else:
            field.type = getattr(field_type, f"TYPE_{kind.upper()}")

    for name, text in MESSAGES.items():
        message = file.message_type.add(name=name)
        for entry in filter(None, text.split("; ")):
            head, *words = entry.split(" ")
            field_name, _, tag = head.partition("=")
            field = message.field.add(name=field_name, number=int(tag), label=field_type.LABEL_OPTIONAL)
            if words[0] == "map":
                pair = message.nested_type.add(name="".join(w.title() for w in field_name.split("_")) + "Entry")
                pair.options.map_entry = True
                pair.field.add(name="key", number=1, type=field_type.TYPE_STRING, label=field_type.LABEL_OPTIONAL)
                typed(pair.field.add(name="value", number=2, label=field_type.LABEL_OPTIONAL), words[1])
                field.label, field.type = field_type.LABEL_REPEATED, field_type.TYPE_MESSAGE
                field.type_name = f".{PACKAGE}.{name}.{pair.name}"
                continue
            if words[0] == "repeated":
                field.label = field_type.LABEL_REPEATED
            elif words[0] == "oneof":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="kind")
                field.oneof_index = 0
            typed(field, words[-1])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    find = pool.FindMessageTypeByName
    return Types({name: message_factory.GetMessageClass(find(f"{PACKAGE}.{name}")) for name in MESSAGES})
