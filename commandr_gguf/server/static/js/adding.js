// Adding files to the conversation: read by the server one after the other, in the order in which they were given.

import { readFile } from "./api.js";
import { addDocument } from "./conversation.js";
import { whileReading } from "./documents.js";
import { byId } from "./dom.js";
import { EXAMPLE } from "./example.js";
import { keep, load } from "./keeping.js";
import { toast } from "./toast.js";

let page = null;

/** Let the example work. `actions`: current(), refresh(), refused() when the key is not the server's, ask(text). */
export function initAdding(actions) {
  page = actions;
  byId("try-example").addEventListener("click", tryExample);
}

/**
 * Read a file into the conversation that is shown now.
 * @param {() => Promise<BufferSource>} getData called when it is the file's turn
 * @returns {Promise<boolean>} whether it is in the conversation
 */
export function addFile(name, getData) {
  const into = page.current();
  return whileReading(name, page.refresh, async () => {
    let data;
    try {
      data = await getData();
    } catch {
      toast(`${name} cannot be read.`); // it is gone by now, or a folder
      return false;
    }
    try {
      return await add(into, await readFile(name, data));
    } catch (error) {
      toast(error.message);
      if (error.status === 401) page.refused();
      return false;
    }
  });
}

async function add(asked, read) {
  const shown = page.current();
  // Meanwhile it may have been opened anew, by another tab's changes or by leaving it and coming back.
  const into = shown.id === asked.id ? shown : ((await load(asked.id)) ?? asked);
  if (!addDocument(into, read)) toast(`${read.name} is here already.`);
  await keep(into);
  return true;
}

async function tryExample() {
  const { id } = page.current();
  const encoder = new TextEncoder();
  byId("try-example").disabled = true;
  const added = await Promise.all(
    EXAMPLE.documents.map(([name, text]) => addFile(name, async () => encoder.encode(text))),
  );
  byId("try-example").disabled = false;
  if (added.every(Boolean) && id === page.current().id) page.ask(EXAMPLE.question);
}
