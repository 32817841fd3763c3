// Requests to the server that this page came from.

import { eventsOf } from "./sse.js";

/** A request was refused or came to nothing; the message is for the reader. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const AGAIN_MS = 300;
const KEY = "key"; // kept until the tab is closed, and by no other tab

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/**
 * Ask, and once more if no answer came: a browser drops what it is asking when the computer joins or leaves a network,
 * even if the server is on this computer.
 */
async function ask(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  }
}

async function request(path, options = {}) {
  const key = getKey();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await ask(path, { ...options, headers });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new ApiError(sentence(body.message ?? `The server answered ${answer.status}.`), answer.status);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** What the server says of itself: model, n_ctx, limits, sampling defaults. */
export const getProps = async () => (await request("/props")).json();

/** The passages of a file: {name, passages: [{title, text}], n_tokens}. */
export async function readFile(name, data) {
  const options = { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: data };
  return (await request(`/page/documents?name=${encodeURIComponent(name)}`, options)).json();
}

/** The events of a reply. Aborting the signal makes the server stop, too. */
export async function* chat(body, signal) {
  const options = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  };
  const answer = await request("/v2/chat", options);
  try {
    yield* eventsOf(answer.body);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection ended before the reply did.");
  }
}
