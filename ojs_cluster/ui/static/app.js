// Everything here improves pages that work without it: refresh, charts, copy, keys.
(function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const stored = (name, value) => {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch (_) { /* storage is blocked */ }
    return null;
  };
  // The user has chosen a time zone (base.html); otherwise scripts show the times of the browser.
  const isKnown = (name) => { try { return Boolean(new Intl.DateTimeFormat("en", { timeZone: name })); } catch (_) { return false; } };
  const chosen = document.documentElement.dataset.zone;
  const zone = !chosen || isKnown(chosen) ? chosen : "UTC"; // an old browser may not know a new zone
  // 24 hours and a zone, in any language of the browser.
  const clock = (time) => time.toLocaleTimeString("en-GB", { hour12: false, timeZoneName: "short", timeZone: zone });
  const root = document.documentElement;
  const texts = byId("announce").dataset; // in the language of the page; % stands for a value
  const say = (text) => { byId("announce").textContent = text; };
  const digits = (value) => value.toLocaleString("en").replace(/[,.]/g, (each) => each === "," ? root.dataset.thousands : root.dataset.decimal);
  root.classList.add("js");

  // -- colours
  const theme = byId("theme");
  theme.value = stored("ojs-theme") || "";
  theme.addEventListener("change", () => {
    stored("ojs-theme", theme.value);
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
    drawCharts();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts());

  // -- times: the zone of the browser comes first, and the field completes all zones
  const times = byId("times");
  if (times) {
    const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (own && own !== "UTC" && own !== chosen) {
      const button = document.createElement("button");
      Object.assign(button, { name: "times", value: own, textContent: times.dataset.own.replace("%", own) });
      times.prepend(button);
    }
    times.closest("details").addEventListener("toggle", () => {
      const names = Intl.supportedValuesOf ? Intl.supportedValuesOf("timeZone") : [];
      byId("zones").replaceChildren(...names.map((name) => new Option("", name)));
    }, { once: true });
  }

  // -- refresh: htmx replaces #refreshed, unless the user reads hidden tabs, marks rows or types
  const live = byId("live");
  let timer = 0;
  function busy() {
    const area = byId("refreshed");
    const focus = document.activeElement;
    return document.hidden || !area || area.querySelector("details[open], input:checked") !== null ||
      (area.contains(focus) && /^(INPUT|SELECT|TEXTAREA)$/.test(focus.tagName)) ||
      String(getSelection()) !== "";
  }
  function refresh() {
    const area = byId("refreshed");
    if (!area || area.dataset.refresh === undefined || busy()) return;
    if (area.dataset.refresh === "rows") checkForNewRows(area);
    else window.htmx.ajax("GET", location.href, { target: "#refreshed", select: "#refreshed", swap: "outerHTML", headers: shown ? { "If-None-Match": shown } : {} });
  }
  // A page that is no longer refreshed says so: its numbers would look current.
  const stale = byId("not-refreshed");
  let refreshedAt = new Date();
  function noteRefresh(answered) {
    if (answered) refreshedAt = new Date();
    else stale.textContent = texts.stale.replace("%", clock(refreshedAt));
    stale.hidden = answered;
  }
  for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) document.addEventListener(name, () => noteRefresh(false));
  document.addEventListener("htmx:afterSwap", () => noteRefresh(true));
  // The server sends nothing if the content with this ETag is still right.
  let shown = "";
  document.addEventListener("htmx:beforeSwap", (event) => {
    const reply = event.detail.xhr;
    if (reply.status === 304) {
      event.detail.shouldSwap = false;
      noteRefresh(true);
    } else shown = reply.status === 200 ? reply.getResponseHeader("ETag") || "" : "";
  });
  // A list does not move under the reader: rows keep their place, and a banner offers the new ones.
  async function checkForNewRows(area) {
    const response = await fetch(location.href, { headers: { "HX-Request": "true" } }).catch(() => null);
    noteRefresh(response !== null && response.ok);
    if (response === null || !response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.querySelectorAll("#refreshed tr[data-id]");
    const known = new Map([...area.querySelectorAll("tr[data-id]")].map((row) => [row.dataset.id, row]));
    let added = 0;
    for (const row of fresh) {
      const old = known.get(row.dataset.id);
      if (!old) added += 1;
      else if (!old.contains(document.activeElement)) old.replaceWith(document.importNode(row, true));
    }
    const banner = byId("newer");
    if (!banner) return;
    banner.hidden = added === 0;
    if (!added) return;
    // The texts, and which of them is right for 1, 2 and so on.
    const isAll = added > 1 && added === fresh.length && known.size > 0;
    const [forms, places] = JSON.parse(isAll ? banner.dataset.more : banner.dataset.some);
    banner.firstElementChild.textContent = forms[places[Math.min(added, places.length) - 1]].replace("%", digits(added));
    say(banner.textContent);
  }
  function schedule() {
    clearInterval(timer);
    const seconds = Number(live && live.value);
    if (seconds) timer = setInterval(refresh, seconds * 1000);
  }
  if (live) {
    live.value = stored("ojs-live") || "5";
    live.addEventListener("change", () => { stored("ojs-live", live.value); schedule(); });
    schedule();
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden && live && Number(live.value)) refresh(); });

  // -- the menu is a strip on narrow windows: the current page must be in sight
  const current = document.querySelector(".side nav [aria-current]");
  if (current) {
    const strip = current.closest("nav");
    strip.scrollLeft = current.offsetLeft - strip.offsetLeft - (strip.clientWidth - current.offsetWidth) / 2;
  }

  // -- copy
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = byId(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
      say(texts.copied);
      button.dataset.done = "true";
      setTimeout(() => delete button.dataset.done, 1500);
    } catch (_) { getSelection().selectAllChildren(byId(button.dataset.copy)); }
  });

  // -- keys: the dialog of base.html lists them
  const keys = byId("keys");
  const choose = (select, value) => {
    select.value = value;
    select.dispatchEvent(new Event("change"));
    say(select.selectedOptions[0].textContent);
  };
  if (keys) byId("show-keys").addEventListener("click", () => keys.showModal());
  function moveToRow(forward) {
    const links = [...document.querySelectorAll("#refreshed tbody th a, .problems a")];
    const place = links.indexOf(document.activeElement);
    const next = links[forward ? place + 1 : Math.max(0, place - 1)];
    if (next) next.focus();
  }
  const actions = {
    "/": (event) => {
      const field = byId("query") || byId("find");
      if (field) { field.focus(); field.select(); event.preventDefault(); }
    },
    j: () => moveToRow(true),
    k: () => moveToRow(false),
    r: () => { if (live) { refresh(); say(texts.renewed); } },
    x: () => { if (live) choose(live, Number(live.value) ? "0" : "5"); },
    t: () => choose(theme, { "": "light", light: "dark", dark: "" }[theme.value]),
    "?": () => { if (keys) { if (keys.open) keys.close(); else keys.showModal(); } },
  };
  let isAfterG = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Shift") return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const page = isAfterG && /^[a-z]$/.test(event.key) && document.querySelector(`nav a[data-key="${event.key}"]`);
    isAfterG = event.key === "g" && !isAfterG;
    if (page) page.click();
    else if (Object.hasOwn(actions, event.key)) actions[event.key](event);
  });

  // -- events as they happen: rows are added at the top, unless the tab is hidden
  const events = byId("events");
  if (events) {
    const state = byId("stream-state");
    const body = events.tBodies[0];
    const source = new EventSource(events.dataset.stream);
    const add = (message) => {
      const data = JSON.parse(message.data);
      const row = body.insertRow(0);
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = message.type;
      const subject = document.createElement("td");
      if (data.job_id || data.workflow_id) {
        const link = document.createElement("a");
        link.href = data.job_id ? events.dataset.jobs + encodeURIComponent(data.job_id) : events.dataset.workflows + encodeURIComponent(data.workflow_id);
        link.textContent = data.job_type || data.job_id || data.workflow_id;
        subject.append(link);
      } else subject.textContent = data.cron_name || data.name || data.key || "";
      row.append(head, subject);
      row.insertCell().textContent = data.queue || "";
      const when = row.insertCell();
      when.className = "num";
      when.textContent = clock(new Date(data.timestamp || Date.now()));
      while (body.rows.length > Number(events.dataset.limit)) body.deleteRow(-1);
    };
    for (const kind of events.dataset.kinds.split(" ")) source.addEventListener(kind, add);
    source.onopen = () => { state.textContent = texts.live; };
    source.onerror = () => { state.textContent = texts.lost; };
    addEventListener("pagehide", () => source.close());
  }

  // -- charts, drawn from the table with the same numbers
  const units = {
    rate: (value) => digits(value >= 100 ? Math.round(value) : +value.toFixed(2)),
    count: (value) => digits(Math.round(value)),
    ms: (value) => {
      const [unit, size] = value >= 60000 ? [texts.min, 60000] : value >= 1000 ? [texts.s, 1000] : [texts.ms, 1];
      return unit.replace("%", digits(+(value / size).toFixed(1)));
    },
  };
  const whole = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4];
  const steps = { // between the labels of an axis
    count: [...whole, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 1e8, 1e9],
    ms: [0.1, 0.2, 0.5, ...whole, 2e4, 3e4, 6e4, 12e4, 3e5, 6e5, 12e5, 18e5, 36e5, 72e5, 144e5, 432e5, 864e5, 6048e5],
  };
  const two = (value) => String(value).padStart(2, "0");
  const local = (at) => zone ? window.uPlot.tzDate(new Date(at * 1000), zone) : new Date(at * 1000);
  const hour = (at) => { const time = local(at); return `${two(time.getHours())}:${two(time.getMinutes())}`; };
  const day = (at) => { const time = local(at); return `${two(time.getMonth() + 1)}-${two(time.getDate())}`; };
  // Marks, such as deployments: a vertical line with its label. The table below has all labels.
  function drawMarks(plot, marks, colour) {
    const { ctx, bbox } = plot;
    const scale = devicePixelRatio;
    const right = bbox.left + bbox.width;
    let free = bbox.left; // where the next label may begin
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineWidth = scale;
    ctx.font = `${10 * scale}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    for (const [at, label] of marks) {
      const x = Math.round(plot.valToPos(at, "x", true));
      if (x < bbox.left || x > right) continue;
      ctx.setLineDash([4 * scale, 2 * scale]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const text = label.length > 16 ? `${label.slice(0, 15)}…` : label;
      const width = ctx.measureText(text).width;
      const left = x + 3 * scale + width <= right ? x + 3 * scale : x - 3 * scale - width;
      if (left < free) continue;
      ctx.fillText(text, left, bbox.top);
      free = left + width + 6 * scale;
    }
    ctx.restore();
  }
  function drawCharts() {
    if (!window.uPlot) return;
    const marks = [...document.querySelectorAll("#marks tbody tr")].map((row) => [Date.parse(row.cells[0].firstElementChild.dateTime) / 1000, row.cells[1].textContent]);
    const newest = Math.max(0, ...marks.map(([at]) => at)); // later than the last period, if it was just set
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    for (const place of document.querySelectorAll(".chart[data-table]")) {
      const table = byId(place.dataset.table);
      const heads = [...table.tHead.rows[0].cells];
      const rows = [...table.tBodies[0].rows];
      if (rows.length < 2) {
        place.textContent = texts.collecting;
        continue;
      }
      const data = [rows.map((row) => Date.parse(row.cells[0].firstElementChild.dateTime) / 1000)];
      const last = data[0].at(-1); // uPlot also asks for the range of a zoom, which stays as it is
      const series = [{ label: heads[0].textContent, value: (_, at) => `${day(at ?? last)} ${hour(at ?? last)}` }]; // without a cursor: the newest
      const format = units[place.dataset.unit];
      for (const name of place.dataset.columns.split(",")) {
        const column = heads.findIndex((head) => head.dataset.column === name);
        const values = rows.map((row) => Number(row.cells[column].textContent));
        data.push(values);
        series.push({
          label: heads[column].textContent, stroke: colour(`--chart-${name}`) || colour("--accent"), width: 1.6,
          points: { show: false }, value: (_, value) => format(value ?? values.at(-1)),
          dash: name.endsWith("p95") || name === "enqueued" ? [5, 3] : undefined,
        });
      }
      const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      place.replaceChildren();
      new window.uPlot({
        width: Math.max(200, place.clientWidth), height: 150, series, tzDate: local, cursor: { y: false }, legend: { live: true },
        hooks: { draw: [(plot) => drawMarks(plot, marks, colour("--text"))] },
        scales: { x: { range: (_, low, high) => [low, high === last ? Math.max(high, newest) : high] }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, place.dataset.unit === "count" ? 4 : 1)] } },
        axes: [{ ...axis, space: 70, size: 26, values: (_, at, __, ___, step) => at.map(step >= 86400 ? day : hour) }, { ...axis, size: 58, values: (_, values) => values.map(format), ...(steps[place.dataset.unit] ? { incrs: steps[place.dataset.unit] } : {}) }],
      }, data, place);
      place.dataset.marks = marks.length;
    }
  }
  drawCharts();
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawCharts, 150); });
})();
