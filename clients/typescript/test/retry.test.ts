import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, prompt } from "../src/index.js";
import type { Client, Kind } from "../src/index.js";
import { failure, streamed, whole } from "./asks.js";
import { arrived, DELTA, FINISHED, STARTED, withFlaky } from "./flaky.js";
import type { Fail, Seen } from "./flaky.js";

const GOOD = [STARTED, DELTA, FINISHED];
const GONE: Fail = { code: Code.Unavailable };
const FULL: Fail = { code: Code.ResourceExhausted, reason: "QUEUE_FULL", retryAfterMs: 1 };
const FOR_GOOD: Fail = { code: Code.ResourceExhausted };
const TOO_LARGE: Fail = { code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE" };
const BROKEN: Fail = { code: Code.Internal };
const pushed = (pushback: string): Fail => ({ code: Code.Unavailable, pushback });
const QUICK = { retry: { attempts: 4, firstMs: 1, longestMs: 10 } };

type Script = Parameters<typeof withFlaky>[0];
type Case = [name: string, script: Script, attempts: number, kind?: Kind];

const BEFORE_THE_FIRST_TOKEN: Case[] = [
  ["nothing fails", [GOOD], 1],
  ["unavailable, then not", [[GONE], [GONE], GOOD], 3],
  ["overloaded with a hint", [[FULL], GOOD], 2],
  ["overloaded without a hint", [[FOR_GOOD], GOOD], 1, "overloaded"],
  ["too large", [[TOO_LARGE], GOOD], 1, "invalid"],
  ["a fault", [[BROKEN], GOOD], 1, "generation"],
  ["no key", [[{ code: Code.Unauthenticated }], GOOD], 1, "unauthenticated"],
  ["four attempts and no more", [[GONE], [GONE], [GONE], [GONE], GOOD], 4, "unavailable"],
  ["pushed back", [[pushed("1")], GOOD], 2],
  ["pushed back for good", [[pushed("-1")], GOOD], 1, "unavailable"],
  ["pushed back past the deadline", [[pushed("3600000")], GOOD], 1, "unavailable"],
  ["pushed back by garbage", [[pushed("soon")], GOOD], 1, "unavailable"],
];
const IN_A_STREAM: Case[] = [
  ["started is not a token", [[STARTED, GONE], GOOD], 2],
  ["after the first token", [[STARTED, DELTA, GONE], GOOD], 1, "incomplete"],
  ["a fault after it", [[STARTED, DELTA, BROKEN], GOOD], 1, "incomplete"],
  ["a good end too early", [[STARTED, DELTA], GOOD], 1, "incomplete"],
  ["a good end before all", [[], GOOD], 1, "incomplete"],
];

function check(how: string, cases: Case[], ask: (client: Client) => Promise<string>): void {
  for (const [name, script, attempts, kind] of cases) {
    test(`${how}: ${name}`, () =>
      withFlaky(script, QUICK, async (client, seen) => {
        if (kind === undefined) {
          assert.equal(await ask(client), "ab");
        } else {
          const error = await failure(ask(client));
          assert.equal(error.kind, kind, error.message);
          assert.equal(error.requestId, seen.headers[0]?.get("x-request-id"));
        }
        assert.equal(seen.headers.length, attempts);
      }));
  }
}

check("whole", BEFORE_THE_FIRST_TOKEN, whole);
check("streamed", [...BEFORE_THE_FIRST_TOKEN, ...IN_A_STREAM], streamed);

test("all attempts share one name, one key and one deadline", () =>
  withFlaky([[pushed("500")], [pushed("500")], GOOD], { apiKey: "secret" }, async (client, seen: Seen) => {
    await client.complete(prompt("x", 1), { requestId: "mine", headers: { traceparent: "00-1" } });
    const [first = 0, , last = 0] = seen.timeLeftMs;
    assert(first > 50_000 && first <= 60_000 && last < first - 500, String(seen.timeLeftMs));
    for (const headers of seen.headers) {
      assert.equal(headers.get("x-request-id"), "mine");
      assert.equal(headers.get("authorization"), "Bearer secret");
      assert.equal(headers.get("traceparent"), "00-1");
    }
  }));

test("an error says what the server said", () =>
  withFlaky([[FULL]], { retry: { attempts: 1, firstMs: 1, longestMs: 1 } }, async (client) => {
    const error = await failure(whole(client));
    assert.equal(error.reason, "QUEUE_FULL");
    assert.equal(error.retryAfterMs, 1);
    assert.equal(error.code, Code.ResourceExhausted);
  }));

test("the caller ends a wait", () =>
  withFlaky([[pushed("20000")], GOOD], {}, async (client, seen) => {
    const stop = new AbortController();
    const answer = failure(client.complete(prompt("x", 1), { signal: stop.signal }));
    await arrived(seen, 1);
    stop.abort();
    assert.equal((await answer).kind, "cancelled");
    assert.equal(seen.headers.length, 1);
  }));
