"use strict";
// Sorting: every heading of a table's columns becomes a button. Without this script the page reads the same, unsorted.
const value = (row, column) => {
  const cell = row.cells[column];
  const number = parseFloat(cell.dataset.value ?? cell.textContent.replace(/,/g, ""));
  return Number.isNaN(number) ? cell.textContent.trim() : number;
};
const compare = (a, b) =>
  typeof a === typeof b
    ? typeof a === "number" ? a - b : a.localeCompare(b)
    : typeof a === "number" ? -1 : 1;
function sort(heading) {
  const table = heading.closest("table");
  const up = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(value(a, heading.cellIndex), value(b, heading.cellIndex)) * (up ? 1 : -1));
  table.tBodies[0].append(...rows);
}
for (const heading of document.querySelectorAll("main > section > .scroll thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sort(heading));
  heading.append(button);
}
// Pictures of a network: drawn when the first panel that shows them opens.
for (const place of document.querySelectorAll("[data-portrait]"))
  place.closest("[popover]").addEventListener("beforetoggle", () => {
    if (!place.hasChildNodes()) place.append(document.getElementById(place.dataset.portrait).content.cloneNode(true));
  });
// Colours: the system's unless the reader chose, remembered where the browser lets a file remember.
const theme = document.getElementById("theme");
const show = (choice) => {
  if (choice) document.documentElement.dataset.theme = choice;
  else delete document.documentElement.dataset.theme;
  theme.value = choice;
};
try { show(localStorage.getItem("qexp-theme") || ""); } catch { show(""); }
theme.addEventListener("change", () => {
  show(theme.value);
  try { localStorage.setItem("qexp-theme", theme.value); } catch { /* it holds until the page is closed */ }
});
theme.parentNode.hidden = false;
// On a phone the list of tables would come before everything else.
if (matchMedia("(max-width: 72rem)").matches) document.querySelector("nav details").open = false;
