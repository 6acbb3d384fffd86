// Saves the reader a reload. Every page works without it.
"use strict";

// On to the gateway.
const going = document.querySelector("form[data-submit-self]");
if (going) going.submit();

// A second click on a button that leads away is no second order.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// A part of the page that changes by itself: ask for its version, and fetch it anew when that differs.
const started = Date.now();
const asks = () => document.querySelector("#live[data-poll]");
const pause = () => (Date.now() - started < 120000 ? 1500 : 10000);

async function look() {
  const part = asks();
  if (!part) return;
  try {
    if (document.visibilityState === "visible") {
      const answer = await fetch(part.dataset.poll, { headers: { accept: "application/json" } });
      if (answer.ok && (await answer.json()).version !== part.dataset.version) await renew(part);
    }
  } catch {
    // The next look may find the network again.
  }
  setTimeout(look, pause());
}

async function renew(part) {
  const page = await fetch(location.href);
  if (!page.ok) return;
  const fresh = new DOMParser().parseFromString(await page.text(), "text/html");
  const next = fresh.querySelector("#live");
  if (!next) return;
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  // The region itself stays, so that screen readers announce what changed in it.
  part.replaceChildren(...next.childNodes);
  for (const name of ["data-version", "data-poll", "data-go"]) {
    if (next.hasAttribute(name)) part.setAttribute(name, next.getAttribute(name));
    else part.removeAttribute(name);
  }
  document.title = fresh.title;
  if (focused) document.getElementById(focused)?.focus();
  leave();
}

// Back to the service that sent the payer, after a moment to read.
function leave() {
  const address = document.querySelector("#live[data-go]")?.dataset.go;
  if (address && /^https?:/.test(address)) setTimeout(() => location.assign(address), 4000);
}

leave();
if (asks()) setTimeout(look, 1000);

// The first field at fault.
document.querySelector("[aria-invalid]")?.focus();
