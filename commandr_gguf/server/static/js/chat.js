// Asking, stopping, asking again: the one request that may be under way.

import { chat } from "./api.js";
import { requestOf } from "./conversation.js";
import { newReply, take } from "./reply.js";

const TOO_LONG = "Begin a new conversation, ask in fewer words, or start the server with a longer context (--ctx).";

/** Runs a conversation's next reply. */
export class Chat {
  #abort = null;

  /** @param {Object} hooks begun(), changed(reply), from time to time, and ended(conversation, reply, error) */
  constructor(hooks) {
    this.hooks = hooks;
  }

  get isRunning() {
    return this.#abort !== null;
  }

  stop() {
    this.#abort?.abort();
  }

  /**
   * Ask for a reply and put it into the conversation; returns when it has ended.
   * @param {{passages: Object[], total: number}} chosen see choosing.js
   */
  async reply(conversation, settings, chosen) {
    const body = requestOf(conversation, settings, chosen.passages);
    const reply = newReply(chosen);
    const abort = new AbortController();
    let failure = null;
    this.#abort = abort;
    conversation.messages.push(reply);
    this.hooks.begun();
    const refresh = seldom(() => reply.finish === null && this.hooks.changed(reply));
    try {
      for await (const event of chat(body, abort.signal)) {
        take(reply, event);
        refresh();
      }
      if (reply.finish === null) failure = new Error("The connection ended before the reply did.");
    } catch (error) {
      if (!abort.signal.aborted) failure = error;
    }
    if (failure) reply.problem = failure.message;
    if (failure?.status === 400 && /\bthe context\b/.test(failure.message)) reply.problem += ` ${TOO_LONG}`;
    if (reply.finish === null) reply.finish = abort.signal.aborted ? "STOPPED" : "ERROR";
    this.#abort = null;
    this.hooks.ended(conversation, reply, failure);
  }
}

/** Once a frame at most, and a third of the time: to show a very long reply takes long. */
function seldom(run) {
  let waiting = false;
  let rest = 0;
  const show = () => {
    const begun = performance.now();
    waiting = false;
    run();
    rest = 2 * (performance.now() - begun);
  };
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => requestAnimationFrame(show), rest);
  };
}
