// The rows of a report: what the filters ask for is shown, so many at a time. Everything it shows was escaped when the
// page was written; it makes no markup of its own from texts, and the page's policy lets no other script run.
"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const index = JSON.parse(element("index").textContent);
  const stored = (name, start) =>
    [...document.querySelectorAll(`noscript.${name}`)].flatMap((block) =>
      block.textContent.split(start).slice(1).map((part) => start + part));
  const until = (part, end) => part.slice(0, part.lastIndexOf(end) + end.length);
  const cards = stored("rows", "<article ").map((part) => until(part, "</article>"));
  const drawings = stored("drawings", "<image ").map((part) => until(part, "/>"));
  const RIGHT = 0, PART = 1, WRONG = 2, FAILED = 3;
  const RESULTS = {
    look: ["To look at: not right", (verdict) => verdict !== RIGHT],
    wrong: ["Wrong", (verdict) => verdict === WRONG],
    failed: ["Unread: no answer found", (verdict) => verdict === FAILED],
    part: ["Partly right", (verdict) => verdict === PART],
    right: ["Right", (verdict) => verdict === RIGHT],
    all: ["All", () => true],
  };
  const COLUMNS = { split: 3, category: 4, subcategory: 5 };
  const FIRST_RULES = 6;
  const FIELDS = ["rules", "result", "fired", "split", "subcategory", "category", "search", "row", "size", "differs"];
  const DEFAULTS = { result: "look", size: "24" };

  // What a card says, in small letters and without the page's own words; made when somebody searches.
  const said = new Array(cards.length);
  const OURS = /<(h4|thead|summary)>.*?<\/\1>|<span class="(?:tag|soft)[^>]*>.*?<\/span>/gs;
  const SIGNS = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&amp;": "&" };
  const text = (place) => {
    said[place] ??= cards[place].replace(OURS, "").replace(/<[^>]*>/g, "\n").replace(/&(?:lt|gt|quot|#x27|amp);/g, (sign) => SIGNS[sign])
      .toLowerCase();
    return said[place];
  };

  const fill = (name, entries) => {
    const list = element(`f-${name}`);
    if (list) list.replaceChildren(...entries.map(([value, shown]) => new Option(shown, value)));
  };
  const shorter = (name) => (name.length > 60 ? `${name.slice(0, 59)}…` : name);
  const counted = (names, place) => {
    const counts = new Map();
    for (const row of index.rows) counts.set(row[place], (counts.get(row[place]) ?? 0) + 1);
    return names.map((name, number) => [name, `${shorter(name) || "(none)"} (${counts.get(number) ?? 0})`]);
  };

  const value = (name) => {
    const field = element(`f-${name}`);
    if (!field) return "";
    return field.type === "checkbox" ? (field.checked ? "yes" : "") : field.value;
  };
  const setValue = (name, wanted) => {
    const field = element(`f-${name}`);
    if (!field) return;
    if (field.type === "checkbox") field.checked = wanted === "yes";
    else if (field.tagName !== "SELECT") field.value = wanted;
    else field.value = [...field.options].some((option) => option.value === wanted) ? wanted : field.options[0].value;
  };
  // The rule sets that the filters are about: one, or each of them.
  const chosenRules = () => {
    const place = index.rules.indexOf(value("rules"));
    return place < 0 ? index.rules.map((_, number) => number) : [place];
  };
  const fillFired = () => {
    const wanted = value("fired");
    const counts = new Map();
    for (const place of chosenRules()) {
      for (const row of index.rows) {
        const rule = index.fired[place][row[FIRST_RULES + 2 * place + 1]];
        counts.set(rule, (counts.get(rule) ?? 0) + 1);
      }
    }
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    fill("fired", [["", "any"], ...sorted.map(([rule, count]) => [rule, `${shorter(rule)} (${count})`])]);
    setValue("fired", wanted);
  };

  const matches = () => {
    const isResult = RESULTS[value("result")][1];
    const fired = value("fired"), differs = value("differs"), search = value("search").toLowerCase(), row = value("row");
    const rules = chosenRules().map((place) => [FIRST_RULES + 2 * place, index.fired[place].indexOf(fired)]);
    const columns = Object.entries(COLUMNS).map(([name, place]) => [place, picked(name)]).filter(([, n]) => n !== null);
    const found = [];
    index.rows.forEach((line, place) => {
      if (columns.some(([column, number]) => line[column] !== number)) return;
      if (differs && !line[2]) return;
      if (row && line[1] !== row) return;
      if (!rules.some(([at, rule]) => isResult(line[at]) && (!fired || line[at + 1] === rule))) return;
      if (search && !text(place).includes(search)) return;
      found.push(place);
    });
    return found.sort((a, b) => index.rows[a][0] - index.rows[b][0]);
  };
  // A column's chosen value as its number; null is any, since "" may be a value of its own.
  const picked = (name) => {
    const list = element(`f-${name}`);
    return list.selectedIndex > 0 ? list.selectedIndex - 1 : null;
  };

  let page = 1, written = "", found = [];
  const pages = () => Math.max(1, Math.ceil(found.length / Number(value("size"))));
  const show = () => {
    const size = Number(value("size")), start = (page - 1) * size;
    const shown = found.slice(start, start + size);
    const markup = shown.map((place) => cards[place]).join("");
    const wanted = new Set([...markup.matchAll(/href="#p(\d+)"/g)].map((match) => Number(match[1])));
    element("drawings").innerHTML = `<svg width="0" height="0"><defs>${[...wanted].map((n) => drawings[n]).join("")}</defs></svg>`;
    element("list").innerHTML = markup;
    for (const card of element("list").children) card.setAttribute("role", "listitem");
    const place = shown.length
      ? `${start + 1} to ${start + shown.length} of ${found.length.toLocaleString("en")} rows`
      : "No row fits these filters.";
    for (const pager of document.querySelectorAll(".pager")) {
      pager.hidden = pager.id === "pager-end" && !shown.length;
      pager.querySelector(".place").textContent = place;
      pager.querySelector(".back").disabled = page <= 1;
      pager.querySelector(".next").disabled = page >= pages();
    }
  };
  const address = () => {
    const values = new URLSearchParams();
    for (const name of FIELDS) {
      const now = value(name);
      if (now !== (DEFAULTS[name] ?? "") && !(name === "rules" && !now)) values.set(name, now);
    }
    for (const name of Object.keys(COLUMNS)) if (picked(name) !== null) values.set(name, value(name));
    if (page > 1) values.set("page", String(page));
    return values.toString();
  };
  const remember = () => {
    const now = address();
    if (now === written) return;
    written = now;
    location.replace(`#${now || "rows"}`);
  };
  const refresh = () => {
    found = matches();
    page = Math.min(Math.max(1, page), pages());
    show();
  };
  const restore = () => {
    const values = new URLSearchParams(location.hash.slice(1));
    setValue("rules", values.get("rules") ?? "");
    fillFired();
    for (const name of FIELDS) {
      if (name === "rules") continue;
      const list = element(`f-${name}`);
      if (name in COLUMNS && !values.has(name)) list.selectedIndex = 0;
      else if (name in COLUMNS) list.selectedIndex = index.values[name].indexOf(values.get(name)) + 1;
      else setValue(name, values.get(name) ?? (name === "result" && values.has("row") ? "all" : DEFAULTS[name] ?? ""));
    }
    page = Number.parseInt(values.get("page") ?? "1", 10) || 1;
    refresh();
    written = address();
  };
  const turn = (by) => {
    page = Math.min(Math.max(1, page + by), pages());
    show();
    remember();
    element("filters").scrollIntoView();
  };
  const changed = (name) => {
    if (name === "rules") fillFired();
    page = 1;
    refresh();
    remember();
  };

  fill("rules", [["", "any of them"], ...index.rules.map((name) => [name, name])]);
  fill("result", Object.entries(RESULTS).map(([name, [shown]]) => [name, shown]));
  for (const [name, place] of Object.entries(COLUMNS)) {
    fill(name, [["", "any"], ...counted(index.values[name], place)]);
    element(`field-${name}`).hidden = index.values[name].length < 2;
  }
  let typing = 0;
  for (const name of FIELDS) {
    const field = element(`f-${name}`);
    if (!field) continue;
    field.addEventListener("change", () => changed(name));
    if (name === "search" || name === "row") {
      field.addEventListener("input", () => {
        clearTimeout(typing);
        typing = setTimeout(() => changed(name), 150);
      });
    }
  }
  for (const pager of document.querySelectorAll(".pager")) {
    pager.querySelector(".back").addEventListener("click", () => turn(-1));
    pager.querySelector(".next").addEventListener("click", () => turn(1));
  }
  element("reset").addEventListener("click", () => {
    location.replace("#rows");
    restore();
  });
  addEventListener("hashchange", () => {
    const now = location.hash.slice(1);
    // A link to a part of the page sets no filter.
    if (now === written || !now.includes("=")) return;
    restore();
    element("rows").scrollIntoView();
  });
  element("waiting").remove();
  element("filters").hidden = false;
  for (const pager of document.querySelectorAll(".pager")) pager.hidden = false;
  restore();
})();
