"""Streams one answer and prints one embedding: python stream.py [PROMPT]."""

import sys

from paternoster import Client


def main() -> None:
    prompt = " ".join(sys.argv[1:]) or "What is a paternoster?"
    with Client("localhost:50051") as client:
        for delta in client.generate_stream(prompt, max_tokens=64):
            print(delta.text, end="", flush=True)
        print()

        (vector,) = client.embed(prompt).vectors
        print([round(value, 3) for value in vector[:4]], "...")


if __name__ == "__main__":
    main()
