// Conversations in the browser's database. What is kept there never leaves it but in requests to the server.

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("commandr", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, ask) {
  const transaction = (await open()).transaction("conversations", mode);
  const request = ask(transaction.objectStore("conversations"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/** All conversations, the last used first. */
export async function allConversations() {
  const found = await run("readonly", (store) => store.getAll());
  return found.sort((a, b) => b.updated - a.updated);
}

export const keep = (conversation) => run("readwrite", (store) => store.put(conversation));
export const remove = (id) => run("readwrite", (store) => store.delete(id));
export const removeAll = () => run("readwrite", (store) => store.clear());
