// Keys of the page. Not where text is typed, nor where a slider or button has its own use of a key.
document.addEventListener("keydown", (event) => {
  const at = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat && event.key === " ") return;
  if (at.closest("input, textarea, [contenteditable]")) return;
  if (event.key.startsWith("Arrow") && at.closest('[role="slider"]')) return;
  if (event.key === " " && at.closest('button, [role="button"]')) return;
  const keys = [" ", "ArrowLeft", "ArrowRight", "s", "x", "o", "f", "b"];
  if (!keys.includes(event.key)) return;
  event.preventDefault();
  emitEvent("hrtem_key", event.key);
});
