// The field for the question.

import { byId } from "./dom.js";

const question = byId("question");

/** Let it work; `send()` is called when the reader wants to. */
export function initQuestion(send) {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  question.addEventListener("keydown", (event) => {
    // While an input method composes, Enter accepts what it offers. Safari ends that before the key, which it marks 229.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    send();
  });
  // As a link it would put its own name into the address, where the conversation's id is.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    question.focus();
  });
  if (!CSS.supports("field-sizing", "content")) question.addEventListener("input", grow);
}

/** Empty it. */
export function clearQuestion() {
  question.value = "";
  question.style.height = "";
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}
