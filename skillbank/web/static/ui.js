// Keys, ticks and the theme. Everything works without it but these.
"use strict";

const THEMES = ["auto", "light", "dark"];

function writing(target) {
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && !/^(checkbox|radio|range)$/.test(target.type);
}

function shown(element) {
  return element.checkVisibility ? element.checkVisibility() : element.offsetParent !== null;
}

// A key does what the first visible element that names it does: a field is entered, all else is clicked.
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && writing(event.target)) { event.target.blur(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || writing(event.target) || document.querySelector("dialog[open]")) return;
  const key = CSS.escape(event.key);
  const found = [...document.querySelectorAll(`[data-key="${key}"]`)].find(shown);
  if (!found || document.querySelector(".htmx-request")) return;
  event.preventDefault();
  if (found.matches("input")) { found.focus(); found.select(); return; }
  found.click();
  if (found.matches("summary") && found.parentElement.open) found.parentElement.querySelector("textarea, input:not([type=hidden])")?.focus();
});

function help() {
  const list = document.querySelector("#help .keys");
  list.replaceChildren();
  for (const element of document.querySelectorAll("[data-key]")) {
    if (!shown(element) || element.id === "keys") continue;
    const name = document.createElement("dt"), does = document.createElement("dd");
    name.textContent = element.dataset.key;
    does.textContent = element.getAttribute("aria-label") || element.textContent.replace(element.querySelector("kbd")?.textContent || "", "").trim();
    list.append(name, does);
  }
  document.querySelector("#help").showModal();
}

function theme(button) {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  document.documentElement.dataset.theme = button.textContent = next;
  document.cookie = `theme=${next}; path=/; max-age=31536000; samesite=lax`;
}

function ticked(form) {
  const boxes = [...form.querySelectorAll("input[name=ids]")], on = boxes.filter((box) => box.checked).length;
  const all = form.querySelector("#all"), said = form.querySelector("#ticked");
  if (said) said.textContent = on ? `${on}` : "";
  if (all) { all.checked = on > 0 && on === boxes.length; all.indeterminate = on > 0 && on < boxes.length; }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.id === "theme") theme(button);
  if (button?.id === "keys") help();
});

document.addEventListener("change", (event) => {
  const form = event.target.closest("#results");
  if (!form) return;
  if (event.target.id === "all") for (const box of form.querySelectorAll("input[name=ids]")) box.checked = event.target.checked;
  if (event.target.id === "all" || event.target.name === "ids") ticked(form);
});

document.addEventListener("input", (event) => {
  if (event.target.id === "threshold") document.querySelector("#said").textContent = Number(event.target.value).toFixed(2);
});

// What needs this script is shown once it is there; a page that htmx has put in begins anew.
function ready() {
  for (const id of ["theme", "keys", "all"]) document.getElementById(id)?.removeAttribute("hidden");
}
document.addEventListener("DOMContentLoaded", ready);
document.addEventListener("htmx:afterSettle", ready);
