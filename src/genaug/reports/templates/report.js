(() => {
  "use strict";

  const shown = cell => cell.textContent.trim().replace(/\s+/g, " ");
  const number = text => {
    const found = text.replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?/);
    return found ? parseFloat(found[0]) : null;
  };

  // A column of numbers is sorted by them, the largest first; what was not measured stays last.
  function sort(header) {
    const table = header.closest("table"), body = table.tBodies[0], at = header.cellIndex;
    const lines = [...body.rows].map((row, place) => ({ row, place, text: shown(row.cells[at]) }));
    const measured = lines.filter(line => line.text !== "–");
    const numeric = measured.every(line => number(line.text) !== null);
    const first = numeric ? "descending" : "ascending", second = numeric ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => numeric ? number(a.text) - number(b.text) : a.text.localeCompare(b.text, "en", { numeric: true });
    measured.sort((a, b) => sign * compare(a, b) || a.place - b.place);
    for (const line of [...measured, ...lines.filter(line => line.text === "–")]) body.append(line.row);
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", other === header ? order : "none");
  }
  for (const button of document.querySelectorAll("table.sortable thead button"))
    button.addEventListener("click", () => sort(button.closest("th")));

  const box = document.getElementById("filter");
  function filter() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const labels = new Set(), kept = new Set();
    for (const one of document.querySelectorAll("[data-label]")) {
      const label = one.dataset.label, fits = words.every(word => label.toLowerCase().includes(word));
      one.classList.toggle("out", !fits);
      if (one.matches("tr")) labels.add(label);
      if (one.matches("tr") && fits) kept.add(label);
    }
    document.querySelector(".filter output").value = words.length ? `${kept.size} of ${labels.size}` : "";
  }
  if (box) box.addEventListener("input", filter);

  const dialog = document.querySelector("dialog"), view = dialog.querySelector(".view"), large = dialog.querySelector("img");
  let current = null;
  function show(button) {
    current = button;
    const picture = button.querySelector("img");
    large.src = picture.src;
    large.alt = picture.alt;
    dialog.querySelector("p").textContent = picture.alt;
    view.classList.remove("natural");
    view.scrollTo(0, 0);
    if (!dialog.open) dialog.showModal();
  }
  function move(by) {
    const buttons = [...document.querySelectorAll("button.zoom")].filter(one => one.offsetParent);
    show(buttons[(buttons.indexOf(current) + by + buttons.length) % buttons.length]);
  }
  for (const button of document.querySelectorAll("button.zoom")) button.addEventListener("click", () => show(button));
  const acts = { previous: () => move(-1), next: () => move(1), close: () => dialog.close() };
  for (const button of dialog.querySelectorAll("button")) button.addEventListener("click", acts[button.value]);
  dialog.addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => current.focus());
  large.addEventListener("click", () => view.classList.toggle("natural"));
})();
