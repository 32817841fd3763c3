// A conversation: what it holds, and the request that continues it.
//
// {id, title, created, updated, nextDocument, documents, messages}
// document: {id, name, passages: [{title, text}], tokens, removed}; removed ones are kept for citations that lead there
// message:  {role: "user", text} | {role: "tool", call, text} | a reply as reply.js makes them

/** An empty one. */
export function newConversation() {
  const now = Date.now();
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join(
    "",
  );
  return { id, title: "", created: now, updated: now, nextDocument: 1, documents: [], messages: [] };
}

/** Add a document as the server read it; returns it. */
export function addDocument(conversation, read) {
  const { name, passages, n_tokens: tokens } = read;
  const added = { id: `document-${conversation.nextDocument++}`, name, passages, tokens, removed: false };
  conversation.documents.push(added);
  return added;
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

/** The body of a request to /v2/chat that continues a conversation. */
export function requestOf(conversation, settings) {
  const documents = shownDocuments(conversation).flatMap((one) =>
    one.passages.map((passage, i) => ({
      id: `${one.id}#${i + 1}`,
      data: { title: passage.title, text: passage.text },
    })),
  );
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

function messagesOf(conversation, preamble) {
  const messages = preamble.trim() ? [{ role: "system", content: preamble }] : [];
  for (const message of conversation.messages) {
    if (message.role === "user") messages.push({ role: "user", content: message.text });
    else if (message.role === "tool")
      messages.push({ role: "tool", tool_call_id: message.call, content: message.text });
    else if (message.calls.length) {
      const calls = message.calls.map(({ id, name, arguments: given }) => ({
        id,
        type: "function",
        function: { name, arguments: given },
      }));
      messages.push({ role: "assistant", tool_calls: calls, ...(message.plan && { tool_plan: message.plan }) });
    } else if (message.text) messages.push({ role: "assistant", content: message.text });
  }
  return messages;
}
