"""Streams one answer and prints one embedding. Needs grpcio and the generated stubs beside it; the
README has the commands for both."""

import sys

import grpc
from paternoster.v1 import embed_pb2, generate_pb2, inference_pb2_grpc


def main() -> None:
    prompt = " ".join(sys.argv[1:]) or "What is a paternoster?"
    with grpc.insecure_channel("localhost:50051") as channel:
        inference = inference_pb2_grpc.InferenceStub(channel)

        request = generate_pb2.GenerateRequest(prompt=prompt)
        request.stopping.max_tokens = 64
        for event in inference.Generate(request, timeout=60):
            print(event.delta.text, end="", flush=True)
        print()

        answer = inference.Embed(embed_pb2.EmbedRequest(inputs=[prompt]), timeout=60)
        print([round(value, 3) for value in answer.embeddings[0].values[:4]], "...")


if __name__ == "__main__":
    main()
