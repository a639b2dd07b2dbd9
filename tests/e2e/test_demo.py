"""Right text from the demo decoder, alone and in company, whatever the scheduler does with it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, Server
from paternoster.v1 import generate_pb2

CHECKS = json.loads((ROOT / "models/demo/decoder/checks.json").read_text())

# Each mode forces the scheduler to do something to the sequences; the text must not notice.
MODES = {
    "as shipped": [],
    "chunked prompts": ["--max-batch-prefill-tokens", "48", "--max-batch-size", "48"],
    "few blocks, so preemption": ["--kv-cache-size", "3MiB", "--max-total-tokens", "1152"],
}


def request(check: dict) -> generate_pb2.GenerateRequest:
    built = generate_pb2.GenerateRequest()
    if "messages" in check:
        built.chat.messages.extend(generate_pb2.ChatMessage(**m) for m in check["messages"])
    else:
        built.prompt = check["prompt"]
    built.stopping.max_tokens = 160
    return built


def answer(server: Server, check: dict) -> str:
    events = server.inference.Generate(request(check), timeout=300)
    return "".join(event.delta.text for event in events if event.WhichOneof("event") == "delta")


def wrong(check: dict, text: str) -> bool:
    return text.strip() != check["expect"].strip()


@pytest.mark.parametrize("mode", MODES)
def test_right_text_in_company(mode):
    server = Server(*MODES[mode])
    try:
        asked = CHECKS * 2  # the second half finds the first one's blocks in the prefix cache
        with ThreadPoolExecutor(32) as pool:
            texts = list(pool.map(lambda check: answer(server, check), asked))
        failed = [(c, t) for c, t in zip(asked, texts, strict=True) if wrong(c, t)]
        assert not failed, failed[:3]
        # With few blocks everything cached is soon taken back, so hits are not to be expected there.
        happened = "preemptions" if "preemption" in mode else "prefix_cache_hits"
        assert server.metric(f"paternoster_{happened}_total") > 0
    finally:
        assert server.stop() == 0
