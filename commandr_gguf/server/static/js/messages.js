// The conversation's messages on the page, and where it is scrolled to.

import { byId } from "./dom.js";
import { ReplyView, questionElement } from "./message-view.js";

const scroller = byId("scroller");
const list = byId("messages");
let views = new Map(); // reply -> its view
let follows = true; // the end of the conversation is kept in sight

/** Heed where the reader scrolls to. */
export function initMessages() {
  scroller.addEventListener("scroll", () => {
    follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
  });
}

/** Show all messages. `actions` as for `ReplyView`; `stays`: what is in sight stays there. */
export function showMessages(conversation, actions, { stays = false } = {}) {
  byId("welcome").hidden = conversation.messages.length > 0;
  list.hidden = !conversation.messages.length;
  views = new Map();
  const last = conversation.messages.at(-1);
  const elements = conversation.messages.flatMap((message) => {
    if (message.role === "tool") return []; // shown with the call it belongs to
    if (message.role === "user") return [questionElement(message)];
    const view = new ReplyView(conversation, message, actions);
    views.set(message, view);
    view.update(message === last);
    return [view.element];
  });
  list.replaceChildren(...elements);
  if (!stays || follows) toEnd();
}

/** Show what a reply holds by now. */
export function updateReply(reply, isLast) {
  views.get(reply)?.update(isLast);
  if (follows) scroller.scrollTop = scroller.scrollHeight;
}

function toEnd() {
  follows = true;
  scroller.scrollTop = scroller.scrollHeight;
}
