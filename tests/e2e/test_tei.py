"""A client of TEI that knows nothing of our proto files: its messages are built from a table of public facts."""

import contextlib

import grpc
import pytest
from conftest import Server, run
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from paternoster.v1 import embed_pb2
from test_embeddings import GOLDEN, cosine, read_f32

# Name, number, type; `?` after the type: optional, `*`: repeated.
META = "metadata 2 Metadata"
MESSAGES = {
    "InfoRequest": [],
    "InfoResponse": [
        "version 1 string", "sha 2 string?", "docker_label 3 string?", "model_id 4 string",
        "model_sha 5 string?", "model_dtype 6 string", "model_type 7 ModelType",
        "max_concurrent_requests 8 uint32", "max_input_length 9 uint32", "max_batch_tokens 10 uint32",
        "max_batch_requests 11 uint32?", "max_client_batch_size 12 uint32", "tokenization_workers 13 uint32",
    ],
    "Metadata": [
        "compute_chars 1 uint32", "compute_tokens 2 uint32", "total_time_ns 3 uint64",
        "tokenization_time_ns 4 uint64", "queue_time_ns 5 uint64", "inference_time_ns 6 uint64",
    ],
    "EmbedRequest": [
        "inputs 1 string", "truncate 2 bool", "normalize 3 bool?",
        "truncation_direction 4 TruncationDirection", "prompt_name 5 string?", "dimensions 6 uint32?",
    ],
    "EmbedResponse": ["embeddings 1 float*", META],
    "EmbedSparseRequest": [
        "inputs 1 string", "truncate 2 bool", "truncation_direction 3 TruncationDirection", "prompt_name 4 string?",
    ],
    "SparseValue": ["index 1 uint32", "value 2 float"],
    "EmbedSparseResponse": ["sparse_embeddings 1 SparseValue*", META],
    "EmbedAllRequest": [
        "inputs 1 string", "truncate 2 bool", "truncation_direction 3 TruncationDirection", "prompt_name 4 string?",
    ],
    "TokenEmbedding": ["embeddings 1 float*"],
    "EmbedAllResponse": ["token_embeddings 1 TokenEmbedding*", META],
    "PredictRequest": [
        "inputs 1 string", "truncate 2 bool", "raw_scores 3 bool", "truncation_direction 4 TruncationDirection",
    ],
    "PredictPairRequest": [
        "inputs 1 string*", "truncate 2 bool", "raw_scores 3 bool", "truncation_direction 4 TruncationDirection",
    ],
    "Prediction": ["score 1 float", "label 2 string"],
    "PredictResponse": ["predictions 1 Prediction*", META],
    "RerankRequest": [
        "query 1 string", "texts 2 string*", "truncate 3 bool", "raw_scores 4 bool", "return_text 5 bool",
        "truncation_direction 6 TruncationDirection",
    ],
    "RerankStreamRequest": [
        "query 1 string", "text 2 string", "truncate 3 bool", "raw_scores 4 bool", "return_text 5 bool",
        "truncation_direction 6 TruncationDirection",
    ],
    "Rank": ["index 1 uint32", "text 2 string?", "score 3 float"],
    "RerankResponse": ["ranks 1 Rank*", META],
    "EncodeRequest": ["inputs 1 string", "add_special_tokens 2 bool", "prompt_name 3 string?"],
    "SimpleToken": ["id 1 uint32", "text 2 string", "special 3 bool", "start 4 uint32?", "stop 5 uint32?"],
    "EncodeResponse": ["tokens 1 SimpleToken*"],
    "DecodeRequest": ["ids 1 uint32*", "skip_special_tokens 2 bool"],
    "DecodeResponse": ["text 1 string"],
}  # fmt: skip
ENUMS = {
    "ModelType": ["MODEL_TYPE_EMBEDDING", "MODEL_TYPE_CLASSIFIER", "MODEL_TYPE_RERANKER"],
    "TruncationDirection": ["TRUNCATION_DIRECTION_RIGHT", "TRUNCATION_DIRECTION_LEFT"],
}
# RPC: request, response, and who streams.
SERVICES = {
    "Info": {"Info": ("InfoRequest", "InfoResponse", "")},
    "Embed": {
        "Embed": ("EmbedRequest", "EmbedResponse", ""),
        "EmbedStream": ("EmbedRequest", "EmbedResponse", "both"),
        "EmbedSparse": ("EmbedSparseRequest", "EmbedSparseResponse", ""),
        "EmbedSparseStream": ("EmbedSparseRequest", "EmbedSparseResponse", "both"),
        "EmbedAll": ("EmbedAllRequest", "EmbedAllResponse", ""),
        "EmbedAllStream": ("EmbedAllRequest", "EmbedAllResponse", "both"),
    },
    "Predict": {
        "Predict": ("PredictRequest", "PredictResponse", ""),
        "PredictStream": ("PredictRequest", "PredictResponse", "both"),
        "PredictPair": ("PredictPairRequest", "PredictResponse", ""),
        "PredictPairStream": ("PredictPairRequest", "PredictResponse", "both"),
    },
    "Rerank": {
        "Rerank": ("RerankRequest", "RerankResponse", ""),
        "RerankStream": ("RerankStreamRequest", "RerankResponse", "client"),
    },
    "Tokenize": {
        "Tokenize": ("EncodeRequest", "EncodeResponse", ""),
        "TokenizeStream": ("EncodeRequest", "EncodeResponse", "both"),
        "Decode": ("DecodeRequest", "DecodeResponse", ""),
        "DecodeStream": ("DecodeRequest", "DecodeResponse", "both"),
    },
}


