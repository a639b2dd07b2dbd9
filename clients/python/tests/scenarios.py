"""Runs clients/scenarios.json with both clients:
python scenarios.py HOST:PORT SECURE_HOST:PORT FOLDER."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from bridge import KINDS, connect

from paternoster import Generation, PaternosterError, Tls

FILE = Path(__file__).resolve().parents[2] / "scenarios.json"


def call(client: Any, scenario: dict[str, Any]) -> None:
    """Does what a scenario says and asserts what it expects."""
    options = dict(scenario.get("request", {}))
    if "timeout_ms" in options:
        options["timeout"] = options.pop("timeout_ms") / 1000
    expect = scenario.get("expect", {})
    if "error" not in expect:
        CALLS[scenario["call"]](client, options, expect)
        return
    for doing in ATTEMPTS.get(scenario["call"], [CALLS[scenario["call"]]]):
        try:
            doing(client, dict(options), {})
        except PaternosterError as error:
            check_error(error, expect["error"])
        else:
            raise AssertionError("no error")


def check_error(error: PaternosterError, expect: dict[str, str]) -> None:
    found = {"code": error.code.name, "reason": error.reason, "field": error.field}
    assert found == {**found, **expect}, found
    assert error.request_id


def whole(client: Any, options: dict[str, Any], expect: dict[str, Any]) -> None:
    ask = client.chat if "messages" in options else client.generate
    check_generation(ask(source(options), **options), expect)


def streamed(client: Any, options: dict[str, Any], expect: dict[str, Any]) -> None:
    ask = client.chat_stream if "messages" in options else client.generate_stream
    check_generation(ask(source(options), **options).result(), expect)


def source(options: dict[str, Any]) -> Any:
    (name,) = {"prompt", "token_ids", "messages"} & options.keys()
    return options.pop(name)


def check_generation(answer: Generation, expect: dict[str, Any]) -> None:
    found = {
        "texts": [one.text for one in answer.completions],
        "finish": [one.finish_reason.value for one in answer.completions],
        "stop": answer.completions[0].stop,
        "prompt_tokens": answer.usage.prompt_tokens,
        "generated_tokens": answer.usage.generated_tokens,
    }
    assert found == {**found, **expect}, found


def generate(client: Any, options: dict[str, Any], expect: dict[str, Any]) -> None:
    for doing in ATTEMPTS["generate"]:
        doing(client, dict(options), expect)


def embed(client: Any, options: dict[str, Any], expect: dict[str, Any]) -> None:
    inputs = options.pop("inputs")
    vectors = client.embed(inputs, **options).vectors
    assert len(vectors) == len(inputs)
    check_vectors(vectors, expect)


def check_vectors(vectors: Any, expect: dict[str, Any]) -> None:
    assert all(len(vector) == expect["dimensions"] for vector in vectors)
    if expect.get("unit_length"):
        assert all(math.isclose(dot(vector, vector), 1, abs_tol=1e-3) for vector in vectors)
    if "nearer" in expect:
        anchor, near, far = (vectors[index] for index in expect["nearer"])
        assert dot(anchor, near) > dot(anchor, far) + 0.2


def dot(left: Any, right: Any) -> float:
    return float(sum(a * b for a, b in zip(left, right, strict=True)))


def embed_stream(client: Any, options: dict[str, Any], expect: dict[str, Any]) -> None:
    batches = options.pop("batches")
    answers = list(client.embed_stream(batches, **options))
    assert [len(answer.vectors) for answer in answers] == [len(batch) for batch in batches]
    for answer, batch in zip(answers, batches, strict=True):
        check_vectors(answer.vectors, expect)
        alone = client.embed(batch).vectors
        assert all(dot(a, b) > 0.999 for a, b in zip(answer.vectors, alone, strict=True))


def tokenize(client: Any, options: dict[str, Any], expect: dict[str, Any]) -> None:
    tokens = client.tokenize(options.pop("text"), **options)
    assert list(tokens.ids) == expect["ids"], tokens.ids
    assert client.detokenize(tokens.ids) == expect["text"]


def models(client: Any, _: dict[str, Any], expect: dict[str, Any]) -> None:
    found = client.models()
    assert [model.name for model in found] == expect["names"]
    assert [model.task for model in found] == expect["tasks"]


def cancel(client: Any, options: dict[str, Any], _: dict[str, Any]) -> None:
    deltas = options.pop("deltas")
    with client.generate_stream(source(options), **options) as stream:
        for _delta in range(deltas):
            next(stream)
    wait_idle(client)


def wait_idle(client: Any) -> None:
    """Looks until nothing runs and no KV block is in use."""
    end = time.monotonic() + 30
    while busy(client):
        assert time.monotonic() < end, "the server still works on a closed stream"


def busy(client: Any) -> int:
    return sum(
        load.running_sequences + load.waiting_requests + load.kv_blocks_active
        for load in client.loads()
    )


def quota(client: Any, options: dict[str, Any], _: dict[str, Any]) -> None:
    prompt = source(options)
    try:
        for _attempt in range(3):
            client.generate(prompt, **options)
    except PaternosterError as error:
        if not error.retry_after:
            raise AssertionError("without a time to come back") from error
        raise


ATTEMPTS = {"generate": [whole, streamed]}
CALLS = {
    "generate": generate,
    "embed": embed,
    "embed_stream": embed_stream,
    "tokenize": tokenize,
    "models": models,
    "cancel": cancel,
    "quota": quota,
}


def secure_options(scenario: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The client's options that a scenario's `tls` and `key` say."""
    spec = scenario.get("tls")
    if spec is None:
        return {"api_key": scenario.get("key")}

    def pem(name: str | None, ending: str) -> bytes | None:
        return (folder / f"{name}.{ending}").read_bytes() if name else None

    certificate = spec.get("certificate")
    tls = Tls(
        pem(spec["roots"], "pem"),
        pem(certificate, "key"),
        pem(certificate, "pem"),
        spec.get("server_name"),
    )
    return {"tls": tls, "api_key": scenario.get("key")}


def passes(kind: str, address: str, options: dict[str, Any], scenario: dict[str, Any]) -> bool:
    """Whether a scenario passes over a connection of its own."""
    with connect(kind, address, **options) as client:
        try:
            call(client, scenario)
        except (AssertionError, PaternosterError) as error:
            print(f"{kind}: {scenario['name']}: {type(error).__name__}: {error}")
            return False
        return True


def main() -> int:
    file = json.loads(FILE.read_text())
    address, secure, folder = sys.argv[1:]
    results = []
    for kind in KINDS:
        results += [passes(kind, address, {}, scenario) for scenario in file["scenarios"]]
        for scenario in file["secure"]:
            options = secure_options(scenario, Path(folder))
            results.append(passes(kind, secure, options, scenario))
    failed = results.count(False)
    print(f"python: {len(results) - failed} passed, {failed} failed")
    return int(failed > 0 or not file["scenarios"] or not file["secure"])


if __name__ == "__main__":
    sys.exit(main())
