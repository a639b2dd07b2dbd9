import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, PaternosterError } from "../src/index.js";
import type { EmbedInit, GenerateInit } from "../src/index.js";
import { waitIdle } from "./wait.js";

const ADDRESS = process.env["PATERNOSTER_ADDRESS"];
assert(ADDRESS, "PATERNOSTER_ADDRESS names no server; clients/run.sh starts one");
const client = new Client(`http://${ADDRESS}`);

function endless(text: string): GenerateInit {
  return { input: { case: "prompt", value: text }, stopping: { maxTokens: 2000, ignoreEos: true } };
}

/** How many requests the server saw abandoned. */
async function cancelled(): Promise<number> {
  const page = await (await fetch(`http://${ADDRESS}/metrics`)).text();
  const series = page.matchAll(/^paternoster_client_cancellations_total\{.*\} (\d+)$/gm);
  return [...series].reduce((sum, [, value]) => sum + Number(value), 0);
}

test("a thousand loops that were left leave nothing", async () => {
  const before = await cancelled();
  const leave = async (number: number): Promise<void> => {
    for await (const { event } of client.generate(endless(`Count from ${number}.`))) {
      if (event.case === "delta") {
        return;
      }
    }
    assert.fail("no delta");
  };
  for (let first = 0; first < 1000; first += 50) {
    await Promise.all(Array.from({ length: 50 }, (_, index) => leave(first + index)));
  }
  await waitIdle(client);
  assert.equal((await cancelled()) - before, 1000);
});

test("a signal and a deadline end a stream", async () => {
  const signal = AbortSignal.timeout(50);
  for (const [options, kind] of [
    [{ timeoutMs: 50 }, "deadline-exceeded"],
    [{ signal }, "cancelled"],
    [{ signal: AbortSignal.abort() }, "cancelled"],
  ] as const) {
    await assert.rejects(
      async () => {
        for await (const _ of client.generate(endless("Hello"), options)) {
          // Reads on.
        }
      },
      (error) => error instanceof PaternosterError && error.kind === kind,
    );
  }
  await waitIdle(client);
});

test("ten thousand batches in one stream", async () => {
  function* batches(): Generator<EmbedInit> {
    for (let number = 0; number < 10_000; number += 1) {
      yield { inputs: [`text ${number}`] };
    }
  }
  let answers = 0;
  for await (const answer of client.embedStream(batches(), { timeoutMs: 300_000 })) {
    answers += answer.embeddings.length;
  }
  assert.equal(answers, 10_000);
});

test("what the caller throws comes back", async () => {
  const mine = new Error("mine");
  function* batches(): Generator<EmbedInit> {
    yield { inputs: ["first"] };
    throw mine;
  }
  await assert.rejects(
    async () => {
      for await (const _ of client.embedStream(batches())) {
        // Reads on.
      }
    },
    (error) => error === mine,
  );
});

test("nobody there", async () => {
  const nobody = new Client("http://127.0.0.1:1", {
    retry: { attempts: 2, firstMs: 1, longestMs: 1 },
  });
  await assert.rejects(
    nobody.embed(["Hello"]),
    (error) => error instanceof PaternosterError && error.kind === "unavailable",
  );
});
