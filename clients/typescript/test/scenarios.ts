/** Runs clients/scenarios.json: node dist/test/scenarios.js FILE HOST:PORT SECURE_HOST:PORT FOLDER. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Client, Code, FinishReason, PaternosterError, Task } from "../src/index.js";
import type { CallOptions, GenerateInit } from "../src/index.js";
import { waitIdle } from "./wait.js";

interface Request {
  prompt?: string;
  messages?: { role: string; content: string }[];
  token_ids?: number[];
  model?: string;
  max_tokens?: number;
  ignore_eos?: boolean;
  stop?: string[];
  temperature?: number;
  n?: number;
  timeout_ms?: number;
  inputs?: string[];
  dimensions?: number;
  normalize?: boolean;
  batches?: string[][];
  text?: string;
  deltas?: number;
}

interface Expect {
  dimensions?: number;
  unit_length?: boolean;
  nearer?: [number, number, number];
  ids?: number[];
  text?: string;
  names?: string[];
  tasks?: string[];
  error?: { code: string; reason?: string; field?: string };
  [of_a_generation: string]: unknown;
}

interface Scenario {
  name: string;
  call: string;
  request?: Request;
  expect?: Expect;
  /** Names of PEM files in a folder. */
  tls?: { roots: string; certificate?: string; server_name?: string };
  key?: string;
}

type Doing = (client: Client, request: Request, expect: Expect, options: CallOptions) => Promise<void>;

/** The ways to make a call; each must do what is expected. */
const DOINGS: Record<string, Doing[]> = {
  generate: [whole, streamed],
  embed: [embed],
  embed_stream: [embedStream],
  tokenize: [tokenize],
  models: [models],
  cancel: [cancel],
  quota: [quota],
};

function generateInit(request: Request): GenerateInit {
  return {
    model: request.model ?? "",
    input: inputOf(request),
    sampling: optional({ temperature: request.temperature, n: request.n }),
    stopping: {
      ...optional({ maxTokens: request.max_tokens }),
      stop: request.stop ?? [],
      ignoreEos: request.ignore_eos ?? false,
    },
  };
}

function inputOf(request: Request): NonNullable<GenerateInit["input"]> {
  if (request.prompt !== undefined) {
    return { case: "prompt", value: request.prompt };
  }
  return request.messages === undefined
    ? { case: "tokenIds", value: { ids: request.token_ids ?? [] } }
    : { case: "chat", value: { messages: request.messages } };
}

/** Leaves out what is undefined. */
function optional<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const set = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(set) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

async function whole(client: Client, request: Request, expect: Expect, options: CallOptions) {
  const answer = await client.complete(generateInit(request), options);
  checkGeneration(expect, {
    texts: answer.completions.map((one) => one.text),
    finish: answer.completions.map((one) => FinishReason[one.reason].toLowerCase()),
    stop: answer.completions[0]?.stop,
    prompt_tokens: answer.usage?.promptTokens,
    generated_tokens: answer.usage?.generatedTokens,
  });
}

async function streamed(client: Client, request: Request, expect: Expect, options: CallOptions) {
  const texts = Array.from({ length: request.n ?? 1 }, () => "");
  const finish: string[] = [];
  const found = { texts, finish, stop: "", prompt_tokens: 0, generated_tokens: 0 };
  for await (const { event } of client.generate(generateInit(request), options)) {
    if (event.case === "started") {
      found.prompt_tokens = event.value.promptTokens;
    } else if (event.case === "delta") {
      texts[event.value.index] += event.value.text;
    } else if (event.case === "finished") {
      finish[event.value.index] = FinishReason[event.value.reason].toLowerCase();
      found.stop ||= event.value.stop;
      found.generated_tokens += event.value.usage?.generatedTokens ?? 0;
    }
  }
  checkGeneration(expect, found);
}

function checkGeneration(expect: Expect, found: Record<string, unknown>): void {
  assert.deepEqual({ ...found, ...expect }, found);
}

async function embed(client: Client, request: Request, expect: Expect, options: CallOptions) {
  const { model, inputs, dimensions, normalize } = request;
  const init = optional({ model, inputs, dimensions, normalize });
  const answer = await client.call((inner) => client.inference.embed(init, inner), options);
  const vectors = answer.embeddings.map((one) => one.values);
  assert.equal(vectors.length, inputs?.length);
  checkVectors(vectors, expect);
}

function checkVectors(vectors: number[][], expect: Expect): void {
  for (const vector of vectors) {
    assert.equal(vector.length, expect.dimensions);
    assert(expect.unit_length !== true || Math.abs(dot(vector, vector) - 1) < 1e-3);
  }
  if (expect.nearer !== undefined) {
    const [anchor = [], near = [], far = []] = expect.nearer.map((index) => vectors[index]);
    assert(dot(anchor, near) > dot(anchor, far) + 0.2);
  }
}

