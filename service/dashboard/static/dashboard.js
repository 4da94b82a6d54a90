// Brings the middle of a page up to date when the service says that something changed, and helps the keyboard.
// Without it every page and form works all the same.
"use strict";

const POLL_MS = 3000; // while no events come
const LIVE = "x-live";

const main = () => document.getElementById("main");
const pause = () => Number(main().dataset.live); // between two looks, however much happens
const sign = document.getElementById("connection");
let due = false, busy = false, lastLook = 0, events = null, poll = null;

function say(state, text) {
  if (sign && sign.dataset.state !== state) { sign.dataset.state = state; sign.textContent = text; }
}

// Changes `here` into `there` in place, so that focus, what is typed, what is open and where one scrolled stay.
function morph(here, there) {
  if (here.nodeType !== there.nodeType || here.nodeName !== there.nodeName || (here.id || "") !== (there.id || "")) {
    here.replaceWith(there);
    return;
  }
  if (here.nodeType !== Node.ELEMENT_NODE) {
    if (here.nodeValue !== there.nodeValue) here.nodeValue = there.nodeValue;
    return;
  }
  if (here.matches("input, select, textarea") || here.isEqualNode(there)) return;
  for (const { name, value } of [...there.attributes]) if (here.getAttribute(name) !== value) here.setAttribute(name, value);
  for (const { name } of [...here.attributes]) if (!there.hasAttribute(name) && !kept(here, name)) here.removeAttribute(name);
  children(here, there);
}

const kept = (element, name) => (element.nodeName === "DETAILS" && name === "open") || name === "class" && element.classList.contains("at") || name === "hidden";

function children(here, there) {
  const known = new Map([...here.children].filter((each) => each.id).map((each) => [each.id, each]));
  let place = here.firstChild;
  for (const wanted of [...there.childNodes]) {
    const same = wanted.id ? known.get(wanted.id) : null;
    if (same && same !== place) here.insertBefore(same, place);
    const current = same || place;
    if (!current) { here.appendChild(wanted); continue; }
    place = current.nextSibling;
    if (!same && current.id && current.id !== wanted.id) { here.insertBefore(wanted, current); place = current; continue; }
    morph(current, wanted);
  }
  while (place) { const next = place.nextSibling; place.remove(); place = next; }
}

async function look() {
  if (busy || document.hidden) { due = true; return; }
  busy = true; due = false; lastLook = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { [LIVE]: "1" }, redirect: "manual" });
    if (answer.type === "opaqueredirect") { location.reload(); return; } // the session is over
    if (!answer.ok) throw new Error(String(answer.status));
    const parsed = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    if (parsed) { const row = current(); morph(main(), parsed); if (row) mark(document.getElementById(row)); filter(); }
    say("live", "live");
  } catch (error) {
    say("lost", "reconnecting");
  } finally {
    busy = false;
    if (due) soon();
  }
}

function soon() {
  due = true;
  setTimeout(() => { if (due) look(); }, Math.max(0, lastLook + pause() - Date.now()));
}

function listen() {
  events = new EventSource("/v1/events");
  events.onopen = () => { clearInterval(poll); poll = null; soon(); };
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 10 * POLL_MS); // refused: ask again later
    if (!poll) poll = setInterval(soon, POLL_MS);
  };
  for (const kind of ["message", "overview", "batch", "breaker", "budget", "alert"]) events.addEventListener(kind, soon);
}

// --- rows: j and k, Enter ---------------------------------------------------------------------------------------

const rows = () => [...document.querySelectorAll("tr[data-row]:not([hidden])")];
const current = () => document.querySelector("tr.at")?.id;

function mark(row) {
  document.querySelectorAll("tr.at").forEach((each) => each.classList.remove("at"));
  row?.classList.add("at");
}

function step(by) {
  const all = rows();
  if (!all.length) return;
  const at = all.findIndex((each) => each.classList.contains("at"));
  const row = all[Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
  mark(row);
  row.scrollIntoView({ block: "nearest" });
  row.querySelector("a")?.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing) return;
  if (event.key === "/") { const box = document.querySelector("[data-search]"); if (box) { event.preventDefault(); box.focus(); box.select(); } }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});

// --- forms ------------------------------------------------------------------------------------------------------

function filter() {
  const box = document.querySelector("form[data-filter] [data-search]");
  if (!box) return;
  const wanted = box.value.trim().toLowerCase();
  for (const row of document.querySelectorAll("tr[data-text]")) row.hidden = !row.dataset.text.toLowerCase().includes(wanted);
}

document.addEventListener("input", (event) => { if (event.target.matches("form[data-filter] [data-search]")) filter(); });
document.addEventListener("change", (event) => { if (event.target.matches("[data-submit]")) event.target.form.requestSubmit(); });
document.addEventListener("change", ({ target }) => {
  if (!target.matches("input[data-most]")) return;
  const most = Number(target.dataset.most);
  target.setCustomValidity(target.files[0]?.size > most ? `A file may have ${most.toLocaleString("en")} bytes at most.` : "");
});
document.addEventListener("submit", (event) => {
  if (event.target.matches("form[data-filter]")) event.preventDefault();
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && due) soon(); });

if (main()?.hasAttribute("data-live")) listen();
