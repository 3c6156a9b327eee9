"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort ?? cell.textContent;
  };
  heads.forEach((head, column) => {
    const label = head.querySelector("span");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label.textContent;
    label.replaceWith(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const x = key(a, column), y = key(b, column);
        const order = isNaN(Number(x)) || isNaN(Number(y)) ? x.localeCompare(y, "en", { numeric: true }) : x - y;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
const toggle = document.querySelector(".toggle");
if (toggle) {
  const show = (axis) => {
    for (const block of document.querySelectorAll("[data-axis]")) block.hidden = block.dataset.axis !== axis;
    for (const button of toggle.children) button.setAttribute("aria-pressed", String(button.dataset.show === axis));
  };
  toggle.hidden = false;
  for (const button of toggle.children) button.addEventListener("click", () => show(button.dataset.show));
  show("flops");
}
