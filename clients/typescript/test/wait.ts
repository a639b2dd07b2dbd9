import assert from "node:assert/strict";
import type { Client } from "../src/index.js";

/** Looks until nothing runs and no KV block is in use. */
export async function waitIdle(client: Client): Promise<void> {
  const end = Date.now() + 60_000;
  for (;;) {
    const { loads } = await client.call((options) => client.control.getLoad({}, options));
    const busy = loads.some(
      (load) => load.waitingRequests + load.runningSequences + load.kvBlocksActive > 0,
    );
    if (!busy) {
      return;
    }
    assert(Date.now() < end, "the server still works on a closed stream");
  }
}
