import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { CallOptions as ConnectOptions, Client as Stub, Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import type { GrpcTransportOptions } from "@connectrpc/connect-node";
import { PaternosterError } from "./errors.js";
import { Control } from "./gen/paternoster/v1/control_pb.js";
import type { EmbedRequestSchema, EmbedResponse } from "./gen/paternoster/v1/embed_pb.js";
import type {
  CompleteResponse,
  GenerateRequestSchema,
  GenerateResponse,
} from "./gen/paternoster/v1/generate_pb.js";
import { Inference } from "./gen/paternoster/v1/inference_pb.js";
import { DEFAULT_RETRY, pauseMs } from "./retry.js";
import type { Retry } from "./retry.js";

export type GenerateInit = MessageInitShape<typeof GenerateRequestSchema>;
export type EmbedInit = MessageInitShape<typeof EmbedRequestSchema>;

/** The deadline of a call that names none. */
export const DEFAULT_TIMEOUT_MS = 60_000;

/** A large batch of embeddings is larger than the 4 MiB that clients often take. */
const MESSAGE_BYTES_MAX = 64 << 20;

/** gRPC sends a deadline in eight digits, and Node's timers take 31 bits. */
const TIMEOUT_MS_MAX = 86_400_000;

/**
 * How many batches are sent ahead of their answers. Each is a frame of its own, and a server hangs up
 * on a connection that floods it with thousands of tiny ones.
 */
const EMBED_UNANSWERED = 64;

/** What every call takes. */
export interface CallOptions {
  /** The deadline, all attempts together; Infinity, or more than a day, is none. */
  readonly timeoutMs?: number | undefined;
  /** Ends the call, also on the server. */
  readonly signal?: AbortSignal | undefined;
  /** The caller's own name for the request; one is made otherwise. */
  readonly requestId?: string | undefined;
  /** More headers, as `traceparent`. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
}

export interface ClientOptions {
  /** Sent with every call. */
  readonly apiKey?: string;
  readonly timeoutMs?: number;
  readonly retry?: Retry;
  /** TLS: node's options, as `ca`, `cert` and `key`. The address then begins with https. */
  readonly nodeOptions?: GrpcTransportOptions["nodeOptions"];
  /** Put around every call, as OpenTelemetry's. */
  readonly interceptors?: Interceptor[];
}

/** A connection to a server at an address like "http://localhost:50051". */
export class Client {
  /** The generated client of the service Inference; plain gRPC, to be used through `call`. */
  readonly inference: Stub<typeof Inference>;
  /** The generated client of the service Control; plain gRPC, to be used through `call`. */
  readonly control: Stub<typeof Control>;
  readonly #timeoutMs: number;
  readonly #retry: Retry;

  constructor(address: string, options: ClientOptions = {}) {
    const transport = createGrpcTransport({
      baseUrl: address,
      readMaxBytes: MESSAGE_BYTES_MAX,
      interceptors: [...(options.interceptors ?? []), ...keyOf(options.apiKey)],
      ...(options.nodeOptions === undefined ? {} : { nodeOptions: options.nodeOptions }),
    });
    this.inference = createClient(Inference, transport);
    this.control = createClient(Control, transport);
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#retry = options.retry ?? DEFAULT_RETRY;
  }

  /** Continues a prompt and returns the whole answer. */
  complete(request: GenerateInit, options?: CallOptions): Promise<CompleteResponse> {
    return this.call((inner) => this.inference.complete(request, inner), options);
  }

  /**
   * Continues a prompt and yields what happens: one `started`, `delta`s, and a `finished` for each
   * sequence. Leaving the loop ends the work on the server.
   */
  async *generate(
    request: GenerateInit,
    options: CallOptions = {},
  ): AsyncGenerator<GenerateResponse, void, undefined> {
    const running = new Running(options, this.#timeoutMs, this.#retry);
    let tokens = false;
    let unfinished = Math.max(1, request.sampling?.n ?? 1);
    try {
      for (;;) {
        try {
          const responses = this.inference.generate(request, running.options());
          for await (const response of running.read(responses)) {
            const event = response.event.case;
            tokens ||= event === "delta" || event === "finished";
            unfinished -= event === "finished" ? 1 : 0;
            yield response;
          }
          break;
        } catch (cause) {
          await running.again(cause, tokens);
        }
      }
      if (unfinished > 0) {
        const cause = new ConnectError("the stream ended before its sequences did", Code.DataLoss);
        throw new PaternosterError(cause, running.requestId, true);
      }
    } finally {
      running.end();
    }
  }

  /** Embeds texts with the server's first encoder: one vector for each. */
  async embed(inputs: string[], options?: CallOptions): Promise<number[][]> {
    const answer = await this.call((inner) => this.inference.embed({ inputs }, inner), options);
    return answer.embeddings.map((embedding) => embedding.values);
  }

  /**
   * Embeds any number of batches: one answer for each, in order. The batches are read as the server
   * takes them. It is not tried again, because its input is gone.
   */
  async *embedStream(
    batches: Iterable<EmbedInit> | AsyncIterable<EmbedInit>,
    options: CallOptions = {},
  ): AsyncGenerator<EmbedResponse, void, undefined> {
    const running = new Running(options, this.#timeoutMs, this.#retry);
    const ahead = new Ahead(EMBED_UNANSWERED);
    try {
      const answers = this.inference.embedStream(ahead.pass(batches), running.options());
      for await (const answer of running.read(answers)) {
        ahead.answered();
        yield answer;
      }
    } catch (cause) {
      throw ahead.thrown === undefined ? running.failed(cause, false) : ahead.thrown.cause;
    } finally {
      running.end();
    }
  }

  /**
   * Makes any unary call with the deadline, the retries and the errors of this client:
   * `client.call((options) => client.control.getLoad({}, options))`.
   */
  async call<T>(attempt: (inner: ConnectOptions) => Promise<T>, options: CallOptions = {}): Promise<T> {
    const running = new Running(options, this.#timeoutMs, this.#retry);
    try {
      for (;;) {
        try {
          return await attempt(running.options());
        } catch (cause) {
          await running.again(cause, false);
        }
      }
    } finally {
      running.end();
    }
  }
}

/** A request for at most `maxTokens` tokens after a text. */
export function prompt(text: string, maxTokens: number): GenerateInit {
  return { input: { case: "prompt", value: text }, stopping: { maxTokens } };
}

/** A request for at most `maxTokens` tokens of an answer to a conversation. */
export function chat(
  messages: { role: string; content: string }[],
  maxTokens: number,
): GenerateInit {
  return { input: { case: "chat", value: { messages } }, stopping: { maxTokens } };
}

function keyOf(apiKey: string | undefined): Interceptor[] {
  if (apiKey === undefined) {
    return [];
  }
  return [
    (next) => (request) => {
      request.header.set("authorization", `Bearer ${apiKey}`);
      return next(request);
    },
  ];
}

/** One call with all its attempts. */
class Running {
  readonly requestId: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #end: number;
  readonly #retry: Retry;
  readonly #outer: AbortSignal | undefined;
  readonly #abort = new AbortController();
  readonly #pass = () => this.#abort.abort(this.#outer?.reason);
  #attempt = 1;

  constructor(options: CallOptions, timeoutMs: number, retry: Retry) {
    this.requestId = options.requestId ?? randomUUID();
    this.#headers = { ...options.headers, "x-request-id": this.requestId };
    this.#end = performance.now() + (options.timeoutMs ?? timeoutMs);
    this.#retry = retry;
    this.#outer = options.signal;
    this.#outer?.addEventListener("abort", this.#pass);
    if (this.#outer?.aborted === true) {
      this.#pass();
    }
  }

  /** For the next attempt: what is left of the deadline. */
  options(): ConnectOptions {
    const left = this.#end - performance.now();
    const timeout = left < TIMEOUT_MS_MAX ? { timeoutMs: Math.max(1, Math.ceil(left)) } : {};
    return { headers: this.#headers, signal: this.#abort.signal, ...timeout };
  }

  /** Waits for the next attempt; throws if there is none, as there is none after the first token. */
  async again(cause: unknown, tokens: boolean): Promise<void> {
    const error = this.failed(cause, tokens);
    const left = this.#end - performance.now();
    const pause = tokens ? undefined : pauseMs(this.#retry, this.#attempt, error, left);
    if (pause === undefined || this.#abort.signal.aborted) {
      throw error;
    }
    this.#attempt += 1;
    try {
      await sleep(pause, undefined, { signal: this.#abort.signal });
    } catch {
      const ended = new ConnectError("the caller ended it", Code.Canceled);
      throw new PaternosterError(ended, this.requestId, false);
    }
  }

  /** Node closes the streams of a connection that breaks as if we had cancelled them. */
  failed(cause: unknown, tokens: boolean): PaternosterError {
    const error = ConnectError.from(cause);
    const server = error.metadata.has("grpc-status");
    const broken = error.code === Code.Canceled && !server && !this.#abort.signal.aborted;
    const called = broken ? new ConnectError("the connection broke", Code.Unavailable) : cause;
    return new PaternosterError(called, this.requestId, tokens);
  }

  /** Reads a stream; where its reader leaves early, Connect is asked once more, to see the end. */
  async *read<T>(stream: AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
    const iterator = stream[Symbol.asyncIterator]();
    let left = false;
    try {
      for (;;) {
        const next = await iterator.next();
        if (next.done === true) {
          return;
        }
        left = true;
        yield next.value;
        left = false;
      }
    } finally {
      if (left) {
        // Otherwise the timer of the deadline would keep the process.
        this.end();
        iterator.next().catch(() => undefined);
      }
    }
  }

  /** Ends what may still run on the server. */
  end(): void {
    this.#outer?.removeEventListener("abort", this.#pass);
    this.#abort.abort();
  }
}

/** Lets a bounded number of batches through ahead of their answers. */
class Ahead {
  /** What the caller's own batches threw: it comes back as it is. */
  thrown: { cause: unknown } | undefined;
  #places: number;
  #wake: (() => void) | undefined;

  constructor(places: number) {
    this.#places = places;
  }

  async *pass<T>(batches: Iterable<T> | AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
    try {
      for await (const batch of batches) {
        while (this.#places === 0) {
          await new Promise<void>((wake) => (this.#wake = wake));
        }
        this.#places -= 1;
        yield batch;
      }
    } catch (cause) {
      this.thrown = { cause };
      throw cause;
    }
  }

  answered(): void {
    this.#places += 1;
    this.#wake?.();
  }
}
