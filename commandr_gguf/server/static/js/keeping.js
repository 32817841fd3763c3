// Keeping conversations, their list, and keeping both in step with other tabs of this browser.

import { isEmpty } from "./conversation.js";
import { byId } from "./dom.js";
import { showConversations } from "./sidebar.js";
import * as store from "./store.js";
import { toast } from "./toast.js";

const tabs = new BroadcastChannel("commandr");
let page = null;
let complained = false; // of what does not work now: once is enough

/**
 * Let the list work and hear other tabs.
 * @param {Object} actions current() is the conversation that is shown; open(id), create() and moved() (it has another id
 *     now) are what happens to it here, changed(id) and gone(id), null for all, what other tabs have done
 */
export function initKeeping(actions) {
  page = actions;
  tabs.addEventListener("message", ({ data }) => {
    showList();
    if (data.kept) page.changed(data.kept);
    else page.gone(data.removed);
  });
}

/** Keep a conversation as it is now; an empty one is not kept. */
export async function keep(one) {
  one.updated = Date.now();
  try {
    if (isEmpty(one)) await forget(one);
    else await put(one);
    complained = false;
  } catch (error) {
    complain(error);
  }
  await showList();
}

async function put(one) {
  const outcome = await store.keep(one);
  if (outcome === "gone") return;
  if (outcome === "forked") {
    toast("Another tab has changed this conversation meanwhile: what was done here is kept as a second one.");
    if (one === page.current()) page.moved();
  }
  tabs.postMessage({ kept: one.id });
}

async function forget(one) {
  if (!one.revision) return;
  delete one.revision;
  await store.remove(one.id);
  tabs.postMessage({ removed: one.id });
}

function complain(error) {
  if (complained) return;
  complained = true;
  const isFull = error?.name === "QuotaExceededError";
  toast(
    isFull
      ? "This conversation is not kept: the browser's storage is full. Delete some conversations, or export this one."
      : "The browser does not let this page keep conversations.",
  );
}

/** The kept conversation with an id; undefined when there is none. */
export const load = (id) => store.load(id).catch(() => undefined);

/** The id of the conversation that was used last, undefined when there is none. */
export const lastUsed = async () => (await store.list().catch(() => []))[0]?.id;

/** Show which conversations there are. */
export async function showList() {
  const all = await store.list().catch(() => []);
  showConversations(all, page.current().id, { open: page.open, remove });
}

async function remove(id) {
  const removed = await load(id);
  if (!removed) return;
  await store.remove(id);
  tabs.postMessage({ removed: id });
  if (id === page.current().id) page.create();
  await showList();
  byId("new-conversation").focus();
  const undo = async () => {
    await store.restore(removed);
    tabs.postMessage({ kept: id });
    await showList();
  };
  toast("Deleted.", { label: "Undo", run: undo });
}

/** Remove all conversations. */
export async function removeAll() {
  await store.removeAll();
  tabs.postMessage({ removed: null });
  page.create();
}
