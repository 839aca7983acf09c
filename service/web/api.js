// Client of the service's public HTTP API.

const STORE = "lipcert.key";

/** A failed request: `problem` is the RFC 9457 body; `offline` is true if no response arrived. */
export class ApiError extends Error {
  constructor(message, { status = 0, problem = null, offline = false } = {}) {
    super(message);
    Object.assign(this, { status, problem, offline });
  }
}

let requestKey = async () => null;
let pendingKey = null;

/** Set the handler that asks the user for an API key: `handler(reason)` resolves to the key, or to null to give up. */
export function onKeyRequired(handler) {
  requestKey = handler;
}

export const hasKey = () => sessionStorage.getItem(STORE) !== null;

export function forgetKey() {
  sessionStorage.removeItem(STORE);
}

/**
 * Send one request and return {status, headers, data}; data is parsed JSON, or text for other media types.
 * @param {string} method
 * @param {string} path
 * @param {{json?: any, body?: BodyInit, headers?: Record<string, string>, signal?: AbortSignal, as?: "blob"}} options
 * @throws {ApiError} if the request fails; an AbortError if the signal is aborted
 */
export async function request(method, path, options = {}) {
  const response = await send(method, path, options);
  const data = await (options.as === "blob" ? response.blob() : isJson(response) ? response.json() : response.text());
  return { status: response.status, headers: response.headers, data };
}

export const get = async (path, options) => (await request("GET", path, options)).data;
export const post = async (path, json, options) => (await request("POST", path, { json, ...options })).data;
export const remove = async (path, options) => (await request("DELETE", path, options)).data;

/** Yield the events of a server-sent event stream as {event, data}; data is parsed JSON. */
export async function* events(path, signal) {
  const response = await send("GET", path, { signal, headers: { Accept: "text/event-stream" } });
  let text = "";
  for await (const chunk of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
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

const isJson = (response) => /[/+]json\b/.test(response.headers.get("Content-Type") ?? "");

async function send(method, path, { json, body, headers = {}, signal } = {}) {
  const content = json === undefined ? {} : { "Content-Type": "application/json" };
  for (;;) {
    const key = sessionStorage.getItem(STORE);
    const all = { ...content, ...headers, ...(key === null ? {} : { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { method, headers: all, body: json === undefined ? body : JSON.stringify(json), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The service does not respond", { offline: true });
    }
    if (response.ok) return response;
    const problem = isJson(response) ? await response.json() : null;
    if (response.status === 401 && (await replaceKey(key, problem?.detail ?? ""))) continue;
    throw new ApiError(problem?.detail ?? response.statusText, { status: response.status, problem });
  }
}

/** Return whether a key other than the refused one is available. Concurrent requests share one dialog. */
async function replaceKey(refused, reason) {
  if (sessionStorage.getItem(STORE) !== refused) return true;
  pendingKey ??= requestKey(reason).finally(() => { pendingKey = null; });
  const key = await pendingKey;
  if (!key) return false;
  sessionStorage.setItem(STORE, key);
  return true;
}

/** Return the API path of a model, or of one of its versions. */
export function modelPath(name, version = null) {
  const path = `/v1/models/${encodeURIComponent(name)}`;
  return version === null ? path : `${path}/versions/${encodeURIComponent(version)}`;
}
