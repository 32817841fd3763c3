// What covers the page on a narrow screen is closed by the phone's way back, which would leave the page otherwise.

/**
 * From now on "back" calls `close`; returns what ends that. Browsers that cannot do it are left as they are.
 * @param {() => void} close
 */
export function closedByBack(close) {
  if (!("CloseWatcher" in globalThis)) return () => {};
  const watcher = new CloseWatcher();
  watcher.addEventListener("close", close);
  return () => watcher.destroy();
}
