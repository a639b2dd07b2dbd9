import assert from "node:assert/strict";
import net from "node:net";
import type { AddressInfo, Socket } from "node:net";
import { test } from "node:test";
import { Client } from "../src/index.js";
import { failure, streamed, whole } from "./asks.js";
import { arrived, DELTA, FINISHED, STARTED, WAIT, withFlaky } from "./flaky.js";
import type { Action, Seen } from "./flaky.js";

const GOOD = [STARTED, DELTA, FINISHED];
const QUICK = { retry: { attempts: 4, firstMs: 1, longestMs: 10 } };
const ASKS = [whole, streamed];

type Accept = (near: Socket, number: number) => void;

/** Runs a test against a port whose connections are handed to `accept`. */
async function withPort(accept: Accept, test: (client: Client) => Promise<void>): Promise<void> {
  let number = 0;
  const server = net.createServer((near) => {
    near.on("error", () => undefined);
    accept(near, number);
    number += 1;
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  try {
    await test(new Client(`http://127.0.0.1:${port}`, QUICK));
  } finally {
    server.close();
  }
}

/** Carries a connection to a server until one of them ends. */
function join(near: Socket, port: number): void {
  const far = net.connect(port, "127.0.0.1");
  far.on("error", () => undefined);
  near.on("close", () => far.destroy());
  far.on("close", () => near.destroy());
  near.pipe(far);
  far.pipe(near);
}

/** Runs a test through a way to a server that can be cut; it then lets new connections through. */
async function withRelay(
  script: Action[][],
  reset: boolean,
  test: (client: Client, cut: () => void, seen: Seen) => Promise<void>,
): Promise<void> {
  await withFlaky(script, QUICK, async (_, seen, port) => {
    const all = new Set<Socket>();
    const cut = (): void => {
      for (const near of all) {
        if (reset) {
          near.resetAndDestroy();
        } else {
          near.destroy();
        }
      }
      all.clear();
    };
    const accept: Accept = (near) => {
      all.add(near);
      join(near, port);
    };
    try {
      await withPort(accept, (client) => test(client, cut, seen));
    } finally {
      cut();
    }
  });
}

for (const reset of [false, true]) {
  for (const ask of ASKS) {
    test(`cut before the first token: ${ask.name}, reset ${reset}`, () =>
      withRelay([[STARTED, WAIT], GOOD], reset, async (client, cut, seen) => {
        const answer = ask(client);
        await Promise.race([arrived(seen, 1), answer]);
        cut();
        assert.equal(await answer, "ab");
        assert.equal(seen.headers.length, 2);
      }));
  }
  test(`cut after the first token: reset ${reset}`, () =>
    withRelay([[STARTED, DELTA, WAIT], GOOD], reset, async (client, cut, seen) => {
      const read = async (): Promise<void> => {
        for await (const { event } of client.generate({})) {
          if (event.case === "delta") {
            cut();
          }
        }
      };
      const error = await failure(read());
      assert.equal(error.kind, "incomplete", error.message);
      assert.equal(seen.headers.length, 1);
    }));
}

for (const ask of ASKS) {
  test(`a server that leaves: ${ask.name}`, () =>
    withFlaky([GOOD], QUICK, (_, seen, port) =>
      withPort(
        (near, number) => {
          if (number === 0) {
            leave(near);
          } else {
            join(near, port);
          }
        },
        async (client) => {
          assert.equal(await ask(client), "ab");
          assert.equal(seen.headers.length, 1);
        },
      ),
    ));
}

/** Sends SETTINGS, and once a call has come a GOAWAY that says none was looked at. */
function leave(near: Socket): void {
  let unread = Buffer.alloc(0);
  let at = 24;
  near.write(Uint8Array.of(0, 0, 0, 4, 0, 0, 0, 0, 0));
  near.on("data", (data) => {
    unread = Buffer.concat([unread, data]);
    while (at + 9 <= unread.length) {
      if (unread[at + 3] === 1) {
        near.end(Uint8Array.of(0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
        return;
      }
      at += 9 + unread.readUIntBE(at, 3);
    }
  });
}