def described() -> descriptor_pool.DescriptorPool:
    """The table as a description of messages."""
    field_type = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "string": field_type.TYPE_STRING, "bool": field_type.TYPE_BOOL, "float": field_type.TYPE_FLOAT,
        "uint32": field_type.TYPE_UINT32, "uint64": field_type.TYPE_UINT64,
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="public/table.proto", package="tei.v1", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in fields:
            field, number, kind = line.split()
            label = field_type.LABEL_REPEATED if kind[-1] == "*" else field_type.LABEL_OPTIONAL
            added = message.field.add(name=field, number=int(number), label=label)
            base = kind.rstrip("?*")
            if base in scalars:
                added.type = scalars[base]
            else:
                added.type = field_type.TYPE_ENUM if base in ENUMS else field_type.TYPE_MESSAGE
                added.type_name = f".tei.v1.{base}"
            if kind[-1] == "?":
                added.proto3_optional = True
                added.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


POOL = described()
TYPES = {
    name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"tei.v1.{name}")) for name in MESSAGES
}


class Tei:
    """The 17 RPCs by name; fields are keyword arguments."""

    def __init__(self, channel: grpc.Channel, model: str | None = None):
        self.channel = channel
        self.metadata = [("x-model-id", model)] if model else []
        self.requests = {name: request for rpcs in SERVICES.values() for name, (request, _, _) in rpcs.items()}

    def _method(self, name: str):
        (service, (_, answer, streams)), = (
            (service, rpcs[name]) for service, rpcs in SERVICES.items() if name in rpcs
        )
        kind = {"": "unary_unary", "both": "stream_stream", "client": "stream_unary"}[streams]
        return getattr(self.channel, kind)(
            f"/tei.v1.{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=TYPES[answer].FromString,
        )

    def message(self, method: str, **fields):
        return TYPES[self.requests[method]](**fields)

    def call(self, method: str, **fields):
        return self._method(method)(self.message(method, **fields), timeout=60, metadata=self.metadata)

    def with_metadata(self, method: str, **fields):
        answer, call = self._method(method).with_call(
            self.message(method, **fields), timeout=60, metadata=self.metadata
        )
        return answer, dict(call.initial_metadata())

    def stream(self, method: str, messages):
        """Answers to messages, which are dictionaries of fields."""
        sent = (self.message(method, **fields) for fields in messages)
        return self._method(method)(sent, timeout=300, metadata=self.metadata)


