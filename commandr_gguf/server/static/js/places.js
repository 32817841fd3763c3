// Which conversation is shown, in the address: a reload shows the same one, and the browser's back button the one before.

/** The id in the address; "" when there is none. */
export const placeId = () => location.hash.slice(1);

/** Put an id into the address: as a step that leads back to the one before, or in its place. */
export function setPlace(id, { step }) {
  if (id === placeId()) return;
  history[step && placeId() ? "pushState" : "replaceState"](null, "", `#${id}`);
}

/** Call `open(id)` when the reader goes back or forward. */
export const initPlaces = (open) => addEventListener("popstate", () => open(placeId()));
