/** A client of a Paternoster model server. */
export { Code } from "@connectrpc/connect";
export { chat, Client, DEFAULT_TIMEOUT_MS, prompt } from "./client.js";
export type { CallOptions, ClientOptions, EmbedInit, GenerateInit } from "./client.js";
export { PaternosterError } from "./errors.js";
export type { Kind } from "./errors.js";
export { DEFAULT_RETRY } from "./retry.js";
export type { Retry } from "./retry.js";
export * from "./gen/paternoster/v1/common_pb.js";
export * from "./gen/paternoster/v1/control_pb.js";
export * from "./gen/paternoster/v1/embed_pb.js";
export * from "./gen/paternoster/v1/generate_pb.js";
export * from "./gen/paternoster/v1/rank_pb.js";
export * from "./gen/paternoster/v1/tokenize_pb.js";
