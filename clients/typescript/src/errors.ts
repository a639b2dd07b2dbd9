import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";

/** What a caller may want to do something about. */
export type Kind =
  | "invalid"
  | "not-found"
  | "precondition"
  | "unauthenticated"
  | "permission"
  | "overloaded"
  | "unavailable"
  | "deadline-exceeded"
  | "cancelled"
  | "unimplemented"
  | "generation"
  /** A stream broke off after its first tokens, which may have been used already. */
  | "incomplete";

const KINDS: ReadonlyMap<Code, Kind> = new Map([
  [Code.InvalidArgument, "invalid"],
  [Code.OutOfRange, "invalid"],
  [Code.NotFound, "not-found"],
  [Code.FailedPrecondition, "precondition"],
  [Code.Unauthenticated, "unauthenticated"],
  [Code.PermissionDenied, "permission"],
  [Code.ResourceExhausted, "overloaded"],
  [Code.Unavailable, "unavailable"],
  [Code.DeadlineExceeded, "deadline-exceeded"],
  [Code.Canceled, "cancelled"],
  [Code.Unimplemented, "unimplemented"],
]);

/** After the first token these mean that what arrived is not the whole. */
const BREAKS: ReadonlySet<Code> = new Set([
  Code.Unavailable,
  Code.ResourceExhausted,
  Code.Internal,
  Code.Unknown,
  Code.DataLoss,
  Code.Aborted,
]);

/** A call failed. Every rejection that a server or the network causes is one. */
export class PaternosterError extends Error {
  override readonly name = "PaternosterError";
  readonly kind: Kind;
  readonly code: Code;
  /** One of the reasons that the contract lists: "QUEUE_FULL". */
  readonly reason: string | undefined;
  /** The field of the request that is at fault: "stopping.max_tokens". */
  readonly field: string | undefined;
  /** The numbers that matter, as the limit that was exceeded. */
  readonly metadata: Readonly<Record<string, string>>;
  /** When to come back, if the server said so. */
  readonly retryAfterMs: number | undefined;
  /** The name of the request, as it stands in the server's log. */
  readonly requestId: string;
  /** The trailer grpc-retry-pushback-ms. */
  readonly pushback: string | undefined;

  constructor(cause: unknown, requestId: string, tokens: boolean) {
    const error = ConnectError.from(cause);
    const details = readDetails(error);
    const reason = details.reason === undefined ? "" : ` ${details.reason}`;
    const code = codeOf(error);
    super(`${Code[code]}${reason}: ${error.rawMessage} (request ${requestId})`, { cause });
    this.code = code;
    this.reason = details.reason;
    this.field = details.field;
    this.metadata = details.metadata;
    this.retryAfterMs = details.retryAfterMs;
    this.requestId = requestId;
    this.pushback = error.metadata.get("grpc-retry-pushback-ms") ?? undefined;
    this.kind = this.kindOf(tokens);
  }

  private kindOf(tokens: boolean): Kind {
    if (tokens && BREAKS.has(this.code)) {
      return "incomplete";
    }
    if (this.reason === "MESSAGE_TOO_LARGE") {
      return "invalid";
    }
    return KINDS.get(this.code) ?? "generation";
  }
}

/** What Connect calls connections that cannot be made, or break. */
const BROKEN: ReadonlySet<Code> = new Set([Code.Aborted, Code.Internal, Code.Unknown]);

/** The code of an error; of one that Node reports and no server sent, what gRPC calls it elsewhere. */
function codeOf(error: ConnectError): Code {
  const local = error.cause instanceof Error && "code" in error.cause;
  return local && BROKEN.has(error.code) ? Code.Unavailable : error.code;
}

interface Details {
  reason: string | undefined;
  field: string | undefined;
  metadata: Record<string, string>;
  retryAfterMs: number | undefined;
}

/** Reads ErrorInfo, RetryInfo and BadRequest of google.rpc. What does not parse counts as absent. */
function readDetails(error: ConnectError): Details {
  const details: Details = {
    reason: undefined,
    field: undefined,
    metadata: {},
    retryAfterMs: undefined,
  };
  for (const detail of error.details) {
    if ("type" in detail) {
      try {
        READERS[detail.type]?.(details, detail.value);
      } catch {
        // The status itself still stands.
      }
    }
  }
  return details;
}

const READERS: Record<string, (details: Details, value: Uint8Array) => void> = {
  "google.rpc.ErrorInfo": (details, value) => {
    eachField(value, {
      1: (reader) => (details.reason = reader.string()),
      3: (reader) => {
        const entry = { key: "", value: "" };
        eachField(reader.bytes(), {
          1: (inner) => (entry.key = inner.string()),
          2: (inner) => (entry.value = inner.string()),
        });
        details.metadata[entry.key] = entry.value;
      },
    });
  },
  "google.rpc.RetryInfo": (details, value) => {
    details.retryAfterMs = 0;
    eachField(value, {
      1: (reader) => {
        let ms = 0;
        eachField(reader.bytes(), {
          1: (inner) => (ms += Number(inner.int64()) * 1000),
          2: (inner) => (ms += inner.int32() / 1e6),
        });
        details.retryAfterMs = ms;
      },
    });
  },
  "google.rpc.BadRequest": (details, value) => {
    eachField(value, {
      1: (reader) => {
        eachField(reader.bytes(), { 1: (inner) => (details.field ??= inner.string()) });
      },
    });
  },
};

function eachField(value: Uint8Array, known: Record<number, (reader: BinaryReader) => unknown>) {
  const reader = new BinaryReader(value);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    const read = known[field];
    if (read === undefined) {
      reader.skip(type, field);
    } else {
      read(reader);
    }
  }
}