@pytest.fixture(scope="module")
def tei(demo):
    return Tei(demo.channel)


def test_reflection_lists_the_services_and_every_rpc(demo):
    listed = run("grpcurl", "-plaintext", demo.address, "list").split()
    for service, rpcs in SERVICES.items():
        assert f"tei.v1.{service}" in listed
        methods = run("grpcurl", "-plaintext", demo.address, "list", f"tei.v1.{service}").split()
        assert methods == sorted(f"tei.v1.{service}.{name}" for name in rpcs)


def test_the_served_messages_are_those_of_the_table(demo):
    """What reflection tells of each message, field by field."""
    for name, fields in MESSAGES.items():
        told = run("grpcurl", "-plaintext", demo.address, "describe", f"tei.v1.{name}")
        lines = [line.strip().removeprefix("optional ") for line in told.splitlines() if "=" in line and "//" not in line]
        found = []
        for line in lines:
            words = line.rstrip(";").split()
            repeated = words[0] == "repeated"
            kind, field, _, number = words[1:] if repeated else words
            found.append((field, int(number), kind.split(".")[-1], repeated))
        table = [line.split() for line in fields]
        assert found == [(f, int(n), k.rstrip("?*"), k[-1] == "*") for f, n, k in table], name


def test_embed_is_our_embed(demo, tei):
    text = "A lift that never stops."
    answer, told = tei.with_metadata("Embed", inputs=text)
    (ours,) = demo.inference.Embed(embed_pb2.EmbedRequest(inputs=[text])).embeddings
    assert list(answer.embeddings) == list(ours.values)
    assert abs(sum(x * x for x in answer.embeddings) - 1) < 1e-4
    assert answer.metadata.compute_chars == len(text)
    assert told["x-compute-characters"] == str(len(text))
    assert told["x-compute-tokens"] == str(answer.metadata.compute_tokens)
    assert told["x-compute-type"] == "cpu"
    parts = answer.metadata.tokenization_time_ns, answer.metadata.queue_time_ns, answer.metadata.inference_time_ns
    assert answer.metadata.inference_time_ns > 0
    assert sum(parts) <= answer.metadata.total_time_ns
    short = tei.call("Embed", inputs=text, dimensions=16).embeddings
    assert len(short) == 16 and cosine(short, answer.embeddings[:16]) > 0.9999


def test_ten_thousand_messages_are_answered_in_order(tei):
    texts = [f"text number {number} of fifty" for number in range(50)]
    expected = [list(tei.call("Embed", inputs=text).embeddings) for text in texts]
    messages = ({"inputs": texts[number % 50]} for number in range(10_000))
    answered = 0
    for answer in tei.stream("EmbedStream", messages):
        assert list(answer.embeddings) == expected[answered % 50], answered
        answered += 1
    assert answered == 10_000


def test_tokens_tell_where_they_stand(tei):
    text = "Lifts never stop: paternöster!"
    answer = tei.call("Tokenize", inputs=text, add_special_tokens=True)
    first, *inner, last = answer.tokens
    for added in (first, last):
        assert added.special and not added.HasField("start") and not added.HasField("stop")
    raw = text.encode()
    for token in inner:
        assert not token.special and token.text == raw[token.start : token.stop].decode()
    assert "".join(token.text for token in inner) == text.replace(" ", "")
    ids = [token.id for token in answer.tokens]
    assert [t.id for t in tei.call("Tokenize", inputs=text).tokens] == ids[1:-1]
    with_them = tei.call("Decode", ids=ids).text
    without = tei.call("Decode", ids=ids, skip_special_tokens=True).text
    assert first.text in with_them and first.text not in without
    assert without.lower().startswith("lifts never stop")
    streamed = tei.stream("DecodeStream", [{"ids": ids}, {"ids": ids, "skip_special_tokens": True}])
    assert [answer.text for answer in streamed] == [with_them, without]


def test_info_describes_the_first_encoder(demo, tei):
    info = tei.call("Info")
    assert (info.model_dtype, info.model_type, info.max_client_batch_size) == ("bfloat16", 0, 1024)
    assert info.model_id and info.version and info.max_input_length > 0
    assert info.max_batch_tokens >= info.max_input_length