function dot(left: number[], right: number[]): number {
  return left.reduce((sum, value, index) => sum + value * (right[index] ?? NaN), 0);
}

async function embedStream(client: Client, request: Request, expect: Expect, options: CallOptions) {
  const batches = request.batches ?? [];
  let answered = 0;
  for await (const answer of client.embedStream(batches.map((inputs) => ({ inputs })), options)) {
    const vectors = answer.embeddings.map((one) => one.values);
    const alone = await client.embed(batches[answered] ?? []);
    assert.equal(vectors.length, alone.length);
    checkVectors(vectors, expect);
    vectors.forEach((vector, index) => assert(dot(vector, alone[index] ?? []) > 0.999));
    answered += 1;
  }
  assert.equal(answered, batches.length);
}

async function tokenize(client: Client, request: Request, expect: Expect, options: CallOptions) {
  const input = { case: "prompt", value: request.text ?? "" } as const;
  const { tokens } = await client.call((inner) => client.inference.tokenize({ input }, inner), options);
  const tokenIds = tokens.map((token) => token.id);
  assert.deepEqual(tokenIds, expect.ids);
  const { text } = await client.call((inner) => client.inference.detokenize({ tokenIds }, inner));
  assert.equal(text, expect.text);
}

async function models(client: Client, _: Request, expect: Expect, options: CallOptions) {
  const { models } = await client.call((inner) => client.control.listModels({}, inner), options);
  assert.deepEqual(models.map((model) => model.name), expect.names);
  assert.deepEqual(models.map((model) => Task[model.task].toLowerCase()), expect.tasks);
}

async function cancel(client: Client, request: Request, _: Expect, options: CallOptions) {
  let left = request.deltas ?? 0;
  for await (const { event } of client.generate(generateInit(request), options)) {
    left -= event.case === "delta" ? 1 : 0;
    if (left === 0) {
      break;
    }
  }
  assert.equal(left, 0);
  await waitIdle(client);
}

async function run(client: Client, scenario: Scenario): Promise<void> {
  const { request = {}, expect = {} } = scenario;
  const doings = DOINGS[scenario.call] ?? [];
  assert(doings.length > 0, `no call ${scenario.call}`);
  for (const doing of doings) {
    const made = doing(client, request, expect, { timeoutMs: request.timeout_ms });
    if (expect.error === undefined) {
      await made;
    } else {
      const error = await made.then(() => assert.fail("no error"), (caught: unknown) => caught);
      assert(error instanceof PaternosterError, String(error));
      const code = Code[error.code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
      const found = { code, reason: error.reason, field: error.field };
      assert.deepEqual({ ...found, ...expect.error }, found);
      assert(error.requestId.length > 0);
    }
  }
}

async function quota(client: Client, request: Request, _: Expect, options: CallOptions) {
  for (let attempt = 0; attempt < 3; attempt += 1) {
    try {
      await client.complete(generateInit(request), options);
    } catch (error) {
      assert(error instanceof PaternosterError && (error.retryAfterMs ?? 0) > 0, String(error));
      throw error;
    }
  }
}

/** A client of the server with TLS and keys, as a scenario says. */
function secureClient(address: string, folder: string, { tls, key }: Scenario): Client {
  const apiKey = key === undefined ? {} : { apiKey: key };
  if (tls === undefined) {
    return new Client(`http://${address}`, apiKey);
  }
  const pem = (name: string, ending: string): Buffer => readFileSync(`${folder}/${name}.${ending}`);
  const { certificate, server_name: servername } = tls;
  const own =
    certificate === undefined ? {} : { cert: pem(certificate, "pem"), key: pem(certificate, "key") };
  const nodeOptions = { ca: pem(tls.roots, "pem"), ...own, ...optional({ servername }) };
  return new Client(`https://${address}`, { ...apiKey, nodeOptions });
}

const [, , file = "", address = "", secureAddress = "", folder = ""] = process.argv;
const { scenarios, secure } = JSON.parse(readFileSync(file, "utf8")) as Record<
  "scenarios" | "secure",
  Scenario[]
>;
const open = new Client(`http://${address}`);
const runs: [Client, Scenario][] = [
  ...scenarios.map((scenario): [Client, Scenario] => [open, scenario]),
  ...secure.map((one): [Client, Scenario] => [secureClient(secureAddress, folder, one), one]),
];
let failed = 0;
for (const [client, scenario] of runs) {
  try {
    await run(client, scenario);
  } catch (error) {
    failed += 1;
    console.log(`${scenario.name}: ${String(error)}`);
  }
}
console.log(`typescript: ${runs.length - failed} passed, ${failed} failed`);
process.exit(failed > 0 || scenarios.length === 0 || secure.length === 0 ? 1 : 0);
