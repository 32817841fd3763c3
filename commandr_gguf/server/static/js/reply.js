// A reply, as the events of /v2/chat make it.
//
// {role: "assistant", text, plan, calls: [{id, name, arguments}], citations: [{start, end, sources: [id]}],
//  tools: {id: text}, sent: {ids, total}, finish, problem, usage: {prompt, reply}, speed}
// start and end count UTF-16 units of text, as strings of this language do; `tools` are cited results of tools; `sent`
// are the ids of the passages it was asked with and how many there were, null when it was all of them.

/** A reply of which nothing is known yet; `finish` is null as long as it is being written. */
export const newReply = ({ passages, total } = { passages: [], total: 0 }) => ({
  role: "assistant",
  text: "",
  plan: "",
  calls: [],
  citations: [],
  tools: {},
  sent: passages.length < total ? { ids: passages.map(({ id }) => id), total } : null,
  finish: null,
  problem: "",
  usage: null,
  speed: null,
});

/** The UTF-16 position of a code point. */
export function toUnits(text, codePoints) {
  let units = 0;
  for (let i = 0; i < codePoints && units < text.length; i++) units += text.codePointAt(units) > 0xffff ? 2 : 1;
  return units;
}

/** Take what an event tells into a reply. */
export function take(reply, event) {
  const message = event.delta?.message ?? {};
  switch (event.type) {
    case "content-delta":
      reply.text += message.content.text ?? "";
      reply.plan += message.content.thinking ?? "";
      break;
    case "tool-plan-delta":
      reply.plan += message.tool_plan;
      break;
    case "tool-call-start": {
      const { id, function: called } = message.tool_calls;
      reply.calls.push({ id, name: called.name, arguments: called.arguments ?? "" });
      break;
    }
    case "tool-call-delta":
      reply.calls[event.index].arguments += message.tool_calls.function.arguments;
      break;
    case "citation-start":
      cite(reply, message.citations);
      break;
    case "message-end":
      end(reply, event);
      break;
  }
}

function cite(reply, citation) {
  const start = toUnits(reply.text, citation.start);
  const end = toUnits(reply.text, citation.end);
  for (const source of citation.sources) {
    if (source.type === "tool") reply.tools[source.id] = JSON.stringify(source.tool_output, null, 2);
  }
  reply.citations.push({ start, end, sources: citation.sources.map((source) => source.id) });
}

function end(reply, { delta, timings }) {
  reply.finish = delta.finish_reason;
  if (delta.error) reply.problem = delta.error;
  const tokens = delta.usage?.tokens;
  if (tokens) reply.usage = { prompt: tokens.input_tokens, reply: tokens.output_tokens };
  if (timings?.decode_seconds > 0) reply.speed = timings.decode_tokens / timings.decode_seconds;
}
