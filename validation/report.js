"use strict";
// Makes the table of columns sortable and searchable; without this the page says the same.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.getElementById("columns-table");
  const tools = document.getElementById("columns-tools");
  const search = document.getElementById("columns-search");
  const count = document.getElementById("columns-count");
  if (!table || !tools || !search || !count) return;

  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const rows = Array.from(body.rows);

  const order = (index, numeric, sign) => (a, b) => {
    const x = a.cells[index].dataset.value;
    const y = b.cells[index].dataset.value;
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (numeric ? Number(x) - Number(y) : x < y ? -1 : x > y ? 1 : 0);
  };

  const sort = (head, index) => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    body.append(...Array.from(rows).sort(order(index, head.dataset.sort === "number", sign)));
  };

  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      if (!row.hidden) shown += 1;
    }
    count.textContent = wanted ? `${shown} of ${rows.length} columns` : `${rows.length} columns`;
  };

  heads.forEach((head, index) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, index));
    head.append(button);
  });
  search.addEventListener("input", filter);
  table.classList.add("scripted");
  tools.hidden = false;

  // A link to a column that the filter hides would lead nowhere.
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target || !target.hidden) return;
    search.value = "";
    filter();
    target.scrollIntoView();
  });
});
