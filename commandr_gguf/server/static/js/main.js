// The page: one conversation at a time, and what the reader does to it.

import { ApiError, getProps, readFile } from "./api.js";
import { Chat } from "./chat.js";
import { addDocument, newConversation, titleOf } from "./conversation.js";
import { initDocuments, showDocuments, whileReading } from "./documents.js";
import { byId } from "./dom.js";
import { EXAMPLE } from "./example.js";
import { download, toJson, toMarkdown } from "./exporting.js";
import { showGauge } from "./gauge.js";
import { askForKey } from "./key-dialog.js";
import { initMessages, showMessages, updateReply } from "./messages.js";
import { currentSettings, initSettings, showDefaults } from "./settings.js";
import { closeSidebar, initSidebar, isSidebarOpen, showConversations } from "./sidebar.js";
import { closeSource, dropSource, initSourcePanel, isSourceOpen, openDocument, openSources } from "./source-panel.js";
import { beginSpeaking, speak } from "./spoken.js";
import * as store from "./store.js";
import { initTheme } from "./theme.js";
import { toast } from "./toast.js";

const question = byId("question");
let conversation = newConversation();
let props = null;
let kept = 0; // when the running reply was kept last
const deleted = new Set(); // ids of conversations that a reply which ends later must not bring back

const chat = new Chat({
  begun() {
    beginSpeaking();
    showAll();
    keep();
  },
  changed(reply) {
    updateReply(reply, true);
    speak(reply);
    if (Date.now() - kept > 2000) keep();
  },
  ended(asked, reply, error) {
    if (asked === conversation) speak(reply);
    updateReply(reply, true);
    showState();
    keep(asked);
    if (error?.status === 401) connect();
  },
});

const replyActions = {
  openSource: (reply, targets, element) => openSources(conversation, reply, targets, element),
  regenerate,
  copy,
  giveResults(texts) {
    const { calls } = conversation.messages.at(-1);
    calls.forEach((call, i) => conversation.messages.push({ role: "tool", call: call.id, text: texts[i] }));
    ask();
  },
};

const listActions = {
  async open(id) {
    chat.stop();
    show((await store.allConversations()).find((one) => one.id === id) ?? newConversation());
  },
  async remove(id) {
    const removed = (await store.allConversations()).find((one) => one.id === id);
    deleted.add(id);
    if (id === conversation.id) create();
    await store.remove(id);
    await showList();
    byId("new-conversation").focus();
    const undo = async () => {
      deleted.delete(id);
      await store.keep(removed);
      await showList();
    };
    toast("Deleted.", { label: "Undo", run: undo });
  },
};

// ---- what is shown

function show(other) {
  conversation = other;
  const last = conversation.messages.at(-1);
  if (last?.role === "assistant" && last.finish === null) last.finish = "STOPPED"; // the page was left meanwhile
  dropSource();
  showAll();
  showList();
  question.focus();
}

function showAll() {
  showMessages(conversation, replyActions);
  showState();
}

function showState() {
  const title = conversation.title || "New conversation";
  byId("title").textContent = title;
  document.title = conversation.title ? `${conversation.title} – Command-R` : "Command-R";
  byId("export").hidden = !conversation.messages.length;
  byId("send").hidden = chat.isRunning;
  byId("stop").hidden = !chat.isRunning;
  showDocuments(conversation, {
    open: (one, element) => openDocument(conversation, one, element),
    remove: removeDocument,
  });
  showGauge(conversation, props?.n_ctx ?? null);
}

async function showList() {
  showConversations(await store.allConversations(), conversation.id, listActions);
}

async function keep(one = conversation) {
  if (deleted.has(one.id)) return;
  kept = one.updated = Date.now();
  try {
    await store.keep(one);
    await showList();
  } catch {
    toast("The browser does not let this page keep conversations.");
  }
}

// ---- what the reader does

function create() {
  chat.stop();
  show(newConversation());
}

async function removeAll() {
  for (const { id } of [conversation, ...(await store.allConversations())]) deleted.add(id);
  await store.removeAll();
  create();
}

async function copy(reply) {
  try {
    await navigator.clipboard.writeText(reply.text);
    toast("Copied.");
  } catch {
    toast("The browser allows no copying here."); // as on a page without encryption that is not this machine's
  }
}

function ask() {
  let settings;
  try {
    settings = currentSettings();
  } catch {
    toast("The settings cannot be read; reset them.");
    return;
  }
  chat.reply(conversation, settings);
}

function send() {
  const text = question.value.trim();
  if (!text || chat.isRunning) return;
  question.value = "";
  conversation.messages.push({ role: "user", text });
  conversation.title ||= titleOf(conversation);
  ask();
}

function regenerate() {
  if (chat.isRunning) return;
  if (conversation.messages.at(-1)?.role === "assistant") conversation.messages.pop();
  dropSource();
  question.focus();
  ask();
}

async function addFile(name, data) {
  const into = conversation;
  await whileReading(name, showState, async () => {
    try {
      addDocument(into, await readFile(name, data));
      if (into.messages.length) await store.keep(into);
    } catch (error) {
      toast(error instanceof ApiError ? error.message : `${name} cannot be read.`);
      if (error.status === 401) connect();
    }
  });
}

function removeDocument(one) {
  one.removed = true;
  if (conversation.messages.length) keep();
  showState();
  question.focus();
}

async function tryExample() {
  byId("try-example").disabled = true;
  const encoder = new TextEncoder();
  for (const [name, text] of EXAMPLE.documents) await addFile(name, encoder.encode(text));
  byId("try-example").disabled = false;
  question.value = EXAMPLE.question;
  send();
}

function onKey(event) {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (byId("export").open) closeMenu();
    else if (isSidebarOpen()) closeSidebar();
    else if (chat.isRunning) chat.stop();
    else if (isSourceOpen()) closeSource();
  } else if (event.key === "/" && event.target === document.body) {
    event.preventDefault();
    question.focus();
  }
}

function closeMenu() {
  byId("export").open = false;
  byId("export").firstElementChild.focus();
}

function exportAs(ending, type, text) {
  closeMenu();
  download(conversation, ending, type, text);
}

// ---- the server

async function connect() {
  try {
    props = await getProps();
  } catch (error) {
    if (error.status === 401 && (await askForKey())) await connect();
    else if (error.status !== 401) toast(error.message, { label: "Try again", run: connect });
    return;
  }
  byId("model-name").textContent = props.model;
  showDefaults(props);
  showState();
}

// ---- beginning

function initPage() {
  initTheme();
  initMessages();
  initSourcePanel();
  initSettings(connect);
  initSidebar({ create, removeAll });
  initDocuments({ add: addFile, notify: toast, maxBytes: () => props?.max_body_bytes ?? Infinity });
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", () => {
    chat.stop();
    question.focus();
  });
  byId("try-example").addEventListener("click", tryExample);
  byId("export-markdown").addEventListener("click", () => exportAs("md", "text/markdown", toMarkdown(conversation)));
  byId("export-json").addEventListener("click", () => exportAs("json", "application/json", toJson(conversation)));
  for (const type of ["pointerdown", "focusin"]) {
    addEventListener(type, (event) => {
      if (!byId("export").contains(event.target)) byId("export").open = false;
    });
  }
  for (const cancel of document.querySelectorAll('dialog button[value="cancel"]')) {
    cancel.addEventListener("click", () => cancel.closest("dialog").close());
  }
  addEventListener("keydown", onKey);
}

async function begin() {
  initPage();
  showAll();
  const last = (await store.allConversations().catch(() => []))[0];
  if (last) show(last);
  else showList();
  question.focus();
  await connect();
}

begin();
