"""What calls return: plain, immutable data."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .v1 import common_pb2, control_pb2, embed_pb2, generate_pb2, rank_pb2, tokenize_pb2


class FinishReason(enum.Enum):
    """Why a sequence ended."""

    STOP = "stop"
    """The model ended it, or one of `stop_token_ids` did."""
    STOP_STRING = "stop_string"
    """One of `stop` stood in the text."""
    LENGTH = "length"
    """It reached `max_tokens` or the end of the context."""
    ABORT = "abort"
    """Control.Abort ended it."""
    UNKNOWN = "unknown"
    """A reason of a newer server."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost, in tokens."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the most likely tokens at a position."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token was, and which others were."""

    token_id: int
    logprob: float
    top: tuple[TopLogprob, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new in one sequence of a stream."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """One sequence as a whole."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: FinishReason
    stop: str | None
    """The stop string that ended it."""
    stop_token_id: int | None
    """The token that ended it."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one prompt: one sequence, or `n`."""

    request_id: str
    model: str
    completions: tuple[Completion, ...]
    usage: Usage

    @property
    def text(self) -> str:
        """The text of the first sequence."""
        return self.completions[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first sequence ended."""
        return self.completions[0].finish_reason


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in order."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    model: str


@dataclass(frozen=True, slots=True)
class Rank:
    """One text's place; `index` is its place in the request."""

    index: int
    score: float
    text: str | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The texts, best first."""

    ranks: tuple[Rank, ...]
    usage: Usage
    model: str


@dataclass(frozen=True, slots=True)
class Label:
    """One class of a text."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classifications:
    """For each input every class, most likely first."""

    labels: tuple[tuple[Label, ...], ...]
    usage: Usage
    model: str


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text."""

    tokens: tuple[Token, ...]
    model: str

    @property
    def ids(self) -> tuple[int, ...]:
        """Their places in the vocabulary."""
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Model:
    """One model served."""

    name: str
    task: str
    """What it is for: "generate", "embed" and the contract's other tasks."""
    state: str
    """"starting", "serving", "draining" or "down"."""
    architecture: str
    dtype: str
    parameters: int
    vocab_size: int
    context_tokens_max: int
    width: int


@dataclass(frozen=True, slots=True)
class Load:
    """How busy one model is."""

    model: str
    waiting_requests: int
    running_sequences: int
    kv_blocks_free: int
    kv_blocks_active: int
    kv_blocks_total: int


# === from the wire ===


def usage_of(usage: common_pb2.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens)


def finish_reason_of(reason: generate_pb2.FinishReason.ValueType) -> FinishReason:
    if reason in _FINISH_REASONS:
        return _FINISH_REASONS[reason]
    return FinishReason.UNKNOWN


_FINISH_REASONS = {
    generate_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generate_pb2.FINISH_REASON_STOP_STRING: FinishReason.STOP_STRING,
    generate_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generate_pb2.FINISH_REASON_ABORT: FinishReason.ABORT,
}


def _logprobs_of(logprobs: Iterable[generate_pb2.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    return tuple(
        TokenLogprobs(
            one.token_id,
            one.logprob,
            tuple(TopLogprob(top.token_id, top.logprob) for top in one.top),
        )
        for one in logprobs
    )


def delta_of(delta: generate_pb2.Delta) -> Delta:
    return Delta(delta.index, delta.text, tuple(delta.token_ids), _logprobs_of(delta.logprobs))


def generation_of(answer: generate_pb2.CompleteResponse) -> Generation:
    completions = tuple(
        Completion(
            index=one.index,
            text=one.text,
            token_ids=tuple(one.token_ids),
            logprobs=_logprobs_of(one.logprobs),
            finish_reason=finish_reason_of(one.reason),
            stop=one.stop or None,
            stop_token_id=one.stop_token_id if one.HasField("stop_token_id") else None,
        )
        for one in answer.completions
    )
    return Generation(answer.request_id, answer.model, completions, usage_of(answer.usage))


def embeddings_of(answer: embed_pb2.EmbedResponse) -> Embeddings:
    vectors = tuple(tuple(one.values) for one in answer.embeddings)
    return Embeddings(vectors, usage_of(answer.usage), answer.model)


def ranking_of(answer: rank_pb2.RerankResponse) -> Ranking:
    ranks = tuple(
        Rank(one.index, one.score, one.text if one.HasField("text") else None)
        for one in answer.ranks
    )
    return Ranking(ranks, usage_of(answer.usage), answer.model)


def classifications_of(answer: rank_pb2.ClassifyResponse) -> Classifications:
    labels = tuple(
        tuple(Label(label.label, label.score) for label in one.labels)
        for one in answer.classifications
    )
    return Classifications(labels, usage_of(answer.usage), answer.model)


def tokens_of(answer: tokenize_pb2.TokenizeResponse) -> Tokens:
    return Tokens(tuple(Token(one.id, one.text) for one in answer.tokens), answer.model)


def models_of(models: Sequence[control_pb2.Model]) -> list[Model]:
    return [
        Model(
            name=one.name,
            task=_word(_TASKS, one.task, "TASK_"),
            state=_word(_STATES, one.state, "MODEL_STATE_"),
            architecture=one.architecture,
            dtype=one.dtype,
            parameters=one.parameters,
            vocab_size=one.vocab_size,
            context_tokens_max=one.context_tokens_max,
            width=one.width,
        )
        for one in models
    ]


def loads_of(loads: Iterable[control_pb2.Load]) -> list[Load]:
    return [
        Load(
            model=one.model,
            waiting_requests=one.waiting_requests,
            running_sequences=one.running_sequences,
            kv_blocks_free=one.kv_blocks_free,
            kv_blocks_active=one.kv_blocks_active,
            kv_blocks_total=one.kv_blocks_total,
        )
        for one in loads
    ]


def _word(names: Mapping[int, str], value: int, prefix: str) -> str:
    """An enum's name in small letters; "unknown" for a value of a newer server."""
    return names.get(value, "unknown").removeprefix(prefix).lower()


_TASKS: Mapping[int, str] = {number: name for name, number in control_pb2.Task.items()}
_STATES: Mapping[int, str] = {number: name for name, number in control_pb2.ModelState.items()}
