// Keeps the items of a list in step with data without rebuilding them: focus and selection stay.

export function el(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function showList(listId, items, create, update) {
  const list = document.getElementById(listId);
  document.getElementById(`${listId}-empty`).hidden = items.length > 0;
  const old = new Map([...list.children].map((node) => [node.dataset.id, node]));
  items.forEach((item, at) => {
    const id = String(item.id);
    const node = old.get(id) ?? create(item);
    old.delete(id);
    node.dataset.id = id;
    update(node, item);
    if (list.children[at] !== node) list.insertBefore(node, list.children[at] ?? null);
  });
  for (const node of old.values()) node.remove();
}
