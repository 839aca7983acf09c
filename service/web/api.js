// The service's public API, as everybody uses it.

const STORE = "lipcert.key";

/** A request that was not answered as hoped: `problem` as RFC 9457 has it, or `offline` where nobody answered. */
export class ApiError extends Error {
  constructor(message, { status = 0, problem = null, offline = false } = {}) {
    super(message);
    Object.assign(this, { status, problem, offline });
  }
}

let ask = async () => null;
let asking = null;

/** `handler(why)` is asked for a key where the service wants one; null gives up. */
export function onKeyWanted(handler) {
  ask = handler;
}

export const hasKey = () => sessionStorage.getItem(STORE) !== null;

export function forgetKey() {
  sessionStorage.removeItem(STORE);
}

/**
 * The answer to one request as {status, headers, data}; data is parsed JSON, or text of other types.
 * @param {string} method
 * @param {string} path
 * @param {{json?: any, body?: BodyInit, headers?: Record<string, string>, signal?: AbortSignal, as?: "blob"}} options
 * @throws {ApiError}, or an AbortError where the signal says stop
 */
export async function request(method, path, options = {}) {
  const answer = await send(method, path, options);
  const data = await (options.as === "blob" ? answer.blob() : isJson(answer) ? answer.json() : answer.text());
  return { status: answer.status, headers: answer.headers, data };
}

export const get = async (path, options) => (await request("GET", path, options)).data;
export const post = async (path, json, options) => (await request("POST", path, { json, ...options })).data;
export const remove = async (path, options) => (await request("DELETE", path, options)).data;

/** Events of a stream as {event, data}, until it ends; data is parsed JSON. */
export async function* events(path, signal) {
  const answer = await send("GET", path, { signal, headers: { Accept: "text/event-stream" } });
  let text = "";
  for await (const chunk of chunks(answer.body.pipeThrough(new TextDecoderStream()))) {
    const parts = (text + chunk).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const lines = Object.fromEntries(part.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      if (lines.data) yield { event: lines.event ?? "message", data: JSON.parse(lines.data) };
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

const isJson = (answer) => /[/+]json\b/.test(answer.headers.get("Content-Type") ?? "");

async function send(method, path, { json, body, headers = {}, signal } = {}) {
  const content = json === undefined ? {} : { "Content-Type": "application/json" };
  for (;;) {
    const key = sessionStorage.getItem(STORE);
    const all = { ...content, ...headers, ...(key === null ? {} : { Authorization: `Bearer ${key}` }) };
    let answer;
    try {
      answer = await fetch(path, { method, headers: all, body: json === undefined ? body : JSON.stringify(json), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The service does not answer", { offline: true });
    }
    if (answer.ok) return answer;
    const problem = isJson(answer) ? await answer.json() : null;
    if (answer.status === 401 && (await anotherKey(key, problem?.detail ?? ""))) continue;
    throw new ApiError(problem?.detail ?? answer.statusText, { status: answer.status, problem });
  }
}

/** Whether there is a key now that is not the one refused; however many requests want one, it is asked for once. */
async function anotherKey(refused, why) {
  if (sessionStorage.getItem(STORE) !== refused) return true;
  asking ??= ask(why).finally(() => { asking = null; });
  const key = await asking;
  if (!key) return false;
  sessionStorage.setItem(STORE, key);
  return true;
}

/** The path of a model, or of one of its versions. */
export function modelPath(name, version = null) {
  const path = `/v1/models/${encodeURIComponent(name)}`;
  return version === null ? path : `${path}/versions/${encodeURIComponent(version)}`;
}
