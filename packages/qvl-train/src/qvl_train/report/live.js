// Asks the server that the page came from for its newer self, and puts it in the place of the old one.
(() => {
  const main = document.querySelector("main");
  let version = "", failures = 0;
  const say = (text, tone) => {
    const badge = document.getElementById("live");
    if (!badge) return;
    badge.textContent = text;
    badge.className = `badge ${tone}`;
  };
  const renew = (html) => {
    const open = [...main.querySelectorAll("details")].map((one) => one.open);
    // The server's own markup, every text in it escaped; a parsed document runs no script.
    const found = new DOMParser().parseFromString(html, "text/html");
    main.replaceChildren(...found.body.childNodes);
    [...main.querySelectorAll("details")].forEach((one, place) => { one.open = open[place] ?? false; });
    document.dispatchEvent(new Event("qvl-renewed"));
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
