// Conversations in the browser's database. What is kept there never leaves it but in requests to the server.
//
// A kept conversation has a `revision`, which changes each time it is kept: so that a tab which holds an older one does
// not overwrite what another tab has added since.

import { newId } from "./conversation.js";

const STORE = "conversations";
let opened = null;
let lastWrite = Promise.resolve(); // one after the other: a revision is known only when it has been written

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("commandr", 2);
    request.onupgradeneeded = () => {
      const database = request.result;
      const store = database.objectStoreNames.contains(STORE)
        ? request.transaction.objectStore(STORE)
        : database.createObjectStore(STORE, { keyPath: "id" });
      store.createIndex("list", ["updated", "id", "title"]); // so that listing reads no documents
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close(); // a newer page wants to change it
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/** Run a transaction: `work(store, give)` asks, and what it gives is the result. */
async function run(mode, work) {
  const transaction = (await open()).transaction(STORE, mode);
  let result;
  work(transaction.objectStore(STORE), (value) => {
    result = value;
  });
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(result);
    transaction.onabort = () => reject(transaction.error); // an error that nobody handles leads there
  });
}

function write(work) {
  const done = lastWrite.then(() => run("readwrite", work));
  lastWrite = done.catch(() => {});
  return done;
}

/** The conversations, the last used first: [{id, title}]. */
export const list = () =>
  run("readonly", (store, give) => {
    const found = [];
    store.index("list").openKeyCursor(null, "prev").onsuccess = ({ target: { result: cursor } }) => {
      if (!cursor) return give(found);
      const [, id, title] = cursor.key;
      found.push({ id, title });
      cursor.continue();
    };
  });

/** The conversation with an id, undefined when there is none. */
export const load = (id) =>
  run("readonly", (store, give) => {
    store.get(id).onsuccess = ({ target }) => give(target.result);
  });

/**
 * Keep a conversation.
 * @returns {Promise<"kept" | "forked" | "gone">} "forked": another tab has kept it meanwhile, and this became one of its
 *     own, with a new id; "gone": it was removed meanwhile and stays so
 */
export async function keep(conversation) {
  let kept = null;
  const outcome = await write((store, give) => {
    const known = conversation.revision ?? null; // null: it was never kept
    store.get(conversation.id).onsuccess = ({ target: { result: stored } }) => {
      if (known !== null && !stored) return give("gone");
      const forks = stored !== undefined && (stored.revision ?? null) !== known;
      kept = { ...conversation, revision: newId() };
      if (forks) Object.assign(kept, { id: newId(), title: `${conversation.title} (2)` });
      store.put(kept);
      give(forks ? "forked" : "kept");
    };
  });
  if (kept) Object.assign(conversation, { id: kept.id, title: kept.title, revision: kept.revision });
  return outcome;
}

/** Keep one that was removed, as it was. */
export const restore = (conversation) => write((store) => store.put(conversation));
export const remove = (id) => write((store) => store.delete(id));
export const removeAll = () => write((store) => store.clear());
