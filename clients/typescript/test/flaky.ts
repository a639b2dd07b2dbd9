import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";
import type { HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Client } from "../src/index.js";
import type { ClientOptions, GenerateResponseSchema } from "../src/index.js";
import { Inference } from "../src/gen/paternoster/v1/inference_pb.js";

type Event = MessageInitShape<typeof GenerateResponseSchema>;

/** An attempt that ends with a status. */
export interface Fail {
  code: Code;
  reason?: string;
  retryAfterMs?: number;
  pushback?: string;
}

export const STARTED: Event = { event: { case: "started", value: {} } };
export const DELTA: Event = { event: { case: "delta", value: { text: "ab" } } };
export const FINISHED: Event = { event: { case: "finished", value: {} } };

/** An attempt that goes on for ever from here. */
export const WAIT = "wait";
export type Action = Event | Fail | typeof WAIT;

/** What arrived at a flaky server. */
export interface Seen {
  headers: Headers[];
  timeLeftMs: (number | undefined)[];
}

/** Runs a test against a server that does what a script says, attempt by attempt. */
export async function withFlaky(
  script: Action[][],
  options: ClientOptions,
  test: (client: Client, seen: Seen, port: number) => Promise<void>,
): Promise<void> {
  const seen: Seen = { headers: [], timeLeftMs: [] };
  const step = (context: HandlerContext): Action[] => {
    seen.headers.push(context.requestHeader);
    seen.timeLeftMs.push(context.timeoutMs());
    return script[seen.headers.length - 1] ?? [];
  };
  const server = http2.createServer(
    connectNodeAdapter({
      routes: (router) =>
        router.service(Inference, {
          async *generate(_, context) {
            for (const action of step(context)) {
              yield await eventOf(action);
            }
          },
          async complete(_, context) {
            for (const action of step(context)) {
              await eventOf(action);
            }
            return { completions: [{ text: "ab" }] };
          },
        }),
    }),
  );
  const sessions = new Set<http2.ServerHttp2Session>();
  server.on("session", (session) => sessions.add(session));
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  try {
    await test(new Client(`http://127.0.0.1:${port}`, options), seen, port);
  } finally {
    sessions.forEach((session) => session.destroy());
    server.close();
  }
}

/** Waits until so many calls have come. */
export async function arrived(seen: Seen, count: number): Promise<void> {
  while (seen.headers.length < count) {
    await new Promise(setImmediate);
  }
}

function eventOf(action: Action): Event | Promise<Event> {
  if (action === WAIT) {
    return new Promise(() => undefined);
  }
  if (!("code" in action)) {
    return action;
  }
  const trailers = new Headers();
  if (action.pushback !== undefined) {
    trailers.set("grpc-retry-pushback-ms", action.pushback);
  }
  const error = new ConnectError("as the script says", action.code, trailers);
  const info = new BinaryWriter().tag(1, 2).string(action.reason ?? "REASON").finish();
  error.details = [{ type: "google.rpc.ErrorInfo", value: info }];
  if (action.retryAfterMs !== undefined) {
    const nanos = new BinaryWriter().tag(2, 0).int32(action.retryAfterMs * 1e6).finish();
    const retry = new BinaryWriter().tag(1, 2).bytes(nanos).finish();
    error.details.push({ type: "google.rpc.RetryInfo", value: retry });
  }
  throw error;
}
