// A conversation: what it holds, and the request that continues it.
//
// {id, title, created, updated, nextDocument, documents, messages}, and what store.js adds
// document: {id, name, passages: [{title, text, n_tokens}], tokens, removed}; removed ones are kept for citations that
//   lead there
// message:  {role: "user", text} | {role: "tool", call, text} | a reply as reply.js makes them

/** A name that nothing else has. */
export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** An empty one. */
export function newConversation(id = newId()) {
  const now = Date.now();
  return { id, title: "", created: now, updated: now, nextDocument: 1, documents: [], messages: [] };
}

export const isEmpty = ({ messages, documents }) => !messages.length && !documents.length;

/** Add a document as the server read it; returns it, or null when the same is there already. */
export function addDocument(conversation, read) {
  const { name, passages, n_tokens: tokens } = read;
  const text = JSON.stringify(passages);
  const isSame = (one) => one.name === name && one.tokens === tokens && JSON.stringify(one.passages) === text;
  if (shownDocuments(conversation).some(isSame)) return null;
  const added = { id: `document-${conversation.nextDocument++}`, name, passages, tokens, removed: false };
  conversation.documents.push(added);
  conversation.title ||= name;
  return added;
}

/** Take a document out of those that are shown to the model. */
export function removeDocument(conversation, document) {
  document.removed = true;
  if (conversation.messages.length) return;
  conversation.documents = shownDocuments(conversation); // nothing leads to the others
  conversation.title = conversation.documents[0]?.name ?? "";
}

/** The documents that are shown to the model. */
export const shownDocuments = (conversation) => conversation.documents.filter((one) => !one.removed);

/** Which passage a citation's source is: {document, index}, or null for what a tool gave. */
export function findPassage(conversation, sourceId) {
  const [, id, number] = /^(.*)#(\d+)$/.exec(sourceId) ?? [];
  const found = conversation.documents.find((one) => one.id === id);
  return found && number <= found.passages.length ? { document: found, index: number - 1 } : null;
}

/** The first question, as a title. */
export function titleOf(conversation) {
  const text = conversation.messages.find((message) => message.role === "user")?.text ?? "";
  const line = text.trim().split("\n", 1)[0];
  return line.length > 80 ? `${line.slice(0, 79).trimEnd()}…` : line;
}

/** The passages of these documents: [{id, passage}]. */
export const shownPassages = (conversation) =>
  shownDocuments(conversation).flatMap((one) =>
    one.passages.map((passage, i) => ({ id: `${one.id}#${i + 1}`, passage })),
  );

/**
 * The body of a request to /v2/chat that continues a conversation.
 * @param {Object[]} passages those of `shownPassages` that are sent
 */
export function requestOf(conversation, settings, passages) {
  const documents = passages.map(({ id, passage: { title, text } }) => ({ id, data: { title, text } }));
  const body = { model: "local", stream: true, messages: messagesOf(conversation, settings.preamble) };
  if (documents.length) body.documents = documents;
  body.citation_options = { mode: settings.citations };
  if (settings.tools) body.tools = settings.tools;
  for (const [name, value] of [
    ["temperature", settings.temperature],
    ["p", settings.topP],
    ["max_tokens", settings.maxTokens],
    ["seed", settings.seed],
  ]) {
    if (value !== null) body[name] = value;
  }
  return body;
}

/** Turns alternate, as the models' templates want it: a question that was never answered is left out. */
function messagesOf(conversation, preamble) {
  const messages = preamble.trim() ? [{ role: "system", content: preamble }] : [];
  const given = new Set(conversation.messages.map((message) => message.call)); // calls whose results are there
  for (const message of conversation.messages) {
    if (message.role === "user") {
      if (messages.at(-1)?.role === "user") messages.pop();
      messages.push({ role: "user", content: message.text });
    } else if (message.role === "tool") {
      messages.push({ role: "tool", tool_call_id: message.call, content: message.text });
    } else if (message.calls.length && message.calls.every(({ id }) => given.has(id))) {
      messages.push(callsOf(message));
    } else if (message.text) messages.push({ role: "assistant", content: message.text });
  }
  return messages;
}

function callsOf({ calls, plan }) {
  const asked = calls.map(({ id, name, arguments: text }) => ({
    id,
    type: "function",
    function: { name, arguments: text },
  }));
  return { role: "assistant", tool_calls: asked, ...(plan && { tool_plan: plan }) };
}
