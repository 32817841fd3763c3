// The files that a drop holds, those in its folders included.

const READ = /\.(txt|text|rst|adoc|org|csv|tsv|md|markdown|mdown|mkd|html?|xhtml|pdf)$/i; // what folders are searched for
const MOST = 500; // files of a folder

/**
 * @param {DataTransfer} transfer of an event that is being handled: later it is empty
 * @returns {Promise<File[]>} sorted by their paths within a folder
 */
export async function droppedFiles(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return files;
  const found = [];
  for (const entry of entries) await collect(entry, found, true);
  return found;
}

async function collect(entry, found, isNamed) {
  if (found.length >= MOST) return;
  if (entry.isFile) {
    if (isNamed || READ.test(entry.name)) found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const inside = await entriesOf(entry);
  inside.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  for (const one of inside) if (!one.name.startsWith(".")) await collect(one, found, false);
}

async function entriesOf(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at most
    if (!some.length) return entries;
    entries.push(...some);
  }
}
