// Completes searches. Without it, a search is a plain field.
(function () {
  "use strict";
  const MAX_SHOWN = 10;
  let values = null; // field -> values, read once when a search gets the focus
  let loading = null; // so that what is typed meanwhile is completed, too

  function load(address) { return loading ||= request(address); }
  async function request(address) {
    try {
      const response = await fetch(address);
      if (response.ok) values = await response.json();
    } catch (_) { /* tried again at the next key */ }
    if (!values) loading = null;
  }

  const quoted = (value) => /[\s,"\\]/.test(value) || value.endsWith("*") ? `"${value.replace(/[\\"]/g, "\\$&")}"` : value;

  // What the word at the cursor may become: where it starts, and what may replace it.
  function suggestions(text) {
    if ((text.match(/(?:^|[^\\])"/g) || []).length % 2) {
      const open = text.lastIndexOf('"');
      const before = /([a-z][a-z0-9_-]*):(?:[^\s"]*,)?$/.exec(text.slice(0, open));
      return before ? ofField(before[1], text.slice(open + 1), open) : null;
    }
    const start = text.search(/\S*$/);
    const word = text.slice(start);
    const colon = word.indexOf(":");
    if (colon < 0) {
      const fields = (values && values.fields) || [];
      return { start, found: fields.filter((name) => name.startsWith(word) && name !== word) };
    }
    const comma = Math.max(word.lastIndexOf(","), colon);
    return ofField(word.slice(0, colon), word.slice(comma + 1), start + comma + 1);
  }
  function ofField(field, part, start) {
    const known = values && Object.hasOwn(values, field) ? values[field] : [];
    const low = part.toLowerCase();
    return { start, found: known.filter((value) => value.toLowerCase().startsWith(low) && value !== part).map(quoted) };
  }

  function complete(input) {
    const list = document.createElement("ul");
    list.id = `${input.id}-options`;
    list.className = "options-list";
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", document.getElementById("announce").dataset.suggestions); // base.html
    list.hidden = true;
    input.after(list);
    input.type = "text"; // a search field cannot be a combobox
    for (const [name, value] of Object.entries({ role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id, "aria-haspopup": "listbox" })) input.setAttribute(name, value);
    let start = 0, active = -1, shown = [];

    function close() {
      list.hidden = true;
      list.replaceChildren();
      active = -1;
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
    }
    function show() {
      const cursor = input.selectionStart;
      const at = suggestions(input.value.slice(0, cursor));
      close();
      if (!at || !at.found.length || document.activeElement !== input) return;
      start = at.start;
      shown = at.found.slice(0, MAX_SHOWN);
      shown.forEach((option, number) => {
        const item = document.createElement("li");
        item.id = `${list.id}-${number}`;
        item.setAttribute("role", "option");
        item.setAttribute("aria-selected", "false");
        item.textContent = option;
        item.addEventListener("pointerdown", (event) => { event.preventDefault(); choose(option); });
        list.append(item);
      });
      list.hidden = false;
      input.setAttribute("aria-expanded", "true");
    }
    function mark(number) {
      const items = [...list.children];
      active = (number + items.length) % items.length;
      items.forEach((item, place) => item.setAttribute("aria-selected", String(place === active)));
      input.setAttribute("aria-activedescendant", items[active].id);
      items[active].scrollIntoView({ block: "nearest" });
    }
    function choose(text) {
      const rest = input.value.slice(input.selectionStart).replace(/^[^\s,]*/, "");
      const end = /[:.]$/.test(text) ? "" : " ";
      input.value = input.value.slice(0, start) + text + end + rest.replace(/^\s/, "");
      input.setSelectionRange(start + text.length + end.length, start + text.length + end.length);
      if (end) close(); else show();
    }
    input.addEventListener("focus", async () => { await load(input.dataset.complete); });
    input.addEventListener("input", async () => { await load(input.dataset.complete); show(); });
    input.addEventListener("blur", close);
    input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        if (list.hidden) show();
        if (!list.hidden) mark(active < 0 && event.key === "ArrowUp" ? -1 : active + (event.key === "ArrowDown" ? 1 : -1));
      } else if (event.key === "Enter" && !list.hidden && active >= 0) {
        event.preventDefault();
        choose(shown[active]);
      } else if (event.key === "Escape" && !list.hidden) {
        event.stopPropagation();
        event.preventDefault();
        close();
      }
    });
  }
  for (const input of document.querySelectorAll("input[data-complete]")) complete(input);
})();
