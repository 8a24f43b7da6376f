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

  // -- refresh: the present #refreshed replaces the old one, unless the tab is hidden or the user marks rows or types
  const live = byId("live");
  let timer = 0;
  function busy() {
    const area = byId("refreshed");
    const focus = document.activeElement;
    return document.hidden || !area || area.querySelector("details[open]:not(.numbers), input:checked") !== null ||
      (area.contains(focus) && /^(INPUT|SELECT|TEXTAREA)$/.test(focus.tagName)) ||
      String(getSelection()) !== "";
  }
  let isReading = false;
  async function refresh() {
    const area = byId("refreshed");
    if (!area || area.dataset.refresh === undefined || isReading || busy()) return;
    isReading = true;
    const fresh = await readFresh().finally(() => { isReading = false; });
    if (fresh && busy()) etag = ""; // not shown, so the next refresh gets it again
    if (!fresh || busy()) return;
    if (area.dataset.refresh === "rows") showNewRows(area, fresh);
    else {
      const focus = document.activeElement; // a link that was reached by j and k
      const address = area.contains(focus) && focus.getAttribute("href");
      const places = [...area.querySelectorAll(".scroll")].map((each) => [each.getAttribute("aria-label"), each.scrollLeft, each.scrollTop]);
      const unfolded = [...area.querySelectorAll("details.numbers")].map((each) => each.open);
      area.replaceWith(fresh);
      fresh.querySelectorAll("details.numbers").forEach((each, place) => { each.open = unfolded[place] ?? each.open; });
      scaleDrawing();
      for (const [label, left, top] of places) fresh.querySelector(`.scroll[aria-label="${CSS.escape(label)}"]`)?.scrollTo(left, top);
      if (address) fresh.querySelector(`a[href="${CSS.escape(address)}"]`)?.focus({ preventScroll: true });
    }
  }
  // The server sends nothing if the content with this ETag is still right, and no row that it has sent last time.
  let etag = "", hashes = "", rows = [];
  async function readFresh() {
    const known = etag ? { "If-None-Match": etag } : {};
    const reply = await fetch(location.href, { headers: { "HX-Request": "true", "X-Rows": hashes, ...known }, signal: AbortSignal.timeout(30000) }).catch(() => null);
    const login = reply && reply.headers.get("HX-Redirect");
    if (login) location.href = login;
    const text = reply && reply.ok ? await reply.text().catch(() => null) : null;
    noteRefresh(text !== null || (reply !== null && reply.status === 304));
    if (text === null) return null;
    const fresh = document.adoptNode(new DOMParser().parseFromString(text, "text/html").getElementById("refreshed"));
    for (const row of fresh.querySelectorAll("tr[data-same]")) {
      const same = rows[row.dataset.same].cloneNode(true);
      same.querySelectorAll("time").forEach((time, place) => { time.textContent = row.cells[place].textContent; });
      row.replaceWith(same);
    }
    [etag, hashes] = [reply.headers.get("ETag") || "", reply.headers.get("X-Rows") || ""];
    rows = [...fresh.querySelectorAll("tr")].map((row) => row.cloneNode(true));
    return fresh;
  }
  // A page that is no longer refreshed says so: its numbers would look current.
  const stale = byId("not-refreshed");
  let refreshedAt = new Date();
  function noteRefresh(answered) {
    if (answered) refreshedAt = new Date();
    else stale.textContent = texts.stale.replace("%", clock(refreshedAt));
    stale.hidden = answered;
  }
  // A list does not move under the reader: rows keep their place, and a banner offers the new ones.
  function showNewRows(area, content) {
    const fresh = [...content.querySelectorAll("tr[data-id]")];
    const known = new Map([...area.querySelectorAll("tr[data-id]")].map((row) => [row.dataset.id, row]));
    let added = 0;
    for (const row of fresh) {
      const old = known.get(row.dataset.id);
      if (!old) added += 1;
      else if (!old.contains(document.activeElement)) old.replaceWith(row);
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
    if (seconds) timer = setInterval(() => refresh().then(noteNumbers), seconds * 1000);
  }
  if (live) {
    live.value = stored("ojs-live") || "5";
    live.addEventListener("change", () => { stored("ojs-live", live.value); schedule(); });
    schedule();
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden && live && Number(live.value)) refresh(); });

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

  // -- the next times of a cron job, while its expression is typed
  const preview = byId("preview");
  if (preview) {
    const inputs = [byId("cron-expression"), byId("cron-timezone")];
    let waiting = 0;
    const show = async () => {
      const query = new URLSearchParams(inputs.map((each) => [each.name, each.value]));
      const reply = await fetch(`${preview.dataset.preview}?${query}`, { headers: { "HX-Request": "true" } }).catch(() => null);
      if (reply && reply.ok) preview.replaceChildren(...new DOMParser().parseFromString(await reply.text(), "text/html").body.childNodes);
    };
    for (const each of inputs) each.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 400); });
  }

  // -- the drawing of a workflow: at first, what runs is in sight
  let scale = 1;
  function scaleDrawing() {
    const svg = document.querySelector(".dag svg");
    if (svg) for (const side of ["width", "height"]) svg.setAttribute(side, Math.round(svg.viewBox.baseVal[side] * scale));
    showPart();
  }
  // The map beside a drawing that does not fit shows which part is in sight, and a click goes to another.
  function showPart() {
    const [place, map] = [document.querySelector(".dag"), document.querySelector(".map")];
    if (!map) return;
    const part = map.querySelector(".part");
    const numbers = { x: place.scrollLeft, y: place.scrollTop, width: place.clientWidth, height: place.clientHeight };
    for (const [name, value] of Object.entries(numbers)) part.setAttribute(name, value / scale);
    map.toggleAttribute("hidden", place.scrollWidth <= place.clientWidth && place.scrollHeight <= place.clientHeight);
  }
  document.addEventListener("scroll", (event) => { if (event.target.matches?.(".dag")) showPart(); }, true);
  document.addEventListener("click", (event) => {
    const map = event.target.closest(".map");
    if (!map) return;
    const [place, box, size] = [document.querySelector(".dag"), map.getBoundingClientRect(), map.viewBox.baseVal];
    place.scrollTo((event.clientX - box.left) / box.width * size.width * scale - place.clientWidth / 2, (event.clientY - box.top) / box.height * size.height * scale - place.clientHeight / 2);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-scale]");
    if (!button) return;
    const place = document.querySelector(".dag");
    const fit = Math.min(1, place.clientWidth / place.querySelector("svg").viewBox.baseVal.width);
    scale = button.dataset.scale === "fit" ? fit : Math.min(2, Math.max(0.2, scale * Number(button.dataset.scale)));
    scaleDrawing();
  });
  const running = document.querySelector(".dag .node-active, .dag .node-pending, .dag .node-failed");
  if (running) {
    const place = running.closest(".dag");
    const [box, frame] = [running.getBoundingClientRect(), place.getBoundingClientRect()];
    place.scrollTo(box.left - frame.left - (frame.width - box.width) / 2, box.top - frame.top - (frame.height - box.height) / 2);
  }
  showPart();

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
  const second = (at) => `${hour(at)}:${two(local(at).getSeconds())}`;
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
  // A part of a chart that was chosen by dragging has an address of its own.
  const history_ = document.querySelector("[data-zoom]");
  const zoom = history_ && ((plot) => {
    if (plot.select.width < 8) return;
    const [begin, end] = [plot.select.left, plot.select.left + plot.select.width].map((at) => Math.round(plot.posToVal(at, "x")));
    location.href = `${history_.dataset.zoom}?from=${Math.floor(begin / 60) * 60}&to=${Math.max(Math.ceil(end / 60) * 60, begin + 300)}`;
  });
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
        const values = rows.map((row) => row.cells[column].textContent === "" ? null : Number(row.cells[column].textContent)); // a gap
        data.push(values);
        series.push({
          label: heads[column].textContent, stroke: colour(`--chart-${name}`) || colour("--accent"), width: 1.6,
          points: { show: false }, value: (_, value, __, place) => { const at = place == null ? values.at(-1) : value; return at == null ? "–" : format(at); },
          dash: name.endsWith("p95") || name === "enqueued" ? [5, 3] : undefined,
        });
      }
      const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      place.replaceChildren();
      new window.uPlot({
        width: Math.max(200, place.clientWidth), height: 150, series, tzDate: local, cursor: { y: false }, legend: { live: true },
        hooks: { draw: [(plot) => drawMarks(plot, marks, colour("--text"))], setSelect: zoom ? [zoom] : [] },
        scales: { x: { range: (_, low, high) => [low, high === last ? Math.max(high, newest) : high] }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, place.dataset.unit === "count" ? 4 : 1)] } },
        axes: [{ ...axis, space: 70, size: 26, values: (_, at, __, ___, step) => at.map(step >= 86400 ? day : step < 60 ? second : hour).map((text, place, all) => text === all[place - 1] ? "" : text) }, { ...axis, size: 58, values: (_, values) => values.map(format), ...(steps[place.dataset.unit] ? { incrs: steps[place.dataset.unit] } : {}) }],
      }, data, place);
      place.dataset.marks = marks.length;
    }
  }
  // Until the history has two periods, a chart shows what the refreshes of this page have seen. Then the page has the history.
  const seen = byId("seen");
  const opened = Date.now();
  function noteNumbers() {
    if (!seen || document.hidden) return;
    if (Date.now() - opened > 150000 && !busy()) location.reload();
    const row = seen.tBodies[0].insertRow();
    row.insertCell().append(Object.assign(document.createElement("time"), { dateTime: new Date().toISOString() }));
    for (const head of [...seen.tHead.rows[0].cells].slice(1)) row.insertCell().textContent = document.querySelector(`.tile-${head.dataset.column} .tile-value`).dataset.value;
    drawCharts();
  }
  noteNumbers();
  // On a narrow window the charts would come before all numbers.
  for (const box of document.querySelectorAll(".charts-box")) {
    if (matchMedia("(max-width: 820px)").matches) box.open = false;
    box.addEventListener("toggle", drawCharts);
  }
  drawCharts();
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawCharts, 150); });
})();
