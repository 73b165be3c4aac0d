// Asks the server that the page came from for its newer self, and puts it in the place of the old one.
(() => {
  const main = document.querySelector("main");
  let version = "", failures = 0, told = "";
  const say = (text, tone) => {
    const badge = document.getElementById("live");
    if (!badge) return;
    badge.textContent = text;
    badge.className = `badge ${tone}`;
    // Read out where it becomes better or worse, not every two seconds.
    badge.setAttribute("aria-live", tone === told ? "off" : "polite");
    told = tone;
  };
  // What a person has opened, scrolled or tabbed to is the same thing on the newer page: of the same card and name.
  const cardOf = (one) => one.closest("section")?.querySelector("h2")?.textContent ?? "";
  const named = (selector, name) => {
    const found = new Map();
    for (const one of main.querySelectorAll(selector)) {
      const base = `${cardOf(one)} / ${name(one)}`;
      let key = base;
      for (let count = 2; found.has(key); count += 1) key = `${base} ${count}`;
      found.set(key, one);
    }
    return found;
  };
  const folds = () => named("details", (one) => one.querySelector("summary")?.textContent ?? "");
  const scrolls = () => named(".scroll", (one) => one.getAttribute("aria-label") ?? "");
  // The label of a drawing has its steps in it, which grow.
  const stops = () => named("summary, [tabindex]",
    (one) => one.closest("figure")?.dataset.chart ?? one.getAttribute("aria-label") ?? one.textContent);
  const renew = (html) => {
    const open = [...folds()].filter(([, one]) => one.open).map(([key]) => key);
    const scrolled = [...scrolls()].map(([key, one]) => [key, one.scrollLeft]);
    const focused = [...stops()].find(([, one]) => one === document.activeElement)?.[0];
    // The server's own markup, every text in it escaped; a parsed document runs no script.
    const found = new DOMParser().parseFromString(html, "text/html");
    main.replaceChildren(...found.body.childNodes);
    const [newFolds, newScrolls] = [folds(), scrolls()];
    for (const key of open) if (newFolds.has(key)) newFolds.get(key).open = true;
    for (const [key, left] of scrolled) if (newScrolls.has(key)) newScrolls.get(key).scrollLeft = left;
    document.dispatchEvent(new Event("qvl-renewed"));
    if (focused !== undefined) stops().get(focused)?.focus({ preventScroll: true });
  };
  const ask = async () => {
    try {
      const answer = await fetch(`state.json?version=${version}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(`the server says ${answer.status}`);
      const state = await answer.json();
      failures = 0;
      if (state.body) renew(state.body);
      version = state.version;
      say(state.problem || state.said, state.problem ? "bad" : state.tone);
    } catch (error) {
      failures += 1;
      say(`no answer from qvl report (${failures})`, "bad");
    }
    setTimeout(ask, failures ? 5000 : 2000);
  };
  ask();
})();
