// The dashboard: draws what the server streams, or, where it cannot, answers when it is asked.
"use strict";

(() => {
  const root = document.getElementById("dashboard");
  const form = document.getElementById("choice");
  const byId = (id) => document.getElementById(id);
  const TICK = 2000; // between two questions without a stream
  const GAP = 25; // seconds without a point that are shown as a gap
  const COLORS = ["#7c3aed", "#0891b2", "#d97706", "#dc2626", "#059669", "#64748b"];
  const LIVE = 15; // minutes that are drawn out of the stream; longer periods are fetched
  const PAUSE = 30000; // between two times that a longer period is fetched
  let points = [];
  let past = [];
  let fetched = null;
  let lastly = null;
  let source = null;
  let timer = null;
  let latest = 0;
  let opened = 0; // counts choices: answers to an older one are dropped

  // --- Charts ---------------------------------------------------------------------------------

  const dark = () => document.documentElement.classList.contains("dark");
  const minutes = () => Number(form.elements.minutes.value);
  const time = (at) => (minutes() > 1440
    ? new Date(at * 1000).toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" })
    : clock(at));
  const clock = (at) =>
    new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  // A part of which a worker's counts are missing is dashed.
  const segment = {
    borderDash: (c) => (c.chart.silent && c.chart.silent[c.p1DataIndex] ? [3, 3] : undefined),
  };

  // A point between two gaps has no line that would show it.
  const lonely = (c) => {
    const near = (i) => c.dataset.data[i] && c.dataset.data[i].y !== null;
    return near(c.dataIndex - 1) || near(c.dataIndex + 1) ? 0 : 2;
  };

  function line(id, names, more = {}) {
    const datasets = names.map((label, i) => ({
      label, data: [], borderColor: COLORS[i], backgroundColor: COLORS[i] + "55",
      borderWidth: 1.5, pointRadius: lonely, tension: 0, spanGaps: false, fill: more.stacked || false, segment,
    }));
    return new Chart(byId(id), {
      type: "line",
      data: { datasets },
      options: {
        animation: false, responsive: true, maintainAspectRatio: false,
        interaction: { mode: "index", intersect: false },
        plugins: {
          legend: { display: names.length !== 1, labels: { boxWidth: 12 } },
          tooltip: { callbacks: { title: (items) => (items.length ? time(items[0].parsed.x) : "") } },
        },
        scales: {
          x: { type: "linear", ticks: { maxTicksLimit: 4, maxRotation: 0, callback: (at) => time(at) }, grid: { display: false } },
          y: { beginAtZero: true, max: more.max, stacked: more.stacked || false, ticks: { maxTicksLimit: 5, format: more.format } },
        },
      },
    });
  }

  const charts = {
    rate: line("chart-rate", ["requests"]),
    levels: line("chart-levels", [], { stacked: true, max: 1, format: { style: "percent" } }),
    latency: line("chart-latency", ["p50", "p90", "p99"]),
    queue: line("chart-queue", ["rows"]),
    errors: line("chart-errors", ["errors", "refused"]),
    batches: new Chart(byId("chart-batches"), {
      type: "bar",
      data: { labels: [], datasets: [{ label: "batches", data: [], backgroundColor: COLORS[0] }] },
      options: {
        animation: false, responsive: true, maintainAspectRatio: false,
        plugins: { legend: { display: false } },
        scales: { x: { grid: { display: false } }, y: { beginAtZero: true, ticks: { maxTicksLimit: 5, precision: 0 } } },
      },
    }),
  };

  function paint() {
    const text = dark() ? "#d4d4d8" : "#3f3f46";
    const grid = dark() ? "#3f3f46" : "#e4e4e7";
    for (const chart of Object.values(charts)) {
      for (const scale of Object.values(chart.options.scales)) {
        scale.ticks.color = text;
        scale.grid.color = grid;
      }
      chart.options.plugins.legend.labels = { ...chart.options.plugins.legend.labels, color: text };
      chart.update("none");
    }
  }
  new MutationObserver(paint).observe(document.documentElement, { attributeFilter: ["class"] });

  // Points with a gap between them get an empty one, so that the line breaks.
  function shown() {
    if (minutes() > LIVE) return past;
    const first = latest - 60 * minutes();
    const rows = [];
    for (const point of points) {
      if (point.at < first) continue;
      const before = rows[rows.length - 1];
      if (before && point.at - before.at > GAP) rows.push({ at: (before.at + point.at) / 2, empty: true, silent: [] });
      rows.push(point);
    }
    const last = rows[rows.length - 1];
    if (last && latest - last.at > GAP) rows.push({ at: latest, empty: true, silent: [] });
    return rows;
  }

  function draw(lately) {
    drawBatches(lately);
    const rows = shown();
    const silent = rows.map((row) => row.silent.length > 0);
    const put = (chart, columns) => {
      chart.silent = silent;
      chart.options.scales.x.max = latest;
      chart.options.scales.x.min = latest - 60 * minutes();
      columns.forEach((column, i) => { chart.data.datasets[i].data = column; });
      chart.update("none");
    };
    const column = (of) => rows.map((row) => ({ x: row.at, y: row.empty ? null : of(row) }));
    put(charts.rate, [column((row) => row.rate)]);
    put(charts.latency, ["p50", "p90", "p99"].map((q) => column((row) => row.latency_ms && row.latency_ms[q])));
    put(charts.errors, ["errors", "rejected"].map((name) => column((row) => (row[name] === null ? null : row[name] / row.seconds))));
    put(charts.queue, [column((row) => row.queued)]);
    const names = [...new Set(rows.flatMap((row) => Object.keys(row.levels || {})))].sort();
    charts.levels.data.datasets = names.map((label, i) => ({
      ...(charts.levels.data.datasets.find((each) => each.label === label) || {}),
      label, borderColor: COLORS[i], backgroundColor: COLORS[i] + "55", borderWidth: 1.5, pointRadius: lonely,
      spanGaps: false, fill: true, segment,
    }));
    put(charts.levels, names.map((name) => column((row) => (row.hit_rate === null ? null : row.levels[name] || 0))));
  }

  function drawBatches(lately) {
    const sizes = lately ? Object.entries(lately.batch_sizes) : [];
    charts.batches.data.labels = sizes.map(([size]) => (size === "1" ? "1" : "≤ " + size));
    charts.batches.data.datasets[0].data = sizes.map(([, n]) => n);
    charts.batches.update("none");
  }

  // --- Words ----------------------------------------------------------------------------------

  const number = (value, digits = 0) =>
    value === null || value === undefined ? "–" : value.toLocaleString([], { maximumFractionDigits: digits });
  const percent = (value) => (value === null || value === undefined ? "–" : number(100 * value, 1) + " %");
  const ms = (value) => (value === undefined ? "–" : number(value, value < 10 ? 2 : 0) + " ms");

  function say(id, text) {
    const node = byId(id);
    if (node.textContent !== text) node.textContent = text;
  }

  function table(id, rows, empty) {
    const body = byId(id);
    const lines = rows.length ? rows : [[empty]];
    const text = JSON.stringify(lines);
    if (body.dataset.text === text) return;
    body.dataset.text = text;
    body.replaceChildren(...lines.map((cells) => {
      const tr = document.createElement("tr");
      cells.forEach((cell) => {
        const td = document.createElement("td");
        if (!rows.length) td.colSpan = 9;
        if (cell && cell.url) {
          const link = document.createElement("a");
          link.className = "rs-link";
          link.href = cell.url;
          link.textContent = cell.text;
          td.append(link);
        } else if (cell && cell.badge) {
          const badge = document.createElement("span");
          badge.className = "rs-badge rs-" + cell.badge;
          badge.textContent = cell.text;
          td.append(badge);
        } else td.textContent = cell;
        tr.append(td);
      });
      return tr;
    }));
  }

  function tell(data) {
    const { lately, state, now } = data;
    latest = now;
    say("rate", number(lately ? lately.rate : null, 1));
    say("hit_rate", percent(lately ? lately.hit_rate : null));
    const latency = (lately && lately.latency_ms) || {};
    say("p50", ms(latency.p50));
    say("p99", ms(latency.p99));
    say("errors", number(lately ? lately.errors : null));
    say("queued", number(lately ? lately.queued : null));
    const all = state.processes || [];
    const heard = all.filter((each) => now - each.seen <= state.silent_after);
    say("workers", heard.length === all.length ? String(all.length) : `${heard.length} / ${all.length}`);
    const gone = all.filter((each) => now - each.seen > state.silent_after);
    byId("warning").hidden = !gone.length;
    say("warning", gone.length
      ? `Not heard for a while: ${gone.map((each) => each.name).join(", ")}. Dashed parts of the lines are without their counts.`
      : "");
    table("processes", all.map((each) => {
      const age = Math.max(0, now - each.seen);
      const loading = each.versions.some((version) => version.state === "loading");
      const failed = each.versions.some((version) => version.state === "failed");
      const quiet = age > state.silent_after;
      const mark = quiet ? (loading ? ["warn", "loading"] : ["bad", "silent"])
        : failed ? ["bad", "a version failed"] : loading ? ["warn", "loading"] : ["good", "up"];
      return [
        each.name + (each.name === state.process ? " (answers this page)" : ""),
        { badge: mark[0], text: mark[1] },
        quiet ? `${number(age)} s ago` : "just now",
        each.versions.map((version) => `${version.version} ${version.label}`).join(", ") || "none",
      ];
    }), "No process has told anything yet. Start one with: manage.py serve");
    say("host", state.host === null ? "none: each worker runs the models itself" : state.host || "–");
    table("levels", (state.levels || []).map((level) => [
      level.name.toUpperCase(),
      level.away ? { badge: "bad", text: `away for ${level.away} of ${level.processes}` }
        : level.nodes_away ? { badge: "warn", text: `${level.nodes_away} of ${level.nodes} servers away` }
        : { badge: "good", text: "up" },
      level.guarded ? { badge: level.breaker === "closed" ? "good" : "bad", text: level.breaker.replace("_", " ") } : "–",
      number(level.entries),
      level.capacity ? percent(level.weight / level.capacity) : "–",
    ]), "There is no cache.");
    table("pools", (state.pools || []).map((pool) => [
      `${pool.model}@${pool.version}`, pool.engine,
      pool.least === pool.most ? String(pool.instances) : `${pool.instances} (${pool.least} to ${pool.most})`,
      number(pool.busy), pool.stuck ? { badge: "bad", text: number(pool.stuck) } : "0", number(pool.queued),
    ]), "No version is live. Make one live in Versions.");
    table("alerts", (state.alerts || []).map((alert) => [
      { url: alert.url, text: alert.rule },
      { badge: alert.state === "firing" ? "bad" : "warn", text: alert.label },
      alert.severity, clock(alert.since), number(alert.value, 3),
    ]), "No alert is firing or pending.");
    const model = form.elements.model.value;
    table("warm-ups", (state.warm_ups || []).filter((run) => !model || run.model === model).map((run) => [
      { url: run.url, text: run.name }, run.label, new Date(run.at * 1000).toLocaleString(),
      number(run.warmed), number(run.earned), number(run.spent, 2), number(run.saved, 2),
    ]), "No warm-up has run. Add a schedule in Warm-up.");
    const select = form.elements.segment;
    const known = [...select.options].map((option) => option.value);
    for (const name of state.segments || []) if (!known.includes(name)) select.add(new Option(name, name));
  }

  function take(data) {
    points.push(...data.points.filter((point) => !points.length || point.at > points[points.length - 1].at));
    points = points.filter((point) => point.at > data.now - data.keeps);
    tell(data);
    lastly = data.lately;
    if (minutes() > LIVE) drawBatches(lastly);
    else draw(lastly);
    root.dataset.ready = "yes";
  }

  // --- Fetching -------------------------------------------------------------------------------

  function query() {
    const chosen = new URLSearchParams();
    for (const name of ["model", "segment"]) if (form.elements[name].value) chosen.set(name, form.elements[name].value);
    if (points.length) chosen.set("since", points[points.length - 1].at);
    return chosen;
  }

  async function fetchPast() {
    clearTimeout(fetched);
    if (minutes() <= LIVE) return;
    const mine = opened;
    const chosen = query();
    chosen.delete("since");
    chosen.set("minutes", minutes());
    try {
      const answer = await fetch(`${root.dataset.past}?${chosen}`, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const found = (await answer.json()).points;
      if (mine === opened) { past = found; draw(lastly); }
    } catch { /* the link says how the server is; the next time may do */ }
    fetched = setTimeout(fetchPast, PAUSE);
  }

  function link(text, kind) {
    const node = byId("link");
    node.className = "rs-badge rs-" + kind;
    say("link", text);
  }

  async function poll(mine) {
    try {
      const answer = await fetch(`${root.dataset.data}?${query()}`, { headers: { Accept: "application/json" } });
      if (mine !== opened) return;
      if (answer.status === 403) { link("signed out: load the page anew", "bad"); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      take(await answer.json());
      link("live, every 2 s", "good");
    } catch {
      if (mine !== opened) return;
      link("the server does not answer", "bad");
    }
    timer = setTimeout(() => poll(mine), TICK);
  }

  function open() {
    const mine = ++opened;
    clearTimeout(timer);
    if (source) source.close();
    points = [];
    past = [];
    fetchPast();
    if (!window.EventSource) { poll(mine); return; }
    listen(mine);
  }

  // Each stream ends after a minute; the next one begins where it was.
  function listen(mine) {
    source = new EventSource(`${root.dataset.stream}?${query()}`);
    let heard = false;
    source.onmessage = (event) => {
      if (mine !== opened) return;
      heard = true;
      link("live", "good");
      take(JSON.parse(event.data));
    };
    source.onerror = () => {
      source.close();
      if (mine !== opened) return;
      if (!heard) { poll(mine); return; } // no stream here, or no server: asking tells which
      link("connecting", "warn");
      timer = setTimeout(() => listen(mine), 300);
    };
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.model.addEventListener("change", open);
  form.elements.segment.addEventListener("change", open);
  form.elements.minutes.addEventListener("change", () => { past = []; draw(lastly); fetchPast(); });
  document.addEventListener("visibilitychange", () => {
    // A page that nobody sees costs the server nothing.
    if (document.hidden) { opened++; clearTimeout(timer); clearTimeout(fetched); if (source) source.close(); }
    else { const mine = ++opened; fetchPast(); if (window.EventSource) listen(mine); else poll(mine); }
  });
  paint();
  open();
})();
