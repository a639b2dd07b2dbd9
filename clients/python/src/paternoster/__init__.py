"""A client of a Paternoster model server.

>>> with Client("localhost:50051") as client:
...     for delta in client.generate_stream("What is a paternoster?", max_tokens=64):
...         print(delta.text, end="")
"""

from ._aio import AsyncClient, AsyncEmbedStream, AsyncTextStream
from ._call import TIMEOUT, Tls
from ._client import Client, EmbedStream, TextStream
from ._errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GenerationError,
    IncompleteGenerationError,
    NotFound,
    OverloadedError,
    PaternosterError,
    PermissionDenied,
    RequestAborted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    ValidationError,
)
from ._requests import (
    CallOptions,
    ClassifyOptions,
    EmbedOptions,
    GenerateOptions,
    Message,
    ModelOptions,
    RerankOptions,
)
from ._results import (
    Classifications,
    Completion,
    Delta,
    Embeddings,
    FinishReason,
    Generation,
    Label,
    Load,
    Model,
    Rank,
    Ranking,
    Token,
    TokenLogprobs,
    Tokens,
    TopLogprob,
    Usage,
)
from ._retry import Retry

__all__ = [
    "TIMEOUT",
    "AsyncClient",
    "AsyncEmbedStream",
    "AsyncTextStream",
    "CallOptions",
    "Classifications",
    "ClassifyOptions",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "Delta",
    "EmbedOptions",
    "EmbedStream",
    "Embeddings",
    "FailedPrecondition",
    "FinishReason",
    "GenerateOptions",
    "Generation",
    "GenerationError",
    "IncompleteGenerationError",
    "Label",
    "Load",
    "Message",
    "Model",
    "ModelOptions",
    "NotFound",
    "OverloadedError",
    "PaternosterError",
    "PermissionDenied",
    "Rank",
    "Ranking",
    "RequestAborted",
    "RerankOptions",
    "Retry",
    "TextStream",
    "Tls",
    "Token",
    "TokenLogprobs",
    "Tokens",
    "TopLogprob",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "ValidationError",
]
