// The page: one conversation at a time, and what the reader does to it.

import { addFile, initAdding } from "./adding.js";
import { getProps } from "./api.js";
import { Chat } from "./chat.js";
import { choosePassages, passageBudget } from "./choosing.js";
import { newConversation, removeDocument, titleOf } from "./conversation.js";
import { initDocuments, isReading, showDocuments } from "./documents.js";
import { byId } from "./dom.js";
import { closeExport, initExport, isExportOpen } from "./export-menu.js";
import { showGauge } from "./gauge.js";
import { initKeeping, keep, lastUsed, load, removeAll, showList } from "./keeping.js";
import { askForKey } from "./key-dialog.js";
import { initMessages, showMessages, updateReply } from "./messages.js";
import { initPlaces, placeId, setPlace } from "./places.js";
import { clearQuestion, initQuestion } from "./question.js";
import { currentSettings, initSettings, showDefaults } from "./settings.js";
import { closeSidebar, initSidebar, isSidebarOpen } from "./sidebar.js";
import { closeSource, dropSource, initSourcePanel, isSourceOpen, openDocument, openSources } from "./source-panel.js";
import { beginSpeaking, speak } from "./spoken.js";
import { initTheme } from "./theme.js";
import { toast } from "./toast.js";

const question = byId("question");
let conversation = newConversation();
let wanted = conversation.id; // of the conversation that is to be shown once it is read
let props = null;
let keepNext = 0; // when the running reply is kept the next time

const chat = new Chat({
  begun() {
    beginSpeaking();
    showAll();
    keepSoon();
  },
  changed(reply) {
    if (!conversation.messages.includes(reply)) return; // stopped, and another one is shown by now
    updateReply(reply, true);
    speak(reply);
    if (Date.now() > keepNext) keepSoon();
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
    ask(() => calls.forEach((call, i) => conversation.messages.push({ role: "tool", call: call.id, text: texts[i] })));
  },
};

// ---- what is shown

/** Show another conversation; `step`: the browser's back button leads back to the one before. */
function show(other, { step = true } = {}) {
  conversation = other;
  wanted = other.id;
  endLeftReply();
  setPlace(other.id, { step });
  dropSource();
  showAll();
  showList();
  question.focus();
}

/** A reply that nobody writes any more, since the page was left or reloaded meanwhile, ends where it is. */
function endLeftReply() {
  const last = conversation.messages.at(-1);
  if (last?.role === "assistant" && last.finish === null) last.finish = "STOPPED";
}

function showAll(options) {
  showMessages(conversation, replyActions, options);
  showState();
}

function showState() {
  const settings = settingsOrNull() ?? {};
  const budget = passageBudget(conversation, props, { preamble: "", tools: null, ...settings });
  byId("title").textContent = conversation.title || "New conversation";
  document.title = conversation.title ? `${conversation.title} – Command-R` : "Command-R";
  byId("export").hidden = !conversation.messages.length;
  byId("send").hidden = chat.isRunning;
  byId("stop").hidden = !chat.isRunning;
  showDocuments(conversation, budget, {
    open: (one, element) => openDocument(conversation, one, element),
    remove(one) {
      removeDocument(conversation, one);
      keep(conversation);
      showState();
      question.focus();
    },
  });
  showGauge(conversation, props?.n_ctx ?? null, budget);
}

/** Keep the running reply, and again after a time that is long beside what keeping takes. */
async function keepSoon() {
  const begun = Date.now();
  keepNext = Infinity;
  await keep(conversation);
  keepNext = Date.now() + Math.max(2000, 20 * (Date.now() - begun));
}

// ---- which conversation

function create() {
  chat.stop();
  show(newConversation());
}

async function open(id, options) {
  wanted = id;
  if (id === conversation.id) return;
  const found = await load(id);
  if (wanted !== id) return; // another one was chosen meanwhile
  chat.stop();
  show(found ?? newConversation(), options);
}

/** Another tab has kept a conversation. */
async function changed(id) {
  if (id !== conversation.id || chat.isRunning) return;
  const found = await load(id);
  if (!found || id !== conversation.id || chat.isRunning || found.revision === conversation.revision) return;
  conversation = found;
  showAll({ stays: true });
}

/** Another tab has removed a conversation, or all with null. */
function gone(id) {
  if ((id ?? conversation.id) !== conversation.id || !conversation.revision) return;
  chat.stop();
  show(newConversation(), { step: false });
  toast("This conversation was deleted in another tab.");
}

// ---- what the reader does

async function copy(reply) {
  try {
    await navigator.clipboard.writeText(reply.text);
    toast("Copied.");
  } catch {
    toast("The browser allows no copying here."); // as on a page without encryption that is not this machine's
  }
}

function settingsOrNull() {
  try {
    return currentSettings();
  } catch {
    return null;
  }
}

/** Ask for a reply; `prepare` changes the conversation before, if it can be asked at all. */
function ask(prepare) {
  const settings = settingsOrNull();
  if (!settings) return toast("The settings cannot be read; reset them.");
  if (chat.isRunning) return;
  endLeftReply();
  prepare();
  chat.reply(conversation, settings, choosePassages(conversation, props, settings));
}

function send() {
  const text = question.value.trim();
  if (!text) return;
  if (isReading()) return toast("A document is still being read. Send when it is there.");
  ask(() => {
    clearQuestion();
    if (!conversation.messages.length) conversation.title = "";
    conversation.messages.push({ role: "user", text });
    conversation.title ||= titleOf(conversation);
  });
}

function askText(text) {
  question.value = text;
  send();
}

function regenerate() {
  ask(() => {
    if (conversation.messages.at(-1)?.role === "assistant") conversation.messages.pop();
    dropSource();
    question.focus();
  });
}

function onKey(event) {
  if (event.isComposing) return; // the key belongs to the input method
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (isExportOpen()) closeExport();
    else if (isSidebarOpen()) closeSidebar();
    else if (chat.isRunning) chat.stop();
    else if (isSourceOpen()) closeSource();
  } else if (event.key === "/" && event.target === document.body) {
    event.preventDefault();
    question.focus();
  }
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
  initExport(() => conversation);
  initSettings({ changed: showState, keyChanged: connect });
  initSidebar({ create, removeAll });
  initKeeping({ current: () => conversation, open, create, changed, gone, moved: () => setPlace(conversation.id, {}) });
  initPlaces((id) => id && open(id, { step: false }));
  initQuestion(send);
  initAdding({ current: () => conversation, refresh: showState, refused: connect, ask: askText });
  initDocuments({ add: addFile, notify: toast, maxBytes: () => props?.max_body_bytes ?? Infinity });
  byId("stop").addEventListener("click", (event) => {
    if (event.detail > 1) return; // the second half of a double click on Send, which stood there
    chat.stop();
    question.focus();
  });
  for (const cancel of document.querySelectorAll('dialog button[value="cancel"]')) {
    cancel.addEventListener("click", () => cancel.closest("dialog").close());
  }
  addEventListener("keydown", onKey);
}

async function begin() {
  initPage();
  showAll();
  const id = placeId() || (await lastUsed());
  show((id && (await load(id))) || newConversation(), { step: false });
  await connect();
}

begin();
