"""From arguments to messages. Every argument has the contract's name and default; None and a
missing one mean the same: what the server does by itself."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from typing_extensions import TypedDict

from .v1 import common_pb2, embed_pb2, generate_pb2, rank_pb2, tokenize_pb2

Prompt: TypeAlias = "str | Sequence[int]"
"""A text, or the ids of tokens."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; a mapping with these two keys does as well."""

    role: str
    content: str


Pooling: TypeAlias = Literal["cls", "mean", "last_token"]

_POOLINGS: Mapping[Pooling | None, common_pb2.Pooling.ValueType] = {
    None: common_pb2.POOLING_UNSPECIFIED,
    "cls": common_pb2.POOLING_CLS,
    "mean": common_pb2.POOLING_MEAN,
    "last_token": common_pb2.POOLING_LAST_TOKEN,
}

Messages: TypeAlias = "Sequence[Message | Mapping[str, str]]"


class CallOptions(TypedDict, total=False):
    """What every call takes."""

    timeout: float | None
    """Seconds until DeadlineExceeded, retries included. None: the client's; math.inf: no end."""
    request_id: str | None
    """The caller's own name for the request. None makes one."""
    traceparent: str | None
    """The W3C trace this call belongs to. None: OpenTelemetry's current one, if it is installed."""
    metadata: Mapping[str, str] | None
    """More metadata."""


class GenerateOptions(CallOptions, total=False):
    """What `generate`, `chat` and their streams take; proto/paternoster/v1/generate.proto explains
    each."""

    model: str | None
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    n: int | None
    logprobs: int | None
    echo: bool | None
    adapter: str | None
    tenant: str | None
    priority: int | None
    cache_salt: str | None


class EmbedOptions(CallOptions, total=False):
    """What `embed` and `embed_stream` take; proto/paternoster/v1/embed.proto explains each."""

    model: str | None
    normalize: bool | None
    dimensions: int | None
    truncate: bool | None
    prompt_name: str | None
    pooling: Pooling | None


class RerankOptions(CallOptions, total=False):
    """What `rerank` takes; proto/paternoster/v1/rank.proto explains each."""

    model: str | None
    raw_scores: bool | None
    return_texts: bool | None
    truncate: bool | None
    top_n: int | None


class ClassifyOptions(CallOptions, total=False):
    """What `classify` takes; proto/paternoster/v1/rank.proto explains each."""

    model: str | None
    raw_scores: bool | None
    truncate: bool | None


class ModelOptions(CallOptions, total=False):
    """What calls about a model's tokenizer take."""

    model: str | None


def new_request_id() -> str:
    """A name for a request whose caller gave none, so that exceptions and logs can tell it."""
    return uuid.uuid4().hex


def generate_request(
    prompt: Prompt | None, messages: Messages | None, options: GenerateOptions
) -> generate_pb2.GenerateRequest:
    """A request to continue a prompt or a conversation."""
    request = generate_pb2.GenerateRequest(
        model=options.get("model") or "",
        sampling=_sampling(options),
        stopping=_stopping(options),
        output=generate_pb2.Output(
            logprobs=options.get("logprobs"), echo=options.get("echo") or False
        ),
        adapter=options.get("adapter") or "",
        tenant=options.get("tenant") or "",
        priority=options.get("priority") or 0,
        cache_salt=options.get("cache_salt") or "",
    )
    if isinstance(prompt, str):
        request.prompt = prompt
    elif prompt is not None:
        request.token_ids.ids.extend(prompt)
    if messages is not None:
        request.chat.CopyFrom(_chat(messages))
    return request


def _sampling(options: GenerateOptions) -> generate_pb2.Sampling:
    return generate_pb2.Sampling(
        temperature=options.get("temperature"),
        top_k=options.get("top_k"),
        top_p=options.get("top_p"),
        min_p=options.get("min_p"),
        typical_p=options.get("typical_p"),
        repetition_penalty=options.get("repetition_penalty"),
        frequency_penalty=options.get("frequency_penalty"),
        presence_penalty=options.get("presence_penalty"),
        logit_bias=options.get("logit_bias"),
        seed=options.get("seed"),
        n=options.get("n"),
    )


def _stopping(options: GenerateOptions) -> generate_pb2.Stopping:
    stop = options.get("stop") or ()
    return generate_pb2.Stopping(
        max_tokens=options.get("max_tokens"),
        min_tokens=options.get("min_tokens"),
        stop=[stop] if isinstance(stop, str) else stop,
        stop_token_ids=options.get("stop_token_ids") or (),
        ignore_eos=options.get("ignore_eos") or False,
    )


def _chat(messages: Messages) -> generate_pb2.Chat:
    chat = generate_pb2.Chat()
    for message in messages:
        if isinstance(message, Message):
            chat.messages.add(role=message.role, content=message.content)
        else:
            chat.messages.add(role=message["role"], content=message["content"])
    return chat


def embed_request(inputs: str | Sequence[str], options: EmbedOptions) -> embed_pb2.EmbedRequest:
    """A request for vectors."""
    return embed_pb2.EmbedRequest(
        model=options.get("model") or "",
        inputs=_texts(inputs),
        normalize=options.get("normalize"),
        dimensions=options.get("dimensions"),
        truncate=options.get("truncate") or False,
        prompt_name=options.get("prompt_name") or "",
        pooling=_POOLINGS[options.get("pooling")],
    )


def rerank_request(
    query: str, texts: Sequence[str], options: RerankOptions
) -> rank_pb2.RerankRequest:
    """A request to order texts."""
    return rank_pb2.RerankRequest(
        model=options.get("model") or "",
        query=query,
        texts=_texts(texts),
        raw_scores=options.get("raw_scores") or False,
        return_texts=options.get("return_texts") or False,
        truncate=options.get("truncate") or False,
        top_n=options.get("top_n"),
    )


def classify_request(
    inputs: str | Sequence[str], options: ClassifyOptions
) -> rank_pb2.ClassifyRequest:
    """A request to sort texts into classes."""
    return rank_pb2.ClassifyRequest(
        model=options.get("model") or "",
        inputs=_texts(inputs),
        raw_scores=options.get("raw_scores") or False,
        truncate=options.get("truncate") or False,
    )


def tokenize_request(
    text: str | Messages, add_special_tokens: bool | None, model: str | None
) -> tokenize_pb2.TokenizeRequest:
    """A request for the tokens of a text or of a conversation."""
    request = tokenize_pb2.TokenizeRequest(model=model or "", add_special_tokens=add_special_tokens)
    if isinstance(text, str):
        request.prompt = text
    else:
        request.chat.CopyFrom(_chat(text))
    return request


def _texts(texts: str | Sequence[str]) -> Sequence[str]:
    """A single text is a list of one, not a list of its characters."""
    return [texts] if isinstance(texts, str) else texts