def test_what_the_model_cannot_do_is_a_precondition(tei):
    for method, fields in {
        "EmbedSparse": {"inputs": "a"},
        "Predict": {"inputs": "a"},
        "PredictPair": {"inputs": ["a", "b"]},
        "Rerank": {"query": "a", "texts": ["b"]},
    }.items():
        with pytest.raises(grpc.RpcError) as failed:
            tei.call(method, **fields)
        assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION, method
    with pytest.raises(grpc.RpcError) as failed:
        tei.stream("RerankStream", [{"query": "a", "text": "b"}])
    assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_what_is_wrong_is_an_invalid_argument(tei):
    for method, fields in {
        "Embed": {"inputs": ""},
        "EmbedAll": {"inputs": "word " * 3000},
        "Tokenize": {"inputs": "a", "prompt_name": "nobody"},
        "Decode": {"ids": []},
    }.items():
        with pytest.raises(grpc.RpcError) as failed:
            tei.call(method, **fields)
        assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT, method
    cut = tei.call("EmbedAll", inputs="word " * 3000, truncate=True)
    assert len(cut.token_embeddings) == tei.call("Info").max_input_length


@pytest.fixture(scope="module")
def minilm(minilm_folder):
    server = Server("--model-id", f"minilm={minilm_folder}")
    yield Tei(server.channel)
    assert server.stop() == 0, server.log.read_text()


def test_minilm_equals_sentence_transformers(minilm):
    sentences = (GOLDEN / "sentences.txt").read_text().splitlines()
    expected = read_f32(GOLDEN / "minilm_embeddings.safetensors")
    answers = minilm.stream("EmbedStream", ({"inputs": sentence} for sentence in sentences))
    got = [list(answer.embeddings) for answer in answers]
    worst = min(cosine(a, b) for a, b in zip(got, expected, strict=True))
    assert worst >= 0.9999, worst
    # The mean of the tokens' vectors is the vector of the text.
    tokens = minilm.call("EmbedAll", inputs=sentences[0]).token_embeddings
    mean = [sum(column) for column in zip(*(token.embeddings for token in tokens), strict=True)]
    assert cosine(mean, got[0]) >= 0.9999


def test_e4_each_rpc_is_counted_once(demo, tei):
    """Whatever comes of it: this server's model can do some, and refuses others."""
    fields = {
        "Info": {}, "Embed": {"inputs": "a"}, "EmbedAll": {"inputs": "a"}, "EmbedSparse": {"inputs": "a"},
        "Predict": {"inputs": "a"}, "PredictPair": {"inputs": ["a", "b"]},
        "Rerank": {"query": "a", "texts": ["b"]}, "RerankStream": {"query": "a", "text": "b"},
        "Tokenize": {"inputs": "a"}, "Decode": {"ids": [5]},
    }  # fmt: skip

    def counted(metric: str, method: str) -> float:
        series = [line for line in demo.get("/metrics").splitlines() if line.startswith(metric)]
        label = f'method="tei.{method}",'
        return sum(float(line.rsplit(" ", 1)[1]) for line in series if label in line)

    def once(name: str, streams: str) -> None:
        sent = fields[name] if name in fields else fields[name.removesuffix("Stream")]
        with contextlib.suppress(grpc.RpcError):
            if streams == "both":
                list(tei.stream(name, [sent]))
            elif streams == "client":
                tei.stream(name, [sent])
            else:
                tei.call(name, **sent)

    rpcs = [(name, streams) for rpcs in SERVICES.values() for name, (_, _, streams) in rpcs.items()]
    assert len(rpcs) == 17
    for name, streams in rpcs:
        calls = counted("paternoster_requests_total", name)
        messages = counted("paternoster_stream_messages_total", name)
        once(name, streams)
        assert counted("paternoster_requests_total", name) == calls + 1, name
        expected = 1 if streams == "both" else 0
        assert counted("paternoster_stream_messages_total", name) == messages + expected, name
