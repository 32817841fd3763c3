// The list of conversations; on narrow screens a drawer.

import { closedByBack } from "./back.js";
import { button, byId, make } from "./dom.js";

const sidebar = byId("sidebar");
const narrow = matchMedia("(max-width: 60rem)");
let shown = "";
let endBack = null;

/** Let the drawer and the buttons work. `actions`: create(), removeAll(). */
export function initSidebar(actions) {
  byId("open-sidebar").addEventListener("click", () => setOpen(true));
  byId("close-sidebar").addEventListener("click", () => setOpen(false));
  byId("shade").addEventListener("click", () => setOpen(false));
  narrow.addEventListener("change", () => setOpen(false));
  byId("new-conversation").addEventListener("click", () => {
    closeSidebar();
    actions.create();
  });
  const dialog = byId("delete-dialog");
  byId("delete-all").addEventListener("click", () => dialog.showModal());
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
    actions.removeAll();
  });
  setOpen(false);
}

export const isSidebarOpen = () => narrow.matches && sidebar.classList.contains("open");

/** Close the drawer. */
export function closeSidebar() {
  if (isSidebarOpen()) setOpen(false);
}

function setOpen(open) {
  const covers = open && narrow.matches;
  endBack?.();
  endBack = covers ? closedByBack(closeSidebar) : null;
  sidebar.classList.toggle("open", open);
  byId("shade").hidden = !covers;
  byId("center").inert = covers;
  byId("open-sidebar").setAttribute("aria-expanded", String(open));
  if (open) byId("new-conversation").focus();
  else if (sidebar.contains(document.activeElement)) byId("open-sidebar").focus();
}

/** Show the list. `actions`: open(id), remove(id). */
export function showConversations(conversations, current, actions) {
  const key = JSON.stringify([current, ...conversations.map(({ id, title }) => [id, title])]);
  if (key === shown) return; // the focus may be in it
  shown = key;
  const items = conversations.map(({ id, title }) => {
    const open = () => {
      closeSidebar();
      actions.open(id);
    };
    const name = title || "New conversation";
    const opener = make(
      "button",
      { type: "button", class: "open", dir: "auto", title: name, on: { click: open } },
      name,
    );
    if (id === current) opener.setAttribute("aria-current", "true");
    const remove = button("close", `Delete “${name}”`, () => actions.remove(id), {
      shown: false,
      class: "icon delete",
    });
    return make("li", { class: id === current ? "current" : "" }, opener, remove);
  });
  byId("conversations").replaceChildren(...items);
  byId("delete-all").disabled = !conversations.length;
}
