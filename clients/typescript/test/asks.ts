import assert from "node:assert/strict";
import { PaternosterError, prompt } from "../src/index.js";
import type { Client } from "../src/index.js";

export async function whole(client: Client): Promise<string> {
  const answer = await client.complete(prompt("x", 1));
  return answer.completions[0]?.text ?? "";
}

export async function streamed(client: Client): Promise<string> {
  let text = "";
  for await (const { event } of client.generate(prompt("x", 1))) {
    text += event.case === "delta" ? event.value.text : "";
  }
  return text;
}

export async function failure(answer: Promise<unknown>): Promise<PaternosterError> {
  try {
    await answer;
  } catch (error) {
    assert(error instanceof PaternosterError, String(error));
    return error;
  }
  return assert.fail("no error");
}
